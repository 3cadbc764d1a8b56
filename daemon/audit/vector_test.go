package audit

import (
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"warder/api/verify"
)

// vector is testdata/segment.json: the bytes of a segment of two groups, of two records and of one. They must never
// change.
type vector struct {
	LogID   string   `json:"log_id"`
	First   uint64   `json:"first"`
	Records []string `json:"records"` // text here, for the sake of the reader
	Groups  []int    `json:"groups"`  // how many records each has
	Roots   []string `json:"roots"`   // after each group
	Segment string   `json:"segment"`
}

func TestSegmentVector(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("testdata", "segment.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v vector
	if err := json.Unmarshal(content, &v); err != nil {
		t.Fatal(err)
	}
	var id [8]byte
	if _, err := hex.Decode(id[:], []byte(v.LogID)); err != nil {
		t.Fatal(err)
	}
	segment, tree, next := appendHeader(nil, id, v.First, nil), verify.Tree{}, 0
	for i, n := range v.Groups {
		g := newGroup(uint64(next))
		for range n {
			leaf := []byte(v.Records[next])
			g.add(uint64(next), leaf, verify.LeafHash(leaf), crc32.Checksum(leaf, castagnoli))
			tree.Append(g.leaves[len(g.leaves)-1], nil)
			next++
		}
		g.end(id, position{tree.Size(), tree.Root()})
		segment = append(segment, g.frames...)
		if root := tree.Root(); hex.EncodeToString(root[:]) != v.Roots[i] {
			t.Errorf("root after group %d: %x", i, root)
		}
	}
	if got := hex.EncodeToString(segment); got != v.Segment {
		t.Errorf("segment: %s", got)
	}
}
