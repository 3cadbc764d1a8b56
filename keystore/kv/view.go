package kv

import (
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// base is one reading of Badger, at what was written last. All views of that moment share it: to open one at Badger
// takes a hand-over between goroutines, and waits for a commit that is under way. It is let go of with its last user.
type base struct {
	gen  *generation
	txn  *badger.Txn
	refs atomic.Int64
}

// openBase opens a reading of what g holds now, with one user.
func openBase(g *generation) *base {
	g.refs.Add(1)
	b := &base{gen: g, txn: g.db.NewTransaction(false)}
	b.refs.Store(1)
	return b
}

// acquire needs the store's mu, under which a base is current and so has a user.
func (b *base) acquire() { b.refs.Add(1) }

func (b *base) release() {
	if b.refs.Add(-1) == 0 {
		b.txn.Discard()
		b.gen.release()
	}
}

// view is a consistent reading of the store: Badger's rows, and over them what was applied since. It must be released.
type view struct {
	store  *Store
	base   *base
	ahead  [2]*ahead // the newer first; nil for none
	whole  bool      // base has the older of them: it only saves the way to Badger
	change uint64    // the last one that it shows
}

// view opens a reading of all that is applied.
func (s *Store) view() (*view, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.base == nil {
		return nil, ErrClosed
	}
	s.base.acquire()
	return &view{store: s, base: s.base, ahead: [2]*ahead{s.ahead, s.recent}, whole: !s.saving, change: s.change}, nil
}

func (v *view) release() { v.base.release() }

// row reads one row, nil when there is none. It is not the caller's to change.
func (v *view) row(t Target) (row, error) { return v.rowAt(t.rowKey()) }

func (v *view) rowAt(key []byte) (r row, err error) {
	if r, ok := v.recent(key); ok {
		return r, nil
	}
	err = guarded(func() (err error) {
		r, err = getRow(v.base.txn, key)
		return err
	})
	return r, v.store.fail(err)
}

// recent gives a row that Badger does not have yet.
func (v *view) recent(key []byte) (row, bool) {
	v.store.mu.RLock()
	defer v.store.mu.RUnlock()
	for _, a := range v.ahead {
		if r, ok := a.at(string(key), v.change); ok {
			return r, true
		}
	}
	return nil, false
}

// each calls fn for every row whose key begins with prefix, from the key start on, but for the state. Key and row are
// valid until fn returns.
func (v *view) each(prefix, start []byte, fn func(key []byte, r row) error) error {
	recent := v.span(string(prefix), string(start))
	// before passes the recent rows whose keys come before key, or all of them.
	before := func(key []byte) error {
		for len(recent) > 0 && (key == nil || recent[0].key < string(key)) {
			next := recent[0]
			recent = recent[1:]
			if next.row == nil {
				continue
			}
			if err := fn([]byte(next.key), next.row); err != nil {
				return err
			}
		}
		return nil
	}
	visit := func(key []byte, r row) error {
		if err := before(key); err != nil {
			return err
		}
		if len(recent) > 0 && recent[0].key == string(key) {
			r, recent = recent[0].row, recent[1:]
			if r == nil {
				return nil
			}
		}
		return fn(key, r)
	}
	var ended error
	err := eachRow(v.base.txn, prefix, start, func(key []byte, r row) error {
		ended = visit(key, r)
		return ended
	})
	switch {
	case ended != nil:
		return ended
	case err != nil:
		return v.store.fail(err)
	}
	return before(nil)
}
