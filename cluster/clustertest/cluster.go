package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"warder/cluster"
)

// Cluster is n nodes named n1, n2, … in one process. Its methods are for the test's goroutine.
type Cluster struct {
	t       testing.TB
	dir     string
	timing  cluster.Timing
	clock   func(id string) time.Time
	logger  *slog.Logger
	Fabric  *Fabric
	members map[string]*member
}

type member struct {
	machine *Machine
	node    *cluster.Node
	cancel  context.CancelFunc
	ended   chan error // capacity 1
}

// Option changes how a cluster runs.
type Option func(*Cluster)

// WithTiming sets the nodes' timing.
func WithTiming(timing cluster.Timing) Option { return func(c *Cluster) { c.timing = timing } }

// WithClocks gives each node a wall clock of its own.
func WithClocks(clock func(id string) time.Time) Option { return func(c *Cluster) { c.clock = clock } }

// WithLogs sends the nodes' messages to the standard error, for a look at one test.
func WithLogs() Option {
	return func(c *Cluster) {
		c.logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
}

// New starts n nodes, n1 first and the others admitted by it, and waits until all of them vote. The nodes stop when
// the test ends.
func New(t testing.TB, n int, options ...Option) *Cluster {
	t.Helper()
	c := &Cluster{t: t, dir: t.TempDir(), Fabric: NewFabric(), members: map[string]*member{}, logger: slog.New(slog.DiscardHandler)}
	c.clock = func(string) time.Time { return time.Now() }
	for _, option := range options {
		option(c)
	}
	t.Cleanup(c.StopAll)
	c.members["n1"] = &member{machine: NewMachine()}
	c.start("n1", true)
	for i := 2; i <= n; i++ {
		id := fmt.Sprintf("n%d", i)
		c.Join(id)
		c.AwaitVoter(id)
	}
	return c
}

// Join starts a new node with an empty folder, and admits it.
func (c *Cluster) Join(id string) {
	c.t.Helper()
	c.members[id] = &member{machine: NewMachine()}
	c.start(id, false)
	if err := c.AnyNode().Admit(c.context(), id, advertise(id)); err != nil {
		c.t.Fatalf("admit %s: %v", id, err)
	}
}

func advertise(id string) string { return id + ".test:7000" }

func (c *Cluster) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c.t.Cleanup(cancel)
	return ctx
}

// Dir gives a node's folder.
func (c *Cluster) Dir(id string) string { return filepath.Join(c.dir, id) }

// Open opens a node that does not run, with its machine.
func (c *Cluster) Open(id string) (*cluster.Node, error) { return c.open(id, false) }

func (c *Cluster) open(id string, bootstrap bool) (*cluster.Node, error) {
	return cluster.Open(cluster.Config{ID: id, Dir: c.Dir(id), Advertise: advertise(id), Machine: c.members[id].machine,
		Network: c.Fabric.Join(id), Bootstrap: bootstrap, Timing: c.timing, Clock: func() time.Time { return c.clock(id) }, Logger: c.logger.With("node", id)})
}

// Start runs a node that does not run.
func (c *Cluster) Start(id string) {
	c.t.Helper()
	c.start(id, false)
}

func (c *Cluster) start(id string, bootstrap bool) {
	c.t.Helper()
	node, err := c.open(id, bootstrap)
	if err != nil {
		c.t.Fatalf("start %s: %v", id, err)
	}
	m := c.members[id]
	ctx, cancel := context.WithCancel(context.Background())
	m.node, m.cancel, m.ended = node, cancel, make(chan error, 1)
	go func() { m.ended <- node.Run(ctx) }()
}

// Stop ends a node cleanly.
func (c *Cluster) Stop(id string) {
	c.t.Helper()
	m := c.members[id]
	if m.node == nil {
		return
	}
	m.cancel()
	if err := <-m.ended; err != nil {
		c.t.Errorf("stop %s: %v", id, err)
	}
	m.node = nil
}

// Kill ends a node that can say nothing more to the others.
func (c *Cluster) Kill(id string) {
	c.t.Helper()
	if err := c.Fabric.port(id).Close(); err != nil {
		c.t.Errorf("kill %s: %v", id, err)
	}
	c.Stop(id)
}

// StopAll ends all nodes that run, and waits a moment for goroutines of hashicorp/raft's transport, which that does
// not wait for.
func (c *Cluster) StopAll() {
	defer time.Sleep(10 * time.Millisecond)
	for id, m := range c.members {
		if m.node == nil {
			continue
		}
		m.cancel()
		if err := <-m.ended; err != nil {
			c.t.Errorf("stop %s: %v", id, err)
		}
		m.node = nil
	}
}

// Ended waits until a node has ended by itself, and gives the reason.
func (c *Cluster) Ended(id string) error {
	m := c.members[id]
	err := <-m.ended
	m.cancel()
	m.node = nil
	return err
}

// Wipe empties the folder of a node that does not run, and gives it an empty machine.
func (c *Cluster) Wipe(id string) {
	c.t.Helper()
	if err := os.RemoveAll(c.Dir(id)); err != nil {
		c.t.Fatal(err)
	}
	c.members[id].machine = NewMachine()
}

// Node gives a node, nil when it does not run.
func (c *Cluster) Node(id string) *cluster.Node { return c.members[id].node }

// Machine gives a node's machine.
func (c *Cluster) Machine(id string) *Machine { return c.members[id].machine }

// IDs gives the names of all nodes, whether they run or not.
func (c *Cluster) IDs() []string {
	ids := make([]string, len(c.members))
	for i := range ids {
		ids[i] = fmt.Sprintf("n%d", i+1)
	}
	return ids
}

// AnyNode gives a node that runs, n1 if that does.
func (c *Cluster) AnyNode() *cluster.Node {
	for _, id := range c.IDs() {
		if m := c.members[id]; m != nil && m.node != nil {
			return m.node
		}
	}
	c.t.Fatal("no node runs")
	return nil
}

// Leader waits until the nodes that run, of those given or of all, have one that confirms that it leads.
func (c *Cluster) Leader(ids ...string) string {
	c.t.Helper()
	if len(ids) == 0 {
		ids = c.IDs()
	}
	for range 600 {
		for _, id := range ids {
			if node := c.Node(id); node != nil && node.IsLeader() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				err := node.Barrier(ctx)
				cancel()
				if err == nil && node.IsLeader() {
					return id
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatal("no leader in time")
	return ""
}

// Followers gives the nodes that run but for the leader.
func (c *Cluster) Followers() []string {
	c.t.Helper()
	leader, out := c.Leader(), []string(nil)
	for _, id := range c.IDs() {
		if id != leader && c.Node(id) != nil {
			out = append(out, id)
		}
	}
	return out
}

// AwaitVoter waits until every node that runs has id as a voter.
func (c *Cluster) AwaitVoter(id string) {
	c.t.Helper()
	c.Await("node "+id+" votes", func() bool {
		for _, m := range c.members {
			if m.node != nil && !isVoter(m.node, id) {
				return false
			}
		}
		return true
	})
}

func isVoter(node *cluster.Node, id string) bool {
	members, err := node.Members(context.Background())
	for _, one := range members {
		if one.ID == id {
			return err == nil && one.Voter
		}
	}
	return false
}

// Await waits until ok, at most a minute.
func (c *Cluster) Await(what string, ok func() bool) {
	c.t.Helper()
	for range 1200 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatalf("not in time: %s", what)
}

// Agree waits until all nodes that run have the same state.
func (c *Cluster) Agree() {
	c.t.Helper()
	c.Await("all states are the same", func() bool {
		seen := map[[32]byte]bool{}
		for _, m := range c.members {
			if m.node != nil {
				_, hash := m.machine.StateHash()
				seen[hash] = true
			}
		}
		return len(seen) == 1
	})
}
