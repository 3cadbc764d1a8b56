package kv_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"warder/keystore/kv"
)

// running lets a store write behind what is applied, until the test ends or stop is called, which gives Run's error.
func running(t testing.TB, s *kv.Store) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	once := false
	stop = func() error {
		if once {
			return nil
		}
		once = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

// reading is what a transaction shows under a prefix: names, values and revisions.
func reading(t *testing.T, tx *kv.Tx, prefix kv.Key) map[string]string {
	t.Helper()
	shown := map[string]string{}
	for item, err := range tx.Scan(prefix) {
		must(t, err)
		value, rev, err := tx.Get(item.Key)
		must(t, err)
		if !bytes.Equal(value, item.Value) || rev != item.Rev {
			t.Errorf("%v: a scan gives revision %d, a read %d", item.Key, item.Rev, rev)
		}
		shown[item.Key.String()] = fmt.Sprintf("%x at %d", value, rev)
	}
	return shown
}

// TestViewsHoldWhileChangesAreWritten opens views at all moments of a store that writes behind its readers' backs, and
// reads each again and again: by name and by scan it shows what it showed first, and that is what had been changed.
func TestViewsHoldWhileChangesAreWritten(t *testing.T) {
	t.Parallel() // it waits for the disk
	db, _, _ := openDB(t)
	store := db.Store()
	running(t, store)
	random := rand.New(rand.NewPCG(5, 6))
	model := map[string]string{}
	change := func() {
		must(t, db.Update(t.Context(), func(tx *kv.Tx) error {
			for range 1 + random.IntN(4) {
				name := fmt.Sprint(random.IntN(30))
				if random.IntN(3) == 0 {
					tx.Delete(kv.K("ns", name))
				} else {
					tx.Put(kv.K("ns", name), bytes.Repeat([]byte(name), random.IntN(200)))
				}
			}
			return nil
		}))
		must(t, db.View(t.Context(), func(tx *kv.Tx) error { model = reading(t, tx, kv.K("ns")); return nil }))
	}
	var within func(depth int)
	within = func(depth int) {
		must(t, db.View(t.Context(), func(tx *kv.Tx) error {
			want := maps.Clone(model)
			for round := range 6 {
				if got := reading(t, tx, kv.K("ns")); !maps.Equal(got, want) {
					t.Fatalf("depth %d, round %d: the view shows %v, showed %v", depth, round, got, want)
				}
				change()
				switch random.IntN(4) {
				case 0:
					must(t, store.Flush())
				case 1:
					must(t, store.Mark())
				case 2:
					if depth < 3 {
						within(depth + 1)
					}
				}
			}
			return nil
		}))
	}
	for range 8 {
		within(0)
	}
	want := model
	snapshot := snapshotOf(t, store)
	if _, _, err := kv.VerifySnapshot(bytes.NewReader(snapshot)); err != nil {
		t.Error(err)
	}
	must(t, db.View(t.Context(), func(tx *kv.Tx) error {
		if got := reading(t, tx, kv.K("ns")); !maps.Equal(got, want) {
			t.Errorf("after a snapshot: %v, want %v", got, want)
		}
		return nil
	}))
}

// TestWrittenBehindAgrees applies the same entries to a store that waits for its disk and to one that does not: results,
// state hashes and what a restart finds are the same.
func TestWrittenBehindAgrees(t *testing.T) {
	t.Parallel() // it waits for the disk
	dir := t.TempDir()
	slow := openStore(t, t.TempDir())
	fast, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	must(t, err)
	stop := running(t, fast)
	puts, deletes := manyRows()
	entries := [][]kv.Batch{puts, deletes, largeEntry(), puts}
	for i, entry := range entries {
		a, b := apply(t, slow, uint64(i+1), entry...), apply(t, fast, uint64(i+1), entry...)
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("entry %d has other results", i+1)
		}
	}
	for i := range uint64(12) {
		fill(t, slow, i+5, i+5)
		fill(t, fast, i+5, i+5)
		if _, a := slow.StateHash(); func() [32]byte { _, b := fast.StateHash(); return b }() != a {
			t.Fatalf("entry %d leaves another state", i+5)
		}
	}
	must(t, stop())
	must(t, fast.Close())
	fast = openStore(t, dir)
	index, want := slow.StateHash()
	if got, hash := fast.StateHash(); got != index || hash != want {
		t.Errorf("opened again at %d, want %d; the same state: %v", got, index, hash == want)
	}
}

// TestFaultBehind lets the disk fill up while nobody waits for it: Run ends with the fault, and every change after it is
// refused.
func TestFaultBehind(t *testing.T) {
	t.Parallel() // it waits for the disk
	var full atomic.Bool
	dir := t.TempDir()
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir, Free: func(string) (uint64, error) {
		if full.Load() {
			return 0, nil
		}
		return 1 << 40, nil
	}})
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	fill(t, s, 1, 1)
	must(t, s.Flush())
	full.Store(true)
	_, err = s.Apply(2, [][]byte{encode(t, put(record("a"), "v"))})
	if err == nil {
		err = <-ended
	}
	if !errors.Is(err, kv.ErrStopped) {
		t.Errorf("the disk is full: %v", err)
	}
	for i := range uint64(2) {
		if _, err := s.Apply(3+i, nil); !errors.Is(err, kv.ErrStopped) {
			t.Errorf("a change after the fault: %v", err)
		}
	}
	if err := s.Flush(); !errors.Is(err, kv.ErrStopped) {
		t.Errorf("a flush after the fault: %v", err)
	}
	must(t, s.Close())
	if s := openStore(t, dir); s.Applied() != 1 {
		t.Errorf("opened at %d, 1 was written", s.Applied())
	}
}

// TestKeyringIsNotBehind stores a keyring while changes wait to be written: nobody sees it before it is on the disk. In
// virtual time the moment at which changes are written by themselves does not come.
func TestKeyringIsNotBehind(t *testing.T) {
	dir := t.TempDir()
	want := []byte("a sealed keyring")
	synctest.Test(t, func(t *testing.T) {
		var s *kv.Store
		writing := false
		s, err := kv.OpenStore(kv.StoreConfig{Dir: dir, Free: func(string) (uint64, error) {
			if writing {
				if _, rev, err := s.SealedKeyring(); rev != 0 || err != nil {
					t.Errorf("before it is written the keyring is seen at revision %d, %v", rev, err)
				}
			}
			return 1 << 40, nil
		}})
		must(t, err)
		defer func() { must(t, s.Close()) }()
		stop := running(t, s)
		synctest.Wait()
		apply(t, s, 1, put(record("a"), "v"))
		if behind := openStore(t, readTree(t, dir).write(t)); behind.Applied() != 0 {
			t.Fatalf("the disk is at %d before it was written: the test shows nothing", behind.Applied())
		}
		writing = true
		apply(t, s, 2, kv.Batch{Put: []kv.Put{{Target: kv.Target{Space: kv.SpaceKeyring}, Sealed: want}}})
		writing = false
		crashed := openStore(t, readTree(t, dir).write(t))
		if got, _, err := crashed.SealedKeyring(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the disk has %q, %v", got, err)
		}
		must(t, stop())
	})
}

// TestWhatWaitsIsBounded lets the disk stand still while changes come: after some megabytes they wait for it.
func TestWhatWaitsIsBounded(t *testing.T) {
	t.Parallel() // it waits for the disk
	still := make(chan struct{})
	var stands atomic.Bool
	s, err := kv.OpenStore(kv.StoreConfig{Dir: t.TempDir(), Free: func(string) (uint64, error) {
		if stands.Load() {
			<-still
		}
		return 1 << 40, nil
	}})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	stop := running(t, s)
	large := strings.Repeat("x", 1<<20)
	apply(t, s, 1, put(record("first"), large))
	must(t, s.Flush())
	stands.Store(true)
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		for i := range uint64(64) {
			apply(t, s, 2+i, put(record(fmt.Sprint(i)), large[:1<<19]))
		}
	}()
	select {
	case <-taken:
		t.Error("32 MiB were taken, and the disk had none of it")
	case <-time.After(400 * time.Millisecond): // they wait, as they should
	}
	stands.Store(false)
	close(still)
	<-taken
	must(t, stop())
}

// TestRunEndsWithAllWritten lets a change come while Run writes for the last time: it waits for the disk then, as every
// change does once Run is over.
func TestRunEndsWithAllWritten(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var s *kv.Store
		var ending atomic.Bool
		var late sync.WaitGroup
		next := uint64(2) // guarded by the store: it asks for one write at a time how much is free
		s, err := kv.OpenStore(kv.StoreConfig{Dir: dir, Free: func(string) (uint64, error) {
			if ending.Load() && next < 6 { // every time that Run writes, or its last time might not be among them
				index := next
				next++
				late.Go(func() { apply(t, s, index, put(record("late"), fmt.Sprint(index))) })
				for range 100_000 { // time enough for a change that does not wait
					runtime.Gosched()
				}
			}
			return 1 << 40, nil
		}})
		must(t, err)
		defer func() { must(t, s.Close()) }()
		stop := running(t, s)
		synctest.Wait()
		apply(t, s, 1, put(record("a"), "v"))
		ending.Store(true)
		must(t, stop())
		ending.Store(false)
		late.Wait()
		if disk := openStore(t, readTree(t, dir).write(t)); disk.Applied() != s.Applied() {
			t.Errorf("Run has ended, and the disk is at %d of %d", disk.Applied(), s.Applied())
		}
	})
}

const behindEnv = "WARDER_KV_BEHIND"

// TestBehindWriter is the process that TestKillBehind kills. Otherwise it has nothing to do.
func TestBehindWriter(t *testing.T) {
	dir := os.Getenv(behindEnv)
	if dir == "" {
		return
	}
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	must(t, err)
	go func() { panic(s.Run(context.Background())) }()
	for i := s.Applied() + 1; ; i++ {
		fill(t, s, i, i)
		_, hash := s.StateHash()
		fmt.Printf("applied %d %x\n", i, hash)
	}
}

// TestKillBehind kills a writer that does not wait for its disk. What the store opens with is a state that it had been
// in, and what it lacks of the log leads to the state that was acknowledged.
func TestKillBehind(t *testing.T) {
	t.Parallel() // it waits for the disk
	dir := t.TempDir()
	reference := openStore(t, t.TempDir())
	running(t, reference)
	hashes, behind := map[uint64][32]byte{}, 0
	for round := range 12 {
		acknowledged := killBehind(t, dir, time.Duration(5+round*6)*time.Millisecond)
		for i := reference.Applied() + 1; i <= acknowledged+1; i++ { // the last one may have got no answer
			fill(t, reference, i, i)
			_, hashes[i] = reference.StateHash()
		}
		s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
		must(t, err)
		index, hash := s.StateHash()
		if index > acknowledged+1 || index > 0 && hash != hashes[index] {
			t.Fatalf("round %d: opened at %d of %d, in a state that it never had", round, index, acknowledged)
		}
		if index < acknowledged {
			behind++
			fill(t, s, index+1, acknowledged)
		}
		if _, hash := s.StateHash(); s.Applied() == acknowledged && hash != hashes[acknowledged] {
			t.Fatalf("round %d: the log leads to another state", round)
		}
		must(t, s.Close())
	}
	if behind == 0 {
		t.Error("no kill came before the disk had what was applied: the test shows nothing")
	}
}

func killBehind(t *testing.T, dir string, after time.Duration) (acknowledged uint64) {
	t.Helper()
	writer := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBehindWriter$")
	writer.Env = append(os.Environ(), behindEnv+"="+dir)
	out, err := writer.StdoutPipe()
	must(t, err)
	must(t, writer.Start())
	lines := bufio.NewScanner(out)
	var dead *time.Timer
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "applied ") {
			continue
		}
		if _, err := fmt.Sscanf(lines.Text(), "applied %d", &acknowledged); err != nil {
			t.Fatal(err)
		}
		if dead == nil {
			dead = time.AfterFunc(after, func() { _ = writer.Process.Kill() })
		}
	}
	_ = writer.Wait() // it was killed
	return acknowledged
}
