package kv_test

import (
	"bytes"
	"errors"
	"testing"

	"warder/keystore/kv"
)

// path makes a blinded path out of readable parts.
func path(parts ...string) string {
	var b []byte
	for _, p := range parts {
		b = append(b, bytes.Repeat([]byte{'.'}, 16-len(p))...)
		b = append(b, p...)
	}
	return string(b)
}

func record(parts ...string) kv.Target {
	return kv.Target{Space: kv.SpaceRecord, Path: path(parts...)}
}

func prefix(parts ...string) kv.Target {
	return kv.Target{Space: kv.SpacePrefix, Path: path(parts...)}
}

func counter(parts ...string) kv.Target {
	return kv.Target{Space: kv.SpaceCounter, Path: path(parts...)}
}

func logOf(parts ...string) kv.Target {
	return kv.Target{Space: kv.SpaceLog, Path: path(parts...)}
}

func openStore(t testing.TB, dir string) *kv.Store {
	t.Helper()
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func encode(t testing.TB, b kv.Batch) []byte {
	t.Helper()
	e, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// apply applies the batches as one entry and returns their results.
func apply(t testing.TB, s *kv.Store, index uint64, batches ...kv.Batch) []kv.Result {
	t.Helper()
	var entries [][]byte
	for _, b := range batches {
		entries = append(entries, encode(t, b))
	}
	answers, err := s.Apply(index, entries)
	if err != nil {
		t.Fatal(err)
	}
	var results []kv.Result
	for _, a := range answers {
		r, err := kv.DecodeResult(a)
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, r)
	}
	return results
}

// sealed gives a value the size of a sealed one.
func sealed(value string) []byte {
	return append(bytes.Repeat([]byte{1}, 33), value...)
}

func put(target kv.Target, value string) kv.Batch {
	return kv.Batch{Put: []kv.Put{{Target: target, Sealed: sealed(value)}}}
}

func TestApplyGroupsBatches(t *testing.T) {
	s := openStore(t, t.TempDir())
	a, c, l := record("ns", "a"), counter("c"), logOf("log")
	refused := put(a, "two")
	refused.If = []kv.If{{Target: prefix("ns"), Revision: 0}}
	overLimit := kv.Batch{Add: []kv.Add{{Target: c, Delta: 5, Limit: 9}, {Target: c, Delta: 5, Limit: 9}}}
	results := apply(t, s, 7,
		put(a, "one"),
		refused,
		kv.Batch{Append: []kv.Append{{Target: l, Sealed: sealed("x")}, {Target: l, Sealed: sealed("y")}}},
		overLimit,
		kv.Batch{Add: []kv.Add{{Target: c, Delta: 5, Limit: 9}}},
	)
	want := []kv.Status{kv.StatusOK, kv.StatusConflict, kv.StatusOK, kv.StatusLimit, kv.StatusOK}
	for i, r := range results {
		if r.Status != want[i] {
			t.Errorf("batch %d: %v, want %v", i, r.Status, want[i])
		}
	}
	if got := results[2].Appended; len(got) != 2 || got[0] != 0 || got[1] != 1 {
		t.Errorf("appended at %v", got)
	}
	if results[3].Failed != 1 || results[4].Counters[0] != 5 || results[4].Revision != 3 {
		t.Errorf("limit %+v, then %+v", results[3], results[4])
	}
	if s.Applied() != 7 {
		t.Errorf("applied %d", s.Applied())
	}
	again, err := s.Apply(7, [][]byte{encode(t, put(a, "three"))})
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := kv.DecodeResult(again[0]); r.Status != kv.StatusReplayed {
		t.Errorf("replay: %v", r.Status)
	}
}

func TestReopenAndSnapshot(t *testing.T) {
	dir := t.TempDir()
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(20) {
		apply(t, s, i+1, put(record("ns", string(rune('a'+i))), string(bytes.Repeat([]byte{byte(i)}, int(i)*30))))
	}
	_, before := s.StateHash()
	if _, err := kv.OpenStore(kv.StoreConfig{Dir: dir}); !errors.Is(err, kv.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	if _, after := s.StateHash(); after != before || s.Applied() != 20 {
		t.Fatalf("reopened at %d, hash equal: %v", s.Applied(), after == before)
	}
	snap, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	var stream bytes.Buffer
	if _, err := snap.WriteTo(&stream); err != nil {
		t.Fatal(err)
	}
	other := openStore(t, t.TempDir())
	if err := other.Restore(&stream); err != nil {
		t.Fatal(err)
	}
	if index, hash := other.StateHash(); index != 20 || hash != before {
		t.Errorf("restored at %d, hash equal: %v", index, hash == before)
	}
	apply(t, other, 21, put(record("ns", "z"), "more"))
}

func TestClosedStore(t *testing.T) {
	s, err := kv.OpenStore(kv.StoreConfig{Dir: t.TempDir()})
	must(t, err)
	apply(t, s, 1, put(record("a"), "v"))
	must(t, s.RunGC())
	snap, err := s.Snapshot()
	must(t, err)
	closed := make(chan error)
	go func() { closed <- s.Close() }() // waits for the snapshot
	_, err = snap.WriteTo(&bytes.Buffer{})
	must(t, errors.Join(err, snap.Close(), snap.Close(), <-closed, s.Close()))
	_, applyErr := s.Apply(2, nil)
	_, snapErr := s.Snapshot()
	_, _, ringErr := s.SealedKeyring()
	_, writeErr := snap.WriteTo(&bytes.Buffer{})
	for i, err := range []error{applyErr, snapErr, ringErr, writeErr, s.Mark(), s.RunGC(), s.Restore(&bytes.Buffer{})} {
		if !errors.Is(err, kv.ErrClosed) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if s.Applied() != 1 {
		t.Errorf("applied %d", s.Applied())
	}
}
