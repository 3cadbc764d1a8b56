package kv_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"warder/keystore/kv"
)

func snapshotOf(t testing.TB, s *kv.Store) []byte {
	t.Helper()
	snap, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	var b bytes.Buffer
	n, err := snap.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d bytes: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

func TestSnapshotIsOfOneMoment(t *testing.T) {
	s := openStore(t, t.TempDir())
	fill(t, s, 1, 30)
	_, want := s.StateHash()
	snap, err := s.Snapshot()
	must(t, err)
	defer snap.Close()
	fill(t, s, 31, 60)
	var b bytes.Buffer
	_, err = snap.WriteTo(&b)
	must(t, err)
	other := openStore(t, t.TempDir())
	must(t, other.Restore(&b))
	if index, hash := other.StateHash(); index != 30 || snap.Index() != 30 || hash != want {
		t.Errorf("restored at %d, same state: %v", index, hash == want)
	}
	fill(t, other, 31, 60)
	_, a := s.StateHash()
	if _, b := other.StateHash(); a != b {
		t.Error("a restored store goes another way")
	}
}

func TestRestoreSkipsWhatIsOld(t *testing.T) {
	s := openStore(t, t.TempDir())
	empty := snapshotOf(t, s)
	fill(t, s, 1, 10)
	old := snapshotOf(t, s)
	fill(t, s, 11, 20)
	_, want := s.StateHash()
	for _, b := range [][]byte{empty, old, snapshotOf(t, s)} {
		must(t, s.Restore(bytes.NewReader(b)))
		if index, hash := s.StateHash(); index != 20 || hash != want {
			t.Fatalf("went back to %d", index)
		}
	}
	foreign := openStore(t, t.TempDir())
	apply(t, foreign, 5, put(record("foreign"), "v"))
	must(t, s.Restore(bytes.NewReader(snapshotOf(t, foreign))))
	if s.Applied() != 5 {
		t.Errorf("a snapshot of another lineage was skipped")
	}
}

// TestReplace takes what somebody chose, older or not: unlike Restore it never
// does nothing.
func TestReplace(t *testing.T) {
	s := openStore(t, t.TempDir())
	_, empty := s.StateHash()
	states := [][]byte{snapshotOf(t, s)}
	hashes := [][32]byte{empty}
	for i := range uint64(2) {
		fill(t, s, 10*i+1, 10*i+10)
		_, hash := s.StateHash()
		states, hashes = append(states, snapshotOf(t, s)), append(hashes, hash)
	}
	for _, n := range []int{1, 1, 0, 2, 1} {
		must(t, s.Replace(bytes.NewReader(states[n])))
		if index, hash := s.StateHash(); index != uint64(10*n) || hash != hashes[n] {
			t.Errorf("replaced by state %d: at index %d", n, index)
		}
		if err := s.Replace(bytes.NewReader(states[2][:len(states[2])-1])); !errors.Is(err, kv.ErrDamaged) {
			t.Errorf("a snapshot that was cut: %v", err)
		}
	}
	fill(t, s, 11, 20)
	if _, hash := s.StateHash(); hash != hashes[2] {
		t.Error("a store that went back goes another way")
	}
}

// TestRestoreRefusesDamage flips and cuts a snapshot everywhere: it is refused,
// and the store stays as it was.
func TestRestoreRefusesDamage(t *testing.T) {
	t.Parallel() // it waits for the disk
	from, s := openStore(t, t.TempDir()), openStore(t, t.TempDir())
	apply(t, from, 3, put(record("ns", "a"), "value"), put(record("b"), ""))
	apply(t, s, 1, put(record("old"), "state"))
	_, want := s.StateHash()
	good := snapshotOf(t, from)
	refused := func(what string, at int, b []byte) {
		if _, _, err := kv.VerifySnapshot(bytes.NewReader(b)); !errors.Is(err, kv.ErrDamaged) {
			t.Errorf("%s at %d verifies: %v", what, at, err)
		}
		if at%9 != 0 { // to restore takes longer
			return
		}
		if err := s.Restore(bytes.NewReader(b)); !errors.Is(err, kv.ErrDamaged) {
			t.Errorf("%s at %d: %v", what, at, err)
		}
	}
	for i := 0; i < len(good); i++ {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		refused("flip", i, bad)
	}
	for i := 0; i < len(good); i++ {
		refused("cut", i, good[:i])
	}
	refused("more", len(good), append(bytes.Clone(good), 0))
	if index, hash := s.StateHash(); index != 1 || hash != want {
		t.Errorf("the store changed to index %d", index)
	}
	must(t, s.Restore(bytes.NewReader(good)))
}

// atEnd calls fn when everything was read: the new generation is being
// finished, the switch is not made.
type atEnd struct {
	io.Reader
	fn func()
}

func (r *atEnd) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if errors.Is(err, io.EOF) && r.fn != nil {
		r.fn()
		r.fn = nil
	}
	return n, err
}

func TestCrashDuringRestore(t *testing.T) {
	t.Parallel() // it waits for the disk
	from := openStore(t, t.TempDir())
	fill(t, from, 1, 50)
	_, after := from.StateHash()
	dir := t.TempDir()
	s := openStore(t, dir)
	fill(t, s, 1, 20)
	_, before := s.StateHash()
	var during tree
	stream := &atEnd{bytes.NewReader(snapshotOf(t, from)), func() { during = readTree(t, dir) }}
	must(t, s.Restore(stream))
	done := readTree(t, dir)
	for name, f := range during { // the old generation is not removed yet
		if _, ok := done[name]; !ok {
			done[name] = f
		}
	}
	for _, c := range []struct {
		name  string
		files tree
		index uint64
		hash  [32]byte
	}{
		{"before the switch", during, 20, before},
		{"after the switch", done, 50, after},
	} {
		crashed := c.files.write(t)
		s := openStore(t, crashed)
		if index, hash := s.StateHash(); index != c.index || hash != c.hash {
			t.Errorf("%s: opened at %d", c.name, index)
		}
		if left, _ := filepath.Glob(filepath.Join(crashed, "gen-*")); len(left) != 1 {
			t.Errorf("%s: left %v", c.name, left)
		}
	}
}

func TestViewOutlivesRestore(t *testing.T) {
	db, _, keys := openDB(t)
	k := kv.K("k")
	update(t, db, func(tx *kv.Tx) { tx.Put(k, []byte("old")) })
	other, log, _ := openDB(t)
	same := kv.New(other.Store(), log, keys)
	for range 3 {
		update(t, same, func(tx *kv.Tx) { tx.Put(k, []byte("new")) })
	}
	err := db.View(t.Context(), func(tx *kv.Tx) error {
		must(t, db.Store().Restore(bytes.NewReader(snapshotOf(t, other.Store()))))
		v, _, err := tx.Get(k)
		if string(v) != "old" {
			t.Errorf("an open view reads %q", v)
		}
		return err
	})
	must(t, err)
	if v, _, err := get(t, db, k); v != "new" || err != nil {
		t.Errorf("a new view reads %q %v", v, err)
	}
}

func TestSetAside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	must(t, err)
	fill(t, s, 1, 3)
	must(t, s.Close())
	must(t, os.Remove(filepath.Join(dir, "mark")))
	if _, err := kv.OpenStore(kv.StoreConfig{Dir: dir}); !errors.Is(err, kv.ErrDamaged) {
		t.Fatalf("without its mark: %v", err)
	}
	moved, err := kv.SetAside(dir)
	must(t, err)
	if _, err := os.Stat(filepath.Join(moved, "gen-000001")); err != nil {
		t.Error(err)
	}
	if s := openStore(t, dir); s.Applied() != 0 {
		t.Errorf("a new store stands at %d", s.Applied())
	}
}
