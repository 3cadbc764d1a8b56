package kv_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"warder/keystore/kv"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/batch.txt anew")

// vectors are the batches that testdata/batch.txt holds the bytes of.
func vectors() map[string]kv.Batch {
	r, p, c, l := record("ns", "a"), prefix("ns"), counter("c"), logOf("l")
	leaf := kv.Target{Space: kv.SpaceLeaf, Path: l.Path, Index: 7}
	ring := kv.Target{Space: kv.SpaceKeyring}
	return map[string]kv.Batch{
		"empty":   {},
		"put":     {Put: []kv.Put{{Target: r, Sealed: sealed("value")}}},
		"keyring": {If: []kv.If{{Target: ring, Revision: 2}}, Put: []kv.Put{{Target: ring, Sealed: []byte("ring")}}},
		"floor":   {Put: []kv.Put{{Target: kv.Target{Space: kv.SpaceFloor}, Sealed: []byte{0, 0, 0, 2}}}},
		"leaf":    {If: []kv.If{{Target: leaf, Revision: 9}}, Put: []kv.Put{{Target: leaf, Sealed: sealed("leaf")}}},
		"everything": {
			If:     []kv.If{{Target: r, Revision: 1}, {Target: p, Revision: 1 << 40}, {Target: c}, {Target: l}},
			Put:    []kv.Put{{Target: r, Sealed: sealed("")}},
			Delete: []kv.Target{record("gone"), leaf},
			Append: []kv.Append{{Target: l, Sealed: sealed("x")}},
			Add:    []kv.Add{{Target: c, Delta: -1, Limit: -1 << 63}},
		},
	}
}

func TestBatchVectors(t *testing.T) {
	const name = "testdata/batch.txt"
	if *rewrite {
		var out strings.Builder
		for _, n := range []string{"empty", "put", "keyring", "floor", "leaf", "everything"} {
			fmt.Fprintf(&out, "%s %x\n", n, encode(t, vectors()[n]))
		}
		must(t, os.WriteFile(name, []byte(out.String()), 0o600))
	}
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	seen := 0
	for lines := bufio.NewScanner(f); lines.Scan(); seen++ {
		n, digits, _ := strings.Cut(lines.Text(), " ")
		want, err := hex.DecodeString(digits)
		must(t, err)
		b := vectors()[n]
		if got := encode(t, b); !bytes.Equal(got, want) {
			t.Errorf("%s encodes to %x", n, got)
		}
		got, err := kv.DecodeBatch(want)
		if err != nil || !reflect.DeepEqual(*got, b) {
			t.Errorf("%s decodes to %+v, %v", n, got, err)
		}
	}
	if seen != len(vectors()) {
		t.Errorf("%d vectors in %s, want %d", seen, name, len(vectors()))
	}
}

// TestBatchRules breaks each rule that docs/formats.md states for a batch.
func TestBatchRules(t *testing.T) {
	r, c, l, v := record("a"), counter("c"), logOf("l"), sealed("v")
	leaf := kv.Target{Space: kv.SpaceLeaf, Path: l.Path, Index: 1}
	many := make([]kv.Add, kv.MaxOperations+1)
	for i := range many {
		many[i] = kv.Add{Target: c}
	}
	deep := kv.Batch{}
	for i := range 1100 { // of 8,800 rows
		deep.Put = append(deep.Put, kv.Put{Target: record(fmt.Sprint(i), "1", "2", "3", "4", "5", "6", "7"), Sealed: v})
	}
	wide := kv.Batch{} // light, but 12,384 rows
	for i := range 4000 {
		wide.Delete = append(wide.Delete, record(fmt.Sprint(i), "1", "2"))
	}
	for i := range 96 {
		wide.Delete = append(wide.Delete, record(fmt.Sprint("w", i), "1", "2", "3"))
	}
	for name, b := range map[string]kv.Batch{
		"put twice":           {Put: []kv.Put{{Target: r, Sealed: v}, {Target: r, Sealed: v}}},
		"put and delete":      {Put: []kv.Put{{Target: r, Sealed: v}}, Delete: []kv.Target{r}},
		"add to a deleted":    {Delete: []kv.Target{c}, Add: []kv.Add{{Target: c}}},
		"put a new leaf":      {Put: []kv.Put{{Target: leaf, Sealed: v}}},
		"put an absent leaf":  {If: []kv.If{{Target: leaf}}, Put: []kv.Put{{Target: leaf, Sealed: v}}},
		"put a counter":       {Put: []kv.Put{{Target: c, Sealed: v}}},
		"delete a log":        {Delete: []kv.Target{l}},
		"delete the keyring":  {Delete: []kv.Target{{Space: kv.SpaceKeyring}}},
		"append to a record":  {Append: []kv.Append{{Target: r, Sealed: v}}},
		"add to a record":     {Add: []kv.Add{{Target: r}}},
		"half a part":         {Delete: []kv.Target{{Space: kv.SpaceRecord, Path: "short"}}},
		"no path":             {Delete: []kv.Target{{Space: kv.SpaceRecord}}},
		"too deep":            {Delete: []kv.Target{record("1", "2", "3", "4", "5", "6", "7", "8", "9")}},
		"index on a record":   {If: []kv.If{{Target: kv.Target{Space: kv.SpaceRecord, Path: r.Path, Index: 1}}}},
		"path on the keyring": {If: []kv.If{{Target: kv.Target{Space: kv.SpaceKeyring, Path: r.Path}}}},
		"the state":           {If: []kv.If{{Target: kv.Target{Space: 's'}}}},
		"too large a value":   {Put: []kv.Put{{Target: r, Sealed: make([]byte, 1<<20+4<<10+1)}}},
		"too large a keyring": {Put: []kv.Put{{Target: kv.Target{Space: kv.SpaceKeyring}, Sealed: make([]byte, 64<<10+1)}}},
		"no value":            {Put: []kv.Put{{Target: r}}},
		"too short a value":   {Put: []kv.Put{{Target: r, Sealed: v[:32]}}},
		"too short a seal":    {If: []kv.If{{Target: leaf, Revision: 1}}, Put: []kv.Put{{Target: leaf, Sealed: v[:32]}}},
		"too short a leaf":    {Append: []kv.Append{{Target: l, Sealed: v[:32]}}},
		"no floor":            {Put: []kv.Put{{Target: kv.Target{Space: kv.SpaceFloor}}}},
		"too large a leaf":    {Append: []kv.Append{{Target: l, Sealed: make([]byte, 2<<20)}}},
		"too many operations": {Add: many},
		"too many rows":       wide,
		"too heavy rows":      deep,
		"too large a whole":   {Append: []kv.Append{{l, make([]byte, 1<<20)}, {l, make([]byte, 1<<20)}, {l, make([]byte, 1<<20)}, {l, make([]byte, 1<<20)}}},
	} {
		if _, err := b.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	for _, b := range vectors() {
		f.Add(encode(f, b))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := kv.DecodeBatch(data)
		if err != nil {
			return
		}
		again, err := b.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("decodes, but encodes to %x, %v", again, err)
		}
	})
}

func FuzzDecodeResult(f *testing.F) {
	f.Add(kv.Result{Status: kv.StatusOK, Revision: 3, Appended: []uint64{1, 2}, Counters: []int64{-1}}.Encode())
	f.Add(kv.Result{Status: kv.StatusConflict, Failed: 4}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := kv.DecodeResult(data)
		if err == nil && !bytes.Equal(r.Encode(), data) {
			t.Fatalf("decodes to %+v, which encodes to %x", r, r.Encode())
		}
	})
}

// FuzzSnapshot wants a stream that verifies to restore, and to be written again
// byte for byte; and one that does not to leave the store alone.
func FuzzSnapshot(f *testing.F) {
	from := openStore(f, f.TempDir())
	f.Add(snapshotOf(f, from))
	apply(f, from, 3, put(record("ns", "a"), "value"), put(record("b"), ""))
	f.Add(snapshotOf(f, from))
	f.Fuzz(func(t *testing.T, data []byte) {
		index, _, err := kv.VerifySnapshot(bytes.NewReader(data))
		if err != nil {
			return
		}
		s := openStore(t, t.TempDir())
		if err := s.Restore(bytes.NewReader(data)); err != nil || s.Applied() != index {
			t.Fatalf("verifies at %d, restored at %d: %v", index, s.Applied(), err)
		}
		if index != 0 && !bytes.Equal(snapshotOf(t, s), data) {
			t.Fatal("restored, but its snapshot is another")
		}
	})
}
