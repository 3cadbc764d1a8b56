package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	lookEvery = 50 * time.Millisecond // at the disk, the configuration, the log's size
	stopTime  = 5 * time.Second       // for raft's goroutines to end; one may hang in a disk
)

// Run keeps the node going until ctx ends, and then closes it: a leader hands over first. It returns early, with the
// reason, when a write failed, stored bytes were found damaged or the state diverged.
func (n *Node) Run(ctx context.Context) error {
	if err := n.begin(); err != nil {
		return err
	}
	inner, cancel := context.WithCancel(context.Background())
	defer cancel()
	var busy sync.WaitGroup
	busy.Go(func() { n.watchTwin(inner) })
	busy.Go(func() { n.followLeader(inner) })
	busy.Go(func() { n.watch(inner) })
	busy.Go(func() { n.keepSnapshots(inner) })
	busy.Go(func() { n.tend(inner) })
	busy.Go(func() { n.keepFresh(inner) })
	busy.Go(func() { n.keepTime(inner) })
	select {
	case <-ctx.Done():
		n.handOver()
	case <-n.failed:
	}
	cancel()
	err := n.shutdown(n.store.Close)
	busy.Wait()
	return errors.Join(n.failureOf(), err)
}

// Close closes a node that was opened and will not be run.
func (n *Node) Close() error {
	if err := n.begin(); err != nil {
		return err
	}
	return n.shutdown(n.store.Close)
}

func (n *Node) begin() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running {
		return fmt.Errorf("node %s runs already, or is closed", n.id)
	}
	n.running = true
	return nil
}

// handOver lets another voter take over before this node goes, so that nobody waits for an election.
func (n *Node) handOver() {
	if !n.IsLeader() || n.voters() < 2 {
		return
	}
	if err := n.stepDownHere(); err != nil {
		n.logger.Warn("no other voter took over before the stop", "error", err)
	}
}

// shutdown closes in the order: no more requests, raft, the streams, the files.
func (n *Node) shutdown(closeStore func() error) error {
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	close(n.over)
	future := n.raft.Shutdown()
	n.streams.closeAll()
	stopped := make(chan error, 1)
	go func() { stopped <- future.Error() }()
	var err error
	select {
	case err = <-stopped:
	case <-time.After(stopTime):
		return errors.Join(fmt.Errorf("node %s: raft does not stop: a write may hang", n.id), n.network.Close())
	}
	n.batch.close()
	n.links.close()
	n.reads.close()
	n.leaderReads.close()
	n.serving.Wait() // the last answers go out
	err = errors.Join(err, n.trans.Close(), n.network.Close())
	n.accepting.Wait()
	return errors.Join(err, closeStore())
}

// followLeader reacts to changes of the leader: who waited on the former one is told, a new one gets ready.
func (n *Node) followLeader(ctx context.Context) {
	events := make(chan raft.Observation, 16)
	observer := raft.NewObserver(events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	var busy sync.WaitGroup
	defer busy.Wait()
	leader := ""
	for {
		if now, _ := n.Leader(); now != leader {
			if former := leader; former != "" {
				busy.Go(func() { n.leave(ctx, former) })
			}
			leader = now
			n.observer.LeaderChanged(now)
		}
		n.announce()
		n.settle(ctx)
		select {
		case <-ctx.Done():
			return
		case <-events:
		case <-time.After(n.cfg.Timing.Heartbeat): // an event may have been dropped
		}
	}
}

// leave hangs up on a former leader, a little later: one that is well answers what it was asked, and what was asked of
// one that is not has an unknown outcome.
func (n *Node) leave(ctx context.Context, former string) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(n.cfg.Timing.Heartbeat):
	}
	if now, _ := n.Leader(); now != former {
		n.links.hangUp(former)
	}
}

// watch looks at what raft does not: a disk or a machine that hangs, and who left.
func (n *Node) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
		n.watchStall()
		n.watchMembers()
	}
}

// keepSnapshots takes a snapshot when the log has grown by Timing.SnapshotBytes: raft counts entries, and one of ours
// may have 5 MiB.
func (n *Node) keepSnapshots(ctx context.Context) {
	snapshotted := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
		if size := n.store.Log.Appended(); size-snapshotted > n.cfg.Timing.SnapshotBytes {
			snapshotted = size
			if err := n.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
				n.logger.Warn("no snapshot could be taken", "error", err)
			}
		}
	}
}

// watchStall makes a node silent while a write or the machine hangs: raft's heartbeats do not depend on either, and
// would keep a leader in office that can do nothing.
func (n *Node) watchStall() {
	hangs := n.store.Log.Busy()
	if since := n.fsm.busy.Load(); since != nil {
		hangs = max(hangs, time.Since(*since))
	}
	stalled, muted := hangs > n.cfg.Timing.Stall, n.streams.isMuted()
	switch {
	case stalled && !muted:
		n.logger.Error("the disk or the machine hangs: this node is silent until it goes on", "for", hangs)
		n.streams.mute(true)
	case !stalled && muted:
		n.logger.Info("the disk or the machine goes on")
		n.streams.mute(false)
	}
}

// watchMembers cuts the connections of who was removed.
func (n *Node) watchMembers() {
	present := map[string]bool{}
	for _, server := range n.servers() {
		present[string(server.ID)] = true
	}
	for _, id := range n.left(present) {
		n.links.hangUp(id)
		n.network.Cut(id)
	}
}

// left gives the members that are gone since the last call.
func (n *Node) left(present map[string]bool) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var gone []string
	for id := range n.known {
		if !present[id] && id != n.id {
			gone = append(gone, id)
			n.removed[id] = true
		}
	}
	for id := range present {
		delete(n.removed, id)
	}
	n.known = present
	return gone
}
