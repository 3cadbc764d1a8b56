package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"warder/cluster/transport"
)

const raftTimeout = 3 * time.Second // of one message between nodes

// errOutside refuses to take part in an election.
var errOutside = errors.New("this node's disk was empty: it takes no part in elections until it has been readmitted")

// address is how Raft's configuration names a member's place: "<id>@<host:port>", so that a dialled node can be
// held to its ID.
func address(id, hostPort string) raft.ServerAddress { return raft.ServerAddress(id + "@" + hostPort) }

func splitAddress(a raft.ServerAddress) (id, hostPort string) {
	id, hostPort, _ = strings.Cut(string(a), "@")
	return id, hostPort
}

// streams is Raft's stream layer over a Network. Muted, it sends nothing, so that a leader that hangs is replaced.
type streams struct {
	network  transport.Network
	local    raft.ServerAddress
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once

	mu    sync.Mutex // guards all below
	muted bool
	out   map[net.Conn]struct{}
}

func newStreams(network transport.Network, local raft.ServerAddress) *streams {
	return &streams{network: network, local: local, accepted: make(chan net.Conn), closed: make(chan struct{}),
		out: map[net.Conn]struct{}{}}
}

func (s *streams) Accept() (net.Conn, error) {
	select {
	case conn := <-s.accepted:
		return conn, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *streams) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *streams) Addr() net.Addr { return nodeAddr(s.local) }

type nodeAddr raft.ServerAddress

func (nodeAddr) Network() string  { return "warder" }
func (a nodeAddr) String() string { return string(a) }

func (s *streams) Dial(target raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if s.isMuted() {
		return nil, errors.New("this node is silent while its disk hangs")
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	id, hostPort := splitAddress(target)
	conn, err := s.network.Dial(ctx, id, hostPort, transport.Raft)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out[conn] = struct{}{}
	return &outgoing{Conn: conn, owner: s}, nil
}

func (s *streams) isMuted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.muted
}

// mute closes what Raft has open to other nodes and refuses more, until it is called with false.
func (s *streams) mute(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.muted = on; on {
		s.hangUp()
	}
}

func (s *streams) hangUp() {
	for conn := range s.out {
		_ = conn.Close()
		delete(s.out, conn)
	}
}

// closeAll closes what Raft has open, which its own transport only does for connections in its pool.
func (s *streams) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.muted = true
	s.hangUp()
}

type outgoing struct {
	net.Conn
	owner *streams
}

func (c *outgoing) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.out, c.Conn)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// raftTransport is hashicorp/raft's own transport, which takes no part in elections while the node is outside.
type raftTransport struct {
	*raft.NetworkTransport
	standing *standing
	twin     *twin
	incoming chan raft.RPC
	stop     chan struct{}
	once     sync.Once
	done     sync.WaitGroup
}

var (
	_ raft.Transport   = (*raftTransport)(nil)
	_ raft.WithPreVote = (*raftTransport)(nil)
)

func newRaftTransport(layer *streams, standing *standing, twin *twin, logger hclog.Logger) *raftTransport {
	t := &raftTransport{standing: standing, twin: twin, incoming: make(chan raft.RPC), stop: make(chan struct{}),
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: layer, MaxPool: 3, Timeout: raftTimeout, Logger: logger, MsgpackUseNewTimeFormat: true,
			// One message at a time to each follower. In raft v1.7.3 a pipeline hangs for good when an answer other
			// than success comes while the next message waits to be sent: its reader has ended and its writer, who
			// would close it, waits for the reader. TestLinearizable met it. The gain would be within noise.
			MaxRPCsInFlight: 1})}
	t.done.Go(t.filter)
	return t
}

func (t *raftTransport) Consumer() <-chan raft.RPC { return t.incoming }

func (t *raftTransport) filter() {
	for {
		select {
		case <-t.stop:
			return
		case rpc := <-t.NetworkTransport.Consumer():
			if t.standing.outside.Load() && isElection(rpc.Command) {
				rpc.Respond(refusal(rpc.Command), errOutside)
				continue
			}
			select {
			case t.incoming <- rpc:
			case <-t.stop:
				return
			}
		}
	}
}

// deliver hands this node's Raft a message as though it had come over the network.
func (t *raftTransport) deliver(message *raft.AppendEntriesRequest) {
	select {
	case t.incoming <- raft.RPC{Command: message, RespChan: make(chan raft.RPCResponse, 1)}:
	case <-t.stop:
	}
}

func isElection(command any) bool {
	switch command.(type) {
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest, *raft.TimeoutNowRequest:
		return true
	}
	return false
}

func refusal(command any) any {
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}
	switch command.(type) {
	case *raft.RequestVoteRequest:
		return &raft.RequestVoteResponse{RPCHeader: header}
	case *raft.RequestPreVoteRequest:
		return &raft.RequestPreVoteResponse{RPCHeader: header}
	}
	return &raft.TimeoutNowResponse{RPCHeader: header}
}

// stands says why this node does not stand for election.
func (t *raftTransport) stands() error {
	switch {
	case t.standing.outside.Load():
		return errOutside
	case !t.twin.sure.Load():
		return errUnsure
	}
	return nil
}

func (t *raftTransport) RequestVote(id raft.ServerID, target raft.ServerAddress, request *raft.RequestVoteRequest, response *raft.RequestVoteResponse) error {
	if err := t.stands(); err != nil {
		return err
	}
	return t.NetworkTransport.RequestVote(id, target, request, response)
}

func (t *raftTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, request *raft.RequestPreVoteRequest, response *raft.RequestPreVoteResponse) error {
	if err := t.stands(); err != nil {
		return err
	}
	return t.NetworkTransport.RequestPreVote(id, target, request, response)
}

func (t *raftTransport) Close() error {
	t.once.Do(func() { close(t.stop) })
	t.done.Wait()
	t.CloseStreams()
	if err := t.NetworkTransport.Close(); err != nil {
		return fmt.Errorf("close raft's transport: %w", err)
	}
	return nil
}
