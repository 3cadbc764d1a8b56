package logstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
)

// Config says where a store is and who is told of its failures.
type Config struct {
	Dir    string      // made where it is missing, mode 0700
	Failed func(error) // called with a write that failed, or stored bytes that were found changed; may be nil
	// SegmentBytes is the size of one log file, which is set aside when it is begun. Default 16 MiB.
	SegmentBytes int
}

// Store is what one node keeps for Raft.
type Store struct {
	Log       *Log
	Stable    *Stable
	Snapshots *Snapshots
}

// Open opens the store in cfg.Dir, made where there is none, and checks all of it: an error that wraps
// ErrDamaged names the file and what is wrong with it.
func Open(cfg Config) (*Store, error) {
	dir := filepath.Join(cfg.Dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fresh, err := isFresh(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{}
	if s.Snapshots, err = openSnapshots(filepath.Join(cfg.Dir, "snapshots"), cfg.Failed); err != nil {
		return nil, err
	}
	if s.Stable, err = openStable(cfg.Dir); err != nil {
		return nil, err
	}
	if fresh && len(s.Stable.values) > 0 {
		return nil, damaged(dir, "log is missing beside %s", s.Stable.path)
	}
	if s.Log, err = openLog(dir, fresh, cfg); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, errors.Join(err, s.Log.Close())
	}
	return s, nil
}

// isFresh tells a new store from one that lost a file: the list of segments is written last when a store is made.
func isFresh(dir string) (bool, error) {
	present := func(name string) bool { _, err := os.Lstat(filepath.Join(dir, name)); return err == nil }
	log := filepath.Join("log", metaName)
	if present(log) {
		if !present(stableName) {
			return false, damaged(filepath.Join(dir, stableName), "missing beside a log")
		}
		return false, nil
	}
	for _, folder := range []string{"log", "snapshots"} {
		entries, err := os.ReadDir(filepath.Join(dir, folder))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), ".wal") || strings.HasSuffix(entry.Name(), snapshotSuffix) {
				return false, damaged(filepath.Join(dir, log), "missing beside %s", entry.Name())
			}
		}
	}
	return true, nil
}

// check holds the log against the newest snapshot: together they must leave no gap.
func (s *Store) check() error {
	first, err := s.Log.FirstIndex()
	if err != nil {
		return err
	}
	covered, err := s.SnapshotIndex()
	if err != nil {
		return err
	}
	if first > covered+1 {
		return damaged(s.Log.dir, "log begins at %d, and the newest snapshot ends at %d: entries between are missing", first, covered)
	}
	last, err := s.Log.LastIndex()
	if err != nil || last == 0 || last >= covered {
		return err
	}
	// A crash after a leader's snapshot was saved and before the log was cleared: the snapshot covers all of
	// the log, which cannot be appended to across the gap.
	return s.Log.DeleteRange(first, last)
}

// SnapshotIndex gives the last entry that the newest snapshot covers, 0 where there is none.
func (s *Store) SnapshotIndex() (uint64, error) {
	list, err := s.Snapshots.List()
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[0].Index, nil
}

// Empty tells whether the store holds neither entries nor a snapshot.
func (s *Store) Empty() (bool, error) {
	covered, err := s.SnapshotIndex()
	if err != nil {
		return false, err
	}
	last, err := s.Log.LastIndex()
	return covered == 0 && last == 0, err
}

// HoldsUpTo fails with ErrDamaged where the store ends before index, up to which the state machine has applied.
func (s *Store) HoldsUpTo(index uint64) error {
	covered, err := s.SnapshotIndex()
	if err != nil {
		return err
	}
	last, err := s.Log.LastIndex()
	if err != nil {
		return err
	}
	if end := max(covered, last); end < index {
		return damaged(s.Log.dir, "log ends at %d, and entry %d was applied", end, index)
	}
	return nil
}

// Bootstrap makes server the only voter of a new cluster. The store must be empty.
func (s *Store) Bootstrap(conf *raft.Config, server raft.Server, trans raft.Transport) error {
	servers := raft.Configuration{Servers: []raft.Server{server}}
	if err := raft.BootstrapCluster(conf, s.Log, s.Stable, s.Snapshots, trans, servers); err != nil {
		return fmt.Errorf("begin a cluster: %w", err)
	}
	return nil
}

// Close makes the mark exact and closes the files.
func (s *Store) Close() error { return s.Log.Close() }

// Abandon closes the files as a crash would leave them.
func (s *Store) Abandon() error { return s.Log.Abandon() }
