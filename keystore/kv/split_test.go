package kv_test

import (
	"bytes"
	"fmt"
	"testing"

	"warder/keystore/kv"
)

// sealedValue has the size of the smallest sealed value.
var sealedValue = bytes.Repeat([]byte{1}, 33)

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
		put.Put = append(put.Put, kv.Put{Target: r, Sealed: sealedValue})
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
