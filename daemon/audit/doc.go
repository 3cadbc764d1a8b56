// Package audit keeps one node's log of every decision: an append-only Merkle tree in a directory, whose records
// are durable before the answer leaves the node.
//
// [Log.Append] returns when its record is on disk. A record that cannot be written is an error for the caller, who
// then gives no answer; the log latches the failure, refuses everything after it and is unhealthy, because a file
// whose fsync failed once cannot be trusted again until it is reopened and checked.
//
// The directory holds
//
//	<first index, 20 digits>.seg   frames: length, checksum, record; at most 64 MiB each
//	mark                           how much was acknowledged: size and root, fsynced after the records and before the answer
//	hashes                         the tree's nodes, for proofs; derived, and rebuilt from the segments when it is wrong
//	checkpoint                     the latest signed checkpoint
//
// The mark is what tells a crash from damage: what it does not cover was never acknowledged, so a torn end there is
// cut; anything else that does not read back as it was written is a [Damage] that names the place. Bytes that were
// rewritten with their checksums are found by the root; bytes rewritten together with the mark and the checkpoint
// by the anchors that the cluster keeps ([Log.Check], package api/verify).
package audit
