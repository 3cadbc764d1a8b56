package keystoretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// The errors that a FaultyLog gives when it is told to fail.
var (
	// ErrNotDone says that the change was not made, which is true.
	ErrNotDone = errors.New("injected: the change was not made")
	// ErrUnknown says that nobody knows whether the change was made. It was.
	ErrUnknown = errors.New("injected: the outcome is unknown")
	// ErrBarrier is what a barrier gives.
	ErrBarrier = errors.New("injected: no leader to ask")
)

// Fault is what happens to one proposal.
type Fault uint8

// The faults.
const (
	// None lets the proposal through.
	None Fault = iota
	// NotDone drops the proposal and says so, with ErrNotDone.
	NotDone
	// DoneButFailed makes the change and answers ErrUnknown.
	DoneButFailed
	// Conflict answers that the last precondition did not hold, as if someone else had been first; nothing is changed.
	// A proposal without preconditions cannot conflict: the test fails.
	Conflict
)

// FaultyLog is a log of one member: each proposal is applied to the store at once, unless a fault was asked for. It
// fails the test when its caller breaks the rules of kv.Log. It is safe for concurrent use.
type FaultyLog struct {
	t     testing.TB
	store *kv.Store
	keys  *keyring.Holder
	dir   string

	mu        sync.Mutex // guards what follows, and orders proposals
	faults    []Fault    // of the next proposals, in order
	barriers  int        // barriers that are to fail
	first     func()     // runs ahead of the next proposal
	proposals int
}

// Next says what happens to the next proposals, in order; those after them are let through.
func (l *FaultyLog) Next(faults ...Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, faults...)
}

// Before runs fn once, ahead of the next proposal: someone else is first. fn may propose.
func (l *FaultyLog) Before(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.first = fn
}

// FailBarriers makes the next n barriers give ErrBarrier.
func (l *FaultyLog) FailBarriers(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.barriers = n
}

// Proposals is how many proposals have come, faulty ones included.
func (l *FaultyLog) Proposals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proposals
}

// Keys is the holder of the keyring, for sealing and unsealing.
func (l *FaultyLog) Keys() *keyring.Holder { return l.keys }

// Dir is where the store's files are.
func (l *FaultyLog) Dir() string { return l.dir }

// Propose implements kv.Log.
func (l *FaultyLog) Propose(ctx context.Context, entry []byte) ([]byte, error) {
	batch := l.check(ctx, entry)
	if batch == nil {
		return nil, ErrNotDone
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if fn := l.takeFirst(); fn != nil {
		fn()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.takeFault() {
	case NotDone:
		return nil, ErrNotDone
	case Conflict:
		return l.conflict(batch)
	case DoneButFailed:
		if _, err := l.apply(entry); err != nil {
			return nil, err
		}
		return nil, ErrUnknown
	default:
		return l.apply(entry)
	}
}

// Barrier implements kv.Log.
func (l *FaultyLog) Barrier(ctx context.Context) error {
	if ctx == nil {
		l.t.Error("keystoretest: a barrier without a context")
		return ErrBarrier
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.barriers > 0 {
		l.barriers--
		return ErrBarrier
	}
	return ctx.Err()
}

// check fails the test for a proposal that a real log would refuse, or that would be malformed, and gives nil.
func (l *FaultyLog) check(ctx context.Context, entry []byte) *kv.Batch {
	l.t.Helper()
	switch {
	case ctx == nil:
		l.t.Error("keystoretest: a proposal without a context")
	case len(entry) == 0 || len(entry) > kv.MaxBatchSize:
		l.t.Errorf("keystoretest: a proposal of %d bytes; want 1 to %d", len(entry), kv.MaxBatchSize)
	default:
		batch, err := kv.DecodeBatch(entry)
		if err == nil {
			return batch
		}
		l.t.Errorf("keystoretest: a proposal that is no batch: %v", err)
	}
	return nil
}

func (l *FaultyLog) takeFirst() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn := l.first
	l.first = nil
	return fn
}

// takeFault needs l.mu.
func (l *FaultyLog) takeFault() Fault {
	l.proposals++
	if len(l.faults) == 0 {
		return None
	}
	fault := l.faults[0]
	l.faults = l.faults[1:]
	return fault
}

func (l *FaultyLog) conflict(batch *kv.Batch) ([]byte, error) {
	if len(batch.If) == 0 {
		l.t.Error("keystoretest: a conflict was asked for, and the proposal has no precondition")
		return nil, ErrNotDone
	}
	return kv.Result{Status: kv.StatusConflict, Failed: len(batch.If) - 1}.Encode(), nil
}

// apply needs l.mu. The entry is copied: a log keeps what it was given, and the caller may reuse its memory.
func (l *FaultyLog) apply(entry []byte) ([]byte, error) {
	results, err := l.store.Apply(l.store.Applied()+1, [][]byte{slices.Clone(entry)})
	if err != nil {
		return nil, err
	}
	if len(results) != 1 {
		return nil, fmt.Errorf("keystoretest: one entry gave %d results", len(results))
	}
	return results[0], nil
}
