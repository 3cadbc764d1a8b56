package kv

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
)

// change gathers what the batches of an entry do to the rows.
type change struct {
	before  *view // what was there; released by who opened it
	cells   map[string]*cell
	state   state
	rows    int // that the transaction will write, at most
	weight  int // on that transaction, see Batch.weight
	size    int // bytes of the rows as they are now
	touched []Target
}

// cell is one row before and after; nil for no row.
type cell struct {
	old, now row
	weight   int
}

// changed reports whether the row is another than it was.
func (x *cell) changed() bool {
	return string(x.old) != string(x.now) || (x.old == nil) != (x.now == nil)
}

func newChange(before *view, st state) *change {
	return &change{before: before, cells: map[string]*cell{}, state: st}
}

func (c *change) cell(t Target) (*cell, error) {
	key := t.rowKey()
	if x, ok := c.cells[string(key)]; ok {
		return x, nil
	}
	r, err := c.before.rowAt(key)
	if err != nil {
		return nil, err
	}
	x := &cell{old: r, now: r}
	c.cells[string(key)] = x
	return x, nil
}

func (c *change) set(t Target, r row) error {
	x, err := c.cell(t)
	if err != nil {
		return err
	}
	if x.weight == 0 {
		c.rows++
	}
	x.now = r
	w := rowWeight(len(t.Path), len(r))
	c.weight += w - x.weight
	x.weight = w
	return nil
}

// full reports whether the change may be written but not grown: a transaction
// takes twice as much as one batch may bring.
func (c *change) full() bool { return c.rows > maxRows || c.weight > maxRowWeight }

func (c *change) touch(t Target) { c.touched = append(c.touched, t) }

// entry applies one client's entry. The error is a storage fault.
func (c *change) entry(data []byte) (Result, error) {
	b, err := DecodeBatch(data)
	if err != nil {
		return Result{Status: StatusMalformed}, nil //nolint:nilerr // what does not parse is an outcome, the same on every member
	}
	if r, err := c.refuse(b); err != nil || r.Status != StatusOK {
		return r, err
	}
	r, err := c.batch(b)
	if err == nil && c.state.seq == 1 {
		d := sha256.Sum256(data)
		copy(c.state.lineage[:], d[:])
	}
	return r, err
}

// refuse checks preconditions and limits; nothing is changed before both hold.
func (c *change) refuse(b *Batch) (Result, error) {
	for i, p := range b.If {
		x, err := c.cell(p.Target)
		if err != nil {
			return Result{}, err
		}
		if x.now.revision() != p.Revision {
			return Result{Status: StatusConflict, Failed: i}, nil
		}
	}
	if stale, err := c.stale(b); err != nil || stale {
		return Result{Status: StatusStaleKey}, err
	}
	values := map[Target]int64{}
	for i, a := range b.Add {
		now, seen := values[a.Target]
		if !seen {
			x, err := c.cell(a.Target)
			if err != nil {
				return Result{}, err
			}
			now = int64(x.now.count())
		}
		if !a.allowed(now) {
			return Result{Status: StatusLimit, Failed: i}, nil
		}
		values[a.Target] = now + a.Delta
	}
	return Result{Status: StatusOK}, nil
}

// stale reports whether the batch brings a value under a data key that may not
// seal any more. Which key it was stands plain at the front of the value.
func (c *change) stale(b *Batch) (bool, error) {
	x, err := c.cell(Target{Space: SpaceFloor})
	if err != nil || x.now == nil {
		return false, err
	}
	below := func(sealed []byte) bool {
		id, ok := sealedUnder(sealed)
		return !ok || uint64(id) < x.now.count()
	}
	for _, p := range b.Put {
		if !p.Target.Space.system() && below(p.Sealed) {
			return true, nil
		}
	}
	return slices.ContainsFunc(b.Append, func(a Append) bool { return below(a.Sealed) }), nil
}

// allowed reports whether the counter may go from now to now+Delta.
func (a Add) allowed(now int64) bool {
	if a.Delta >= 0 {
		return now <= math.MaxInt64-a.Delta && now+a.Delta <= a.Limit
	}
	return now >= math.MinInt64-a.Delta && now+a.Delta >= a.Limit
}

// batch makes the changes of an accepted batch.
func (c *change) batch(b *Batch) (Result, error) {
	c.state.seq++
	r := Result{Status: StatusOK, Revision: c.state.seq}
	for _, p := range b.Put {
		if err := c.put(p); err != nil {
			return r, err
		}
	}
	for _, t := range b.Delete {
		if err := c.remove(t); err != nil {
			return r, err
		}
	}
	for _, a := range b.Append {
		i, err := c.append(a)
		if err != nil {
			return r, err
		}
		r.Appended = append(r.Appended, i)
	}
	for _, a := range b.Add {
		v, err := c.add(a)
		if err != nil {
			return r, err
		}
		r.Counters = append(r.Counters, v)
	}
	return r, nil
}

func (c *change) put(p Put) error {
	x, err := c.cell(p.Target)
	if err != nil {
		return err
	}
	if p.Target.Space == SpaceRecord {
		beneath := 0
		if x.now == nil {
			beneath = 1
		}
		if err := c.changeAncestors(p.Target, beneath); err != nil {
			return err
		}
	}
	c.touch(p.Target)
	if p.Target.Space == SpaceFloor {
		return c.set(p.Target, newCountRow(c.state.seq, uint64(binary.BigEndian.Uint32(p.Sealed))))
	}
	return c.set(p.Target, newRow(c.state.seq, p.Sealed))
}

func (c *change) remove(t Target) error {
	x, err := c.cell(t)
	if err != nil || x.now == nil {
		return err
	}
	switch t.Space {
	case SpaceRecord:
		err = c.changeAncestors(t, -1)
	case SpaceLeaf:
		err = c.changeLog(Target{Space: SpaceLog, Path: t.Path}, 0)
	}
	if err != nil {
		return err
	}
	c.touch(t)
	return c.set(t, nil)
}

// changeLog gives a log the batch's revision and moves its next index by n.
func (c *change) changeLog(t Target, n uint64) error {
	x, err := c.cell(t)
	if err != nil {
		return err
	}
	c.touch(t)
	return c.set(t, newCountRow(c.state.seq, x.now.count()+n))
}

// changeAncestors gives every prefix above a record the batch's revision, and
// drops those that no record lies beneath any more.
func (c *change) changeAncestors(t Target, beneath int) (err error) {
	t.ancestors(func(p Target) bool {
		var x *cell
		if x, err = c.cell(p); err != nil {
			return false
		}
		var r row
		if n := x.now.count() + uint64(beneath); n != 0 {
			r = newCountRow(c.state.seq, n)
		}
		err = c.set(p, r)
		return err == nil
	})
	return err
}

func (c *change) append(a Append) (uint64, error) {
	x, err := c.cell(a.Target)
	if err != nil {
		return 0, err
	}
	next := x.now.count()
	leaf := Target{Space: SpaceLeaf, Path: a.Target.Path, Index: next}
	if err := c.set(leaf, newRow(c.state.seq, a.Sealed)); err != nil {
		return 0, err
	}
	return next, c.changeLog(a.Target, 1)
}

func (c *change) add(a Add) (int64, error) {
	x, err := c.cell(a.Target)
	if err != nil {
		return 0, err
	}
	v := int64(x.now.count()) + a.Delta
	c.touch(a.Target)
	return v, c.set(a.Target, newCountRow(c.state.seq, uint64(v)))
}

// finish works the changed rows into the running hash and the number of rows.
func (c *change) finish() {
	for key, x := range c.cells {
		if !x.changed() {
			continue
		}
		if x.old != nil {
			c.state.sum.sub(rowDigest([]byte(key), x.old))
			c.state.count--
		}
		c.size += len(key) + len(x.now)
		if x.now != nil {
			c.state.sum.add(rowDigest([]byte(key), x.now))
			c.state.count++
		}
	}
}

// rowsChanged yields each changed row as it is now, nil for one that is deleted.
func (c *change) rowsChanged(yield func(key string, now row) bool) {
	for key, x := range c.cells {
		if x.changed() && !yield(key, x.now) {
			return
		}
	}
}
