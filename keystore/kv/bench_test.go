package kv_test

import (
	"bytes"
	"fmt"
	"testing"

	"warder/keystore/kv"
)

// BenchmarkApply applies entries of 1 and of 64 batches, each of one record of
// 300 bytes in a namespace, and waits for the disk.
func BenchmarkApply(b *testing.B) {
	value := bytes.Repeat([]byte{7}, 300)
	for _, group := range []int{1, 64} {
		b.Run(fmt.Sprint("batches=", group), func(b *testing.B) {
			s := openStore(b, b.TempDir())
			index, n := uint64(0), 0
			for b.Loop() {
				var entries [][]byte
				for range group {
					n++
					entries = append(entries, encode(b, kv.Batch{Put: []kv.Put{{
						Target: record("credential", "ns", fmt.Sprint(n%10000)), Sealed: value}}}))
				}
				index++
				if _, err := s.Apply(index, entries); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*group), "µs/batch")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	db, _, _ := openDB(b)
	value := bytes.Repeat([]byte{7}, 300)
	for i := range 100 {
		update(b, db, func(tx *kv.Tx) {
			for j := range 100 {
				tx.Put(kv.K("credential", "ns", fmt.Sprint(100*i+j)), value)
			}
		})
	}
	n := 0
	for b.Loop() {
		n++
		if _, _, err := get(b, db, kv.K("credential", "ns", fmt.Sprint(n*7919%10000))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	db, _, _ := openDB(b)
	value := bytes.Repeat([]byte{7}, 300)
	n := 0
	for b.Loop() {
		n++
		k := kv.K("credential", "ns", fmt.Sprint(n%1000))
		update(b, db, func(tx *kv.Tx) {
			if _, _, err := tx.Get(k); err == nil {
				tx.Put(k, value)
				return
			}
			tx.Put(k, value)
		})
	}
}

// BenchmarkOpen opens, and so checks, a store of 10,000 records.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	value := bytes.Repeat([]byte{7}, 300)
	for i := range uint64(100) {
		var batch kv.Batch
		for j := range 100 {
			batch.Put = append(batch.Put, kv.Put{Target: record("credential", "ns", fmt.Sprint(i, j)), Sealed: value})
		}
		apply(b, s, i+1, batch)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
