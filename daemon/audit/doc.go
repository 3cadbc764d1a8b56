// Package audit keeps one node's log of every decision: an append-only Merkle tree in a directory, whose records
// are durable before the answer leaves the node.
//
// [Log.Append] returns when its record is on disk. A record that cannot be written is an error for the caller, who
// then gives no answer; the log latches the failure, refuses everything after it and is unhealthy, because a file
// whose fsync failed once cannot be trusted again until it is reopened and checked.
//
// The directory holds
//
//	<first index, 20 digits>.seg   groups: frames (length, checksum, record) and a footer (size, root); at most 64 MiB each
//	mark                           how much was acknowledged at least: size and root, synced behind the records
//	hashes                         the tree's nodes, for proofs; derived, and rebuilt from the segments when it is wrong
//	checkpoint                     the latest signed checkpoint
//
// One fsync makes a group durable: its footer says that its frames are all there. It is written over zeros that are
// on disk already, so that the file system has nothing else to write. The mark follows within 50 ms
// ([Config].MarkEvery), as cluster/logstore's does.
//
// Mark and footers tell a crash from damage. What the mark covers must be there. Behind it whole groups are kept; one
// write that was cut short may follow, and is cut. It is known by what is missing (its end, or a sector) and by no
// later group following it. Anything else that does not read back as it was written is a [Damage] that names the place.
// What that leaves: damage that takes a sector or the end of the log, in the last 50 ms before a crash, is taken for a
// write that was cut short. Anchors show it.
//
// Bytes that were rewritten with their checksums are found by the root; bytes rewritten together with the mark, the
// footers and the checkpoint by the anchors that the cluster keeps ([Log.Check], package api/verify).
package audit
