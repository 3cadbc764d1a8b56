package kv

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Watcher says that something may have changed. It must be closed.
type Watcher struct {
	c     chan struct{}
	wants func([]Target) bool
	stop  func()

	changes atomic.Uint64 // signals, before they are coalesced
	shown   atomic.Uint64 // of them, those that the reader's copy shows
}

// C returns the channel that gets a signal after a change, a restored snapshot
// or [DB.Wake]. Signals are coalesced, and now and then there is one without a
// change: read anew at each. Watch first, then read, or a change falls between.
func (w *Watcher) C() <-chan struct{} { return w.c }

// Changes counts the signals so far. Who keeps a copy of what is watched takes the count before it reads, and says with
// Shown that its copy shows that much.
func (w *Watcher) Changes() uint64 { return w.changes.Load() }

// Shown says that the reader's copy shows what was applied up to a count that Changes gave.
func (w *Watcher) Shown(changes uint64) { w.shown.Store(changes) }

// Behind says whether something was applied on this member that the reader's copy does not show yet. What a barrier
// waited for is counted when the barrier returns.
func (w *Watcher) Behind() bool { return w.changes.Load() != w.shown.Load() }

// Close ends the watch. The channel is not closed.
func (w *Watcher) Close() { w.stop() }

func (w *Watcher) notify(touched []Target) {
	if touched != nil && !w.wants(touched) {
		return
	}
	w.changes.Add(1)
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// Watch watches the records, counters and logs at or beneath the prefixes. The
// zero Key watches everything, the keyring too. On a sealed member, which cannot
// tell names apart, every change is signalled.
func (db *DB) Watch(prefixes ...Key) *Watcher {
	var known atomic.Pointer[[]string]
	return db.watch(func(touched []Target) bool {
		if slices.ContainsFunc(prefixes, func(prefix Key) bool { return prefix.parts == 0 }) {
			return true
		}
		paths := known.Load()
		if paths == nil {
			ring, err := db.keys.Keyring()
			if err != nil {
				return true
			}
			blinded := make([]string, len(prefixes))
			for i, prefix := range prefixes {
				blinded[i] = blind(ring, prefix)
			}
			known.Store(&blinded)
			paths = &blinded
		}
		return slices.ContainsFunc(touched, func(t Target) bool {
			return !t.Space.system() && slices.ContainsFunc(*paths, func(path string) bool { return strings.HasPrefix(t.Path, path) })
		})
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
