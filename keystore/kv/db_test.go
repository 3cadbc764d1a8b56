package kv_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// localLog applies each entry at once to one store.
type localLog struct {
	mu    sync.Mutex
	store *kv.Store
	// before, when set, runs ahead of the next proposal: someone else was first.
	before func()
}

func (l *localLog) Propose(_ context.Context, entry []byte) ([]byte, error) {
	if l.before != nil {
		l.before()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	results, err := l.store.Apply(l.store.Applied()+1, [][]byte{entry})
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

func (l *localLog) Barrier(context.Context) error { return nil }

var errSealedForTest = errors.New("sealed")

// keys is a keyring that tests can take away and replace.
type keys struct {
	ring atomic.Pointer[keyring.Keyring]
}

func (k *keys) Keyring() (*keyring.Keyring, error) {
	if r := k.ring.Load(); r != nil {
		return r, nil
	}
	return nil, errSealedForTest
}

func newKeys(t testing.TB) *keys {
	t.Helper()
	ring, err := keyring.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k := &keys{}
	k.ring.Store(ring)
	return k
}

func openDB(t testing.TB) (*kv.DB, *localLog, *keys) {
	t.Helper()
	s := openStore(t, t.TempDir())
	l, k := &localLog{store: s}, newKeys(t)
	return kv.New(s, l, k), l, k
}

func update(t testing.TB, db *kv.DB, fn func(*kv.Tx)) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *kv.Tx) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, db *kv.DB, k kv.Key) (string, uint64, error) {
	t.Helper()
	var value []byte
	var rev uint64
	err := db.View(t.Context(), func(tx *kv.Tx) (err error) {
		value, rev, err = tx.Get(k)
		return err
	})
	return string(value), rev, err
}

func scan(tx *kv.Tx, prefix kv.Key) (names []string, err error) {
	for item, err := range tx.Scan(prefix) {
		if err != nil {
			return nil, err
		}
		names = append(names, fmt.Sprintf("%v=%s", item.Key, item.Value))
	}
	slices.Sort(names)
	return names, nil
}

func TestTxReadsItsWrites(t *testing.T) {
	db, _, _ := openDB(t)
	a, b := kv.K("ns", "a"), kv.K("ns", "deep", "b")
	update(t, db, func(tx *kv.Tx) { tx.Put(a, []byte("1")); tx.Put(b, []byte("2")); tx.Put(kv.K("ns"), nil) })
	update(t, db, func(tx *kv.Tx) {
		tx.Put(a, []byte("one"))
		tx.Delete(b)
		tx.Put(kv.K("ns", "c"), []byte{})
		if v, rev, err := tx.Get(a); err != nil || string(v) != "one" || rev != 0 {
			t.Errorf("get after put: %q %d %v", v, rev, err)
		}
		if _, _, err := tx.Get(b); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("get after delete: %v", err)
		}
		if got, err := scan(tx, kv.K("ns")); err != nil || !slices.Equal(got, []string{"ns/a=one", "ns/c="}) {
			t.Errorf("scan: %v %v", got, err)
		}
	})
	if v, rev, err := get(t, db, a); v != "one" || rev != 2 || err != nil {
		t.Errorf("after the update: %q %d %v", v, rev, err)
	}
	if v, _, err := get(t, db, kv.K("ns")); v != "" || err != nil {
		t.Errorf("an empty value: %q %v", v, err)
	}
}

// TestScanWrites writes beneath the prefix that it scans: each record that was
// there at the start is visited once, unless it goes before its turn.
func TestScanWrites(t *testing.T) {
	db, _, _ := openDB(t)
	ns := kv.K("ns")
	update(t, db, func(tx *kv.Tx) {
		for i := range 20 {
			tx.Put(kv.K("ns", fmt.Sprint("stored ", i)), []byte("x"))
		}
	})
	update(t, db, func(tx *kv.Tx) {
		for i := range 20 {
			tx.Put(kv.K("ns", fmt.Sprint("pending ", i)), []byte("x"))
		}
		visited := map[string]int{}
		for item, err := range tx.Scan(ns) {
			must(t, err)
			name := item.Key.Parts()[1]
			if visited[name]++; len(visited) > 40 {
				break
			}
			tx.Delete(item.Key)
			tx.Put(kv.K("ns", "new "+name), item.Value)
			if len(visited)%10 == 1 { // what was visited may come back, too
				tx.Put(item.Key, item.Value)
			}
		}
		for name, n := range visited {
			if n != 1 || strings.HasPrefix(name, "new ") {
				t.Errorf("%s was visited %d times", name, n)
			}
		}
		if names, err := scan(tx, ns); len(visited) != 40 || len(names) != 44 || err != nil {
			t.Errorf("%d visited, then %d, %v", len(visited), len(names), err)
		}
		for item, err := range tx.Scan(ns) {
			must(t, err)
			visited[item.Key.String()]++
			for other, err := range tx.Scan(ns) {
				must(t, err)
				tx.Delete(other.Key)
			}
		}
		if names, err := scan(tx, ns); len(visited) != 41 || len(names) != 0 || err != nil {
			t.Errorf("%d visited, then %d, %v", len(visited), len(names), err)
		}
	})
}

func TestUpdateRetriesOnConflict(t *testing.T) {
	db, log, _ := openDB(t)
	k, other := kv.K("ns", "k"), kv.K("ns", "other")
	for name, read := range map[string]func(*kv.Tx) error{
		"get": func(tx *kv.Tx) error {
			if _, _, err := tx.Get(k); err != nil && !errors.Is(err, kv.ErrNotFound) {
				return err
			}
			return nil
		},
		"scan":  func(tx *kv.Tx) error { _, err := scan(tx, kv.K("ns")); return err },
		"count": func(tx *kv.Tx) error { _, err := tx.Counter(k); return err },
		"leaves": func(tx *kv.Tx) error {
			for _, err := range tx.Leaves(k, 0) {
				if err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, runs := 0, 0
			log.before = func() {
				if n++; n == 1 {
					update(t, db, func(tx *kv.Tx) { tx.Put(k, []byte(name)); tx.Add(k, 1, kv.NoLimit); tx.Append(k, nil) })
				}
			}
			err := db.Update(t.Context(), func(tx *kv.Tx) error {
				runs++
				tx.Put(other, []byte("x"))
				return read(tx)
			})
			if err != nil || runs != 2 {
				t.Errorf("%d runs, %v", runs, err)
			}
		})
	}
	log.before = nil
	busy := func() {
		before := log.before
		log.before = nil
		update(t, db, func(tx *kv.Tx) { tx.Put(k, []byte("again")) })
		log.before = before
	}
	log.before = busy
	err := db.Update(t.Context(), func(tx *kv.Tx) error { tx.Put(other, nil); _, _, err := tx.Get(k); return err })
	if !errors.Is(err, kv.ErrConflict) {
		t.Errorf("under steady change: %v", err)
	}
}

// TestNoLostUpdate lets several writers add to one record by reading it.
func TestNoLostUpdate(t *testing.T) {
	db, _, _ := openDB(t)
	k := kv.K("sum")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := 0; n < 20; {
				err := db.Update(t.Context(), func(tx *kv.Tx) error {
					v, _, err := tx.Get(k)
					if err != nil && !errors.Is(err, kv.ErrNotFound) {
						return err
					}
					tx.Put(k, append(v, '.'))
					return nil
				})
				switch {
				case err == nil:
					n++
				case !errors.Is(err, kv.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if v, _, err := get(t, db, k); len(v) != 80 || err != nil {
		t.Errorf("%d of 80 updates, %v", len(v), err)
	}
}

func TestExpectations(t *testing.T) {
	db, _, _ := openDB(t)
	k := kv.K("k")
	for i, want := range []error{nil, kv.ErrConflict} {
		err := db.Update(t.Context(), func(tx *kv.Tx) error { tx.MustNotExist(k); tx.Put(k, nil); return nil })
		if !errors.Is(err, want) {
			t.Errorf("create %d: %v", i, err)
		}
	}
	_, rev, _ := get(t, db, k)
	for i, want := range []error{nil, kv.ErrConflict} {
		err := db.Update(t.Context(), func(tx *kv.Tx) error { tx.Expect(k, rev); tx.Put(k, nil); return nil })
		if !errors.Is(err, want) {
			t.Errorf("replace %d: %v", i, err)
		}
	}
	bad := []func(*kv.Tx){
		func(tx *kv.Tx) { tx.Put(kv.K(), nil) },
		func(tx *kv.Tx) { tx.Put(kv.K("a", ""), nil) },
		func(tx *kv.Tx) { tx.Delete(kv.K("1", "2", "3", "4", "5", "6", "7", "8", "9")) },
		func(tx *kv.Tx) { tx.Append(kv.K(string(make([]byte, 256))), nil) },
	}
	for i, fn := range bad {
		if err := db.Update(t.Context(), func(tx *kv.Tx) error { fn(tx); return nil }); !errors.Is(err, kv.ErrBadKey) {
			t.Errorf("bad key %d: %v", i, err)
		}
	}
	large := func(tx *kv.Tx) error { tx.Put(k, make([]byte, kv.MaxValueSize+1)); return nil }
	if err := db.Update(t.Context(), large); !errors.Is(err, kv.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	update(t, db, func(tx *kv.Tx) { tx.Put(k, make([]byte, kv.MaxValueSize)) })
}

func TestLogsAndCounters(t *testing.T) {
	db, _, _ := openDB(t)
	log, c := kv.K("log"), kv.K("log") // spaces are apart
	var first, second *kv.Appended
	var sum *kv.Counted
	for range 2 {
		update(t, db, func(tx *kv.Tx) {
			first, second = tx.Append(log, []byte("x")), tx.Append(log, []byte("y"))
			sum = tx.Add(c, 20, 50)
		})
	}
	if first.Index() != 2 || second.Index() != 3 || sum.Value() != 40 {
		t.Errorf("appended at %d and %d, counter %d", first.Index(), second.Index(), sum.Value())
	}
	err := db.Update(t.Context(), func(tx *kv.Tx) error { tx.Add(c, 20, 50); tx.Append(log, nil); return nil })
	if !errors.Is(err, kv.ErrLimit) {
		t.Errorf("past the limit: %v", err)
	}
	update(t, db, func(tx *kv.Tx) { tx.DropLeaf(log, 2) })
	update(t, db, func(tx *kv.Tx) {
		var got []uint64
		for l, err := range tx.Leaves(log, 1) {
			if err != nil {
				t.Error(err)
			}
			got = append(got, l.Index)
		}
		if !slices.Equal(got, []uint64{1, 3}) {
			t.Errorf("leaves %v", got)
		}
		if n, err := tx.Counter(c); n != 40 || err != nil {
			t.Errorf("counter %d %v", n, err)
		}
		tx.DropCounter(c)
	})
	update(t, db, func(tx *kv.Tx) {
		if n, err := tx.Counter(c); n != 0 || err != nil {
			t.Errorf("dropped counter %d %v", n, err)
		}
	})
}

func TestSealed(t *testing.T) {
	db, _, keys := openDB(t)
	k := kv.K("k")
	update(t, db, func(tx *kv.Tx) { tx.Put(k, []byte("v")) })
	ring := keys.ring.Swap(nil)
	if _, _, err := get(t, db, k); !errors.Is(err, errSealedForTest) {
		t.Errorf("get while sealed: %v", err)
	}
	w := db.WatchKeyring()
	defer w.Close()
	update(t, db, func(tx *kv.Tx) {
		if _, rev, err := tx.Keyring(); rev != 0 || err != nil {
			t.Errorf("keyring: %d %v", rev, err)
		}
		tx.PutKeyring([]byte("sealed keyring"))
	})
	<-w.C()
	if b, rev, err := db.Store().SealedKeyring(); string(b) != "sealed keyring" || rev != 2 || err != nil {
		t.Errorf("sealed keyring %q %d %v", b, rev, err)
	}
	keys.ring.Store(ring)
	if v, _, err := get(t, db, k); v != "v" || err != nil {
		t.Errorf("get after unseal: %q %v", v, err)
	}
}

func TestWatch(t *testing.T) {
	db, _, keys := openDB(t)
	signalled := func(w *kv.Watcher) bool {
		select {
		case <-w.C():
			return true
		default:
			return false
		}
	}
	w, all, both := db.Watch(kv.K("ns", "a")), db.Watch(kv.Key{}), db.Watch(kv.K("ns", "a"), kv.K("ns", "ab"))
	defer w.Close()
	defer all.Close()
	defer both.Close()
	steps := []struct {
		name      string
		do        func()
		want, any bool
	}{
		{"beneath", func() { update(t, db, func(tx *kv.Tx) { tx.Put(kv.K("ns", "a", "b"), nil) }) }, true, true},
		{"itself, a counter", func() { update(t, db, func(tx *kv.Tx) { tx.Add(kv.K("ns", "a"), 1, 9) }) }, true, true},
		{"beside", func() { update(t, db, func(tx *kv.Tx) { tx.Put(kv.K("ns", "ab"), nil) }) }, false, true},
		{"keyring", func() { update(t, db, func(tx *kv.Tx) { tx.PutKeyring(nil) }) }, false, true},
		{"nothing", func() { update(t, db, func(tx *kv.Tx) { tx.Delete(kv.K("ns", "a")) }) }, false, false},
		{"unsealed", db.Wake, true, true},
	}
	for _, s := range steps {
		s.do()
		if got := signalled(w); got != s.want {
			t.Errorf("%s: %v", s.name, got)
		}
		if got := signalled(all); got != s.any {
			t.Errorf("%s: %v from the watcher of everything", s.name, got)
		}
		if want := s.want || s.name == "beside"; both.Behind() != want {
			t.Errorf("%s: behind is %v for a watcher of two prefixes", s.name, both.Behind())
		}
		both.Shown(both.Changes())
	}
	var snapshot bytes.Buffer
	snap, err := db.Store().Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	snap.Close()
	other := openStore(t, t.TempDir())
	late := kv.New(other, nil, keys)
	lw := late.Watch(kv.K("elsewhere"))
	defer lw.Close()
	if err := other.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	if !signalled(lw) {
		t.Error("no signal after a restore")
	}
}

func TestReseal(t *testing.T) {
	db, _, keys := openDB(t)
	for i := range 50 {
		update(t, db, func(tx *kv.Tx) {
			tx.Put(kv.K("ns", fmt.Sprint(i)), []byte("value"))
			tx.Append(kv.K("log"), []byte("leaf"))
		})
	}
	old := keys.ring.Load()
	ring, id, err := old.AddDataKey()
	if err != nil {
		t.Fatal(err)
	}
	if ring, err = ring.Activate(id); err != nil {
		t.Fatal(err)
	}
	keys.ring.Store(ring)
	update(t, db, func(tx *kv.Tx) { tx.Put(kv.K("ns", "7"), []byte("value")) })
	update(t, db, func(tx *kv.Tx) { tx.SetKeyFloor(id) })
	keys.ring.Store(old)
	for i, fn := range []func(*kv.Tx){
		func(tx *kv.Tx) { tx.Put(kv.K("late"), nil) },
		func(tx *kv.Tx) { tx.Append(kv.K("late"), nil) },
	} {
		if err := db.Update(t.Context(), func(tx *kv.Tx) error { fn(tx); return nil }); !errors.Is(err, kv.ErrStaleKey) {
			t.Errorf("%d: sealed under the old key: %v", i, err)
		}
	}
	keys.ring.Store(ring)
	total := 0
	for done := false; !done; {
		var n int
		if done, n, err = db.Reseal(t.Context(), 8); err != nil {
			t.Fatal(err)
		}
		if total += n; n > 8 {
			t.Fatalf("sealed %d in one batch", n)
		}
	}
	use, err := db.KeysInUse(t.Context())
	if err != nil || total != 99 || len(use) != 1 || use[id] != 100 {
		t.Errorf("sealed %d anew, in use %v, %v", total, use, err)
	}
	if ring, err = ring.DropDataKey(old.Active()); err != nil {
		t.Fatal(err)
	}
	keys.ring.Store(ring)
	update(t, db, func(tx *kv.Tx) {
		names, err := scan(tx, kv.K("ns"))
		if err != nil || len(names) != 50 {
			t.Errorf("%d records, %v", len(names), err)
		}
		for l, err := range tx.Leaves(kv.K("log"), 0) {
			if err != nil || string(l.Value) != "leaf" {
				t.Errorf("leaf %d: %v", l.Index, err)
			}
		}
	})
}
