package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"warder/cluster/logstore"
	"warder/cluster/transport"
)

// Node is one member of a cluster. Its methods are safe for concurrent use.
type Node struct {
	id       string
	cfg      Config
	logger   *slog.Logger
	observer Observer

	store    *logstore.Store
	standing *standing
	fsm      *fsm
	network  transport.Network
	streams  *streams
	trans    *raftTransport
	raft     *raft.Raft
	links    *links
	armed    atomic.Bool // raft runs: see faults.go

	batch       *batcher
	reads       *rounds // of this node: asks the leader, or itself
	leaderReads *rounds // of the leader: confirms that it is one
	settled     atomic.Uint64
	told        atomic.Uint64 // the highest index that commit was called with
	fresh       atomic.Pointer[time.Time]
	clocks      *clocks
	twin        *twin

	accepting sync.WaitGroup // the one goroutine that accepts
	serving   sync.WaitGroup // one for each stream with questions
	over      chan struct{}  // closed when the node stops

	mu      sync.Mutex // guards all below
	changed chan struct{}
	failure error
	failed  chan struct{}
	running bool
	ended   bool
	removed map[string]bool // members once, and no longer
	known   map[string]bool
}

// Open opens the node's folder, checks all of it and joins the members that it knows. An error that wraps ErrDamaged
// names the file and what is wrong with it. Run, or Close, must follow; cfg.Listener and cfg.Network are owned by the
// node, and closed where Open fails.
func Open(cfg Config) (*Node, error) {
	cfg, err := cfg.prepare()
	if err != nil {
		return nil, err
	}
	n := &Node{id: cfg.ID, cfg: cfg, logger: cfg.Logger, observer: cfg.Observer, network: cfg.Network,
		over: make(chan struct{}), changed: make(chan struct{}), failed: make(chan struct{}),
		removed: map[string]bool{}, known: map[string]bool{}, clocks: newClocks(cfg.Clock, cfg.Timing.Skew), twin: newTwin()}
	if n.network == nil {
		if n.network, err = transport.Listen(cfg.Listener, cfg.TLS, cfg.Logger); err != nil {
			return nil, errors.Join(err, cfg.Listener.Close())
		}
	}
	if err := n.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open node %s: %w", n.id, err), n.network.Close())
	}
	return n, nil
}

func (n *Node) open() (err error) {
	n.store, err = logstore.Open(logstore.Config{Dir: n.cfg.Dir, Failed: n.fail})
	if err != nil {
		return err
	}
	if err := n.openRaft(); err != nil {
		return errors.Join(err, n.store.Close())
	}
	n.links = newLinks(n.network, n.place)
	n.batch = &batcher{observer: n.observer, apply: func(data []byte) raft.ApplyFuture { return n.raft.Apply(data, 0) }}
	n.reads = &rounds{run: n.readIndex}
	n.leaderReads = &rounds{run: n.confirmRead}
	n.accepting.Go(n.accept)
	return nil
}

func (n *Node) openRaft() error {
	if err := n.store.HoldsUpTo(n.cfg.Machine.Applied()); err != nil {
		return err
	}
	empty, err := n.store.Empty()
	if err != nil {
		return err
	}
	if n.standing, err = openStanding(n.cfg.Dir, empty, n.cfg.Bootstrap); err != nil {
		return err
	}
	local := address(n.id, n.cfg.Advertise)
	conf := n.cfg.raft()
	n.streams = newStreams(n.network, local)
	n.trans = newRaftTransport(n.streams, n.standing, n.twin, conf.Logger)
	if empty && n.cfg.Bootstrap {
		err = n.store.Bootstrap(conf, raft.Server{ID: raft.ServerID(n.id), Address: local}, n.trans)
	}
	if err == nil {
		err = n.startRaft(conf)
	}
	if err != nil {
		return errors.Join(err, n.trans.Close())
	}
	return nil
}

// startRaft turns into an error what hashicorp/raft panics at: entries that it cannot read or decode.
func (n *Node) startRaft(conf *raft.Config) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("read the log in %s: %v: %w", n.cfg.Dir, reason, ErrDamaged)
		}
	}()
	n.fsm = newFSM(n.cfg.Machine, n.fail, n.configured)
	n.fsm.saved = n.observer.Snapshotted
	log, stable := faultLog{n.store.Log, &n.armed}, faultStable{n.store.Stable, &n.armed, n.fail}
	n.raft, err = raft.NewRaft(conf, n.fsm, log, stable, n.store.Snapshots, n.trans)
	n.armed.Store(true)
	if err != nil {
		return errors.Join(err, n.failureOf())
	}
	return nil
}

// configured ends this node's exclusion when a committed configuration has it as a voter again.
func (n *Node) configured(servers raft.Configuration, index uint64) {
	for _, server := range servers.Servers {
		if string(server.ID) != n.id || server.Suffrage != raft.Voter {
			continue
		}
		if err := n.standing.promote(index); err != nil {
			n.fail(err)
		}
	}
}

// fail stops the node with err, the first time.
func (n *Node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failure == nil {
		n.failure = err
		close(n.failed)
	}
}

func (n *Node) failureOf() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.failure
}

// stopped gives the reason why the node takes no more requests, nil while it does.
func (n *Node) stopped() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failure != nil {
		return errors.Join(ErrClosed, n.failure)
	}
	if n.ended {
		return ErrClosed
	}
	return nil
}

// leaderChange gives a channel that is closed when the leader, or its readiness, changes.
func (n *Node) leaderChange() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

func (n *Node) announce() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *Node) isRemoved(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.removed[id]
}
