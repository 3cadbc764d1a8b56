// Package cluster agrees: it replicates an ordered log of opaque entries among nodes and applies it to a
// Machine on each of them, in the same order, once.
//
// It is hashicorp/raft behind Node. Node adds what that library leaves to its user: entries that arrive
// together share one Raft entry and one fsync; a follower forwards to the leader and answers when its own
// machine has applied the entry; Barrier makes a following read linearizable on any node; a failed write stops
// the node; damage to what is stored is found and named; a node whose disk was lost takes no part in elections
// until the leader has demoted it, brought it up to date and promoted it again. DESIGN.md says why.
package cluster
