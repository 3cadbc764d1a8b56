package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// rounds lets all who wait share one answer: whoever comes while a round runs waits for the next, which begins after
// they came. run must not return an answer that is older than its own beginning.
type rounds struct {
	run     func(context.Context) (place, error)
	running sync.WaitGroup

	mu   sync.Mutex // guards all below
	busy bool
	over bool
	next *round
}

type round struct {
	done chan struct{}
	at   place
	err  error
}

const roundTime = 2 * time.Second

func (r *rounds) join(ctx context.Context) (place, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	r.launch()
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.at, mine.err
	case <-ctx.Done():
		return place{}, context.Cause(ctx)
	}
}

// launch begins the next round, when none runs. The caller holds mu.
func (r *rounds) launch() {
	if r.busy || r.next == nil {
		return
	}
	current := r.next
	r.next = nil
	if r.over {
		current.err = ErrClosed
		close(current.done)
		return
	}
	r.busy = true
	r.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), roundTime)
		current.at, current.err = r.run(ctx)
		cancel()
		close(current.done)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.busy = false
		r.launch()
	})
}

// close waits for the round that runs; who waits for another is told that there will be none.
func (r *rounds) close() {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.running.Wait()
}

// Barrier returns when this node's machine holds everything that was acknowledged, anywhere in the cluster, before
// Barrier was called: a read that follows is linearizable. All who wait at a moment share one check. ErrNoLeader
// means that no leader could confirm it in time.
func (n *Node) Barrier(ctx context.Context) error {
	return n.withLeader(ctx, func() error {
		began := time.Now()
		at, err := n.reads.join(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNoLeader, err)
		}
		if err := n.follow(ctx, at); err != nil {
			return err
		}
		n.freshen(began)
		return nil
	})
}

// readIndex gives a place that covers everything acknowledged before it was called.
func (n *Node) readIndex(ctx context.Context) (place, error) {
	if n.IsLeader() {
		return n.leaderReads.join(ctx)
	}
	answer, err := n.askLeader(ctx, askReadIndex, nil)
	if err != nil {
		return place{}, err
	}
	at, _, err := bodyPlace(answer)
	return at, err
}

// confirmRead is the leader's side: the place of the commit index of a moment at which this node was the leader. Raft's own
// VerifyLeader also counts answers to messages sent before it was called (a leader that was suspended would find
// such answers waiting); so the members are asked for their terms. A majority whose terms were not above ours after
// the question came has not elected another leader before it (Raft, section 6.4 of Ongaro's thesis).
func (n *Node) confirmRead(ctx context.Context) (place, error) {
	term := n.raft.CurrentTerm()
	// The commit index covers earlier terms only when an entry of this term is committed (Raft, section 8).
	if !n.IsLeader() || n.settled.Load() != term {
		return place{}, ErrNoLeader
	}
	index := n.raft.CommitIndex()
	if err := n.confirmTerm(ctx, term); err != nil {
		return place{}, err
	}
	if !n.IsLeader() || n.raft.CurrentTerm() != term {
		return place{}, ErrNoLeader
	}
	// The entry of this term that is committed comes no later than this one, which is of this term too, then.
	return place{index, term}, nil
}

// confirmTerm asks all voters for their terms, and returns when a majority, this node included, is at term.
func (n *Node) confirmTerm(ctx context.Context, term uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers, voters, agreed := make(chan bool), 0, 0
	for _, server := range n.servers() {
		if server.Suffrage != raft.Voter {
			continue
		}
		if voters++; string(server.ID) == n.id {
			agreed++
			continue
		}
		go func() {
			ok := n.termOf(ctx, string(server.ID)) == term
			select {
			case answers <- ok:
			case <-ctx.Done():
			}
		}()
	}
	for left := voters - agreed; agreed <= voters/2; left-- {
		if left == 0 {
			return fmt.Errorf("%w: no majority confirms the leader", ErrNoLeader)
		}
		select {
		case ok := <-answers:
			if ok {
				agreed++
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// termOf gives a member's term, 0 where it does not answer.
func (n *Node) termOf(ctx context.Context, id string) uint64 {
	answer, err := n.links.control(ctx, id, askTerm, nil)
	if err != nil {
		return 0
	}
	term, _, err := bodyIndex(answer)
	if err != nil {
		return 0
	}
	return term
}

// settle makes a new leader ready to confirm reads: it commits an empty group in its term, and applies it.
func (n *Node) settle(ctx context.Context) {
	for ctx.Err() == nil && n.IsLeader() {
		term := n.raft.CurrentTerm()
		if n.settled.Load() == term {
			return
		}
		_, _, err := await(n.raft.Apply(encodeGroup(nil), 0))
		if err == nil && n.IsLeader() && n.raft.CurrentTerm() == term {
			n.settled.Store(term)
			n.announce()
			return
		}
		if errors.Is(err, ErrOutcomeUnknown) {
			return // leadership was lost
		}
		select {
		case <-ctx.Done():
		case <-time.After(n.cfg.Timing.Commit):
		}
	}
}

// Staleness gives the time since this node last knew that it held everything acknowledged: the age at which its
// state may be served. It is very large for a node that never knew.
func (n *Node) Staleness() time.Duration {
	last := n.fresh.Load()
	if last == nil {
		return time.Duration(1<<63 - 1)
	}
	return time.Since(*last)
}

func (n *Node) freshen(began time.Time) {
	for {
		last := n.fresh.Load()
		if last != nil && !began.After(*last) || n.fresh.CompareAndSwap(last, &began) {
			return
		}
	}
}

// keepFresh repeats the barrier, so that Staleness is small while there is a leader.
func (n *Node) keepFresh(ctx context.Context) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, roundTime)
		_ = n.Barrier(limited) // Staleness tells of a failure
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(n.cfg.Timing.Fresh):
		}
	}
}
