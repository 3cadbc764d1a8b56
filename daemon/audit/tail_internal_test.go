package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

var tailLog = [8]byte{1, 2, 3}

// groupOf makes a group of some frames as commit writes it.
func groupOf(random *rand.Rand, first uint64, frames int) []byte {
	g := newGroup(first)
	for i := range frames {
		leaf := make([]byte, 200+random.IntN(400))
		for j := range leaf {
			leaf[j] = byte(1 + random.IntN(250))
		}
		clear(leaf[len(leaf)-random.IntN(3):]) // a port may end with zeros
		g.add(first+uint64(i), leaf, [32]byte{}, crc32.Checksum(leaf, castagnoli))
	}
	g.end(tailLog, position{first + uint64(frames), [32]byte(bytes.Repeat([]byte{9}, 32))})
	return g.frames
}

// judge reads what stands at offset as reach does: whole, or cut short, or neither.
func judge(tail []byte, offset int64, first uint64) (whole, short bool) {
	at := place{first, offset}
	r := &reader{from: bytes.NewReader(tail), id: tailLog, at: at, group: at, known: true, leaf: make([]byte, 1<<16)}
	for {
		err := r.next(func(frame) error { return nil }, func(footer, place) error { whole = true; return nil })
		if whole {
			return true, false
		}
		if bad := (*torn)(nil); errors.As(err, &bad) {
			return false, cutShort(bytes.TrimRight(tail, "\x00"), offset, bad.offset-offset, tailLog)
		}
	}
}

// TestCutShort writes groups of which any sectors, or everything from a byte on, did not reach the disk: each is
// known as a write that was cut short.
func TestCutShort(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		offset := int64(random.IntN(3000))
		group := groupOf(random, 7, 1+random.IntN(8))
		tail := append(bytes.Clone(group), make([]byte, 4096)...)
		if random.IntN(2) == 0 {
			clear(tail[random.IntN(len(group)):])
		}
		for at := int64(0); at < int64(len(group)); at += sector - (offset+at)%sector {
			if random.IntN(3) == 0 {
				clear(tail[at:min(at+sector-(offset+at)%sector, int64(len(tail)))])
			}
		}
		if whole, short := judge(tail, offset, 7); whole != bytes.Equal(tail[:len(group)], group) || !whole && !short {
			t.Fatalf("a group of %d bytes at %d: whole %v, cut short %v", len(group), offset, whole, short)
		}
	}
}

// TestNotCutShort flips bits in whole groups, and writes a later group behind an incomplete one. Where a
// sector has three bytes of the group and they are zeros (a length below 256), a flip passes for a lost sector.
func TestNotCutShort(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		offset := int64(random.IntN(3000))
		group := groupOf(random, 7, 1+random.IntN(8))
		tail := append(bytes.Clone(group), make([]byte, 4096)...)
		tail[random.IntN(len(group))] ^= 1 << random.IntN(8)
		lenient := sector-offset%sector == 3 && binary.BigEndian.Uint32(group) < 256
		if whole, short := judge(tail, offset, 7); whole || short && !lenient {
			t.Fatalf("a group of %d bytes at %d with a flipped bit: whole %v, cut short %v", len(group), offset, whole, short)
		}
		tail = append(bytes.Clone(group), groupOf(random, 20, 2)...)
		from := random.IntN(len(group))
		clear(tail[from : from+1+random.IntN(len(group)-from)])
		if bytes.Equal(tail[:len(group)], group) {
			continue // only zeros were cleared
		}
		if whole, short := judge(tail, offset, 7); whole || short {
			t.Fatalf("a later group at %d: whole %v, cut short %v", offset+int64(len(group)), whole, short)
		}
	}
}
