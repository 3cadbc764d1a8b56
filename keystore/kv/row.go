package kv

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// inlineValue is the size from which Badger keeps a value in its value log
// instead of beside the key (its ValueThreshold).
const inlineValue = 128

// What a sealed value looks like from outside: a version, the data key's id, a
// nonce, the ciphertext and its tag. The keyring makes them; what is here needs
// no keyring, so that applying a batch cannot reach one.
const (
	sealVersion  = 1
	sealOverhead = 1 + 4 + 12 + 16
)

// sealedUnder returns the id of the data key that a value names; false for what
// no keyring of this version has sealed.
func sealedUnder(sealed []byte) (id uint32, ok bool) {
	if len(sealed) < sealOverhead || sealed[0] != sealVersion {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:]), true
}

// ErrDamaged is returned when what is on disk, in a snapshot or in a record is
// not what was written. The message names the file or the record.
var ErrDamaged = errors.New("damaged")

// A row is a revision and what the space keeps beside it:
//
//	record, leaf  revision u64 | sealed value
//	prefix        revision u64 | records beneath u64
//	counter       revision u64 | value i64
//	log           revision u64 | next index u64
//	keyring       revision u64 | sealed keyring
//	floor         revision u64 | data key id u64
type row []byte

func newRow(revision uint64, rest []byte) row {
	b := binary.BigEndian.AppendUint64(make(row, 0, 8+len(rest)), revision)
	return append(b, rest...)
}

func newCountRow(revision, n uint64) row {
	b := binary.BigEndian.AppendUint64(make(row, 0, 16), revision)
	return binary.BigEndian.AppendUint64(b, n)
}

// revision returns the row's revision, 0 for no row.
func (r row) revision() uint64 {
	if len(r) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(r)
}

// count returns the number in a prefix, counter or log row, 0 for no row.
func (r row) count() uint64 {
	if len(r) < 16 {
		return 0
	}
	return binary.BigEndian.Uint64(r[8:])
}

// sealed returns what follows the revision.
func (r row) sealed() []byte { return r[min(8, len(r)):] }

// check reports whether a row of these bytes can stand at t in a store whose
// last revision is last.
func (r row) check(t Target, last uint64) error {
	size := len(r) == 16
	switch t.Space {
	case SpaceRecord, SpaceLeaf:
		size = isSealed(r.sealed())
	case SpaceKeyring:
		size = len(r) >= 8 && len(r) <= 8+maxKeyringSize
	}
	if !size {
		return fmt.Errorf("%w: row %v has %d bytes", ErrDamaged, t, len(r))
	}
	if rev := r.revision(); rev == 0 || rev > last {
		return fmt.Errorf("%w: row %v has revision %d, the last one is %d", ErrDamaged, t, rev, last)
	}
	return nil
}

// String names the row as a person can find it: the space and the blinded path.
func (t Target) String() string {
	if t.Space == SpaceLeaf {
		return fmt.Sprintf("%c:%x:%d", t.Space, t.Path, t.Index)
	}
	return fmt.Sprintf("%c:%x", t.Space, t.Path)
}

// sum is the running hash of a set of rows: the sum of their SHA-256 digests
// modulo 2^256. Rows can be added and taken out in any order. It finds faults,
// not forgers: whoever can choose rows at will can make two sets collide, and
// whoever can write the disk can write the sum too.
type sum [4]uint64 // little endian limbs

func rowDigest(key, value []byte) sum {
	h := sha256.New()
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(key)))
	h.Write(n[:])
	h.Write(key)
	h.Write(value)
	var d [32]byte
	return sumOf(h.Sum(d[:0]))
}

func sumOf(b []byte) (s sum) {
	for i := range s {
		s[i] = binary.BigEndian.Uint64(b[24-8*i:])
	}
	return s
}

func (s sum) appendTo(b []byte) []byte {
	for i := range s {
		b = binary.BigEndian.AppendUint64(b, s[3-i])
	}
	return b
}

func (s *sum) add(o sum) {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], o[i], carry)
	}
}

func (s *sum) sub(o sum) {
	var borrow uint64
	for i := range s {
		s[i], borrow = bits.Sub64(s[i], o[i], borrow)
	}
}
