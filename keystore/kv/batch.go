package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Bounds of a [Batch]. A batch that breaks one is malformed.
const (
	MaxValueSize  = 1 << 20 // bytes of a plain value
	MaxBatchSize  = 4 << 20 // bytes of an encoded batch
	MaxOperations = 4096    // in one batch, preconditions included

	maxSealedSize  = MaxValueSize + 4<<10 // a value, its name and the seal
	maxKeyringSize = 64 << 10
	maxRows        = 12 << 10 // that a batch may write; Badger takes 26,214 in a transaction
	maxRowWeight   = 1 << 20  // see weight
	batchVersion   = 1
)

// ErrTooLarge is returned for a value or a transaction that is past a bound.
var ErrTooLarge = errors.New("too large")

var errMalformed = errors.New("malformed batch")

// Batch is the one kind of log entry: preconditions, and changes that are made
// together or not at all. Everything in it is blinded and sealed already.
// Changes are made in the order Put, Delete, Append, Add. No two of Put and
// Delete name the same target, no Add a counter that Delete names, and a leaf is
// put only under a precondition that it exists. docs/formats.md, "Batch", draws the bytes.
type Batch struct {
	If     []If
	Put    []Put
	Delete []Target
	Append []Append
	Add    []Add
}

// If is a precondition: the target's revision is Revision, where 0 means that
// there is no such row. For a prefix 0 means that no record lies beneath it.
type If struct {
	Target   Target
	Revision uint64
}

// Put writes a record, a leaf that exists already (to seal it anew), the
// keyring, or the floor: the id of a data key in 4 bytes, big-endian.
type Put struct {
	Target Target
	Sealed []byte
}

// Append adds a leaf to a log; the leaf's index is decided when the batch is
// applied and is in the [Result].
type Append struct {
	Target Target // in SpaceLog
	Sealed []byte
}

// Add adds Delta to a counter, which is 0 before the first Add. Limit bounds
// the direction of travel: a positive delta is refused when the sum would be
// above Limit, a negative one when it would be below. Overflow is refused.
type Add struct {
	Target Target // in SpaceCounter
	Delta  int64
	Limit  int64
}

// Encode returns the batch's bytes, or [ErrTooLarge] or an error when the batch
// breaks a rule: what Encode returns, [DecodeBatch] takes.
func (b *Batch) Encode() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, b.size()), batchVersion)
	for _, n := range b.lengths() {
		out = binary.BigEndian.AppendUint16(out, uint16(n))
	}
	for _, c := range b.If {
		out = binary.BigEndian.AppendUint64(c.Target.appendTo(out), c.Revision)
	}
	for _, p := range b.Put {
		out = appendBytes(p.Target.appendTo(out), p.Sealed)
	}
	for _, t := range b.Delete {
		out = t.appendTo(out)
	}
	for _, a := range b.Append {
		out = appendBytes(a.Target.appendTo(out), a.Sealed)
	}
	for _, a := range b.Add {
		out = binary.BigEndian.AppendUint64(a.Target.appendTo(out), uint64(a.Delta))
		out = binary.BigEndian.AppendUint64(out, uint64(a.Limit))
	}
	return out, nil
}

func appendBytes(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
}

func (b *Batch) lengths() [5]int {
	return [5]int{len(b.If), len(b.Put), len(b.Delete), len(b.Append), len(b.Add)}
}

// size returns a bound on the encoded size, exact but for absent leaf indexes.
func (b *Batch) size() int {
	const target = 2 + 8
	n := 1 + 5*2
	for _, c := range b.If {
		n += target + len(c.Target.Path) + 8
	}
	for _, p := range b.Put {
		n += target + len(p.Target.Path) + 4 + len(p.Sealed)
	}
	for _, t := range b.Delete {
		n += target + len(t.Path)
	}
	for _, a := range b.Append {
		n += target + len(a.Target.Path) + 4 + len(a.Sealed)
	}
	for _, a := range b.Add {
		n += target + len(a.Target.Path) + 16
	}
	return n
}

// check holds the batch to the rules that do not depend on the state.
func (b *Batch) check() error {
	ops := 0
	for _, n := range b.lengths() {
		ops += n
	}
	if ops > MaxOperations {
		return fmt.Errorf("%w: %d operations in a batch, at most %d", ErrTooLarge, ops, MaxOperations)
	}
	if n := b.size(); n > MaxBatchSize {
		return fmt.Errorf("%w: a batch of %d bytes, at most %d", ErrTooLarge, n, MaxBatchSize)
	}
	if err := b.checkTargets(); err != nil {
		return err
	}
	rows, w := b.weight()
	if rows > maxRows {
		return fmt.Errorf("%w: a batch of %d rows, at most %d", ErrTooLarge, rows, maxRows)
	}
	if w > maxRowWeight {
		return fmt.Errorf("%w: the rows of a batch weigh %d bytes, at most %d", ErrTooLarge, w, maxRowWeight)
	}
	return nil
}

func (b *Batch) checkTargets() error {
	for i, c := range b.If {
		if !c.Target.valid() {
			return fmt.Errorf("%w: precondition %d", errMalformed, i)
		}
	}
	seen := make(map[Target]struct{}, len(b.Put)+len(b.Delete))
	once := func(t Target) bool {
		_, dup := seen[t]
		seen[t] = struct{}{}
		return t.valid() && !dup
	}
	for i, p := range b.Put {
		if !once(p.Target) || !p.Target.takes(p.Sealed) ||
			p.Target.Space == SpaceLeaf && !b.expects(p.Target) {
			return fmt.Errorf("%w: put %d", errMalformed, i)
		}
	}
	for i, t := range b.Delete {
		if !once(t) || (t.Space != SpaceRecord && t.Space != SpaceCounter && t.Space != SpaceLeaf) {
			return fmt.Errorf("%w: delete %d", errMalformed, i)
		}
	}
	for i, a := range b.Append {
		if !a.Target.valid() || a.Target.Space != SpaceLog || !isSealed(a.Sealed) {
			return fmt.Errorf("%w: append %d", errMalformed, i)
		}
	}
	for i, a := range b.Add {
		_, changed := seen[a.Target]
		if !a.Target.valid() || a.Target.Space != SpaceCounter || changed {
			return fmt.Errorf("%w: add %d", errMalformed, i)
		}
	}
	return nil
}

// expects reports whether a precondition demands that the row t exists.
func (b *Batch) expects(t Target) bool {
	return slices.ContainsFunc(b.If, func(c If) bool { return c.Target == t && c.Revision != 0 })
}

// takes reports whether v may be put at t.
func (t Target) takes(v []byte) bool {
	switch t.Space {
	case SpaceRecord, SpaceLeaf:
		return isSealed(v)
	case SpaceKeyring:
		return len(v) <= maxKeyringSize
	case SpaceFloor:
		return len(v) == 4
	default:
		return false
	}
}

// weight bounds what the batch adds to one Badger transaction, which must take
// it whole: how many rows it may write, and their weight, which is their keys,
// their values as far as Badger keeps them beside the key, and a little for
// each.
func (b *Batch) weight() (n, weight int) {
	rows := make(map[Target]int, len(b.Put)+len(b.Delete))
	row := func(t Target, value int) {
		rows[t] = rowWeight(len(t.Path), value)
	}
	record := func(t Target, value int) {
		row(t, value)
		if t.Space == SpaceRecord {
			t.ancestors(func(p Target) bool { row(p, 16); return true })
		}
		if t.Space == SpaceLeaf {
			row(Target{Space: SpaceLog, Path: t.Path}, 16)
		}
	}
	for _, p := range b.Put {
		record(p.Target, len(p.Sealed))
	}
	for _, t := range b.Delete {
		record(t, 0)
	}
	for _, a := range b.Add {
		row(a.Target, 16)
	}
	for _, a := range b.Append {
		row(a.Target, 16)
		weight += rowWeight(len(a.Target.Path), len(a.Sealed))
	}
	for _, w := range rows {
		weight += w
	}
	return len(rows) + len(b.Append), weight
}

// isSealed reports whether v can be a sealed value, by its size.
func isSealed(v []byte) bool { return len(v) >= sealOverhead && len(v) <= maxSealedSize }

func rowWeight(path, value int) int {
	return 32 + path + min(value, inlineValue)
}
