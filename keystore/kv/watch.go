package kv

import (
	"strings"
	"sync"
	"sync/atomic"
)

// Watcher says that something may have changed. It must be closed.
type Watcher struct {
	c     chan struct{}
	wants func([]Target) bool
	stop  func()
}

// C returns the channel that gets a signal after a change, a restored snapshot
// or [DB.Wake]. Signals are coalesced, and now and then there is one without a
// change: read anew at each. Watch first, then read, or a change falls between.
func (w *Watcher) C() <-chan struct{} { return w.c }

// Close ends the watch. The channel is not closed.
func (w *Watcher) Close() { w.stop() }

func (w *Watcher) notify(touched []Target) {
	if touched != nil && !w.wants(touched) {
		return
	}
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// Watch watches the records, counters and logs at or beneath prefix. The zero
// Key watches everything, the keyring too. On a sealed member, which cannot
// tell names apart, every change is signalled.
func (db *DB) Watch(prefix Key) *Watcher {
	var known atomic.Pointer[string]
	return db.watch(func(touched []Target) bool {
		if prefix.parts == 0 {
			return true
		}
		path := known.Load()
		if path == nil {
			ring, err := db.keys.Keyring()
			if err != nil {
				return true
			}
			p := blind(ring, prefix)
			known.Store(&p)
			path = &p
		}
		for _, t := range touched {
			if !t.Space.system() && strings.HasPrefix(t.Path, *path) {
				return true
			}
		}
		return false
	})
}

// WatchKeyring watches the sealed keyring. It needs no keys.
func (db *DB) WatchKeyring() *Watcher {
	return db.watch(func(touched []Target) bool {
		for _, t := range touched {
			if t.Space == SpaceKeyring {
				return true
			}
		}
		return false
	})
}

func (db *DB) watch(wants func([]Target) bool) *Watcher {
	w := &Watcher{c: make(chan struct{}, 1), wants: wants}
	ignore := db.store.observe(w.notify)
	db.mu.Lock()
	defer db.mu.Unlock()
	db.watchers[w] = struct{}{}
	w.stop = sync.OnceFunc(func() {
		ignore()
		db.mu.Lock()
		defer db.mu.Unlock()
		delete(db.watchers, w)
	})
	return w
}

// Wake signals every watcher of this DB. It is called when the keyring has been
// unsealed or sealed: what was unreadable can be read.
func (db *DB) Wake() {
	db.mu.Lock()
	defer db.mu.Unlock()
	for w := range db.watchers {
		w.notify(nil)
	}
}
