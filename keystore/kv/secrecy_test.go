package kv_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"warder/keystore/kv"
)

// recorder is a log that keeps what is proposed.
type recorder struct {
	localLog
	entries [][]byte
}

func (r *recorder) Propose(ctx context.Context, entry []byte) ([]byte, error) {
	r.entries = append(r.entries, entry)
	return r.localLog.Propose(ctx, entry)
}

// TestNothingReadable puts a canary in every name and value that a transaction
// takes, and looks for it in the log, in a snapshot and in every file.
func TestNothingReadable(t *testing.T) {
	const canary = "canary-5d41402abc4b"
	dir := t.TempDir()
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	must(t, err)
	log := &recorder{localLog: localLog{store: s}}
	db := kv.New(s, log, newKeys(t))
	for range 3 {
		update(t, db, func(tx *kv.Tx) {
			tx.Put(kv.K(canary, "ns", canary), bytes.Repeat([]byte(canary), 40))
			tx.Put(kv.K("short", canary), []byte(canary))
			tx.Append(kv.K("log", canary), []byte(canary))
			tx.Add(kv.K("counter", canary), 1, kv.NoLimit)
		})
	}
	update(t, db, func(tx *kv.Tx) { tx.Delete(kv.K("short", canary)) })
	snapshot := snapshotOf(t, s)
	open := readTree(t, dir)
	must(t, s.Close())
	places := map[string][]byte{"snapshot": snapshot, "log": bytes.Join(log.entries, nil)}
	for _, files := range []tree{open, readTree(t, dir)} {
		for name, f := range files {
			places[name] = append(places[name], f.data...)
		}
	}
	for name, b := range places {
		if bytes.Contains(b, []byte(canary)) {
			t.Errorf("%s holds the canary", name)
		}
	}
}

// TestMovedValueDoesNotOpen lets a member that is up to no good write one
// record's sealed value over another's.
func TestMovedValueDoesNotOpen(t *testing.T) {
	s := openStore(t, t.TempDir())
	log := &recorder{localLog: localLog{store: s}}
	db := kv.New(s, log, newKeys(t))
	a, b := kv.K("ns", "a"), kv.K("ns", "b")
	update(t, db, func(tx *kv.Tx) { tx.Put(a, []byte("of a")) })
	update(t, db, func(tx *kv.Tx) { tx.Put(b, []byte("of b")) })
	ofA, err := kv.DecodeBatch(log.entries[0])
	must(t, err)
	ofB, err := kv.DecodeBatch(log.entries[1])
	must(t, err)
	moved := kv.Batch{Put: []kv.Put{{Target: ofB.Put[0].Target, Sealed: ofA.Put[0].Sealed}}}
	if r := apply(t, s, s.Applied()+1, moved); r[0].Status != kv.StatusOK {
		t.Fatal(r)
	}
	if _, _, err := get(t, db, b); !errors.Is(err, kv.ErrDamaged) {
		t.Errorf("a moved value: %v", err)
	}
	if v, _, err := get(t, db, a); v != "of a" || err != nil {
		t.Errorf("the value that was copied: %q %v", v, err)
	}
	err = db.View(t.Context(), func(tx *kv.Tx) error { _, err := scan(tx, kv.K("ns")); return err })
	if !errors.Is(err, kv.ErrDamaged) {
		t.Errorf("a scan over a moved value: %v", err)
	}
	update(t, db, func(tx *kv.Tx) { tx.Delete(b) })
}
