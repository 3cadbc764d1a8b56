package kv

import (
	"encoding/binary"
	"errors"
)

// blindSize is the length of one blinded part of a key, in bytes.
const blindSize = 16

var errShort = errors.New("truncated or out of bounds")

// Space says what kind of row a [Target] names.
type Space byte

// The spaces. The letters are on disk and on the wire; they never change.
const (
	SpaceRecord  Space = 'r' // a sealed value
	SpacePrefix  Space = 'p' // the revision of a prefix of record keys
	SpaceCounter Space = 'c' // a plain counter
	SpaceLog     Space = 'l' // the next index of a log
	SpaceLeaf    Space = 'f' // one sealed leaf of a log
	SpaceKeyring Space = 'k' // the sealed keyring, the one plain system record
	SpaceFloor   Space = 'w' // the least data key that may seal, plain
	spaceState   Space = 's' // the store's own state; never in a batch
)

// Target names one row: a space, a blinded path (16 bytes for each part of the
// key), and for a leaf its index. It is what batches and the disk hold instead
// of a [Key]. A Target is comparable.
type Target struct {
	Space Space
	Path  string // blinded, 16 bytes for each part; empty for keyring and floor
	Index uint64 // of a leaf
}

// system reports whether the space has one row and no paths.
func (s Space) system() bool { return s == SpaceKeyring || s == SpaceFloor }

func (t Target) depth() int { return len(t.Path) / blindSize }

// valid reports whether the fields agree with the space.
func (t Target) valid() bool {
	n := len(t.Path)
	switch t.Space {
	case SpaceKeyring, SpaceFloor:
		return n == 0 && t.Index == 0
	case SpaceRecord, SpacePrefix, SpaceCounter, SpaceLog:
		return t.Index == 0 && n%blindSize == 0 && n >= blindSize && n <= MaxParts*blindSize
	case SpaceLeaf:
		return n%blindSize == 0 && n >= blindSize && n <= MaxParts*blindSize
	default:
		return false
	}
}

// rowKey returns the key of the row in Badger.
func (t Target) rowKey() []byte {
	b := append(make([]byte, 0, 2+len(t.Path)+8), byte(t.Space))
	if t.Space == SpaceLeaf {
		b = append(b, byte(t.depth()))
	}
	b = append(b, t.Path...)
	if t.Space == SpaceLeaf {
		b = binary.BigEndian.AppendUint64(b, t.Index)
	}
	return b
}

// parseRowKey is the inverse of rowKey.
func parseRowKey(b []byte) (Target, error) {
	if len(b) == 0 {
		return Target{}, errShort
	}
	t := Target{Space: Space(b[0])}
	switch path := b[1:]; t.Space {
	case SpaceLeaf:
		if len(path) < 1+8 || len(path) != 1+int(path[0])*blindSize+8 {
			return Target{}, errShort
		}
		t.Path = string(path[1 : len(path)-8])
		t.Index = binary.BigEndian.Uint64(path[len(path)-8:])
	default:
		t.Path = string(path)
	}
	if !t.valid() {
		return Target{}, errShort
	}
	return t, nil
}

// additional returns the additional data that binds a sealed value to its
// place: the row's key, for a leaf without the index, which the proposer cannot
// know.
func (t Target) additional() []byte {
	if t.Space != SpaceLeaf {
		return t.rowKey()
	}
	return append([]byte{byte(SpaceLeaf), byte(t.depth())}, t.Path...)
}

// ancestors yields the prefixes of the target's path, the longest first,
// without the path itself.
func (t Target) ancestors(yield func(Target) bool) {
	for n := len(t.Path) - blindSize; n > 0; n -= blindSize {
		if !yield(Target{Space: SpacePrefix, Path: t.Path[:n]}) {
			return
		}
	}
}

func (t Target) appendTo(b []byte) []byte {
	b = append(b, byte(t.Space))
	if t.Space.system() {
		return b
	}
	b = append(append(b, byte(t.depth())), t.Path...)
	if t.Space == SpaceLeaf {
		b = binary.BigEndian.AppendUint64(b, t.Index)
	}
	return b
}
