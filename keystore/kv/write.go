package kv

import (
	"fmt"
	"iter"

	"github.com/dgraph-io/badger/v4"
)

// markEvery is how many log entries may pass between two marks.
const markEvery = 4096

// Flush writes all that was applied so far to the disk.
func (s *Store) Flush() error {
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	return s.flush()
}

// flush needs s.disk.
func (s *Store) flush() error {
	s.mu.Lock()
	writing, st := s.ahead, s.state
	if len(writing.rows) == 0 && st == s.written {
		s.mu.Unlock()
		return nil
	}
	s.ahead, s.recent, s.saving = newAhead(), writing, true
	s.mu.Unlock()
	// What was written last stays at hand: the rows that every change changes are mostly in there.
	if err := s.save(writing.newest, st, writing); err != nil {
		return s.fail(err)
	}
	return nil
}

// save writes rows and the state that they lead to in one transaction, and shows readers the result. recent may hold rows
// of that result, or be nil. It needs s.disk.
func (s *Store) save(rows iter.Seq2[string, row], st state, recent *ahead) error {
	if err := s.checkSpace(); err != nil {
		return err
	}
	if err := contained(func() error { return commit(s.gen.db, rows, st) }); err != nil {
		return err
	}
	if err := s.gen.log.err(); err != nil {
		return err
	}
	s.show(openBase(s.gen), st, recent)
	if st.index-s.marked >= markEvery {
		return s.writeMark()
	}
	return nil
}

// show makes b, in which the state is st, what views read.
func (s *Store) show(b *base, st state, recent *ahead) {
	s.mu.Lock()
	old := s.base
	s.base, s.recent, s.saving, s.written = b, recent, false, st
	s.mu.Unlock()
	old.release()
}

func commit(db *badger.DB, rows iter.Seq2[string, row], st state) error {
	txn := db.NewTransaction(true)
	defer txn.Discard()
	for key, now := range rows {
		if err := set(txn, []byte(key), now); err != nil {
			return fmt.Errorf("write row %x: %w", key, err)
		}
	}
	if err := txn.Set([]byte{byte(spaceState)}, st.row()); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := txn.Commit(); err != nil {
		return fmt.Errorf("commit index %d: %w", st.index, err)
	}
	return nil
}

func set(txn *badger.Txn, key []byte, now row) error {
	if now == nil {
		return txn.Delete(key)
	}
	return txn.Set(key, now)
}
