package kv

import (
	"errors"
	"fmt"
)

// encode seals what was written and returns the batch that asks for it, nil
// when there is nothing to ask. The caller's expectations come first among the
// preconditions.
func (tx *Tx) encode() ([]byte, error) {
	if tx.err != nil {
		return nil, tx.err
	}
	if len(tx.written)+len(tx.appends)+len(tx.adds)+len(tx.expects) == 0 {
		return nil, nil
	}
	b := Batch{Append: tx.appends, Add: tx.adds}
	b.If = append(append(b.If, tx.expects...), tx.reads...)
	for _, t := range tx.written {
		w := tx.writes[t]
		switch {
		case w.sealed != nil:
			b.Put = append(b.Put, Put{Target: t, Sealed: w.sealed})
		case w.value != nil:
			ring, err := tx.keyring()
			if err != nil {
				return nil, err
			}
			b.Put = append(b.Put, Put{Target: t, Sealed: seal(ring, t, w.key, w.value)})
			clear(w.value)
		default:
			b.Delete = append(b.Delete, t)
		}
	}
	return b.Encode()
}

// ErrChanged says that a change was made, and what it led to could not be read.
var ErrChanged = errors.New("the change was made, and could not be read back")

// AfterChange marks the error of what follows a successful Update, a read most
// often: without it a caller would take the read's failure, "the node is
// sealed" say, for the change's own.
func AfterChange(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrChanged, err)
}

// settle turns the batch's result into Update's, and fills the handles. A
// conflict on something that was read is worth another attempt (again).
func (tx *Tx) settle(r Result) (again bool, err error) {
	switch r.Status {
	case StatusOK:
		return false, tx.fillHandles(r)
	case StatusConflict:
		if r.Failed >= len(tx.expects) {
			return true, ErrConflict
		}
		return false, fmt.Errorf("%w: record %v is not at revision %d",
			ErrConflict, tx.expects[r.Failed].Target, tx.expects[r.Failed].Revision)
	case StatusLimit:
		return false, ErrLimit
	case StatusStaleKey:
		return false, ErrStaleKey
	case StatusReplayed:
		return false, ErrReplayed
	default:
		return false, fmt.Errorf("%w: the cluster answers %v", errMalformed, r.Status)
	}
}

func (tx *Tx) fillHandles(r Result) error {
	if len(r.Appended) != len(tx.appended) || len(r.Counters) != len(tx.counted) {
		return fmt.Errorf("%w: %d appends and %d adds answered", errResult, len(r.Appended), len(r.Counters))
	}
	for i, h := range tx.appended {
		h.index = r.Appended[i]
	}
	for i, h := range tx.counted {
		h.value = r.Counters[i]
	}
	return nil
}
