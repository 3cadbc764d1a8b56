package kv

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const (
	stateVersion = 1
	stateSize    = 1 + 8 + 4 + 8 + 8 + 16 + 32 // and 32 inside an entry
	statePart    = 1 + 8                       // where part stands
	stateDomain  = "warder kv state 1\x00"
)

// state is what the store knows of itself. It is a row of the store, written in
// the same transaction as every change; it stands in the mark file and at the
// head of a snapshot. docs/formats.md, "State", draws the bytes.
type state struct {
	index   uint64   // of the last log entry of which anything was applied
	part    uint32   // how many of that entry's batches were applied; 0: all
	seq     uint64   // batches accepted: the last revision
	count   uint64   // rows, this one not counted
	lineage [16]byte // of the first batch accepted: which cluster this is
	sum     sum      // of the rows
	whole   [32]byte // the state hash before that entry, while part is not 0
}

// applied is the index of the last log entry that was applied whole.
func (s state) applied() uint64 {
	if s.part != 0 {
		return s.index - 1
	}
	return s.index
}

// interrupt notes that n batches of the entry were applied; before is the state
// that was committed last.
func (s *state) interrupt(before state, n int) {
	s.part = uint32(n)
	_, s.whole = before.lastWhole()
}

// holds reports whether the entry at index was applied whole.
func (s state) holds(index uint64) bool { return index <= s.applied() }

// first returns how many of the n batches of the entry at index were applied.
func (s state) first(index uint64, n int) int {
	switch {
	case s.holds(index):
		return n
	case index == s.index:
		return min(n, int(s.part))
	default:
		return 0
	}
}

// follows returns an error unless the entry at index, of n batches, can be the
// next one: inside an entry only its rest can.
func (s state) follows(index uint64, n int) error {
	switch {
	case s.part == 0:
		return nil
	case index != s.index:
		return fmt.Errorf("the log gives entry %d, but only %d batches of entry %d were applied", index, s.part, s.index)
	case n <= int(s.part):
		return fmt.Errorf("the log gives entry %d with %d batches, but had given more than %d", index, n, s.part)
	}
	return nil
}

// behind reports whether s has seen less of the log than o.
func (s state) behind(o state) bool {
	if s.index != o.index {
		return s.index < o.index
	}
	return s.part != 0 && (o.part == 0 || s.part < o.part)
}

func (s state) appendTo(b []byte) []byte {
	b = append(b, stateVersion)
	b = binary.BigEndian.AppendUint64(b, s.index)
	b = binary.BigEndian.AppendUint32(b, s.part)
	b = binary.BigEndian.AppendUint64(b, s.seq)
	b = binary.BigEndian.AppendUint64(b, s.count)
	b = append(b, s.lineage[:]...)
	b = s.sum.appendTo(b)
	if s.part != 0 {
		b = append(b, s.whole[:]...)
	}
	return b
}

func (r *reader) state() state {
	if r.u8() != stateVersion {
		r.bad = true
	}
	s := state{index: r.u64(), part: r.u32(), seq: r.u64(), count: r.u64()}
	copy(s.lineage[:], r.take(16))
	if b := r.take(32); b != nil {
		s.sum = sumOf(b)
	}
	if s.part != 0 {
		copy(s.whole[:], r.take(len(s.whole)))
	}
	return s
}

// row returns the state as it is stored: its bytes and their SHA-256.
func (s state) row() []byte {
	b := s.appendTo(make([]byte, 0, stateSize+2*sha256.Size))
	d := sha256.Sum256(b)
	return append(b, d[:]...)
}

func parseStateRow(b []byte) (state, error) {
	n := len(b) - sha256.Size
	if n < stateSize {
		return state{}, fmt.Errorf("%w: the state row has %d bytes", ErrDamaged, len(b))
	}
	d := sha256.Sum256(b[:n])
	r := reader{rest: b[:n]}
	s := r.state()
	if r.bad || len(r.rest) != 0 || !bytes.Equal(d[:], b[n:]) {
		return state{}, fmt.Errorf("%w: the state row does not match its own hash", ErrDamaged)
	}
	return s, nil
}

// lastWhole returns the index of the last entry that was applied whole, and the
// state hash that it left. The rows inside an entry are nobody else's: another
// member may commit the same entry in other parts.
func (s state) lastWhole() (index uint64, hash [32]byte) {
	if s.part != 0 {
		return s.applied(), s.whole
	}
	return s.applied(), s.hash()
}

// hash is the state hash: equal on members that hold the same rows, whatever
// the grouping of batches into entries was.
func (s state) hash() [32]byte {
	b := append(make([]byte, 0, 96), stateDomain...)
	b = append(b, s.lineage[:]...)
	b = binary.BigEndian.AppendUint64(b, s.seq)
	b = binary.BigEndian.AppendUint64(b, s.count)
	return sha256.Sum256(s.sum.appendTo(b))
}
