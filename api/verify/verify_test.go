package verify_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"warder/api/verify"
)

var key = ed25519.NewKeyFromSeed([]byte("an audit key for tests, 32 bytes"))

var origin = verify.Origin{Node: "n1", Log: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}}

func record(i int) verify.Record {
	return verify.Record{Time: time.Unix(1_800_000_000, int64(i)).UTC(), RequestID: fmt.Sprintf("req-%d", i), Node: "n1",
		Method: "warder.v1.Health/Get", Decision: verify.Allow}
}

func leaves(t testing.TB, n int) [][]byte {
	t.Helper()
	all := make([][]byte, n)
	for i := range all {
		r := record(i)
		leaf, err := r.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		all[i] = leaf
	}
	return all
}

func keys(t testing.TB) []string {
	t.Helper()
	text, err := verify.VerifierKey("n1", key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return []string{text}
}

func sign(t testing.TB, leaves [][]byte) verify.Checkpoint {
	t.Helper()
	var tree verify.Tree
	for _, leaf := range leaves {
		tree.Append(verify.LeafHash(leaf), nil)
	}
	c := verify.Checkpoint{Origin: origin, Size: tree.Size(), Root: tree.Root(), Time: time.Unix(1_800_000_100, 0)}
	if err := verify.SignCheckpoint(&c, key); err != nil {
		t.Fatal(err)
	}
	return c
}

func anchor(c verify.Checkpoint) verify.Anchor {
	return verify.Anchor{Origin: c.Origin, Size: c.Size, Root: c.Root, Time: c.Time}
}

// source gives leaves as entries; stored are the leaves whose hashes the node wrote at the time.
func source(leaves, stored [][]byte) iter.Seq2[verify.Entry, error] {
	return func(yield func(verify.Entry, error) bool) {
		for i, leaf := range leaves {
			e := verify.Entry{Index: uint64(i), Leaf: leaf}
			if i < len(stored) {
				e.Stored = verify.LeafHash(stored[i])
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestLogProvesAWholeLog(t *testing.T) {
	all := leaves(t, 20)
	evidence := verify.Evidence{Checkpoint: sign(t, all[:17]).Note, Keys: keys(t),
		Anchors: []verify.Anchor{anchor(sign(t, all[:16])), anchor(sign(t, all[:3])), anchor(sign(t, nil))}}
	former := evidence.Anchors[0]
	former.Origin.Log[0] = 99
	evidence.Anchors = append(evidence.Anchors, former)
	report, err := verify.Log(source(all, nil), evidence)
	if err != nil {
		t.Fatal(err)
	}
	if report.Entries != 20 || report.Unsigned != 3 || report.Anchors != 3 || len(report.Earlier) != 1 || report.Denied != 0 {
		t.Errorf("report: %+v", report)
	}
}

func TestLogNamesEachFault(t *testing.T) {
	all := leaves(t, 20)
	changed := slices.Clone(all)
	changed[9] = leaves(t, 40)[39]
	foreign := record(5)
	foreign.Node = "n2"
	foreignLeaf, err := foreign.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	otherNode := slices.Clone(all)
	otherNode[5] = foreignLeaf
	garbled := slices.Clone(all)
	garbled[6] = append(slices.Clone(all[6]), 0)
	whole := sign(t, all)
	half := anchor(sign(t, all[:8]))
	swapped := slices.Clone(all)
	swapped[3], swapped[4] = swapped[4], swapped[3]
	edited := whole
	edited.Note = []byte(strings.Replace(string(whole.Note), "\n20\n", "\n19\n", 1))

	for name, c := range map[string]struct {
		entries    iter.Seq2[verify.Entry, error]
		checkpoint []byte
		anchors    []verify.Anchor
		kind       error
		from, to   uint64
		exact      bool
	}{
		"changed entry":              {source(changed, nil), whole.Note, []verify.Anchor{half}, verify.ErrChanged, 8, 20, false},
		"changed entry, hash kept":   {source(changed, all), whole.Note, []verify.Anchor{half}, verify.ErrChanged, 9, 20, true},
		"swapped entries":            {source(swapped, nil), whole.Note, []verify.Anchor{half}, verify.ErrRewritten, 0, 8, false},
		"rewritten and signed again": {source(changed, nil), sign(t, changed).Note, []verify.Anchor{half, anchor(sign(t, all[:12]))}, verify.ErrRewritten, 8, 12, false},
		"cut":                        {source(all[:18], nil), whole.Note, nil, verify.ErrTruncated, 18, 20, false},
		"cut and signed again":       {source(all[:18], nil), sign(t, all[:18]).Note, []verify.Anchor{anchor(whole)}, verify.ErrTruncated, 18, 20, false},
		"empty":                      {source(nil, nil), whole.Note, nil, verify.ErrTruncated, 0, 20, false},
		"entry of another node":      {source(otherNode, nil), whole.Note, nil, verify.ErrBadEntry, 5, 0, true},
		"garbled entry":              {source(garbled, nil), whole.Note, nil, verify.ErrBadEntry, 6, 0, true},
		"edited checkpoint":          {source(all, nil), edited.Note, nil, verify.ErrBadSignature, 0, 0, false},
		"no checkpoint":              {source(all, nil), nil, nil, verify.ErrBadSignature, 0, 0, false},
		"gap": {func(yield func(verify.Entry, error) bool) {
			_ = yield(verify.Entry{Index: 0, Leaf: all[0]}, nil) && yield(verify.Entry{Index: 2, Leaf: all[2]}, nil)
		}, whole.Note, nil, verify.ErrGap, 1, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := verify.Log(c.entries, verify.Evidence{Checkpoint: c.checkpoint, Keys: keys(t), Anchors: c.anchors})
			var fault *verify.Fault
			if !errors.As(err, &fault) || !errors.Is(err, c.kind) {
				t.Fatalf("got %v, want %v", err, c.kind)
			}
			if fault.From != c.from || fault.To != c.to || fault.Exact != c.exact {
				t.Errorf("named %d to %d, exact %v: %v", fault.From, fault.To, fault.Exact, err)
			}
		})
	}
}

func TestCheckpointOfAnotherNodeOrKeyIsRefused(t *testing.T) {
	c := sign(t, leaves(t, 2))
	other := ed25519.NewKeyFromSeed(make([]byte, 32))
	otherKey, err := verify.VerifierKey("n1", other.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify.OpenCheckpoint(c.Note, otherKey); !errors.Is(err, verify.ErrBadSignature) {
		t.Errorf("another key: %v", err)
	}
	if opened, err := verify.OpenCheckpoint(c.Note, otherKey, keys(t)[0]); err != nil || opened.Size != 2 {
		t.Errorf("a former key: %v", err)
	}
	if _, err := verify.OpenCheckpoint(c.Note); !errors.Is(err, verify.ErrBadSignature) {
		t.Errorf("no key: %v", err)
	}
	if _, err := verify.OpenCheckpoint(make([]byte, verify.MaxCheckpoint+1), keys(t)...); !errors.Is(err, verify.ErrBadSignature) {
		t.Errorf("too long: %v", err)
	}
}

// TestTreeAgreesWithTlog holds our tree to golang.org/x/mod/sumdb/tlog at every size up to 300.
func TestTreeAgreesWithTlog(t *testing.T) {
	var tree verify.Tree
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = stored[index]
		}
		return out, nil
	})
	for i := range 300 {
		root, err := tlog.TreeHash(int64(i), reader)
		if err != nil || root != tree.Root() {
			t.Fatalf("size %d: root %v, tlog has %v, %v", i, tree.Root(), root, err)
		}
		edge, err := reader.ReadHashes(verify.EdgeIndexes(uint64(i)))
		if err != nil {
			t.Fatal(err)
		}
		resumed := verify.ResumeTree(uint64(i), edge)
		if resumed.Root() != root {
			t.Fatalf("size %d: the resumed tree has another root", i)
		}
		leaf := []byte{byte(i), byte(i >> 8)}
		want, err := tlog.StoredHashes(int64(i), leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		got := tree.Append(verify.LeafHash(leaf), nil)
		if !slices.Equal(got, want) {
			t.Fatalf("size %d: stored hashes differ from tlog's", i)
		}
		stored = append(stored, got...)
	}
}
