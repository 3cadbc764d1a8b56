package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"warder/api/verify"
)

// sector is the least that a disk writes: after a power cut each of a group's sectors is either what was written or the
// zeros that were there before.
const sector = 512

// reach says how far the last segment goes: to the end of its last whole group. What lies behind that is nothing but
// zeros, or a write that was cut short (rest says where), or a [*Damage]: because the first floor entries were
// acknowledged, or because no write that is cut short looks like that.
func (s *segment) reach(floor uint64) (end place, rest *torn, err error) {
	end = place{s.first, segmentHeader}
	err = s.scanGroups(end, s.length.Load(), func(frame) error { return nil }, func(_ footer, at place) error {
		end = at
		return nil
	})
	if err == nil || !errors.As(err, &rest) {
		return end, nil, err
	}
	tail, err := s.tail(end.offset)
	switch {
	case err != nil:
		return end, nil, err
	case len(tail) == 0:
		return end, nil, nil
	case end.index < floor, !cutShort(tail, end.offset, rest.offset-end.offset, s.id):
		return end, nil, rest.damage(s)
	}
	return end, rest, nil
}

// tail gives the segment's bytes from an offset on, without the zeros at its end.
func (s *segment) tail(offset int64) ([]byte, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, offset, s.length.Load()-offset))
	return bytes.TrimRight(b, "\x00"), err
}

// cutShort says whether the bytes behind the last whole group, at offset, can be one write that was cut short. bad is
// where in them reading stopped. The next group is written when this one is durable, and a sector is written as a whole
// or not at all; so it is damage when a later group was begun, and when nothing is missing.
func cutShort(tail []byte, offset, bad int64, id [8]byte) bool {
	tag := binary.BigEndian.AppendUint32(nil, footerTag)
	own := 0 // where the group's own footer ends
	for at := 0; ; at++ {
		next := bytes.Index(tail[at:], tag)
		if next < 0 {
			break
		}
		at += next
		f, ok := decodeFooter(tail[at:], id)
		if ok && int(f.bytes) != at {
			return false
		}
		if ok {
			own = at + footerBytes
		}
	}
	if own > 0 {
		return hole(tail[:own], offset)
	}
	if bad == 0 && (len(tail) < 4 || binary.BigEndian.Uint32(tail) == 0) {
		return true // no group was begun
	}
	rest := tail[min(bad, int64(len(tail))):] // a record before it may end with zeros
	return int64(len(tail)) < bad+claimed(rest) || hole(tail, offset)
}

// claimed is how many bytes must follow a place for the group to be whole: a frame of the length that stands there, and
// a footer.
func claimed(b []byte) int64 {
	if len(b) >= frameHeader {
		if n := binary.BigEndian.Uint32(b); n > 0 && n <= verify.MaxRecord {
			return frameHeader + int64(n) + footerBytes
		}
	}
	return footerBytes
}

// hole says whether a sector of b, a group at an offset of its file, is all zeros. The first two bytes of a group are
// zeros (a frame's length is below 65536): nothing is missing where a sector has no more of it.
func hole(b []byte, offset int64) bool {
	for first := true; len(b) > 0; first = false {
		n := min(len(b), int(sector-offset%sector))
		if len(bytes.Trim(b[:n], "\x00")) == 0 && !(first && n <= 2) {
			return true
		}
		b, offset = b[n:], offset+int64(n)
	}
	return false
}
