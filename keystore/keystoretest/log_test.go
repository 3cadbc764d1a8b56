package keystoretest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"warder/keystore/keyring"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

// recorder is a test that notes its failures.
type recorder struct {
	testing.TB
	failed []string
}

func (r *recorder) Helper()                           {}
func (r *recorder) Error(args ...any)                 { r.failed = append(r.failed, fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }

func put(t *testing.T, db *kv.DB, value string) error {
	return db.Update(t.Context(), func(tx *kv.Tx) error {
		_, _, err := tx.Get(kv.K("k"))
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		tx.Put(kv.K("k"), []byte(value))
		return nil
	})
}

func get(t *testing.T, db *kv.DB) (text string) {
	err := db.View(t.Context(), func(tx *kv.Tx) error {
		value, _, err := tx.Get(kv.K("k"))
		text = string(value)
		return err
	})
	if err != nil {
		return err.Error()
	}
	return text
}

func TestFaults(t *testing.T) {
	db, log := keystoretest.Open(t)
	for i, c := range []struct {
		faults    []keystoretest.Fault
		want      error
		value     string // afterwards
		proposals int
	}{
		{nil, nil, "0", 1},
		{[]keystoretest.Fault{keystoretest.NotDone}, keystoretest.ErrNotDone, "0", 1},
		{[]keystoretest.Fault{keystoretest.DoneButFailed}, keystoretest.ErrUnknown, "2", 1},
		{[]keystoretest.Fault{keystoretest.Conflict, keystoretest.Conflict, keystoretest.None}, nil, "3", 3},
		{[]keystoretest.Fault{keystoretest.Conflict, keystoretest.NotDone}, keystoretest.ErrNotDone, "3", 2},
	} {
		before := log.Proposals()
		log.Next(c.faults...)
		if err := put(t, db, fmt.Sprint(i)); !errors.Is(err, c.want) {
			t.Errorf("%v: %v", c.faults, err)
		}
		if got := get(t, db); got != c.value || log.Proposals()-before != c.proposals {
			t.Errorf("%v: %q after %d proposals", c.faults, got, log.Proposals()-before)
		}
	}
}

func TestBeforeIsARealConflict(t *testing.T) {
	db, log := keystoretest.Open(t)
	log.Before(func() {
		if err := put(t, db, "first"); err != nil {
			t.Error(err)
		}
	})
	if err := put(t, db, "second"); err != nil || get(t, db) != "second" || log.Proposals() != 3 {
		t.Errorf("%v, %q after %d proposals", err, get(t, db), log.Proposals())
	}
}

func TestBarriers(t *testing.T) {
	db, log := keystoretest.Open(t)
	log.FailBarriers(1)
	if err := db.Barrier(t.Context()); !errors.Is(err, keystoretest.ErrBarrier) {
		t.Error(err)
	}
	if err := db.Barrier(t.Context()); err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Barrier(ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := log.Propose(ended, mustEncode(t, kv.Batch{})); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func mustEncode(t *testing.T, b kv.Batch) []byte {
	entry, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

// TestChecksItsCaller sees each broken rule fail the test that broke it.
func TestChecksItsCaller(t *testing.T) {
	for name, do := range map[string]func(*keystoretest.FaultyLog){
		"no context":            func(l *keystoretest.FaultyLog) { _, _ = l.Propose(nil, mustEncode(t, kv.Batch{})) }, //nolint:staticcheck // the fault itself
		"no context, a barrier": func(l *keystoretest.FaultyLog) { _ = l.Barrier(nil) },                               //nolint:staticcheck // the fault itself
		"empty":                 func(l *keystoretest.FaultyLog) { _, _ = l.Propose(t.Context(), nil) },
		"too large":             func(l *keystoretest.FaultyLog) { _, _ = l.Propose(t.Context(), make([]byte, kv.MaxBatchSize+1)) },
		"no batch":              func(l *keystoretest.FaultyLog) { _, _ = l.Propose(t.Context(), []byte("hello")) },
		"a conflict of nothing": func(l *keystoretest.FaultyLog) {
			l.Next(keystoretest.Conflict)
			_, _ = l.Propose(t.Context(), mustEncode(t, kv.Batch{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			_, log := keystoretest.Open(r)
			if do(log); len(r.failed) != 1 {
				t.Errorf("failed %q", r.failed)
			}
		})
	}
}

func TestOpenAtSealed(t *testing.T) {
	db, log := keystoretest.OpenAt(t, t.TempDir(), &keyring.Holder{})
	if err := put(t, db, "x"); !errors.Is(err, keyring.ErrSealed) {
		t.Error(err)
	}
	ring, err := keyring.New(zeros{})
	if err != nil {
		t.Fatal(err)
	}
	log.Keys().Set(ring)
	if err := put(t, db, "x"); err != nil || get(t, db) != "x" {
		t.Errorf("unsealed: %v, %q", err, get(t, db))
	}
}

// zeros is randomness for a keyring that protects nothing.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
