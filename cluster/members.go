package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"warder/cluster/transport"
)

// Member is one node of the cluster as this node knows it.
type Member struct {
	ID     string
	Addr   string // host:port
	Voter  bool   // false while it is being brought up to date
	Leader bool
}

// Members gives the cluster's configuration as this node knows it, sorted by ID.
func (n *Node) Members(context.Context) ([]Member, error) {
	if err := n.stopped(); err != nil {
		return nil, err
	}
	leader, _ := n.Leader()
	var found []Member
	for _, server := range n.servers() {
		id, hostPort := splitAddress(server.Address)
		found = append(found, Member{ID: id, Addr: hostPort, Voter: server.Suffrage == raft.Voter, Leader: id == leader})
	}
	slices.SortFunc(found, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return found, nil
}

// State is what a node knows of itself.
type State struct {
	Role    string // "leader", "follower" or "candidate"
	Term    uint64
	Last    uint64 // newest log entry
	Commit  uint64 // newest entry known to be committed
	Applied uint64 // newest entry that the machine has, or that needs no applying
	Outside bool   // the disk was found empty: takes no part in elections until readmitted
	Silent  bool   // the disk or the machine hangs
}

// State gives what this node knows of itself.
func (n *Node) State() State {
	return State{Role: strings.ToLower(n.raft.State().String()), Term: n.raft.CurrentTerm(), Last: n.raft.LastIndex(),
		Commit: n.raft.CommitIndex(), Applied: n.fsm.position(), Outside: n.standing.outside.Load(), Silent: n.streams.isMuted()}
}

// Leader gives the leader's ID and address as this node knows them, "" when it knows none.
func (n *Node) Leader() (id, addr string) {
	where, _ := n.raft.LeaderWithID()
	return splitAddress(where)
}

// IsLeader tells whether this node is the leader, as far as it knows: Barrier makes sure.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// servers gives the newest configuration, committed or not. (Its future's Index is always 0 in raft v1.7.3.)
func (n *Node) servers() []raft.Server {
	return n.raft.GetConfiguration().Configuration().Servers
}

func (n *Node) server(id string) (raft.Server, bool) {
	for _, server := range n.servers() {
		if string(server.ID) == id {
			return server, true
		}
	}
	return raft.Server{}, false
}

func (n *Node) place(id string) (string, bool) {
	server, ok := n.server(id)
	_, hostPort := splitAddress(server.Address)
	return hostPort, ok
}

// Admit adds the node id, which members reach at addr (host:port), or gives a member a new address. It may be called
// on any node. The new member does not vote until it is up to date; the leader then makes it a voter by itself.
func (n *Node) Admit(ctx context.Context, id, addr string) error {
	if !transport.ValidID(id) {
		return fmt.Errorf("admit %q: not a valid node ID", id)
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("admit node %s: address %q is not host:port: %w", id, addr, err)
	}
	body := append([]byte{byte(len(id))}, id+addr...)
	return n.onLeader(ctx, askAdmit, body, func() error { return n.admitHere(id, addr) })
}

func decodeAdmit(body []byte) (id, hostPort string, err error) {
	if len(body) < 1 {
		return "", "", errFrame
	}
	end := 1 + int(body[0])
	if len(body) < end {
		return "", "", errFrame
	}
	id, hostPort = string(body[1:end]), string(body[end:])
	if _, _, err := net.SplitHostPort(hostPort); err != nil || !transport.ValidID(id) {
		return "", "", errFrame
	}
	return id, hostPort, nil
}

func (n *Node) admitHere(id, hostPort string) error {
	where := address(id, hostPort)
	if server, ok := n.server(id); ok && server.Address == where {
		return n.leaderOnly()
	}
	// Of a member that votes, AddNonvoter changes the address only.
	return n.change(func() raft.IndexFuture { return n.raft.AddNonvoter(raft.ServerID(id), where, 0, 0) })
}

// Remove takes the node id out of the cluster and cuts its connections. It may be called on any node.
func (n *Node) Remove(ctx context.Context, id string) error {
	return n.onLeader(ctx, askRemove, []byte(id), func() error { return n.removeHere(id) })
}

func (n *Node) removeHere(id string) error {
	if err := n.leaderOnly(); err != nil {
		return err
	}
	server, ok := n.server(id)
	if !ok {
		return fmt.Errorf("remove node %s: %w", id, ErrNotMember)
	}
	if server.Suffrage == raft.Voter && n.voters() == 1 {
		return fmt.Errorf("remove node %s: %w", id, ErrLastVoter)
	}
	if id == n.id { // another leader removes this one
		return errors.Join(ErrNoLeader, n.stepDownHere())
	}
	return n.change(func() raft.IndexFuture { return n.raft.RemoveServer(raft.ServerID(id), 0, 0) })
}

func (n *Node) voters() int {
	count := 0
	for _, server := range n.servers() {
		if server.Suffrage == raft.Voter {
			count++
		}
	}
	return count
}

// StepDown makes the leader hand over to another voter. It may be called on any node.
func (n *Node) StepDown(ctx context.Context) error {
	return n.onLeader(ctx, askStepDown, nil, n.stepDownHere)
}

func (n *Node) stepDownHere() error {
	if err := n.leaderOnly(); err != nil {
		return err
	}
	if n.voters() < 2 {
		return fmt.Errorf("step down: %w", ErrLastVoter)
	}
	if err := n.raft.LeadershipTransfer().Error(); err != nil {
		return fmt.Errorf("step down: no other voter took over: %w", err)
	}
	return nil
}

func (n *Node) leaderOnly() error {
	if !n.IsLeader() {
		return ErrNoLeader
	}
	return nil
}

func (n *Node) onLeader(ctx context.Context, kind byte, body []byte, here func() error) error {
	return n.withLeader(ctx, func() error {
		if n.IsLeader() {
			return here()
		}
		_, err := n.askLeader(ctx, kind, body)
		return err
	})
}

// change waits until a change of the configuration is committed. An empty group follows it, so that who waits for
// its index hears of it: Raft tells the machine of groups only.
func (n *Node) change(begin func() raft.IndexFuture) error {
	err := begin().Error()
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNoLeader
	case err != nil:
		return fmt.Errorf("change the configuration: %w: %w", ErrOutcomeUnknown, err)
	}
	_, _, err = await(n.raft.Apply(encodeGroup(nil), 0))
	return err
}
