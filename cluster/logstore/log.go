package logstore

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

const (
	segmentBytes = 16 << 20              // of one log file, by default
	markDelay    = 50 * time.Millisecond // appends within it share one write of the mark
)

// Log is Raft's log. It is safe for concurrent use by one writer and many readers, as Raft needs.
type Log struct {
	dir   string
	wal   *wal.WAL
	mark  *mark
	cache recent

	last     atomic.Pointer[position]  // of the log's end; {0 0} when it is empty
	appended atomic.Uint64             // bytes since open
	busy     atomic.Pointer[time.Time] // when the write now running began; nil = none
	dirty    chan struct{}             // capacity 1: the mark is behind
	stop     chan struct{}
	done     sync.WaitGroup

	mu     sync.Mutex // guards failed
	failed error
	onFail func(error)
}

type position struct{ index, term uint64 }

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)

// openLog opens the log in dir and reads all of it.
func openLog(dir string, fresh bool, cfg Config) (*Log, error) {
	marked, err := openMark(dir, fresh)
	if err != nil {
		return nil, err
	}
	l := &Log{dir: dir, mark: marked, onFail: cfg.Failed,
		dirty: make(chan struct{}, 1), stop: make(chan struct{})}
	l.last.Store(&position{})
	if l.wal, err = openWAL(dir, cmp.Or(cfg.SegmentBytes, segmentBytes)); err != nil {
		return nil, errors.Join(err, marked.close())
	}
	if err := guard(dir, l.verify); err != nil {
		return nil, errors.Join(err, l.wal.Close(), marked.close())
	}
	l.done.Go(l.keepMark)
	return l, nil
}

func openWAL(dir string, size int) (log *wal.WAL, err error) {
	err = guard(dir, func() error {
		log, err = wal.Open(dir, wal.WithMetaStore(newMetaStore(dir)),
			wal.WithSegmentSize(size), wal.WithLogger(hclog.NewNullLogger()))
		return err
	})
	if err != nil && !errors.Is(err, ErrDamaged) && (errors.Is(err, wal.ErrCorrupt) || errors.Is(err, wal.ErrNotFound) || errors.Is(err, fs.ErrNotExist)) {
		return nil, damaged(dir, "%v", err)
	}
	return log, err
}

// guard turns a panic, and the fault of a mapped page that is gone, into ErrDamaged: the libraries below trust
// lengths that they read.
func guard(dir string, read func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if reason := recover(); reason != nil {
			err = damaged(dir, "reading it panicked: %v", reason)
		}
	}()
	return read()
}

// verify reads every entry, and compares the end with the mark.
func (l *Log) verify() error {
	first, err := l.wal.FirstIndex()
	if err != nil {
		return err
	}
	last, err := l.wal.LastIndex()
	if err != nil {
		return err
	}
	var entry raft.Log
	for index := first; index <= last && index > 0; index++ {
		previous := entry.Term
		if err := l.read(index, &entry); err != nil {
			return damaged(l.dir, "log entry %d of %d to %d: %v", index, first, last, err)
		}
		if entry.Term < previous {
			return damaged(l.dir, "log entry %d has term %d after term %d", index, entry.Term, previous)
		}
		if index == l.mark.index && entry.Term != l.mark.term {
			return damaged(l.dir, "log entry %d has term %d, stored was term %d", index, entry.Term, l.mark.term)
		}
	}
	if last < l.mark.index {
		return damaged(l.dir, "log ends at %d, and had reached %d", last, l.mark.index)
	}
	l.last.Store(&position{last, entry.Term})
	return nil
}

func (l *Log) read(index uint64, entry *raft.Log) error {
	var outer raft.Log
	if err := l.wal.GetLog(index, &outer); err != nil {
		return err
	}
	if err := DecodeRecord(outer.Data, entry); err != nil {
		return err
	}
	if entry.Index != index {
		return fmt.Errorf("log entry %d stands in the place of %d: %w", entry.Index, index, ErrDamaged)
	}
	return nil
}

// FirstIndex gives the index of the oldest entry, 0 for an empty log.
func (l *Log) FirstIndex() (uint64, error) { return l.wal.FirstIndex() }

// LastIndex gives the index of the newest entry, 0 for an empty log.
func (l *Log) LastIndex() (uint64, error) { return l.last.Load().index, nil }

// IsMonotonic tells Raft that the log has no gaps.
func (l *Log) IsMonotonic() bool { return true }

// Appended gives the bytes of payload stored since open.
func (l *Log) Appended() uint64 { return l.appended.Load() }

// Busy gives for how long the write now running has been, 0 when none is.
func (l *Log) Busy() time.Duration {
	if since := l.busy.Load(); since != nil {
		return time.Since(*since)
	}
	return 0
}

// GetLog reads the entry at index. raft.ErrLogNotFound means that the log does not hold it; any other error is
// damage and has been reported.
func (l *Log) GetLog(index uint64, entry *raft.Log) error {
	if l.cache.get(index, entry) {
		return nil
	}
	// raft-wal v0.4.2 gives entries that were deleted from the front while their segment is there.
	if first, err := l.wal.FirstIndex(); err != nil {
		return err
	} else if index < first {
		return raft.ErrLogNotFound // as it is: hashicorp/raft compares with ==
	}
	err := guard(l.dir, func() error { return l.read(index, entry) })
	if errors.Is(err, wal.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil && !errors.Is(err, wal.ErrClosed) {
		err = l.fail(damaged(l.dir, "log entry %d: %v", index, err))
	}
	return err
}

func (l *Log) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs appends entries and returns when they are durable. After one failure every later call fails alike:
// a failed sync leaves it unknown what the disk holds, and a second one may succeed with the data gone.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	records, err := wrap(entries)
	if err != nil {
		return err
	}
	if err := l.write(func() error { return l.wal.StoreLogs(records) }); err != nil {
		return err
	}
	end := entries[len(entries)-1]
	l.last.Store(&position{end.Index, end.Term})
	bytes := 0
	for _, entry := range entries {
		l.cache.put(entry)
		bytes += len(entry.Data)
	}
	l.appended.Add(uint64(bytes))
	select {
	case l.dirty <- struct{}{}:
	default:
	}
	return nil
}

// wrap makes our records the payload of raft-wal's: a codec of our own in its place fails at the second open, since
// raft-wal v0.4.2 writes the number of its own codec into new segments whatever codec it was given.
func wrap(entries []*raft.Log) ([]*raft.Log, error) {
	records := make([]*raft.Log, len(entries))
	for i, entry := range entries {
		size := len(entry.Data) + len(entry.Extensions)
		if size > MaxRecord {
			return nil, fmt.Errorf("log entry %d of %d bytes is larger than %d", entry.Index, size, MaxRecord)
		}
		records[i] = &raft.Log{Index: entry.Index, Data: AppendRecord(make([]byte, 0, recordHeader+size+recordSum), entry)}
	}
	return records, nil
}

// DeleteRange deletes a prefix or a suffix of the log, both ends included.
func (l *Log) DeleteRange(lowest, highest uint64) error {
	l.cache.drop(lowest, highest)
	return l.write(func() error {
		if highest >= l.last.Load().index {
			if err := l.lowerEnd(lowest); err != nil {
				return err
			}
		}
		return l.wal.DeleteRange(lowest, highest)
	})
}

// lowerEnd makes the log end before index, in memory first and then in the mark, so that neither the background
// write of the mark nor a crash can leave the mark above the log.
func (l *Log) lowerEnd(index uint64) error {
	end := position{}
	if first, err := l.wal.FirstIndex(); err != nil {
		return err
	} else if index > first {
		var entry raft.Log
		if err := l.read(index-1, &entry); err != nil {
			return err
		}
		end = position{entry.Index, entry.Term}
	}
	l.last.Store(&end)
	return l.mark.lower(end.index, end.term)
}

func (l *Log) write(change func() error) error {
	if err := l.Failed(); err != nil {
		return err
	}
	began := time.Now()
	l.busy.Store(&began)
	defer l.busy.Store(nil)
	if err := change(); err != nil {
		return l.fail(fmt.Errorf("write the log in %s: %w", l.dir, err))
	}
	return nil
}

// Failed gives the first failure, nil when there was none.
func (l *Log) Failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *Log) fail(err error) error {
	l.mu.Lock()
	first := l.failed == nil
	if first {
		l.failed = err
	}
	err = l.failed
	l.mu.Unlock()
	if first && l.onFail != nil {
		l.onFail(err)
	}
	return err
}

func (l *Log) keepMark() {
	for {
		select {
		case <-l.stop:
			return
		case <-l.dirty:
		}
		select {
		case <-l.stop:
			return
		case <-time.After(markDelay):
		}
		if err := l.mark.raise(l.end); err != nil {
			_ = l.fail(fmt.Errorf("write %s: %w", l.mark.path, err))
			return
		}
	}
}

func (l *Log) end() (index, term uint64) {
	end := l.last.Load()
	return end.index, end.term
}

// Close makes the mark exact, unless the log has failed, and closes the files.
func (l *Log) Close() error {
	close(l.stop)
	l.done.Wait()
	var err error
	if l.Failed() == nil {
		err = l.mark.raise(l.end)
	}
	return errors.Join(err, l.wal.Close(), l.mark.close())
}

// Abandon closes the files as a crash would leave them: the mark stays where it is.
func (l *Log) Abandon() error {
	close(l.stop)
	l.done.Wait()
	return errors.Join(l.wal.Close(), l.mark.close())
}
