package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// status is what this node answers to the leader's question.
func (n *Node) status() status {
	s := status{last: n.raft.LastIndex(), samples: n.fsm.samples.list(n.cfg.Machine)}
	s.incarnation, s.outside, s.demoted = n.standing.get()
	return s
}

// tend runs on every node, and looks after the members while this one leads: it brings a new or rebuilt member to a
// vote, and compares the members' states.
func (n *Node) tend(ctx context.Context) {
	reached := uint64(0) // the commit index at the last look: who has it now is up to date
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(n.cfg.Timing.Tend):
		}
		if !n.IsLeader() || n.settled.Load() != n.raft.CurrentTerm() {
			continue
		}
		commit := n.raft.CommitIndex()
		states := n.askStates(ctx)
		for _, server := range n.servers() {
			if state, ok := states[string(server.ID)]; ok && string(server.ID) != n.id {
				n.guide(ctx, server, state, reached)
			}
		}
		n.compare(ctx, states)
		reached = commit
	}
}

// askStates asks all members at once. Who does not answer is left out.
func (n *Node) askStates(ctx context.Context) map[string]status {
	states := map[string]status{n.id: n.status()}
	type reply struct {
		id    string
		state status
		err   error
	}
	replies, asked := make(chan reply), 0
	for _, server := range n.servers() {
		id := string(server.ID)
		if id == n.id {
			continue
		}
		asked++
		go func() {
			body, err := n.links.control(ctx, id, askStatus, nil)
			state := status{}
			if err == nil {
				state, err = decodeStatus(body)
			}
			replies <- reply{id, state, err}
		}()
	}
	for range asked {
		if got := <-replies; got.err == nil {
			states[got.id] = got.state
		}
	}
	return states
}

// guide takes one member a step further on the way demoted, told so, up to date, promoted. One whose clock is off gets
// no vote: it would be one less for the clocks that are right.
func (n *Node) guide(ctx context.Context, server raft.Server, state status, reached uint64) {
	id, err := string(server.ID), error(nil)
	switch {
	case server.Suffrage == raft.Voter && state.outside && state.demoted == 0:
		n.logger.Warn("a voter's disk was empty: it becomes a non-voter until it is up to date", "node", id)
		err = n.change(func() raft.IndexFuture { return n.raft.DemoteVoter(server.ID, 0, 0) })
	case server.Suffrage == raft.Voter:
	case state.outside && state.demoted == 0:
		err = n.tellDemoted(ctx, id, state.incarnation)
	case state.last >= reached && reached > 0 && n.clocks.agree(id):
		n.logger.Info("a member is up to date: it becomes a voter", "node", id)
		err = n.change(func() raft.IndexFuture { return n.raft.AddVoter(server.ID, server.Address, 0, 0) })
	}
	if err != nil && ctx.Err() == nil {
		n.logger.Warn("a member cannot be brought to a vote yet", "node", id, "error", err)
	}
}

// tellDemoted tells a non-voter an index at which it was one. A group that is committed after the configuration was
// read shows that this configuration is committed; only this goroutine promotes, so that no later one came between.
func (n *Node) tellDemoted(ctx context.Context, id string, incarnation [16]byte) error {
	at, _, err := await(n.raft.Apply(encodeGroup(nil), 0))
	if err != nil {
		return err
	}
	if server, ok := n.server(id); !ok || server.Suffrage == raft.Voter {
		return nil
	}
	_, err = n.links.control(ctx, id, askDemoted, append(incarnation[:len(incarnation):len(incarnation)], indexBody(at.index)...))
	return err
}

// compare looks for an index at which members' states differ, and tells those that differ from the majority.
func (n *Node) compare(ctx context.Context, states map[string]status) {
	index, odd, decided := divergence(states, n.voters())
	if index == 0 {
		return
	}
	n.logger.Error("members' states differ", "index", index, "nodes", odd)
	n.observer.Diverged(index, odd)
	if !decided {
		return // no majority: nobody can tell which of them is right
	}
	for _, id := range odd {
		if id == n.id {
			n.diverge(index)
			continue
		}
		if _, err := n.links.control(ctx, id, askDiverged, indexBody(index)); err != nil && ctx.Err() == nil {
			n.logger.Error("a member that diverged cannot be told", "node", id, "error", err)
		}
	}
}

// divergence gives the lowest index at which states differ, the members that are not of the largest group there,
// and whether that group is a majority of all.
func divergence(states map[string]status, members int) (index uint64, odd []string, decided bool) {
	at := map[uint64]map[[32]byte][]string{}
	for id, state := range states {
		for _, one := range state.samples {
			if at[one.index] == nil {
				at[one.index] = map[[32]byte][]string{}
			}
			if !slices.Contains(at[one.index][one.hash], id) {
				at[one.index][one.hash] = append(at[one.index][one.hash], id)
			}
		}
	}
	for found, groups := range at {
		if len(groups) > 1 && (index == 0 || found < index) {
			index = found
		}
	}
	if index == 0 {
		return 0, nil, false
	}
	var largest []string
	for _, group := range at[index] {
		if len(group) > len(largest) {
			largest = group
		}
	}
	for _, group := range at[index] {
		for _, id := range group {
			if !slices.Contains(largest, id) {
				odd = append(odd, id)
			}
		}
	}
	slices.Sort(odd)
	return index, odd, 2*len(largest) > members
}

// answerDiverged believes only the leader.
func (n *Node) answerDiverged(peer string, body []byte) error {
	index, _, err := bodyIndex(body)
	if leader, _ := n.Leader(); err != nil || peer != leader {
		return fmt.Errorf("only the leader says that a state diverged: %w", errFrame)
	}
	n.diverge(index)
	return nil
}

func (n *Node) diverge(index uint64) {
	n.observer.Diverged(index, []string{n.id})
	n.fail(fmt.Errorf("state of node %s at entry %d: %w: set its folder aside and let it rebuild from the others", n.id, index, ErrDiverged))
}
