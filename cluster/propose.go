package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// proposal is one entry that waits to be proposed, or for its outcome.
type proposal struct {
	entry []byte
	done  chan outcome // capacity 1
}

type outcome struct {
	at     place
	result []byte
	err    error
}

// batcher groups the proposals that arrive together into Raft entries, of which at most groupsFlying are in flight:
// what arrives meanwhile shares the next one.
type batcher struct {
	apply    func(data []byte) raft.ApplyFuture
	observer Observer
	running  sync.WaitGroup

	mu     sync.Mutex // guards all below
	queue  []*proposal
	bytes  int // in queue
	flying int
	over   bool
}

// submit proposes entry and waits for its outcome. When ctx ends first, the error tells whether the entry was
// withdrawn or may yet be applied.
func (b *batcher) submit(ctx context.Context, entry []byte) outcome {
	p := &proposal{entry: entry, done: make(chan outcome, 1)}
	if err := b.enqueue(p); err != nil {
		return outcome{err: err}
	}
	select {
	case got := <-p.done:
		return got
	case <-ctx.Done():
	}
	if b.withdraw(p) {
		return outcome{err: fmt.Errorf("%w: %w", ErrOverloaded, context.Cause(ctx))}
	}
	return outcome{err: fmt.Errorf("%w: %w", ErrOutcomeUnknown, context.Cause(ctx))}
}

func (b *batcher) enqueue(p *proposal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return ErrNoLeader
	}
	if len(b.queue) >= queueEntries || b.bytes+len(p.entry) > queueBytes {
		return ErrOverloaded
	}
	b.queue = append(b.queue, p)
	b.bytes += len(p.entry)
	b.launch()
	return nil
}

func (b *batcher) withdraw(p *proposal) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.Index(b.queue, p)
	if at < 0 {
		return false
	}
	b.queue = slices.Delete(b.queue, at, at+1)
	b.bytes -= len(p.entry)
	return true
}

// close waits for what is in flight; what waits was not proposed.
func (b *batcher) close() {
	b.mu.Lock()
	b.over = true
	for _, p := range b.queue {
		p.done <- outcome{err: ErrNoLeader}
	}
	b.queue, b.bytes = nil, 0
	b.mu.Unlock()
	b.running.Wait()
}

// launch sends the next group off where there is room. The caller holds mu.
func (b *batcher) launch() {
	for b.flying < groupsFlying && len(b.queue) > 0 {
		group := b.cut()
		b.flying++
		b.running.Go(func() { b.fly(group) })
	}
}

func (b *batcher) cut() []*proposal {
	size, count := 0, 0
	for count < len(b.queue) && count < groupEntries {
		if size += len(b.queue[count].entry); count > 0 && size > groupBytes {
			break
		}
		count++
	}
	group := slices.Clone(b.queue[:count])
	b.queue = slices.Delete(b.queue, 0, count)
	for _, p := range group {
		b.bytes -= len(p.entry)
	}
	return group
}

func (b *batcher) fly(group []*proposal) {
	entries := make([][]byte, len(group))
	for i, p := range group {
		entries[i] = p.entry
	}
	data, began := encodeGroup(entries), time.Now()
	b.observer.Grouped(len(group), len(data))
	at, results, err := await(b.apply(data))
	if err == nil && len(results) != len(group) {
		err = fmt.Errorf("%d results for %d entries: %w", len(results), len(group), ErrOutcomeUnknown)
	}
	if err == nil {
		b.observer.Committed(time.Since(began))
	}
	b.mu.Lock()
	b.flying--
	b.launch()
	b.mu.Unlock()
	for i, p := range group {
		if err != nil {
			p.done <- outcome{err: err}
			continue
		}
		p.done <- outcome{at: at, result: results[i]}
	}
}

// await gives a Raft entry's outcome. hashicorp/raft says ErrNotLeader and ErrLeadershipTransferInProgress only of
// entries that it has not appended; any other error leaves the outcome open.
func await(future raft.ApplyFuture) (place, [][]byte, error) {
	err := future.Error()
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return place{}, nil, ErrNoLeader
	case err != nil:
		return place{}, nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	applied, ok := future.Response().(appliedGroup)
	if !ok {
		return place{}, nil, fmt.Errorf("%w: the machine gave no answer", ErrOutcomeUnknown)
	}
	if applied.err != nil {
		return place{}, nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, applied.err)
	}
	return place{future.Index(), applied.term}, applied.results, nil
}

// Propose has entry applied by every member's machine and gives this entry's result, when this node's machine has
// applied it too. It is safe for concurrent use; entries that arrive together share an fsync. entry must not be
// changed until Propose returns.
//
// Errors: ErrNoLeader, ErrClock, ErrOverloaded and ErrTooLarge mean that nothing was proposed; ErrOutcomeUnknown that
// the entry may have been applied.
func (n *Node) Propose(ctx context.Context, entry []byte) ([]byte, error) {
	if len(entry) > MaxEntry {
		return nil, fmt.Errorf("%w: %d bytes of at most %d", ErrTooLarge, len(entry), MaxEntry)
	}
	var result []byte
	err := n.withLeader(ctx, func() error {
		if err := n.Clock(); err != nil { // what has had its time by a clock that is off must not end on all nodes
			return err
		}
		got := n.proposeOnce(ctx, entry)
		result = got.result
		return got.err
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

func (n *Node) proposeOnce(ctx context.Context, entry []byte) outcome {
	if n.IsLeader() {
		return n.batch.submit(ctx, entry)
	}
	answer, err := n.askLeader(ctx, askPropose, entry)
	if err != nil {
		return outcome{err: err}
	}
	at, result, err := bodyPlace(answer)
	if err == nil {
		err = n.follow(ctx, at)
	}
	if err != nil {
		return outcome{err: fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)}
	}
	return outcome{at: at, result: result}
}

// askLeader asks the leader of this moment. ErrNoLeader means that it was not asked, or that it is not the leader.
func (n *Node) askLeader(ctx context.Context, kind byte, body []byte) ([]byte, error) {
	id, _ := n.Leader()
	if id == "" || id == n.id {
		return nil, ErrNoLeader
	}
	answer, err := n.links.ask(ctx, id, kind, body)
	switch {
	case errors.Is(err, errNotSent):
		return nil, fmt.Errorf("%w: %w", ErrNoLeader, err)
	case err != nil && !isTyped(err):
		return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return answer, err
}

func isTyped(err error) bool {
	for _, one := range statuses {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}

// withLeader calls try again while it fails with ErrNoLeader or ErrClock, until Timing.LeaderWait or ctx is over.
func (n *Node) withLeader(ctx context.Context, try func() error) error {
	limit := time.NewTimer(n.cfg.Timing.LeaderWait)
	defer limit.Stop()
	for {
		changed := n.leaderChange()
		if err := n.stopped(); err != nil {
			return errors.Join(ErrNoLeader, err)
		}
		err := try()
		if !errors.Is(err, ErrNoLeader) && !errors.Is(err, ErrClock) {
			return err
		}
		select {
		case <-changed:
		case <-time.After(n.cfg.Timing.Commit):
		case <-n.over:
		case <-limit.C:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}
