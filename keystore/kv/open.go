package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
)

// OpenStore opens the store in cfg.Dir, or makes an empty one there, and checks
// all of it: every row against the running hash and the count, and both against
// the mark file. It returns [ErrDamaged], naming the file or the row, when
// anything was lost or changed since the last mark; what a power loss may take
// after the last mark is what the log replays (see [Store.Applied]).
// [SetAside] moves a damaged store out of the way.
func OpenStore(cfg StoreConfig) (*Store, error) {
	s := &Store{dir: cfg.Dir, log: cfg.Logger, reserve: cfg.Reserve, free: cfg.Free, dirty: make(chan struct{}, 1), observers: map[*observer]struct{}{}}
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
		return nil, errors.Join(fmt.Errorf("open store %s: %w", s.dir, err), s.unlock())
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

// unlock lets another open the store. To close the file is not enough: a child
// that was forked meanwhile has a copy of it until it executes its program.
func (s *Store) unlock() error {
	return errors.Join(syscall.Flock(int(s.lock.Fd()), syscall.LOCK_UN), s.lock.Close())
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
	s.adopt(g, st)
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
