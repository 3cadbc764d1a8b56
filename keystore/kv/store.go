package kv

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// ErrClosed is returned by every method of a store that was closed.
var ErrClosed = errors.New("store is closed")

// ErrLocked is returned by [OpenStore] when another process has the store open.
var ErrLocked = errors.New("store is in use by another process")

// ErrStopped is returned by every change of a store after a fault, which comes
// wrapped in it: of the storage, also where a reading met it, of the log, or a panic. What is on disk is not
// known any more, and only a restart, which checks, can tell.
var ErrStopped = errors.New("store stopped after a fault; mend what caused it, then restart the process")

// DefaultReserve is how many bytes of the disk a store leaves free unless
// [StoreConfig] says otherwise.
const DefaultReserve = 64 << 20

// StoreConfig says where a store is and how careful it is with its disk.
type StoreConfig struct {
	// Dir holds the mark file and one directory for the current generation of
	// the store. It is created, with mode 0700, when it does not exist.
	Dir string
	// Logger receives what the store does at start and what Badger complains
	// of. Nil discards it.
	Logger *slog.Logger
	// Reserve is how many bytes must be free on the disk for a change to be
	// applied; 0 means DefaultReserve. Badger maps its files: on a disk that is
	// really full it does not get an error, the process gets a SIGBUS.
	Reserve uint64
	// Free tells how many bytes are free where dir is; nil asks the file system.
	Free func(dir string) (uint64, error)
}

// Store is the state machine: the rows, their running hash and the index of the
// log entry that they stand at. It needs no keys. All methods are safe for
// concurrent use. Its mutexes are taken in the order in which they stand here.
type Store struct {
	dir     string
	log     *slog.Logger
	reserve uint64
	free    func(dir string) (uint64, error)
	lock    *os.File

	write  sync.Mutex  // held by Apply, Restore and Close: one change at a time
	behind func() bool // guarded by write; whether Run writes what Apply takes, in time; nil: there is no Run

	disk   sync.Mutex    // held while Badger or the mark is written
	marked uint64        // guarded by disk; applied index of the last mark
	dirty  chan struct{} // capacity 1: Run has something to write

	mu        sync.RWMutex // held for moments; guards what follows
	gen       *generation  // nil once closed
	base      *base        // of gen: what was written; nil once closed
	written   state        // of base
	recent    *ahead       // what is being written, or was last; nil when nothing was
	saving    bool         // recent is being written, or was not: base lacks it
	ahead     *ahead       // what was applied since
	change    uint64       // the number of the last change in ahead, since the store was opened
	state     state        // of all that was applied
	failed    error        // the first fault
	observers map[*observer]struct{}
}

// observer is told of every change: the targets that it touched, or nil for
// "anything".
type observer struct{ notify func([]Target) }

// Applied returns the index of the last log entry that the store has applied
// whole. Entries at or below it are skipped by [Store.Apply]; the log must be
// able to give every entry above it.
func (s *Store) Applied() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.applied()
}

// StateHash returns the index of the last log entry that the store has applied
// whole, and the state hash that it left. Members that have applied the same
// index have the same hash, or one of them is wrong.
func (s *Store) StateHash() (index uint64, hash [32]byte) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.lastWhole()
}

// SealedKeyring returns the sealed keyring and its revision; nil and 0 before
// there is one.
func (s *Store) SealedKeyring() (sealed []byte, revision uint64, err error) {
	v, err := s.view()
	if err != nil {
		return nil, 0, err
	}
	defer v.release()
	r, err := v.row(Target{Space: SpaceKeyring})
	if err != nil || r == nil {
		return nil, 0, err
	}
	return bytes.Clone(r.sealed()), r.revision(), nil
}

// Mark makes what was applied so far the least that the next [OpenStore]
// accepts. The store does so by itself now and then, for a snapshot and when it
// is closed.
func (s *Store) Mark() error {
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	return s.fail(s.writeMark())
}

// writeMark needs s.disk. What was written is on the disk already (SyncWrites).
func (s *Store) writeMark() error {
	s.marked = s.written.applied()
	return mark{generation: s.gen.number, state: s.written}.write(s.dir)
}

func (s *Store) usable() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.gen == nil {
		return ErrClosed
	}
	return s.failed
}

// fail remembers the first fault, and gives it.
func (s *Store) fail(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	s.failed = fmt.Errorf("%w: %w", ErrStopped, err)
	log := s.log
	if p := (*panicked)(nil); errors.As(err, &p) {
		log = log.With("stack", string(p.stack))
	}
	log.Error("the store stopped", "error", err)
	s.rouse() // Run ends
	return s.failed
}

// rouse lets Run look.
func (s *Store) rouse() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// Close writes what was applied, waits for open views and snapshots, closes the
// store and writes down what its files hold. After a fault it closes without
// writing. Run must have returned.
func (s *Store) Close() error {
	g, failed := s.detach()
	if g == nil {
		return nil
	}
	g.release()
	err := <-g.closed
	if err == nil && failed == nil && g.log.err() == nil {
		err = s.sealFiles(g)
	}
	return errors.Join(err, s.unlock())
}

// detach makes every other method return [ErrClosed].
func (s *Store) detach() (*generation, error) {
	s.write.Lock()
	defer s.write.Unlock()
	_ = s.Flush() // its fault is the store's
	s.disk.Lock()
	defer s.disk.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gen
	if g != nil {
		s.base.release()
	}
	s.gen, s.base = nil, nil
	return g, s.failed
}

func (s *Store) sealFiles(g *generation) error {
	files, err := sumFiles(g.dir)
	if err != nil {
		return err
	}
	return mark{generation: g.number, state: s.written, files: files}.write(s.dir)
}

func (s *Store) observe(notify func([]Target)) (stop func()) {
	o := &observer{notify}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observers[o] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.observers, o)
	}
}

func (s *Store) tell(touched []Target) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for o := range s.observers {
		o.notify(touched)
	}
}

// RunGC gives back disk space of values that were replaced or deleted. It is
// safe at any time and returns when there is nothing worth doing.
func (s *Store) RunGC() error {
	g := s.generation()
	if g == nil {
		return ErrClosed
	}
	defer g.release()
	for {
		err := g.db.RunValueLogGC(0.5)
		if errors.Is(err, badger.ErrNoRewrite) || errors.Is(err, badger.ErrRejected) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("collect garbage in store %s: %w", s.dir, err)
		}
	}
}

// generation gives the current generation, with one user more; nil once the store is closed.
func (s *Store) generation() *generation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.gen != nil {
		s.gen.refs.Add(1)
	}
	return s.gen
}
