package kv_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"warder/keystore/kv"
)

// manyRows are batches of light rows: together far more than Badger takes in
// one transaction, but weighing no more than two of the heaviest batches. The
// second entry takes away again what the first one puts.
func manyRows() (puts, deletes []kv.Batch) {
	for n := range 4 {
		var put, remove kv.Batch
		for i := range kv.MaxOperations {
			c := counter(fmt.Sprint(n, "c", i))
			put.Add = append(put.Add, kv.Add{Target: c, Delta: 1, Limit: 1})
			remove.Delete = append(remove.Delete, c)
		}
		puts, deletes = append(puts, put), append(deletes, remove)
	}
	var put, remove kv.Batch
	for i := range 3900 {
		r := record(fmt.Sprint(i), "deep", "record")
		put.Put = append(put.Put, kv.Put{Target: r, Sealed: sealed("")})
		remove.Delete = append(remove.Delete, r)
	}
	return append(puts, put), append(deletes, remove)
}

// TestManyRows applies entries of more rows than a transaction takes.
func TestManyRows(t *testing.T) {
	t.Parallel() // it waits for the disk
	s := openStore(t, t.TempDir())
	_, empty := s.StateHash()
	puts, deletes := manyRows()
	for i, entry := range [][]kv.Batch{puts, deletes} {
		for n, r := range apply(t, s, uint64(i+1), entry...) {
			if r.Status != kv.StatusOK {
				t.Fatalf("entry %d, batch %d: %v", i+1, n, r.Status)
			}
		}
	}
	if index, hash := s.StateHash(); index != 2 || hash == empty {
		t.Errorf("at index %d", index)
	}
}

// insideEntry is a store that was killed in the middle of entry 2, largeEntry.
func insideEntry(t *testing.T) tree {
	t.Helper()
	dir := t.TempDir()
	commits := 0
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir, Free: func(string) (uint64, error) {
		if commits++; commits == 4 { // the start, entry 1, a part of entry 2
			return 0, nil
		}
		return 1 << 40, nil
	}})
	must(t, err)
	apply(t, s, 1, put(record("first"), "v"))
	var entry [][]byte
	for _, b := range largeEntry() {
		entry = append(entry, encode(t, b))
	}
	if _, err := s.Apply(2, entry); !errors.Is(err, kv.ErrStopped) {
		t.Fatalf("entry 2: %v", err)
	}
	must(t, s.Close())
	return readTree(t, dir)
}

// TestStateHashInsideEntry reads the state hash between the parts of an entry:
// while it is applied, after a fault, and in a store that is opened there, from
// its files and from its snapshot. It is that of the last whole entry until the
// entry is whole.
func TestStateHashInsideEntry(t *testing.T) {
	t.Parallel() // it waits for the disk
	dir := t.TempDir()
	var s *kv.Store
	var want [32]byte
	check := func(where string, s *kv.Store) {
		if index, hash := s.StateHash(); index != 1 || hash != want {
			t.Errorf("%s: index %d, the hash of entry 1: %v", where, index, hash == want)
		}
	}
	commits := -1 // of entry 2; before it none are counted
	free := func(string) (uint64, error) {
		if commits >= 0 {
			commits++
			check(fmt.Sprint("before commit ", commits), s)
		}
		if commits == 2 {
			return 1 << 20, nil
		}
		return 1 << 40, nil
	}
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir, Free: free})
	must(t, err)
	apply(t, s, 1, put(record("first"), "v"))
	_, want = s.StateHash()
	var entry [][]byte
	for _, b := range largeEntry() {
		entry = append(entry, encode(t, b))
	}
	commits = 0
	if _, err := s.Apply(2, entry); !errors.Is(err, kv.ErrStopped) || commits != 2 {
		t.Fatalf("%d commits, %v", commits, err)
	}
	check("after the fault", s)
	must(t, s.Close())
	s = openStore(t, dir)
	check("opened", s)
	snapshot := snapshotOf(t, s)
	if index, hash, err := kv.VerifySnapshot(bytes.NewReader(snapshot)); index != 1 || hash != want || err != nil {
		t.Errorf("its snapshot: index %d, the hash of entry 1: %v, %v", index, hash == want, err)
	}
	other := openStore(t, t.TempDir())
	must(t, other.Restore(bytes.NewReader(snapshot)))
	check("restored", other)
	for _, s := range []*kv.Store{s, other} {
		_, err := s.Apply(2, entry)
		must(t, err)
	}
	index, hash := s.StateHash()
	if i, h := other.StateHash(); index != 2 || i != 2 || h != hash || hash == want {
		t.Errorf("whole: at %d and %d, the same state: %v", index, i, h == hash)
	}
}

// TestGapInsideEntry goes on from the middle of an entry in ways that lose a
// part of it: each stops the store, and nothing of it is applied.
func TestGapInsideEntry(t *testing.T) {
	t.Parallel() // it waits for the disk
	files := insideEntry(t)
	next := encode(t, put(record("next"), "v"))
	for name, wrong := range map[string]struct {
		index   uint64
		entries [][]byte
	}{
		"the next entry":    {3, [][]byte{next}},
		"an empty entry":    {3, nil},
		"the entry cut off": {2, [][]byte{next}},
		"without batches":   {2, nil},
	} {
		s := openStore(t, files.write(t))
		_, want := s.StateHash()
		results, err := s.Apply(wrong.index, wrong.entries)
		if !errors.Is(err, kv.ErrStopped) || errors.Is(err, kv.ErrDamaged) || results != nil {
			t.Errorf("%s: %d results, %v", name, len(results), err)
		}
		if index, hash := s.StateHash(); index != 1 || hash != want {
			t.Errorf("%s: applied up to %d", name, index)
		}
	}
}
