package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// lookForEntry is how often a follower looks whether an entry that is committed has reached it.
const lookForEntry = 500 * time.Microsecond

// follow waits until this node's machine holds an entry that the leader says is committed. A leader tells its followers
// what is committed with its next message, which comes after Timing.Commit when there is nothing else to send: a write or a
// linearizable read through a follower would wait for that. So the follower tells its own Raft at once.
func (n *Node) follow(ctx context.Context, at place) error {
	tick := time.NewTicker(lookForEntry)
	defer tick.Stop()
	for n.raft.LastIndex() < at.index && n.fsm.position() < at.index {
		select {
		case <-tick.C: // the entry was committed by the others, and is on its way
		case <-n.over:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("wait until entry %d reaches this node: %w", at.index, context.Cause(ctx))
		}
	}
	if n.fsm.position() < at.index {
		n.commit(at)
	}
	return n.fsm.wait(ctx, at.index)
}

// commit says to this node's Raft what its leader would say next: a message without entries, and with what is committed
// (Raft, section 5.3). Raft itself holds it against the log: where the entry at that index is of another term, or the node
// has gone on to another term than that of the message, nothing comes of it. Each index is said once.
func (n *Node) commit(at place) {
	for told := n.told.Load(); ; told = n.told.Load() {
		if told >= at.index {
			return
		}
		if n.told.CompareAndSwap(told, at.index) {
			break
		}
	}
	term := n.raft.CurrentTerm()
	address, leader := n.raft.LeaderWithID()
	if leader == "" || string(leader) == n.id || n.raft.CurrentTerm() != term {
		return
	}
	n.trans.deliver(&raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: n.trans.EncodePeer(leader, address)},
		Term:      term, PrevLogEntry: at.index, PrevLogTerm: at.term, LeaderCommitIndex: at.index,
	})
}
