package keystore

import (
	"fmt"
	"iter"
	"slices"

	"warder/keystore/kv"
)

// retiredKey is the record that an entry with retired versions has beside it, so that whoever looks for what is to be
// destroyed reads those entries and not all.
func (r Ref) retiredKey() kv.Key { return kv.K("retired", r.Kind, r.Namespace, r.Name) }

func (e Entry) hasRetired() bool {
	return slices.ContainsFunc(e.Versions, func(v Version) bool { return v.State == Retired })
}

// noteRetired writes or drops the record, where that has changed since the entry was read.
func (e Entry) noteRetired(tx *kv.Tx, now bool) {
	switch {
	case now && !e.retired:
		tx.Put(e.Ref.retiredKey(), nil)
	case !now && e.retired:
		tx.Delete(e.Ref.retiredKey())
	}
}

// WithRetired yields the names of a kind's entries, of every namespace, that have retired versions. It ends after an
// error.
func WithRetired(tx *kv.Tx, kind string) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		for item, err := range tx.Scan(kv.K("retired", kind)) {
			var ref Ref
			if parts := item.Key.Parts(); err == nil && len(parts) == 4 {
				ref = Ref{Kind: parts[1], Namespace: parts[2], Name: parts[3]}
			} else if err == nil {
				err = fmt.Errorf("%w: %s names no entry", ErrDamaged, item.Key)
			}
			if !yield(ref, err) || err != nil {
				return
			}
		}
	}
}
