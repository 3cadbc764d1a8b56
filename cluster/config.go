package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"warder/cluster/transport"
)

const (
	// MaxEntry bounds one proposed entry, in bytes.
	MaxEntry = 5 << 20

	groupBytes   = 1 << 20 // a Raft entry takes more only where one proposal alone is larger
	groupEntries = 1024
	groupsFlying = 2        // Raft entries in flight
	queueBytes   = 64 << 20 // of proposals that wait
	queueEntries = 64 << 10
)

// Machine is the replicated state machine. Apply, Snapshot and Restore are called from one goroutine; Applied,
// StateHash and the writing of a snapshot run beside them.
type Machine interface {
	// Apply applies the entries at index, in order, and gives a result for each. It is called with rising
	// indexes above Applied, and must be a pure function of the state and the entries. An error means that the
	// storage failed: the node stops.
	Apply(index uint64, entries [][]byte) (results [][]byte, err error)
	// Applied gives the highest index that the durable state holds, 0 for none.
	Applied() uint64
	// StateHash gives a hash of the whole state, and the index at which it was taken.
	StateHash() (index uint64, hash [32]byte)
	// Snapshot gives the state of this moment.
	Snapshot() (Snapshot, error)
	// Restore replaces the state by a snapshot's, unless that is at or below Applied.
	Restore(r io.Reader) error
}

// Snapshot is a machine's state at one moment, which Apply no longer changes.
type Snapshot interface {
	WriteTo(w io.Writer) (int64, error) // may run beside Apply
	Index() uint64                      // the highest index that it holds
	Close() error
}

// TLS says who this node is and whom it accepts.
type TLS = transport.TLS

// Config describes a node. ID, Dir, Advertise and Machine are needed, and a Network or a Listener with TLS.
type Config struct {
	ID        string // [a-z0-9] with single "-" inside, 1 to 63 bytes; the name in its certificate
	Dir       string // of the log, the vote and the snapshots; made where it is missing
	Advertise string // host:port at which the other members reach the listener
	Machine   Machine

	Listener net.Listener // owned by the node from Open on
	TLS      TLS
	// Network takes the place of Listener and TLS, in tests.
	Network transport.Network

	// Bootstrap begins a new cluster with this node as its only member, where Dir holds none. Set it on one node,
	// once: with a lost Dir it begins a second cluster.
	Bootstrap bool

	// Clock is the wall clock, which is held against the other members'; time.Now when nil. Raft does not look at it.
	Clock func() time.Time

	Timing   Timing
	Logger   *slog.Logger // default: discard
	Observer Observer     // may be nil
}

// Timing holds durations; zero means the default. The defaults elect a new leader 0.7 s after a leader is
// killed, and are stable on two busy cores.
type Timing struct {
	RoundTrip  time.Duration // 30 ms: what a message to the farthest member and its answer may take; the next three follow from it
	Heartbeat  time.Duration // 11 round trips: a follower that hears nothing for so long asks for an election
	Election   time.Duration // 11 round trips: an election that takes longer begins again
	Lease      time.Duration // 11 round trips, and no more than Heartbeat: a leader that reaches no majority for so long steps down
	Commit     time.Duration // 20 ms: at most so long until followers hear of a commit
	Stall      time.Duration // 3 s: a leader whose disk or machine hangs for so long goes silent, so that another is elected
	LeaderWait time.Duration // 3 s, or 30 round trips: how long Propose and Barrier look for a leader
	Fresh      time.Duration // 200 ms: between two checks that this node is up to date
	Tend       time.Duration // 250 ms: between two looks of the leader at its members
	Skew       time.Duration // 30 s: a node whose clock is further from a majority's proposes nothing, see Node.Clock

	// SnapshotBytes of log since the last snapshot cause one: 64 MiB. SnapshotEntries likewise: 8192.
	SnapshotBytes   uint64
	SnapshotEntries uint64
	// TrailingEntries of log stay behind a snapshot for followers that lag: 1024.
	TrailingEntries uint64
}

// Observer hears what a node does, for metrics and alarms. Its methods must return at once.
type Observer interface {
	Grouped(entries, bytes int)                  // a Raft entry was made of so many proposals
	Committed(took time.Duration)                // a Raft entry was applied
	LeaderChanged(id string)                     // "" when there is none
	Diverged(index uint64, members []string)     // members' states differ at index; Run ends on those in the minority
	Snapshotted(bytes int64, took time.Duration) // a snapshot was saved
}

func (t Timing) withDefaults() Timing {
	t.RoundTrip = cmp.Or(t.RoundTrip, 30*time.Millisecond)
	t.Heartbeat = cmp.Or(t.Heartbeat, 11*t.RoundTrip)
	t.Election = cmp.Or(t.Election, 11*t.RoundTrip)
	t.Lease = cmp.Or(t.Lease, 11*t.RoundTrip)
	t.Commit = cmp.Or(t.Commit, 20*time.Millisecond)
	t.Stall = cmp.Or(t.Stall, 3*time.Second)
	t.LeaderWait = cmp.Or(t.LeaderWait, max(3*time.Second, 30*t.RoundTrip))
	t.Fresh = cmp.Or(t.Fresh, 200*time.Millisecond)
	t.Tend = cmp.Or(t.Tend, 250*time.Millisecond)
	t.Skew = cmp.Or(t.Skew, 30*time.Second)
	t.SnapshotBytes = cmp.Or(t.SnapshotBytes, 64<<20)
	t.SnapshotEntries = cmp.Or(t.SnapshotEntries, 8192)
	t.TrailingEntries = cmp.Or(t.TrailingEntries, 1024)
	return t
}

func (c Config) prepare() (Config, error) {
	c.Timing = c.Timing.withDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Observer == nil {
		c.Observer = silent{}
	}
	switch {
	case !transport.ValidID(c.ID):
		return c, fmt.Errorf("node ID %q is not valid: use a-z, 0-9 and single - inside, at most 63", c.ID)
	case c.Dir == "":
		return c, errors.New("node needs a folder")
	case c.Machine == nil:
		return c, errors.New("node needs a machine")
	case c.Network == nil && c.Listener == nil:
		return c, errors.New("node needs a listener")
	}
	if _, _, err := net.SplitHostPort(c.Advertise); err != nil {
		return c, fmt.Errorf("advertised address %q is not host:port: %w", c.Advertise, err)
	}
	return c, nil
}

func (c Config) raft() *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(c.ID)
	conf.HeartbeatTimeout = c.Timing.Heartbeat
	conf.ElectionTimeout = c.Timing.Election
	conf.LeaderLeaseTimeout = c.Timing.Lease
	conf.CommitTimeout = c.Timing.Commit
	conf.SnapshotThreshold = c.Timing.SnapshotEntries
	conf.SnapshotInterval = 20 * time.Second
	conf.TrailingLogs = c.Timing.TrailingEntries
	conf.MaxAppendEntries = 16 // of up to 1 MiB each, mostly
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	conf.Logger = newHCLog(c.Logger)
	return conf
}

type silent struct{}

func (silent) Grouped(int, int)                 {}
func (silent) Committed(time.Duration)          {}
func (silent) LeaderChanged(string)             {}
func (silent) Diverged(uint64, []string)        {}
func (silent) Snapshotted(int64, time.Duration) {}
