package kv

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// Restore replaces all that the store holds by the snapshot in r. It builds a
// new generation beside the current one, checks the hash of the stream, the
// count and the running hash, reads it all back from disk, and only then
// switches, by one rename: a crash leaves the old state or the new one. Views
// that are open go on to read the old one.
//
// It is what the log calls, and so it does nothing, and returns nil, when the
// store is not behind: a snapshot of the same lineage at or below
// [Store.Applied] is older than the store that it belongs to, as the log's own
// is at a start. Who restores a backup, which may well be older, calls
// [Store.Replace]. [ErrDamaged] means that the stream is bad; the store is as
// it was.
func (s *Store) Restore(r io.Reader) error { return s.restore(r, s.skips) }

// Replace is [Store.Restore] of whatever the snapshot holds, however old: never
// does it return nil without having done so. The store goes back to the
// snapshot's index, and the log must go on from there: either every member's
// store is replaced and the log begins anew above it, or the log still gives
// what this store has lost.
func (s *Store) Replace(r io.Reader) error {
	return s.restore(r, func(state) bool { return false })
}

func (s *Store) restore(r io.Reader, skips func(state) bool) error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.Flush(); err != nil {
		return err
	}
	in := newHashReader(r)
	st, err := in.header()
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	if skips(st) {
		s.log.Info("snapshot skipped, the store is not behind it", "snapshot", st.applied(), "store", s.state.applied())
		return nil
	}
	g, err := s.build(in, st)
	if err != nil {
		return fmt.Errorf("restore snapshot at index %d: %w", st.applied(), err)
	}
	return s.switchTo(g, st)
}

// skips reports whether a snapshot has nothing that the store lacks: it is of
// the same lineage and not ahead. A side that never accepted a batch has no
// lineage and agrees with any, so that an empty store that the log has moved on
// does not go back to an empty snapshot.
func (s *Store) skips(st state) bool {
	var none [16]byte
	same := st.lineage == s.state.lineage || st.lineage == none || s.state.lineage == none
	return same && !s.state.behind(st)
}

// build makes the next generation of the stream, durable and read back.
func (s *Store) build(in *hashReader, st state) (*generation, error) {
	number := s.gen.number + 1
	dir := generationDir(s.dir, number)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	g, err := s.fill(in, st, number)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return g, nil
}

func (s *Store) fill(in *hashReader, st state, number uint64) (*generation, error) {
	if err := s.load(in, st, number); err != nil {
		return nil, err
	}
	if err := syncFiles(generationDir(s.dir, number)); err != nil {
		return nil, err
	}
	g, err := openGeneration(s.dir, number, s.log, true)
	if err != nil {
		return nil, err
	}
	found, err := g.scan()
	if err == nil && found != st {
		err = fmt.Errorf("%w: %s is not what was written to it", ErrDamaged, g.dir)
	}
	if err != nil {
		return nil, errors.Join(err, g.db.Close())
	}
	return g, nil
}

// load writes the stream's rows into a new generation and closes it.
func (s *Store) load(in *hashReader, st state, number uint64) error {
	g, err := openGeneration(s.dir, number, s.log, false)
	if err != nil {
		return err
	}
	err = contained(func() error { return s.loadRows(g.db, in, st) })
	return errors.Join(err, g.db.Close(), g.log.err())
}

func (s *Store) loadRows(db *badger.DB, in *hashReader, st state) error {
	w := db.NewWriteBatch()
	defer w.Cancel()
	n := 0
	err := in.verify(st, func(key []byte, r row) error {
		if n++; n%1024 == 0 {
			if err := s.checkSpace(); err != nil {
				return err
			}
		}
		return w.Set(key, r)
	})
	if err != nil {
		return err
	}
	if err := w.Set([]byte{byte(spaceState)}, st.row()); err != nil {
		return err
	}
	return w.Flush()
}

// switchTo makes g the store. When the mark cannot be written it is unknown
// which generation the next start finds: the store stops.
func (s *Store) switchTo(g *generation, st state) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := (mark{generation: g.number, state: st}).write(s.dir); err != nil {
		return s.fail(errors.Join(err, g.db.Close()))
	}
	s.marked = st.applied()
	former := s.adopt(g, st)
	former.dropped.Store(true)
	former.release()
	s.tell(nil)
	return nil
}

// adopt makes g, which holds the state st, what is read and written, and gives
// the generation before it, which keeps one user.
func (s *Store) adopt(g *generation, st state) (former *generation) {
	b := openBase(g)
	s.mu.Lock()
	former, old := s.gen, s.base
	s.gen, s.base, s.ahead, s.recent, s.saving = g, b, newAhead(), nil, false
	s.state, s.written = st, st
	s.mu.Unlock()
	if old != nil {
		old.release()
	}
	return former
}

// syncFiles fsyncs every file of a closed generation, and the directory.
func syncFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := syncPath(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return syncPath(dir)
}
