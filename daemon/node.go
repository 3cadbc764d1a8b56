package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"warder/daemon/config"
	"warder/daemon/gateway"
	"warder/daemon/seal"
)

// socketName is the local socket's name below the data directory.
const socketName = "warder.sock"

// node is one process: first without a cluster, then a member of one.
type node struct {
	cfg     config.Config
	program Program
	logger  *slog.Logger
	started time.Time

	hardware *hardware

	// socket is what the local socket serves: the bootstrap service until the node is a member.
	socket  atomic.Pointer[http.Handler]
	current atomic.Pointer[member]
	// becoming holds back a second init or join while one is under way.
	becoming sync.Mutex
	joined   chan *member // gets the member once
	group    *errgroup.Group
	ctx      context.Context //nolint:containedctx // of the group, for members that begin during a request
}

// Run runs the node that the configuration describes until ctx ends.
func Run(ctx context.Context, cfg config.Config, program Program) error {
	logger, err := newLogger(cfg.Log, program.Stderr)
	if err != nil {
		return err
	}
	n := newNode(cfg, program, logger)
	return n.run(ctx, nil)
}

func newNode(cfg config.Config, program Program, logger *slog.Logger) *node {
	return &node{
		hardware: newHardware(cfg, program, logger.With("node", cfg.Node)),
		cfg:      cfg, program: program, logger: logger.With("node", cfg.Node), started: time.Now(), joined: make(chan *member, 1),
	}
}

// run serves the local socket, and the member once there is one. ready, where not nil, is called when the socket is open.
func (n *node) run(ctx context.Context, ready func(context.Context) error) error {
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	home, err := seal.LoadHome(n.cfg.DataDir)
	fresh := errors.Is(err, seal.ErrNoHome)
	if err != nil && !fresh {
		return err
	}
	n.group, n.ctx = errgroup.WithContext(ctx)
	if fresh {
		n.serveBootstrap()
	} else if err := n.resume(home); err != nil {
		return err
	}
	door, err := gateway.Open(gateway.Config{
		Ready: n.ready, Socket: filepath.Join(n.cfg.DataDir, socketName), SocketHandler: http.HandlerFunc(n.serveSocket), Stream: isStream, Logger: n.logger,
		Limits: n.limits(),
	})
	if err != nil {
		return errors.Join(err, n.abandon())
	}
	n.group.Go(func() error { return door.Run(n.ctx) })
	n.group.Go(func() error { return n.runMember(n.ctx) })
	if ready != nil {
		n.group.Go(func() error { return ready(n.ctx) })
	}
	return errors.Join(n.group.Wait(), n.hardware.close())
}

func (n *node) serveSocket(w http.ResponseWriter, r *http.Request) {
	(*n.socket.Load()).ServeHTTP(w, r)
}

// resume opens a node that belongs to a cluster already.
func (n *node) resume(home seal.Home) error {
	if home.Node != n.cfg.Node {
		return fmt.Errorf("the data directory %s is of node %q, and the configuration of node %q", n.cfg.DataDir, home.Node, n.cfg.Node)
	}
	if err := n.unmarkFounding(); err != nil {
		return err
	}
	m, err := n.openMember(home, nil, false)
	if err != nil {
		return err
	}
	n.begin(m)
	return nil
}

// begin makes m the node's member: its handlers take over the socket, and runMember runs it.
func (n *node) begin(m *member) {
	handler := m.serve()
	n.current.Store(m)
	n.socket.Store(&handler)
	n.joined <- m
}

// giveUp ends the process with err: a node that began to be a member and cannot is started anew.
func (n *node) giveUp(err error) { n.group.Go(func() error { return err }) }

func (n *node) runMember(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return n.abandon()
	case m := <-n.joined:
		return m.run(ctx)
	}
}

// abandon closes a member that was opened and will not run.
func (n *node) abandon() error {
	select {
	case m := <-n.joined:
		return m.close()
	default:
		return nil
	}
}

// ready is what /readyz tells on the local socket.
func (n *node) ready() error {
	if m := n.current.Load(); m != nil {
		return m.ready()
	}
	return errors.New("the node belongs to no cluster yet")
}

func (n *node) limits() gateway.Limits {
	l := n.cfg.Limits
	return gateway.Limits{
		Connections: l.Connections, ConnectionsPerAddress: l.ConnectionsPerAddress, Streams: l.Streams, BodyBytes: l.BodyBytes,
		HeaderBytes: l.HeaderBytes, Memory: l.Memory, MemoryPerAddress: l.MemoryPerAddress, HeaderTimeout: l.HeaderTimeout, RequestTimeout: l.RequestTimeout, IdleTimeout: l.IdleTimeout,
		ShutdownTimeout: l.ShutdownTimeout,
	}
}

func (n *node) path(name string) string { return filepath.Join(n.cfg.DataDir, name) }
