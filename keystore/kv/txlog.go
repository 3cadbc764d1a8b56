package kv

import (
	"fmt"
	"math"
)

// NoLimit and NoFloor are limits for [Tx.Add] that only overflow can pass.
const (
	NoLimit = math.MaxInt64
	NoFloor = math.MinInt64
)

// Appended tells, after Update, where a leaf went.
type Appended struct{ index uint64 }

// Index returns the leaf's index in its log. It is known once Update has
// returned nil.
func (a *Appended) Index() uint64 { return a.index }

// Counted tells, after Update, what a counter came to.
type Counted struct{ value int64 }

// Value returns the counter after the Add. It is known once Update has returned
// nil.
func (c *Counted) Value() int64 { return c.value }

// Append adds a leaf at the end of a log, wherever that is when the change is
// applied.
func (tx *Tx) Append(log Key, leaf []byte) *Appended {
	h := &Appended{}
	t, err := tx.target(SpaceLog, log)
	if err == nil && len(leaf) > MaxValueSize {
		err = fmt.Errorf("%w: leaf of %d bytes, at most %d", ErrTooLarge, len(leaf), MaxValueSize)
	}
	if err != nil {
		tx.fail(err)
		return h
	}
	ring, err := tx.keyring()
	if err != nil {
		tx.fail(err)
		return h
	}
	sealed := seal(ring, Target{Space: SpaceLeaf, Path: t.Path}, log, leaf)
	tx.appends = append(tx.appends, Append{Target: t, Sealed: sealed})
	tx.appended = append(tx.appended, h)
	return h
}

// Add adds delta to a counter, whatever it is when the change is applied. A
// positive delta is refused when the counter would come above limit, a negative
// one when below; Update then returns [ErrLimit] and nothing is changed.
func (tx *Tx) Add(counter Key, delta, limit int64) *Counted {
	h := &Counted{}
	t, err := tx.target(SpaceCounter, counter)
	if err != nil {
		tx.fail(err)
		return h
	}
	tx.adds = append(tx.adds, Add{Target: t, Delta: delta, Limit: limit})
	tx.counted = append(tx.counted, h)
	return h
}

// Counter returns a counter's value without the pending Adds of this Tx; 0 when
// there is none. Reading a counter makes the change conditional on it: with an
// Add alone there is no conflict.
func (tx *Tx) Counter(k Key) (int64, error) {
	t, err := tx.target(SpaceCounter, k)
	if err != nil {
		return 0, err
	}
	r, err := tx.read(t)
	return int64(r.count()), err
}

// DropCounter deletes a counter, so that it is 0 again. It cannot be combined
// with an Add to the same counter.
func (tx *Tx) DropCounter(k Key) {
	if t, err := tx.target(SpaceCounter, k); err != nil {
		tx.fail(err)
	} else {
		tx.write(t, &write{key: k})
	}
}

// DropLeaf deletes one leaf of a log, if it is there. Indexes do not move.
func (tx *Tx) DropLeaf(log Key, index uint64) {
	t, err := tx.target(SpaceLeaf, log)
	if err != nil {
		tx.fail(err)
		return
	}
	t.Index = index
	tx.write(t, &write{key: log})
}
