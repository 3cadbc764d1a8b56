package kv

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"warder/keystore/keyring"
)

// Tx is one reading of the store and the changes that are to be made on it.
// What it reads, and what it finds absent, becomes a precondition of the
// change; so does the revision of a prefix that it scans, so that no record
// appears unseen. A Tx sees its own writes. It is valid until the function that
// was given it returns, and not for concurrent use.
type Tx struct {
	ring   *keyring.Keyring // nil: none, and sealed says why
	sealed error
	view   *view
	err    error          // the first fault of a method that returns none
	blind  map[Key]string // paths that were worked out; nil in a View

	expects  []If                // what the caller demands
	reads    []If                // what was seen
	seen     map[Target]struct{} // targets of reads; nil in a View, where nothing comes of them
	writes   map[Target]*write
	written  []Target // keys of writes, as they came
	appends  []Append
	adds     []Add
	appended []*Appended
	counted  []*Counted
}

// write is a pending Put, or a Delete when value is nil.
type write struct {
	key    Key
	value  []byte
	sealed []byte
}

// newTx gives a Tx whose reads become preconditions. A View's is made without any of these maps: most transactions are
// one, and make no change that could have conditions.
func (db *DB) newTx() (*Tx, error) {
	tx, err := db.read()
	if err != nil {
		return nil, err
	}
	tx.blind, tx.seen, tx.writes = map[Key]string{}, map[Target]struct{}{}, map[Target]*write{}
	return tx, nil
}

// read gives a View's Tx, whose view is the caller's to release. The keyring is taken before the view: an older one lacks
// data keys that are newer than itself, and tells them apart; a newer one may have dropped what the view still holds
// values under, as if those were damaged.
func (db *DB) read() (*Tx, error) {
	ring, sealed := db.keys.Keyring()
	v, err := db.store.view()
	if err != nil {
		return nil, err
	}
	return &Tx{ring: ring, sealed: sealed, view: v}, nil
}

// Get returns a record's value, which the caller owns, and its revision. A
// value that this Tx has put has revision 0. The error is [ErrNotFound],
// [ErrDamaged], [ErrBadKey], or what [Keys] gave.
func (tx *Tx) Get(k Key) (value []byte, rev uint64, err error) {
	t, err := tx.target(SpaceRecord, k)
	if err != nil {
		return nil, 0, err
	}
	if w, ok := tx.writes[t]; ok {
		if w.value == nil {
			return nil, 0, ErrNotFound
		}
		return bytes.Clone(w.value), 0, nil
	}
	r, err := tx.read(t)
	if err != nil {
		return nil, 0, err
	}
	if r == nil {
		return nil, 0, ErrNotFound
	}
	name, value, err := open(tx.ring, t, r)
	if err == nil && name != k {
		err = fmt.Errorf("%w: record %v holds another name", ErrDamaged, t)
	}
	if err != nil {
		return nil, 0, err
	}
	return value, r.revision(), nil
}

// Put writes a record. Without a Get, MustNotExist or Expect of the same key it
// is unconditional.
func (tx *Tx) Put(k Key, value []byte) {
	t, err := tx.target(SpaceRecord, k)
	if err == nil && len(value) > MaxValueSize {
		err = fmt.Errorf("%w: value of %d bytes, at most %d", ErrTooLarge, len(value), MaxValueSize)
	}
	if err != nil {
		tx.fail(err)
		return
	}
	tx.write(t, &write{key: k, value: append([]byte{}, value...)})
}

// Delete deletes a record, if it is there.
func (tx *Tx) Delete(k Key) {
	if t, err := tx.target(SpaceRecord, k); err != nil {
		tx.fail(err)
	} else {
		tx.write(t, &write{key: k})
	}
}

func (tx *Tx) write(t Target, w *write) {
	if _, ok := tx.writes[t]; !ok {
		tx.written = append(tx.written, t)
	}
	if tx.writes == nil {
		tx.writes = map[Target]*write{}
	}
	tx.writes[t] = w
}

// MustNotExist makes the change conditional on the record's absence. Unlike
// what a Get finds, it is not tried again: Update returns [ErrConflict].
func (tx *Tx) MustNotExist(k Key) { tx.Expect(k, 0) }

// Expect makes the change conditional on the record's revision, as an earlier
// transaction saw it. Update returns [ErrConflict] when it is another.
func (tx *Tx) Expect(k Key, rev uint64) {
	t, err := tx.target(SpaceRecord, k)
	if err != nil {
		tx.fail(err)
		return
	}
	tx.expects = append(tx.expects, If{Target: t, Revision: rev})
}

// Keyring returns the sealed keyring and its revision; nil and 0 when there is
// none. It needs no keys.
func (tx *Tx) Keyring() (sealed []byte, rev uint64, err error) {
	t := Target{Space: SpaceKeyring}
	if w, ok := tx.writes[t]; ok {
		return bytes.Clone(w.sealed), 0, nil
	}
	r, err := tx.read(t)
	if err != nil || r == nil {
		return nil, 0, err
	}
	return bytes.Clone(r.sealed()), r.revision(), nil
}

// PutKeyring replaces the sealed keyring. Read it by [Tx.Keyring] in the same
// Tx, or two changes at once lose one of them. It needs no keys.
func (tx *Tx) PutKeyring(sealed []byte) {
	if len(sealed) > maxKeyringSize {
		tx.fail(fmt.Errorf("%w: sealed keyring of %d bytes, at most %d", ErrTooLarge, len(sealed), maxKeyringSize))
		return
	}
	tx.write(Target{Space: SpaceKeyring}, &write{sealed: append([]byte{}, sealed...)})
}

// SetKeyFloor forbids, from this change on, values that are sealed under a data
// key with an id below floor: a member that has not heard of the new key gets
// [ErrStaleKey]. What is stored already stays. It needs no keys.
func (tx *Tx) SetKeyFloor(floor uint32) {
	tx.write(Target{Space: SpaceFloor}, &write{sealed: binary.BigEndian.AppendUint32(nil, floor)})
}

// KeyFloor returns what SetKeyFloor set last; 0 at first. It needs no keys.
func (tx *Tx) KeyFloor() (uint32, error) {
	r, err := tx.read(Target{Space: SpaceFloor})
	return uint32(r.count()), err
}

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// read reads a row and notes its revision as a precondition.
func (tx *Tx) read(t Target) (row, error) {
	r, err := tx.view.row(t)
	if err == nil {
		tx.saw(t, r.revision())
	}
	return r, err
}

func (tx *Tx) saw(t Target, rev uint64) {
	if tx.seen == nil {
		return
	}
	if _, ok := tx.seen[t]; !ok {
		tx.seen[t] = struct{}{}
		tx.reads = append(tx.reads, If{Target: t, Revision: rev})
	}
}

func (tx *Tx) keyring() (*keyring.Keyring, error) {
	return tx.ring, tx.sealed
}

func (tx *Tx) target(space Space, k Key) (Target, error) {
	if err := k.check(); err != nil {
		return Target{}, err
	}
	path, ok := tx.blind[k]
	if !ok {
		ring, err := tx.keyring()
		if err != nil {
			return Target{}, err
		}
		path = blind(ring, k)
		if tx.blind != nil {
			tx.blind[k] = path
		}
	}
	return Target{Space: space, Path: path}, nil
}
