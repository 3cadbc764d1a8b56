package audit_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"warder/api/verify"
	"warder/daemon/audit"
)

var testKey = ed25519.NewKeyFromSeed([]byte("an audit key for tests, 32 bytes"))

func testConfig(dir string) audit.Config {
	return audit.Config{Dir: dir, Node: "n1", Key: testKey, Inputs: map[string]verify.Kind{"endpoint": verify.Text, "amount": verify.Number}}
}

func testRecord(i int) audit.Record {
	return audit.Record{
		Time:      time.Date(2026, 1, 2, 3, 4, 5, i, time.UTC),
		RequestID: fmt.Sprintf("req-%d", i),
		Principal: "workload:desk/bot-1",
		Authn:     "mtls",
		Method:    "warder.v1.CredentialService/Sign",
		Action:    "credential.sign",
		Resource:  verify.Resource{Type: "credential", Namespace: "desk", Name: "binance"},
		Decision:  verify.Allow,
		Policies:  []string{"desk/allow-bots"},
		Inputs:    []verify.Input{{Name: "endpoint", Kind: verify.Text, Text: "POST /api/v3/order"}},
		Remote:    netip.MustParseAddrPort("10.0.0.7:4711"),
	}
}

func open(t testing.TB, cfg audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func fill(t testing.TB, l *audit.Log, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.Append(t.Context(), testRecord(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func closeLog(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func verifierKeys(t testing.TB) []string {
	t.Helper()
	key, err := verify.VerifierKey("n1", testKey.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return []string{key}
}

func TestAppendSurvivesReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, testConfig(dir))
	fill(t, l, 200)
	origin := l.Origin()
	closeLog(t, l)
	l = open(t, testConfig(dir))
	defer closeLog(t, l)
	if l.Size() != 200 || l.Origin() != origin {
		t.Fatalf("reopened: %d entries of %v, want 200 of %v", l.Size(), l.Origin(), origin)
	}
	if index, err := l.Append(t.Context(), testRecord(200)); err != nil || index != 200 {
		t.Fatalf("append after reopen: %d, %v", index, err)
	}
	entries, err := l.Entries(130, 3)
	if err != nil || len(entries) != 3 {
		t.Fatalf("entries: %d, %v", len(entries), err)
	}
	for i, entry := range entries {
		var r audit.Record
		if err := r.UnmarshalBinary(entry.Leaf); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("req-%d", 130+i); entry.Index != uint64(130+i) || r.RequestID != want || r.Node != "n1" {
			t.Errorf("entry %d is %d %s of %s", 130+i, entry.Index, r.RequestID, r.Node)
		}
	}
	if _, err := l.Entries(202, 1); !errors.Is(err, audit.ErrRange) {
		t.Errorf("entries beyond the end: %v", err)
	}
}

func TestConcurrentAppendsGetDenseIndexes(t *testing.T) {
	l := open(t, testConfig(t.TempDir()))
	defer closeLog(t, l)
	const callers, each = 64, 50
	var seen [callers * each]atomic.Int32
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			last := -1
			for i := range each {
				index, err := l.Append(t.Context(), testRecord(c*each+i))
				if err != nil || int(index) <= last || int(index) >= len(seen) {
					t.Errorf("append: %d after %d, %v", index, last, err)
					return
				}
				last = int(index)
				seen[index].Add(1)
			}
		})
	}
	wait.Wait()
	for i := range seen {
		if n := seen[i].Load(); n != 1 {
			t.Fatalf("index %d was given %d times", i, n)
		}
	}
}

func TestSegmentsRollAndVerify(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.SegmentBytes, cfg.VerifySegments = 1, 1 // the smallest: 64 KiB
	l := open(t, cfg)
	appendMany(t, l, 2000)
	closeLog(t, l)
	segments, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	if len(segments) < 4 {
		t.Fatalf("%d segments, want several", len(segments))
	}
	for _, path := range segments {
		if info, err := os.Stat(path); err != nil || info.Size() > 64<<10 {
			t.Errorf("%s: %d bytes, %v", path, info.Size(), err)
		}
	}
	report, err := audit.VerifyDir(dir, verifierKeys(t), nil)
	if err != nil || report.Entries != 2000 || report.Unsigned != 0 {
		t.Fatalf("verify: %+v, %v", report, err)
	}
	l = open(t, cfg)
	var next uint64
	for entry, err := range l.Range(0, 5000) {
		if err != nil || entry.Index != next {
			t.Fatalf("range: %d, %v, want %d", entry.Index, err, next)
		}
		next++
	}
	if next != 2000 {
		t.Fatalf("range gave %d entries", next)
	}
	closeLog(t, l)
}

func appendMany(t testing.TB, l *audit.Log, n int) {
	t.Helper()
	var wait sync.WaitGroup
	for c := range 50 {
		wait.Go(func() {
			for i := range n / 50 {
				if _, err := l.Append(t.Context(), testRecord(c*n/50+i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
}

// TestDamageInOldSegmentIsFoundInTheBackground flips a byte where Open does not read before it returns.
func TestDamageInOldSegmentIsFoundInTheBackground(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.SegmentBytes, cfg.VerifySegments = 1, 1
	l := open(t, cfg)
	appendMany(t, l, 1000)
	closeLog(t, l)
	segments, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	flip(t, segments[0], 1000)
	l = open(t, cfg)
	defer l.Close()
	for _, err := range l.Tail(t.Context(), l.Size()) {
		if !errors.Is(err, audit.ErrDamaged) {
			t.Fatalf("tail ended with %v", err)
		}
	}
	if err := l.Healthy(); !errors.Is(err, audit.ErrDamaged) || !strings.Contains(err.Error(), filepath.Base(segments[0])) {
		t.Fatalf("healthy: %v", err)
	}
	if _, err := l.Append(t.Context(), testRecord(0)); !errors.Is(err, audit.ErrUnavailable) {
		t.Fatalf("append: %v", err)
	}
}

func TestTailWaitsForMore(t *testing.T) {
	l := open(t, testConfig(t.TempDir()))
	defer closeLog(t, l)
	fill(t, l, 3)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan uint64)
	ended := make(chan error, 1)
	go func() {
		for entry, err := range l.Tail(ctx, 1) {
			if err != nil {
				ended <- err
				return
			}
			got <- entry.Index
		}
	}()
	for want := uint64(1); want < 6; want++ {
		if want >= 3 {
			fill(t, l, 1)
		}
		if index := <-got; index != want {
			t.Fatalf("tail gave %d, want %d", index, want)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("tail ended with %v", err)
	}
}

func TestProofsHold(t *testing.T) {
	l := open(t, testConfig(t.TempDir()))
	defer closeLog(t, l)
	fill(t, l, 5)
	older, err := l.SignNow()
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, 8)
	newer, err := l.SignNow()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := l.Entries(0, 13)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		proof, err := l.Inclusion(entry.Index, newer.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify.Inclusion(newer, entry.Index, entry.Leaf, proof); err != nil {
			t.Error(err)
		}
		if err := verify.Inclusion(newer, entry.Index, append(entry.Leaf, 0), proof); !errors.Is(err, verify.ErrChanged) {
			t.Errorf("another leaf: %v", err)
		}
	}
	proof, err := l.Consistency(older.Size, newer.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.Consistency(older, newer, proof); err != nil {
		t.Error(err)
	}
	older.Root[0] ^= 1
	if err := verify.Consistency(older, newer, proof); !errors.Is(err, verify.ErrRewritten) {
		t.Errorf("another past: %v", err)
	}
	if _, err := l.Inclusion(13, 14); !errors.Is(err, audit.ErrRange) {
		t.Errorf("beyond the end: %v", err)
	}
}

func TestCheckpointEverySecondWhenThereIsSomethingNew(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := open(t, testConfig(dir))
		fill(t, l, 3)
		time.Sleep(1100 * time.Millisecond) // virtual
		synctest.Wait()
		first, err := l.Checkpoint()
		if err != nil || first.Size != 3 {
			t.Fatalf("checkpoint: %d, %v", first.Size, err)
		}
		time.Sleep(10 * time.Second)
		if again, _ := l.Checkpoint(); !again.Time.Equal(first.Time) {
			t.Error("signed again though nothing was new")
		}
		fill(t, l, 1)
		closeLog(t, l)
	})
	report, err := audit.VerifyDir(dir, verifierKeys(t), nil)
	if err != nil || report.Checkpoint.Size != 4 {
		t.Fatalf("after close: %+v, %v", report, err)
	}
}

func TestRelaxedModeDoesNotWait(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.Mode = audit.Relaxed
	l := open(t, cfg)
	if l.Mode().String() != "relaxed" {
		t.Error("mode is not shown")
	}
	fill(t, l, 500)
	closeLog(t, l)
	if report, err := audit.VerifyDir(dir, verifierKeys(t), nil); err != nil || report.Entries != 500 {
		t.Fatalf("verify: %+v, %v", report, err)
	}
}

func TestAppendRefusesWhatTheSchemaDoesNotAllow(t *testing.T) {
	l := open(t, testConfig(t.TempDir()))
	defer closeLog(t, l)
	for name, change := range map[string]func(*audit.Record){
		"input not listed":      func(r *audit.Record) { r.Inputs[0].Name = "password" },
		"input of another kind": func(r *audit.Record) { r.Inputs[0] = verify.Input{Name: "endpoint", Kind: verify.Number, Number: 1} },
		"another node":          func(r *audit.Record) { r.Node = "n2" },
		"no decision":           func(r *audit.Record) { r.Decision = 0 },
		"denial without reason": func(r *audit.Record) { r.Decision = verify.Deny },
	} {
		r := testRecord(1)
		change(&r)
		if _, err := l.Append(t.Context(), r); !errors.Is(err, verify.ErrBadRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l.Size() != 0 || l.Healthy() != nil {
		t.Errorf("a refused record left %d entries and health %v", l.Size(), l.Healthy())
	}
}

func TestRemoteIsMadeCanonical(t *testing.T) {
	l := open(t, testConfig(t.TempDir()))
	defer closeLog(t, l)
	for i, c := range []struct{ given, want string }{{"[fe80::1%eth0]:7", "[fe80::1]:7"}, {"[::ffff:192.0.2.1]:7", "192.0.2.1:7"}} {
		r := testRecord(i)
		r.Remote = netip.MustParseAddrPort(c.given)
		if _, err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		entries, err := l.Entries(uint64(i), 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.UnmarshalBinary(entries[0].Leaf); err != nil || r.Remote.String() != c.want {
			t.Errorf("%s is kept as %v, %v", c.given, r.Remote, err)
		}
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := open(t, testConfig(dir))
	if _, err := audit.Open(testConfig(dir)); !errors.Is(err, audit.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	closeLog(t, l)
	if _, err := l.Append(t.Context(), testRecord(0)); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	closeLog(t, open(t, testConfig(dir)))
}

func flip(t testing.TB, path string, offset int64) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[offset] ^= 0x40
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStalledDiskIsUnhealthy holds a write back: callers give up with their context, and health says why.
func TestStalledDiskIsUnhealthy(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(dir)
		held := make(chan struct{})
		cfg.SetProbe(func(step string) error {
			if step == "sync segment" {
				<-held
			}
			return nil
		})
		l := open(t, cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		if _, err := l.Append(ctx, testRecord(0)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("append: %v", err)
		}
		if err := l.Healthy(); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("healthy: %v", err)
		}
		close(held)
		closeLog(t, l)
	})
	if report, err := audit.VerifyDir(dir, verifierKeys(t), nil); err != nil || report.Entries != 1 {
		t.Errorf("the record that was waited for in vain: %+v, %v", report, err)
	}
}

func TestCheckAgainstAnchors(t *testing.T) {
	dir := t.TempDir()
	l := open(t, testConfig(dir))
	fill(t, l, 5)
	c, err := l.SignNow()
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, 2)
	good := verify.Anchor{Origin: c.Origin, Size: c.Size, Root: c.Root, Time: c.Time}
	foreign := good
	foreign.Origin.Log[0] ^= 1
	foreign.Size = 1000
	if err := l.Check([]verify.Anchor{good, foreign}); err != nil {
		t.Fatal(err)
	}
	beyond := good
	beyond.Size = 8
	if err := l.Check([]verify.Anchor{beyond}); !errors.Is(err, verify.ErrTruncated) || l.Healthy() == nil {
		t.Errorf("anchor beyond the end: %v", err)
	}
	l.Close()
	l = open(t, testConfig(dir))
	defer l.Close()
	other := good
	other.Root[0] ^= 1
	if err := l.Check([]verify.Anchor{other}); !errors.Is(err, verify.ErrRewritten) || l.Healthy() == nil {
		t.Errorf("anchor of another past: %v", err)
	}
}
