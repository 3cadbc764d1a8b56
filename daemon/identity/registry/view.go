package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"warder/daemon/identity"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// retryAfter is how long after a failed load the next one is tried.
const retryAfter = time.Second

// view is everything that is registered, at one state of the store. It is never changed.
type view map[identity.Principal]Identity

// loader replaces the view. A load reads every identity, so those who wait for one share it: what matters to each is
// only that it began after their change.
type loader struct {
	watcher *kv.Watcher
	current atomic.Pointer[view]
	fault   atomic.Pointer[error] // of the last load

	asked   atomic.Uint64
	loading sync.Mutex
	done    uint64 // guarded by loading: the last asked for that the view shows
}

// load makes the view show everything that was applied on this node before the call. Where it fails nobody is known:
// a registry that cannot be read lets nobody in.
func (l *loader) load(ctx context.Context, db *kv.DB) error {
	mine := l.asked.Add(1)
	l.loading.Lock()
	defer l.loading.Unlock()
	if l.done >= mine {
		return nil
	}
	covers := l.asked.Load() // all of these made their changes before now
	applied := l.watcher.Changes()
	next, err := read(ctx, db)
	if err != nil {
		if ctx.Err() == nil { // else it is the caller who gave up, and the view stands
			l.fault.Store(&err)
			l.current.Store(&view{})
		}
		return err
	}
	l.fault.Store(nil)
	l.current.Store(&next)
	l.done = covers
	l.watcher.Shown(applied)
	return nil
}

func read(ctx context.Context, db *kv.DB) (view, error) {
	next := view{}
	err := db.View(ctx, func(tx *kv.Tx) error {
		for item, err := range tx.Scan(prefix()) {
			if err != nil {
				return err
			}
			found, err := decode(item.Value, item.Rev)
			if err != nil {
				return err
			}
			if key(found.Principal) != item.Key {
				return fmt.Errorf("the record of identity %s holds another's", found.Principal)
			}
			next[found.Principal] = found
		}
		return nil
	})
	return next, err
}

// Run follows the replicated records until ctx ends. While they cannot be read the registry knows nobody, and
// [Registry.Problem] says why; a sealed node cannot read them.
func (r *Registry) Run(ctx context.Context) error {
	defer r.view.watcher.Close()
	for {
		var retry <-chan time.Time
		if err := r.view.load(ctx, r.db); err != nil && !errors.Is(err, keyring.ErrSealed) {
			retry = time.After(retryAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-retry:
		case <-r.view.watcher.C():
		}
	}
}

// Reload makes Lookup show everything that was applied on this node before the call.
func (r *Registry) Reload(ctx context.Context) error { return r.view.load(ctx, r.db) }

// Behind says whether an identity changed on this node that Lookup does not show yet.
func (r *Registry) Behind() bool { return r.view.watcher.Behind() }

// Problem says why nobody is known: the last load failed, or there was none yet. It is nil when Lookup can be trusted.
func (r *Registry) Problem() error {
	if fault := r.view.fault.Load(); fault != nil {
		return *fault
	}
	return nil
}
