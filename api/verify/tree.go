package verify

import (
	"crypto/sha256"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a node of the Merkle tree.
type Hash = tlog.Hash

// LeafHash is the hash of one encoded record: SHA-256(0x00 || leaf), RFC 6962 2.1.
func LeafHash(leaf []byte) Hash {
	buf := make([]byte, 0, 1+len(leaf))
	return sha256.Sum256(append(append(buf, 0), leaf...))
}

// nodeHash is SHA-256(0x01 || left || right), RFC 6962 2.1; unlike tlog.NodeHash it does not allocate.
func nodeHash(left, right Hash) Hash {
	var buf [1 + 2*tlog.HashSize]byte
	buf[0] = 1
	copy(buf[1:], left[:])
	copy(buf[1+tlog.HashSize:], right[:])
	return sha256.Sum256(buf[:])
}

// Tree is the right edge of a growing Merkle tree: enough to append and to know the root. The zero Tree is empty.
type Tree struct {
	size uint64
	edge []Hash // roots of the complete subtrees, largest first; one for each bit set in size
}

// ResumeTree gives the tree of size whose complete subtrees, largest first, are edge: the hashes at
// [EdgeIndexes]. It panics when their number is wrong.
func ResumeTree(size uint64, edge []Hash) Tree {
	if len(edge) != len(EdgeIndexes(size)) {
		panic("verify: ResumeTree with a wrong number of hashes")
	}
	return Tree{size: size, edge: append([]Hash(nil), edge...)}
}

// EdgeIndexes gives the stored hash indexes (tlog.StoredHashIndex) of the complete subtrees of a tree of size.
func EdgeIndexes(size uint64) []int64 {
	var indexes []int64
	var start uint64
	for level := 63; level >= 0; level-- {
		if width := uint64(1) << level; size&width != 0 {
			indexes = append(indexes, tlog.StoredHashIndex(level, int64(start>>level)))
			start += width
		}
	}
	return indexes
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 { return t.size }

// Append adds a leaf and appends to stored the hashes that it completes, in the order of tlog.StoredHashes.
func (t *Tree) Append(leaf Hash, stored []Hash) []Hash {
	stored = append(stored, leaf)
	for n := t.size; n&1 == 1; n >>= 1 {
		leaf = nodeHash(t.edge[len(t.edge)-1], leaf)
		t.edge = t.edge[:len(t.edge)-1]
		stored = append(stored, leaf)
	}
	t.edge = append(t.edge, leaf)
	t.size++
	return stored
}

// Root is the Merkle tree hash; of an empty tree SHA-256 of nothing.
func (t *Tree) Root() Hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	root := t.edge[len(t.edge)-1]
	for i := len(t.edge) - 2; i >= 0; i-- {
		root = nodeHash(t.edge[i], root)
	}
	return root
}

// Clone gives a tree that grows on its own.
func (t *Tree) Clone() Tree { return Tree{size: t.size, edge: append([]Hash(nil), t.edge...)} }
