package kv_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// rotated gives the keyring with n more data keys, the last of them active.
func rotated(t *testing.T, ring *keyring.Keyring, n int) *keyring.Keyring {
	t.Helper()
	for range n {
		next, id, err := ring.AddDataKey()
		must(t, err)
		ring, err = next.Activate(id)
		must(t, err)
	}
	return ring
}

// node has the second keyring, whose data keys are all to be retired.
type node struct {
	db                    *kv.DB
	keys                  *keys
	first, second, newest *keyring.Keyring
}

// TestStaleKeyIsTriedAgain gives a node the new keyring only after a change
// that it sealed under the old data key was refused.
func TestStaleKeyIsTriedAgain(t *testing.T) {
	k := kv.K("k")
	expired, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for name, c := range map[string]struct {
		ctx    context.Context // nil: the test's
		behind func(node)      // runs after a change was sealed
		runs   int
		want   error
	}{
		"at once":       {nil, func(n node) { n.keys.ring.Store(n.newest) }, 2, nil},
		"while waiting": {nil, func(n node) { go func() { n.keys.ring.Store(n.newest); n.db.Wake() }() }, 2, nil},
		"never":         {nil, func(node) {}, 1, kv.ErrStaleKey},
		"out of time":   {expired, func(node) {}, 0, context.DeadlineExceeded},
		"sealed":        {nil, func(n node) { n.keys.ring.Store(nil) }, 1, errSealedForTest},
		"ever another": {nil, func(n node) {
			if !n.keys.ring.CompareAndSwap(n.first, n.second) {
				n.keys.ring.Store(n.first)
			}
		}, 16, kv.ErrStaleKey},
	} {
		t.Run(name, func(t *testing.T) {
			db, log, held := openDB(t)
			n := node{db: db, keys: held, first: held.ring.Load()}
			n.second = rotated(t, n.first, 1)
			n.newest = rotated(t, n.second, 1)
			held.ring.Store(n.second)
			update(t, db, func(tx *kv.Tx) { tx.SetKeyFloor(n.newest.Active()) })
			log.before = func() { c.behind(n) }
			runs := 0
			ctx := c.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			err := db.Update(ctx, func(tx *kv.Tx) error { runs++; tx.Put(k, []byte("v")); return nil })
			if !errors.Is(err, c.want) || runs != c.runs {
				t.Errorf("%d runs, %v", runs, err)
			}
			if c.want == nil {
				if v, _, err := get(t, db, k); v != "v" || err != nil {
					t.Errorf("then %q, %v", v, err)
				}
			}
		})
	}
}

// TestStaleKeyWaitEnds ends the context of a change that waits for a keyring:
// it was not made, and the error says so.
func TestStaleKeyWaitEnds(t *testing.T) {
	db, log, held := openDB(t)
	newest := rotated(t, held.ring.Load(), 1)
	update(t, db, func(tx *kv.Tx) { tx.SetKeyFloor(newest.Active()) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	log.before = cancel
	err := db.Update(ctx, func(tx *kv.Tx) error { tx.Put(kv.K("k"), nil); return nil })
	if !errors.Is(err, kv.ErrStaleKey) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// turning is a keyring that is exchanged by whoever asks for it the first time, together with what it has sealed.
type turning struct {
	*keys
	turn func()
}

func (k *turning) Keyring() (*keyring.Keyring, error) {
	if turn := k.turn; turn != nil {
		k.turn = nil
		turn()
	}
	return k.keys.Keyring()
}

// TestARotationDuringAReadingDamagesNothing: a reading that begins while the last value is sealed anew and the old data key is dropped has
// all of that or none of it.
func TestARotationDuringAReadingDamagesNothing(t *testing.T) {
	store := openStore(t, t.TempDir())
	held := &turning{keys: newKeys(t)}
	db := kv.New(store, &localLog{store: store}, held)
	k := kv.K("k")
	read := func(tx *kv.Tx) error {
		if value, _, err := tx.Get(k); err != nil || string(value) != "v" {
			t.Errorf("read %q, %v", value, err)
		}
		return nil
	}
	for name, do := range map[string]func(context.Context, func(*kv.Tx) error) error{"view": db.View, "update": db.Update} {
		update(t, db, func(tx *kv.Tx) { tx.Put(k, []byte("v")) })
		held.turn = func() {
			old := held.ring.Load().Active()
			held.ring.Store(rotated(t, held.ring.Load(), 1))
			for done := false; !done; {
				var err error
				done, _, err = db.Reseal(t.Context(), 512)
				must(t, err)
			}
			dropped, err := held.ring.Load().DropDataKey(old)
			must(t, err)
			held.ring.Store(dropped)
		}
		if err := do(t.Context(), read); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
