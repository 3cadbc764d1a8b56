package cluster

import (
	"errors"

	"warder/cluster/logstore"
)

var (
	// ErrNoLeader means that no leader was found in time. The entry was not proposed: it is safe to try again.
	ErrNoLeader = errors.New("cluster has no leader, nothing was proposed: try again")
	// ErrOutcomeUnknown means that the entry may or may not have been, or may yet be, applied.
	ErrOutcomeUnknown = errors.New("outcome is unknown: the entry may have been applied")
	// ErrOverloaded means that too many entries wait. The entry was not proposed.
	ErrOverloaded = errors.New("cluster is overloaded, nothing was proposed: try again later")
	// ErrTooLarge means that the entry is longer than MaxEntry. It was not proposed.
	ErrTooLarge = errors.New("entry is too large")
	// ErrDamaged marks stored bytes that are not what was written; the message names the file and the reason.
	ErrDamaged = logstore.ErrDamaged
	// ErrDiverged means that this node's state differs from that of the majority at the same index.
	ErrDiverged = errors.New("state differs from the other members'")
	// ErrNotMember marks an ID that the cluster's configuration does not hold.
	ErrNotMember = errors.New("node is not a member")
	// ErrLastVoter means that the change would leave the cluster without a voter.
	ErrLastVoter = errors.New("node is the last voter")
	// ErrClock means that this node's clock is not within Timing.Skew of a majority's. Nothing was proposed.
	ErrClock = errors.New("clock is not right")
	// ErrClosed means that the node has stopped.
	ErrClosed = errors.New("node has stopped")
)
