package kv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
)

// Item is one record of a [Tx.Scan].
type Item struct {
	Key   Key
	Value []byte // the caller owns it
	Rev   uint64 // 0 for a value that the Tx has put itself
}

// Leaf is one leaf of a log.
type Leaf struct {
	Index uint64
	Value []byte // the caller owns it
}

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// Scan yields the records that lie strictly beneath prefix, at any depth, in an
// order that is stable but means nothing (names are blinded). The prefix's
// revision becomes a precondition: a record that appears, changes or goes
// before the change is applied makes Update try again. The loop may write
// beneath the prefix: what it puts is not visited unless it was to be visited
// anyway, and then with the new value; what it deletes is not visited any more.
// After an error the scan ends.
func (tx *Tx) Scan(prefix Key) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		t, err := tx.target(SpacePrefix, prefix)
		if err == nil {
			_, err = tx.read(t)
		}
		if err == nil {
			err = tx.scan(prefix, t.Path, func(i Item) bool { return yield(i, nil) })
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(Item{}, err)
		}
	}
}

func (tx *Tx) scan(prefix Key, path string, yield func(Item) bool) error {
	start := append([]byte{byte(SpaceRecord)}, path...)
	stored := map[Target]struct{}{}
	pending := tx.written[:len(tx.written):len(tx.written)] // what the loop puts is appended behind
	err := tx.view.each(start, start, func(key []byte, r row) error {
		t := Target{Space: SpaceRecord, Path: string(key[1:])}
		if len(t.Path) == len(path) {
			return nil
		}
		item, ok, err := tx.item(prefix, t, r)
		if _, pending := tx.writes[t]; pending {
			stored[t] = struct{}{}
		}
		if err != nil || !ok {
			return err
		}
		if !yield(item) {
			return errEnough
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tx.scanPending(pending, path, stored, yield)
}

// item opens a stored record, unless this Tx has written over it.
func (tx *Tx) item(prefix Key, t Target, r row) (Item, bool, error) {
	if w, ok := tx.writes[t]; ok {
		return Item{Key: w.key, Value: bytes.Clone(w.value)}, w.value != nil, nil
	}
	k, value, err := open(tx.ring, t, r)
	if err == nil && (!k.Under(prefix) || int(k.parts) != t.depth()) {
		err = fmt.Errorf("%w: record %v holds another name", ErrDamaged, t)
	}
	return Item{Key: k, Value: value, Rev: r.revision()}, true, err
}

// scanPending yields what this Tx had put before the scan and the store does not
// have.
func (tx *Tx) scanPending(pending []Target, path string, stored map[Target]struct{}, yield func(Item) bool) error {
	for _, t := range pending {
		w := tx.writes[t]
		_, done := stored[t]
		if done || w.value == nil || t.Space != SpaceRecord ||
			len(t.Path) <= len(path) || !strings.HasPrefix(t.Path, path) {
			continue
		}
		if !yield(Item{Key: w.key, Value: bytes.Clone(w.value)}) {
			return errEnough
		}
	}
	return nil
}

// Leaves yields the leaves of a log from an index on, in order; deleted ones
// are left out, and so is what this Tx appends. The log's revision becomes a
// precondition. After an error the walk ends.
func (tx *Tx) Leaves(log Key, from uint64) iter.Seq2[Leaf, error] {
	return func(yield func(Leaf, error) bool) {
		t, err := tx.target(SpaceLog, log)
		if err == nil {
			_, err = tx.read(t)
		}
		if err == nil {
			err = tx.leaves(log, t.Path, from, func(l Leaf) bool { return yield(l, nil) })
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(Leaf{}, err)
		}
	}
}

func (tx *Tx) leaves(log Key, path string, from uint64, yield func(Leaf) bool) error {
	leaf := Target{Space: SpaceLeaf, Path: path}
	prefix := leaf.additional()
	start := binary.BigEndian.AppendUint64(bytes.Clone(prefix), from)
	return tx.view.each(prefix, start, func(key []byte, r row) error {
		leaf.Index = binary.BigEndian.Uint64(key[len(prefix):])
		if _, dropped := tx.writes[leaf]; dropped {
			return nil
		}
		k, value, err := open(tx.ring, leaf, r)
		if err == nil && k != log {
			err = fmt.Errorf("%w: leaf %v is of another log", ErrDamaged, leaf)
		}
		if err == nil && !yield(Leaf{Index: leaf.Index, Value: value}) {
			return errEnough
		}
		return err
	})
}
