// Package verify reads and proves an audit log without trusting the node that kept it.
//
// An audit log is an append-only Merkle tree (RFC 6962 2.1 hashing, as in C2SP tlog-tiles) whose leaves are
// [Record] values in their canonical encoding. The node signs a [Checkpoint] (size and root, a C2SP signed note)
// every second, and the cluster keeps an [Anchor] of it every few seconds. [Log] recomputes the tree from the
// entries and holds it against both, so that an entry that was changed, left out, added in the middle or cut from
// the end is named.
//
// The package is pure: no files, no network, no clock. The daemon uses it to write, the command line to check.
// The bytes are drawn in docs/formats.md, section "Audit log"; vectors are in testdata.
package verify
