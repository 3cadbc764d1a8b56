package logstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"warder/cluster/logstore"
)

func open(t testing.TB, dir string) (*logstore.Store, error) {
	t.Helper()
	return logstore.Open(logstore.Config{Dir: dir, SegmentBytes: 8 << 10})
}

func mustOpen(t testing.TB, dir string) *logstore.Store {
	t.Helper()
	store, err := open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func entries(from, to, term uint64) []*raft.Log {
	var out []*raft.Log
	for i := from; i <= to; i++ {
		out = append(out, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "entry %d of term %d %x", i, term, bytes.Repeat([]byte{byte(i)}, 100))})
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// contents reads everything that a store holds, as text.
func contents(store *logstore.Store) (string, error) {
	var out bytes.Buffer
	first, err := store.Log.FirstIndex()
	if err != nil {
		return "", err
	}
	last, err := store.Log.LastIndex()
	if err != nil {
		return "", err
	}
	fmt.Fprintln(&out, "log", first, last)
	for i := first; i <= last && i > 0; i++ {
		var entry raft.Log
		if err := store.Log.GetLog(i, &entry); err != nil {
			return "", err
		}
		fmt.Fprintln(&out, entry.Index, entry.Term, entry.Type, string(entry.Data))
	}
	for _, key := range []string{"CurrentTerm", "LastVoteTerm"} {
		value, err := store.Stable.GetUint64([]byte(key))
		fmt.Fprintln(&out, key, value, err)
	}
	list, err := store.Snapshots.List()
	if err != nil {
		return "", err
	}
	for _, meta := range list {
		_, body, err := store.Snapshots.Open(meta.ID)
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(body)
		fmt.Fprintln(&out, meta.Index, meta.Term, meta.Configuration, string(data), err, body.Close())
	}
	return out.String(), nil
}

// fill makes a store with a snapshot, a log that was cut at both ends and is longer than the snapshot, and a vote.
func fill(t testing.TB, dir string) string {
	t.Helper()
	store := mustOpen(t, dir)
	must(t, store.Stable.SetUint64([]byte("CurrentTerm"), 7))
	must(t, store.Stable.SetUint64([]byte("LastVoteTerm"), 6))
	must(t, store.Log.StoreLogs(entries(1, 40, 1)))
	must(t, store.Log.StoreLogs(entries(41, 60, 2)))
	must(t, store.Log.DeleteRange(51, 60))
	for i := uint64(51); i <= 70; i++ {
		must(t, store.Log.StoreLogs(entries(i, i, 3)))
	}
	servers := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1@a:1"}}}
	sink, err := store.Snapshots.Create(raft.SnapshotVersionMax, 30, 1, servers, 1, nil)
	must(t, err)
	_, err = sink.Write(bytes.Repeat([]byte("state "), 100))
	must(t, err)
	must(t, sink.Close())
	must(t, store.Log.DeleteRange(1, 20))
	want, err := contents(store)
	must(t, err)
	must(t, store.Close())
	return want
}

func TestKeepsWhatItWasGiven(t *testing.T) {
	dir := t.TempDir()
	want := fill(t, dir)
	for range 2 {
		store := mustOpen(t, dir)
		got, err := contents(store)
		if err != nil || got != want {
			t.Fatalf("got %s\n%v\nwant %s", got, err, want)
		}
		var entry raft.Log
		for _, index := range []uint64{0, 20, 71} {
			if err := store.Log.GetLog(index, &entry); err != raft.ErrLogNotFound { //nolint:errorlint // as hashicorp/raft compares it
				t.Errorf("entry %d: got %v, want ErrLogNotFound", index, err)
			}
		}
		must(t, store.Close())
	}
}

// TestDamage changes every file at many places: what opens must hold exactly what was stored.
func TestDamage(t *testing.T) {
	original := t.TempDir()
	want := fill(t, original)
	named, same := 0, 0
	for _, name := range files(t, original) {
		data, err := os.ReadFile(filepath.Join(original, name))
		must(t, err)
		for what, changed := range harms(name, data) {
			dir := t.TempDir()
			must(t, os.CopyFS(dir, os.DirFS(original)))
			write(t, filepath.Join(dir, name), changed)
			got, err := reopen(t, dir)
			switch {
			case errors.Is(err, logstore.ErrDamaged):
				named++
			case err != nil:
				t.Errorf("%s of %s: %v: not named as damage", what, name, err)
			case got != want:
				t.Errorf("%s of %s went unnoticed", what, name)
			default:
				same++
			}
			must(t, os.RemoveAll(dir))
		}
	}
	t.Logf("%d harms named, %d did no harm", named, same)
	if named < 100 {
		t.Errorf("only %d harms were named", named)
	}
}

func reopen(t *testing.T, dir string) (string, error) {
	t.Helper()
	store, err := open(t, dir)
	if err != nil {
		return "", err
	}
	got, err := contents(store)
	must(t, store.Abandon())
	if err == nil {
		err = store.HoldsUpTo(70)
	}
	return got, err
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			name, relErr := filepath.Rel(dir, path)
			must(t, relErr)
			out = append(out, name)
		}
		return err
	}))
	return out
}

// harms gives changed copies of a file; nil deletes it. Beyond what a file uses, segments are zero.
func harms(name string, data []byte) map[string][]byte {
	used := len(bytes.TrimRight(data, "\x00"))
	out := map[string][]byte{"deletion": nil, "emptying": {}, "cut of the last byte": data[:used-1]}
	step := max(1, used/25)
	for at := 0; at < used; at += step {
		flipped := bytes.Clone(data)
		flipped[at] ^= 1 << (at % 8)
		out[fmt.Sprintf("flip at %d", at)] = flipped
		out[fmt.Sprintf("cut at %d", at)] = bytes.Clone(data[:at])
		zeroed := bytes.Clone(data)
		clear(zeroed[at:min(at+step, used)])
		out[fmt.Sprintf("zeros at %d", at)] = zeroed
	}
	return out
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if data == nil {
		must(t, os.Remove(path))
		return
	}
	must(t, os.WriteFile(path, data, 0o600))
}

// TestCrashIsNotDamage: a store that was not closed, at any moment of its making, opens with what was acknowledged.
func TestCrashIsNotDamage(t *testing.T) {
	dir := t.TempDir()
	store := mustOpen(t, dir)
	for i := uint64(1); i <= 30; i++ {
		must(t, store.Log.StoreLogs(entries(i, i, i/10+1)))
		if i%10 == 0 {
			must(t, store.Log.DeleteRange(i-3, i))
			must(t, store.Log.StoreLogs(entries(i-3, i, i/10+1)))
		}
		copied := t.TempDir()
		must(t, os.CopyFS(copied, os.DirFS(dir)))
		again := mustOpen(t, copied)
		if last, err := again.Log.LastIndex(); err != nil || last != i {
			t.Fatalf("after a crash the log ends at %d, %v, want %d", last, err, i)
		}
		must(t, again.Close())
		must(t, os.RemoveAll(copied))
	}
	must(t, store.Abandon())
}

// TestSnapshotBeyondTheLog is a crash between a snapshot's arrival and the clearing of the log that it replaces.
func TestSnapshotBeyondTheLog(t *testing.T) {
	dir := t.TempDir()
	store := mustOpen(t, dir)
	must(t, store.Log.StoreLogs(entries(1, 10, 1)))
	sink, err := store.Snapshots.Create(raft.SnapshotVersionMax, 100, 1, raft.Configuration{}, 1, nil)
	must(t, err)
	must(t, sink.Close())
	must(t, store.Abandon())
	store = mustOpen(t, dir)
	must(t, store.Log.StoreLogs(entries(101, 102, 1)))
	must(t, store.Close())
	store = mustOpen(t, dir)
	if first, err := store.Log.FirstIndex(); err != nil || first != 101 {
		t.Errorf("the log begins at %d, %v, want 101", first, err)
	}
	must(t, store.Close())
}

func TestInterruptedSnapshotLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	store := mustOpen(t, dir)
	_, err := store.Snapshots.Create(raft.SnapshotVersionMax, 1, 1, raft.Configuration{}, 1, nil)
	must(t, err)
	must(t, store.Close())
	store = mustOpen(t, dir)
	if list, err := store.Snapshots.List(); err != nil || len(list) != 0 {
		t.Errorf("got %v, %v", list, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "snapshots")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	must(t, store.Close())
}

func TestSegmentsRotate(t *testing.T) {
	dir := t.TempDir()
	store := mustOpen(t, dir)
	big := make([]byte, 3<<10)
	for i := uint64(1); i <= 40; i++ {
		big[0] = byte(i)
		must(t, store.Log.StoreLog(&raft.Log{Index: i, Term: 1, Data: bytes.Clone(big)}))
	}
	sink, err := store.Snapshots.Create(raft.SnapshotVersionMax, 20, 1, raft.Configuration{}, 1, nil)
	must(t, err)
	must(t, sink.Close())
	must(t, store.Log.DeleteRange(1, 20))
	must(t, store.Close())
	store = mustOpen(t, dir)
	var entry raft.Log
	if err := store.Log.GetLog(21, &entry); err != nil || entry.Data[0] != 21 {
		t.Errorf("entry 21: %v", err)
	}
	must(t, store.Close())
}

func FuzzDecodeRecord(f *testing.F) {
	for _, entry := range entries(1, 3, 1) {
		f.Add(logstore.AppendRecord(nil, entry))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var entry raft.Log
		if err := logstore.DecodeRecord(data, &entry); err != nil {
			if !errors.Is(err, logstore.ErrDamaged) {
				t.Errorf("error is not ErrDamaged: %v", err)
			}
			return
		}
		var again raft.Log
		if err := logstore.DecodeRecord(logstore.AppendRecord(nil, &entry), &again); err != nil || again.Index != entry.Index || !bytes.Equal(again.Data, entry.Data) {
			t.Errorf("does not survive a second encoding: %v", err)
		}
	})
}

func BenchmarkStoreLogs(b *testing.B) {
	for _, size := range []int{300, 64 << 10} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			store := mustOpen(b, b.TempDir())
			index := uint64(0)
			b.SetBytes(int64(size))
			for b.Loop() {
				index++
				must(b, store.Log.StoreLog(&raft.Log{Index: index, Term: 1, Data: make([]byte, size)}))
			}
			must(b, store.Close())
		})
	}
}
