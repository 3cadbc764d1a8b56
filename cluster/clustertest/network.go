package clustertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"warder/cluster/transport"
)

// Fabric is a network in memory. It is safe for concurrent use.
type Fabric struct {
	mu    sync.Mutex // guards all below
	nodes map[string]*port
	cut   map[[2]string]bool // from, to: what is sent vanishes
	conns map[*conn]struct{}
	slow  func() time.Duration
}

// NewFabric gives a network without nodes.
func NewFabric() *Fabric {
	return &Fabric{nodes: map[string]*port{}, cut: map[[2]string]bool{}, conns: map[*conn]struct{}{}}
}

// Delay makes each write to a stream take up to limit, differently for each seed.
func (f *Fabric) Delay(limit time.Duration, seed uint64) {
	source := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's choices
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slow = func() time.Duration { return time.Duration(source.Int64N(int64(limit))) }
}

func (f *Fabric) delay() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.slow == nil {
		return 0
	}
	return f.slow()
}

// Join gives the node id its place on the network, in the place of an earlier one.
func (f *Fabric) Join(id string) transport.Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &port{fabric: f, id: id, accepted: make(chan transport.Stream), closed: make(chan struct{})}
	f.nodes[id] = p
	return p
}

// Cut makes what from sends to another vanish; what is under way on open streams is lost.
func (f *Fabric) Cut(from, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut[[2]string{from, to}] = true
}

// Partition lets the nodes of each group reach each other, and nobody else.
func (f *Fabric) Partition(groups ...[]string) {
	group := map[string]int{}
	for i, ids := range groups {
		for _, id := range ids {
			group[id] = i + 1
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for a := range f.nodes {
		for b := range f.nodes {
			f.cut[[2]string{a, b}] = a != b && (group[a] == 0 || group[a] != group[b])
		}
	}
}

// Heal ends all cuts. Streams that lost bytes are closed, as a connection that was cut for long would be.
func (f *Fabric) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.cut)
	for c := range f.conns {
		if c.out.lost() || c.in.lost() {
			c.in.close()
			c.out.close()
			delete(f.conns, c)
		}
	}
}

func (f *Fabric) isCut(from, to string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cut[[2]string{from, to}]
}

func (f *Fabric) port(id string) *port {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes[id]
}

func (f *Fabric) add(pair ...*conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range pair {
		f.conns[c] = struct{}{}
	}
}

func (f *Fabric) forget(c *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

// closeOf closes the streams that match.
func (f *Fabric) closeOf(match func(*conn) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if match(c) {
			c.in.close()
			c.out.close()
			delete(f.conns, c)
		}
	}
}

// port is one node's place.
type port struct {
	fabric   *Fabric
	id       string
	accepted chan transport.Stream
	closed   chan struct{}
	once     sync.Once
}

var errUnreachable = errors.New("unreachable")

func (p *port) Dial(ctx context.Context, id, _ string, protocol transport.Protocol) (net.Conn, error) {
	to := p.fabric.port(id)
	if p.fabric.isCut(p.id, id) || p.fabric.isCut(id, p.id) {
		<-ctx.Done()
		return nil, fmt.Errorf("connect to node %s: %w: %w", id, errUnreachable, ctx.Err())
	}
	if to == nil {
		return nil, fmt.Errorf("connect to node %s: %w", id, errUnreachable)
	}
	there, back := newPipe(), newPipe()
	here := &conn{fabric: p.fabric, from: p.id, to: id, in: back, out: there}
	far := &conn{fabric: p.fabric, from: id, to: p.id, in: there, out: back}
	p.fabric.add(here, far)
	select {
	case to.accepted <- transport.Stream{Conn: far, Peer: p.id, Protocol: protocol}:
		return here, nil
	case <-to.closed:
	case <-p.closed:
	case <-ctx.Done():
	}
	_ = errors.Join(here.Close(), far.Close())
	return nil, fmt.Errorf("connect to node %s: %w", id, errUnreachable)
}

func (p *port) Accept() (transport.Stream, error) {
	select {
	case stream := <-p.accepted:
		return stream, nil
	case <-p.closed:
		return transport.Stream{}, transport.ErrClosed
	}
}

func (p *port) Cut(id string) {
	p.fabric.closeOf(func(c *conn) bool { return c.from == p.id && c.to == id || c.from == id && c.to == p.id })
}

func (p *port) Close() error {
	p.once.Do(func() {
		close(p.closed)
		p.fabric.closeOf(func(c *conn) bool { return c.from == p.id || c.to == p.id })
	})
	return nil
}
