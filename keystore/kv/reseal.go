package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"warder/keystore/keyring"
)

const (
	maxReseal      = 512     // values in one batch
	maxResealBytes = 2 << 20 // of sealed values in one batch
)

// stale is a value that is sealed under another key than the active one.
type stale struct {
	target Target
	row    row
}

// Reseal seals up to limit values (at most 512) anew that are still under
// another data key than the active one, and returns how many it did. Values and
// names stay as they are, revisions move. Call it until done: a walk from the
// first record to the last found nothing left. It goes on where the last call
// ended.
func (db *DB) Reseal(ctx context.Context, limit int) (done bool, n int, err error) {
	db.resealing.Lock()
	defer db.resealing.Unlock()
	ring, err := db.keys.Keyring()
	if err != nil {
		return false, 0, err
	}
	fromStart := db.resume == nil
	found, next, err := db.findStale(ctx, ring.Active(), min(max(limit, 1), maxReseal))
	if err != nil {
		return false, 0, err
	}
	n, err = db.reseal(ctx, ring, found)
	if err != nil {
		return false, n, err
	}
	db.resume = next
	return fromStart && next == nil && len(found) == 0, n, nil
}

// findStale walks on from db.resume until it has enough. next is where the walk
// goes on, nil when it came to the end.
func (db *DB) findStale(ctx context.Context, active uint32, limit int) (found []stale, next []byte, err error) {
	size := 0
	err = db.eachSealed(ctx, db.resume, func(t Target, r row) error {
		if id, err := keyring.KeyID(r.sealed()); err == nil && id == active {
			return nil
		}
		if len(found) == limit || size > maxResealBytes {
			next = t.rowKey()
			return errEnough
		}
		size += len(r)
		found = append(found, stale{t, bytes.Clone(r)})
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, next, err
}

// reseal proposes the new seals. A value that has changed since it was read is
// left out: whoever changed it has sealed it, or the next walk finds it.
func (db *DB) reseal(ctx context.Context, ring *keyring.Keyring, found []stale) (int, error) {
	var b Batch
	for _, s := range found {
		k, value, err := open(ring, s.target, s.row)
		if err != nil {
			return 0, err
		}
		b.If = append(b.If, If{Target: s.target, Revision: s.row.revision()})
		b.Put = append(b.Put, Put{Target: s.target, Sealed: seal(ring, s.target, k, value)})
		clear(value)
	}
	for len(b.Put) > 0 {
		entry, err := b.Encode()
		if err != nil {
			return 0, err
		}
		r, err := db.propose(ctx, entry)
		if err != nil {
			return 0, err
		}
		switch {
		case r.Status == StatusOK:
			return len(b.Put), nil
		case r.Status == StatusConflict && r.Failed < len(b.If):
			b.If = append(b.If[:r.Failed], b.If[r.Failed+1:]...)
			b.Put = append(b.Put[:r.Failed], b.Put[r.Failed+1:]...)
		default:
			return 0, fmt.Errorf("seal values anew: the cluster answers %v", r.Status)
		}
	}
	return 0, nil
}

// KeysInUse counts, for each data key, the values that are sealed with it. It
// opens none of them and works on a sealed member. The order that loses nothing
// is: every member has the new keyring; [Tx.SetKeyFloor] to the new key's id;
// [DB.Reseal] until done; then, on a reading behind the floor, an old key that
// is not in the result can be dropped.
func (db *DB) KeysInUse(ctx context.Context) (map[uint32]int, error) {
	use := map[uint32]int{}
	err := db.eachSealed(ctx, nil, func(t Target, r row) error {
		id, err := keyring.KeyID(r.sealed())
		if err != nil {
			return fmt.Errorf("%w: record %v is not sealed: %w", ErrDamaged, t, err)
		}
		use[id]++
		return nil
	})
	return use, err
}

// eachSealed walks every leaf and record from the row key start on.
func (db *DB) eachSealed(ctx context.Context, start []byte, fn func(Target, row) error) error {
	v, err := db.store.view()
	if err != nil {
		return err
	}
	defer v.release()
	for _, space := range []Space{SpaceLeaf, SpaceRecord} { // in the order of row keys
		prefix := []byte{byte(space)}
		from := prefix
		if bytes.Compare(start, prefix) > 0 {
			from = start
		}
		if from[0] > prefix[0] {
			continue
		}
		err := v.each(prefix, from, func(key []byte, r row) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			t, err := parseRowKey(key)
			if err != nil {
				return fmt.Errorf("%w: row with key %x", ErrDamaged, key)
			}
			return fn(t, r)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
