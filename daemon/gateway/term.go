package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// term is the context of one request: the connection's, with an id and an end. Most requests wait for nothing that a
// context could cut short; so the timer, and what else context.WithDeadline makes, is made when somebody waits for Done.
// For all who look it is the same as that context; only where its time ends and then the caller goes away, with nobody
// who looked or waited, it may say that the caller did.
type term struct {
	context.Context //nolint:containedctx // the connection's, of which this is the child
	id              string
	deadline        time.Time

	bound atomic.Pointer[bound] // nil until somebody waits, or it is over
	mu    sync.Mutex            // held while bound is made, and by end
	ended bool                  // guarded by mu
}

// bound is the context that a term stands for.
type bound struct {
	context.Context //nolint:containedctx // it is what a term stands for
	cancel          context.CancelFunc
}

// begin makes the context that term stands for, once.
func (t *term) begin() *bound {
	if made := t.bound.Load(); made != nil {
		return made
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if made := t.bound.Load(); made != nil {
		return made
	}
	return t.bind()
}

// bind is begin for who holds mu.
func (t *term) bind() *bound {
	made := &bound{}
	if t.ended { // in time: later than its deadline it would not have been noted
		made.Context, made.cancel = context.WithCancel(t.Context)
		made.cancel()
	} else {
		made.Context, made.cancel = context.WithDeadline(t.Context, t.deadline)
	}
	t.bound.Store(made)
	return made
}

// end is for the request's own end: what still works for it is to stop.
func (t *term) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	made := t.bound.Load()
	if made == nil && time.Now().Before(t.deadline) {
		t.ended = true
		return
	}
	if made == nil {
		made = t.bind()
	}
	made.cancel()
}

func (t *term) over() bool {
	if t.Context.Err() != nil || !time.Now().Before(t.deadline) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// Deadline implements context.Context.
func (t *term) Deadline() (time.Time, bool) {
	if earlier, ok := t.Context.Deadline(); ok && earlier.Before(t.deadline) {
		return earlier, true
	}
	return t.deadline, true
}

// Done implements context.Context.
func (t *term) Done() <-chan struct{} { return t.begin().Done() }

// Err implements context.Context. Once it is over the answer is the bound's, so that it stays the same.
func (t *term) Err() error {
	if t.bound.Load() == nil && !t.over() {
		return nil
	}
	return t.begin().Err()
}

// Value implements context.Context.
func (t *term) Value(key any) any {
	if _, ok := key.(requestKey); ok {
		return &t.id
	}
	if made := t.bound.Load(); made != nil {
		return made.Value(key) // package context finds the one that it is to cancel by this
	}
	return t.Context.Value(key)
}
