package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/dgraph-io/badger/v4"
)

// ErrClosed is returned by every method of a store that was closed.
var ErrClosed = errors.New("store is closed")

// ErrLocked is returned by [OpenStore] when another process has the store open.
var ErrLocked = errors.New("store is in use by another process")

// ErrStopped is returned by [Store.Apply] and [Store.Restore] after a storage
// fault, which comes wrapped in it: what is on disk is not known any more, and
// only a restart, which checks, can tell.
var ErrStopped = errors.New("store stopped after a storage fault; free or repair the disk, then restart the process")

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
// concurrent use.
type Store struct {
	dir     string
	log     *slog.Logger
	reserve uint64
	free    func(dir string) (uint64, error)
	lock    *os.File

	write  sync.Mutex // held by Apply, Restore, Mark and Close: one change at a time
	failed error      // guarded by write; the first storage fault
	marked uint64     // guarded by write; applied index of the last mark

	mu        sync.RWMutex // held for moments; guards what follows
	gen       *generation  // nil once closed
	state     state
	observers map[*observer]struct{}
}

// observer is told of every change: the targets that it touched, or nil for
// "anything".
type observer struct{ notify func([]Target) }

// OpenStore opens the store in cfg.Dir, or makes an empty one there, and checks
// all of it: every row against the running hash and the count, and both against
// the mark file. It returns [ErrDamaged], naming the file or the row, when
// anything was lost or changed since the last mark; what a power loss may take
// after the last mark is what the log replays (see [Store.Applied]).
// [SetAside] moves a damaged store out of the way.
func OpenStore(cfg StoreConfig) (*Store, error) {
	s := &Store{dir: cfg.Dir, log: cfg.Logger, reserve: cfg.Reserve, free: cfg.Free, observers: map[*observer]struct{}{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.reserve == 0 {
		s.reserve = DefaultReserve
	}
	if s.free == nil {
		s.free = freeBytes
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store %s: %w", s.dir, err)
	}
	if err := s.acquire(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", s.dir, err)
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", s.dir, err), s.lock.Close())
	}
	return s, nil
}

// acquire takes the lock that keeps a second process out.
func (s *Store) acquire() error {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(ErrLocked, f.Close())
	}
	s.lock = f
	return nil
}

func (s *Store) open() error {
	if err := s.checkSpace(); err != nil {
		return err
	}
	m, err := s.findMark()
	if err != nil {
		return err
	}
	g, st, err := s.openGeneration(m)
	if err != nil {
		return err
	}
	if err := g.agree(m.state, st); err != nil {
		return errors.Join(err, g.db.Close())
	}
	s.gen, s.state = g, st
	s.removeOthers(g.number)
	return s.writeMark()
}

// findMark reads the mark, or writes the first one of a new store.
func (s *Store) findMark() (mark, error) {
	m, err := readMark(s.dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	others, err := filepath.Glob(filepath.Join(s.dir, "gen-*"))
	if err != nil {
		return mark{}, err
	}
	if len(others) != 0 {
		return mark{}, fmt.Errorf("%w: %s is missing", ErrDamaged, filepath.Join(s.dir, markName))
	}
	m = mark{generation: 1}
	return m, m.write(s.dir)
}

// openGeneration opens and scans the generation that m names. The list of
// files in the mark holds for a closed store only; it is checked, and taken out
// of the mark before Badger may change a file.
func (s *Store) openGeneration(m mark) (*generation, state, error) {
	dir := generationDir(s.dir, m.generation)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && m.state != (state{}) {
		return nil, state{}, fmt.Errorf("%w: %s is missing", ErrDamaged, dir)
	}
	if err := m.checkFiles(dir); err != nil {
		return nil, state{}, err
	}
	if m.files != nil {
		if err := (mark{generation: m.generation, state: m.state}).write(s.dir); err != nil {
			return nil, state{}, err
		}
	}
	g, err := openGeneration(s.dir, m.generation, s.log, true)
	if err != nil {
		return nil, state{}, err
	}
	st, err := g.scan()
	if err != nil {
		return nil, state{}, errors.Join(err, g.db.Close())
	}
	return g, st, nil
}

// removeOthers deletes generations that a crash has left behind.
func (s *Store) removeOthers(keep uint64) {
	others, _ := filepath.Glob(filepath.Join(s.dir, "gen-*"))
	for _, dir := range others {
		if dir == generationDir(s.dir, keep) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			s.log.Warn("an old generation of the store cannot be removed", "dir", dir, "error", err)
		}
	}
}

// Applied returns the index of the last log entry that the store has applied
// whole. Entries at or below it are skipped by [Store.Apply]; the log must be
// able to give every entry above it.
func (s *Store) Applied() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.applied()
}

// StateHash returns the state hash and the index it belongs to. Members that
// have applied the same index have the same hash, or one of them is wrong.
func (s *Store) StateHash() (index uint64, hash [32]byte) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.applied(), s.state.hash()
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
	return r.sealed(), r.revision(), nil
}

// Mark makes what was applied so far the least that the next [OpenStore]
// accepts. The store does so by itself now and then, for a snapshot and when it
// is closed.
func (s *Store) Mark() error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	return s.fail(s.writeMark())
}

// writeMark needs s.write. Every applied entry is on disk already (SyncWrites).
func (s *Store) writeMark() error {
	s.marked = s.state.applied()
	return mark{generation: s.gen.number, state: s.state}.write(s.dir)
}

// usable needs s.write.
func (s *Store) usable() error {
	if s.gen == nil {
		return ErrClosed
	}
	return s.failed
}

// fail needs s.write; it remembers the first fault.
func (s *Store) fail(err error) error {
	if err == nil {
		return nil
	}
	s.failed = fmt.Errorf("%w: %w", ErrStopped, err)
	s.log.Error("the store stopped", "error", err)
	return s.failed
}

// checkSpace refuses to go on when the disk is nearly full.
func (s *Store) checkSpace() error {
	free, err := s.free(s.dir)
	if err != nil {
		return err
	}
	if free < s.reserve {
		return fmt.Errorf("%w: %d MiB free where %s is, %d MiB must stay free",
			syscall.ENOSPC, free>>20, s.dir, s.reserve>>20)
	}
	return nil
}

func freeBytes(dir string) (uint64, error) {
	var st syscall.Statfs_t
	err := syscall.Statfs(dir, &st)
	return st.Bavail * uint64(st.Bsize), err
}

// Close waits for open views and snapshots, closes the store and writes down
// what its files hold. After a storage fault it closes without writing.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	g := s.gen
	s.gen = nil
	s.mu.Unlock()
	if g == nil {
		return nil
	}
	g.release()
	err := <-g.closed
	if err == nil && s.failed == nil && g.log.err() == nil {
		err = s.sealFiles(g)
	}
	return errors.Join(err, s.lock.Close())
}

func (s *Store) sealFiles(g *generation) error {
	files, err := sumFiles(g.dir)
	if err != nil {
		return err
	}
	return mark{generation: g.number, state: s.state, files: files}.write(s.dir)
}

// SetAside renames the store in dir, damaged as it is, to a name beside it that
// it returns, so that OpenStore makes an empty one to rebuild.
func SetAside(dir string) (moved string, err error) {
	for n := 1; ; n++ {
		moved = fmt.Sprintf("%s.damaged-%d", filepath.Clean(dir), n)
		if _, err := os.Lstat(moved); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", err
		}
	}
	if err := os.Rename(dir, moved); err != nil {
		return "", fmt.Errorf("set aside store %s: %w", dir, err)
	}
	return moved, syncPath(filepath.Dir(moved))
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
	v, err := s.view()
	if err != nil {
		return err
	}
	defer v.release()
	for {
		err := v.gen.db.RunValueLogGC(0.5)
		if errors.Is(err, badger.ErrNoRewrite) || errors.Is(err, badger.ErrRejected) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("collect garbage in store %s: %w", s.dir, err)
		}
	}
}
