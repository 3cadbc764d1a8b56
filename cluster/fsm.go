package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"warder/cluster/logstore"
)

// fsm applies Raft's entries to the machine and knows how far it has come: raft.AppliedIndex runs ahead of that.
type fsm struct {
	machine Machine
	fail    func(error) // stops the node
	// configured is told of each committed configuration.
	configured func(raft.Configuration, uint64)
	samples    samples
	saved      func(bytes int64, took time.Duration) // is told of each snapshot saved
	busy       atomic.Pointer[time.Time]             // when the Apply now running began; nil = none

	mu      sync.Mutex // guards all below
	held    uint64     // the machine's own index: entries up to it are not applied again
	applied uint64     // every entry up to it has been applied or needs no applying
	moved   chan struct{}
	failed  error
}

var _ raft.BatchingFSM = (*fsm)(nil)

func newFSM(machine Machine, fail func(error), configured func(raft.Configuration, uint64)) *fsm {
	held := machine.Applied()
	return &fsm{machine: machine, fail: fail, configured: configured, held: held, applied: held, moved: make(chan struct{})}
}

// applied is what a Raft entry's future carries on the leader.
type appliedGroup struct {
	term    uint64 // in which the entry was proposed
	results [][]byte
	err     error
}

func (f *fsm) Apply(entry *raft.Log) any { return f.ApplyBatch([]*raft.Log{entry})[0] }

func (f *fsm) ApplyBatch(entries []*raft.Log) []any {
	out := make([]any, len(entries))
	for i, entry := range entries {
		results, err := f.apply(entry)
		out[i] = appliedGroup{entry.Term, results, err}
	}
	return out
}

func (f *fsm) apply(entry *raft.Log) ([][]byte, error) {
	f.mu.Lock()
	held, failed := f.held, f.failed
	f.mu.Unlock()
	if failed != nil {
		return nil, failed
	}
	if entry.Type == raft.LogConfiguration {
		f.configured(raft.DecodeConfiguration(entry.Data), entry.Index)
	}
	if entry.Type != raft.LogCommand || entry.Index <= held {
		f.advance(entry.Index, held)
		return nil, nil
	}
	results, err := f.applyGroup(entry)
	if err != nil {
		return nil, f.stop(fmt.Errorf("apply log entry %d: %w", entry.Index, err))
	}
	f.samples.take(f.machine, held, entry.Index)
	f.advance(entry.Index, entry.Index)
	return results, nil
}

func (f *fsm) applyGroup(entry *raft.Log) ([][]byte, error) {
	group, err := decodeGroup(entry.Data)
	if err != nil || len(group) == 0 {
		return nil, err
	}
	began := time.Now()
	f.busy.Store(&began)
	defer f.busy.Store(nil)
	results, err := f.machine.Apply(entry.Index, group)
	if err == nil && len(results) != len(group) {
		err = fmt.Errorf("machine gave %d results for %d entries", len(results), len(group))
	}
	return results, err
}

func (f *fsm) advance(applied, held uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = max(f.held, held)
	if applied > f.applied {
		f.applied = applied
		close(f.moved)
		f.moved = make(chan struct{})
	}
}

// stop makes err the answer to every entry from now on: after a failed write nothing more may be applied.
func (f *fsm) stop(err error) error {
	f.mu.Lock()
	f.failed = err
	f.mu.Unlock()
	f.fail(err)
	return err
}

// position gives the index up to which everything has been applied.
func (f *fsm) position() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// wait returns when everything up to index has been applied.
func (f *fsm) wait(ctx context.Context, index uint64) error {
	for {
		f.mu.Lock()
		applied, moved, failed := f.applied, f.moved, f.failed
		f.mu.Unlock()
		if applied >= index {
			return nil
		}
		if failed != nil {
			return failed
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait until entry %d is applied here: %w", index, context.Cause(ctx))
		}
	}
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	snapshot, err := f.machine.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	return fsmSnapshot{snapshot, f.saved}, nil
}

// Restore is given the body of a snapshot whose hash was verified: at start, and when a leader has sent one.
func (f *fsm) Restore(reader io.ReadCloser) error {
	body, err := snapshotBody(reader)
	if err != nil {
		return f.stop(err)
	}
	if err := f.machine.Restore(reader); err != nil {
		return f.stop(fmt.Errorf("restore the snapshot of entry %d: %w", body.Index, err))
	}
	f.configured(body.Servers, body.ServersIndex)
	f.advance(max(body.Index, f.machine.Applied()), f.machine.Applied())
	return nil
}

func snapshotBody(reader io.ReadCloser) (*logstore.Body, error) {
	if wrapped, ok := reader.(raft.ReadCloserWrapper); ok {
		reader = wrapped.WrappedReadCloser()
	}
	body, ok := reader.(*logstore.Body)
	if !ok {
		return nil, errors.New("snapshot does not come from the store")
	}
	return body, nil
}

type fsmSnapshot struct {
	Snapshot
	saved func(int64, time.Duration)
}

func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	began := time.Now()
	size, err := s.WriteTo(sink)
	if err != nil {
		return errors.Join(fmt.Errorf("write a snapshot: %w", err), sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	s.saved(size, time.Since(began))
	return nil
}

func (s fsmSnapshot) Release() { _ = s.Close() } // it was only read
