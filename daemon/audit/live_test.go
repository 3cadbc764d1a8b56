package audit_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"warder/daemon/audit"
)

// work appends from several goroutines, of which every other has a context that can end, each a number of
// records or until the log is closed. It gives the number of records that were acknowledged, after wait.
func work(t *testing.T, l *audit.Log, each int) (acknowledged *atomic.Int64, wait func()) {
	t.Helper()
	acknowledged = new(atomic.Int64)
	var running sync.WaitGroup
	for c := range 8 {
		ctx := t.Context()
		if c%2 == 0 {
			ctx = context.WithoutCancel(ctx)
		}
		running.Go(func() {
			for range each {
				_, err := l.Append(ctx, testRecord(c))
				if errors.Is(err, audit.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				acknowledged.Add(1)
			}
		})
	}
	return acknowledged, running.Wait
}

// TestVerifyWhileWriting proves the files and reads the log while groups are written, room is made and segments are begun.
func TestVerifyWhileWriting(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 1
	l := open(t, cfg)
	fill(t, l, 1)
	if _, err := l.SignNow(); err != nil {
		t.Fatal(err)
	}
	acknowledged, wait := work(t, l, 500)
	for range 20 {
		if _, err := audit.VerifyDir(cfg.Dir, verifierKeys(t), nil); err != nil {
			t.Errorf("verify: %v", err)
		}
		size := l.Size()
		if entries, err := l.Entries(size-min(size, 100), 100); err != nil || len(entries) != int(min(size, 100)) {
			t.Errorf("entries: %d, %v", len(entries), err)
		}
	}
	wait()
	closeLog(t, l)
	if report, err := audit.VerifyDir(cfg.Dir, verifierKeys(t), nil); err != nil || int64(report.Entries) != acknowledged.Load()+1 {
		t.Errorf("%d acknowledged; verify: %+v, %v", acknowledged.Load()+1, report, err)
	}
}

// TestCloseWhileWriting closes the log under its callers: each has its record, or knows that it has none.
func TestCloseWhileWriting(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		l := open(t, testConfig(dir))
		acknowledged, wait := work(t, l, 1000000)
		for l.Size() < 50 {
			fill(t, l, 1)
			acknowledged.Add(1)
		}
		closeLog(t, l)
		wait()
		if report, err := audit.VerifyDir(dir, verifierKeys(t), nil); err != nil || int64(report.Entries) != acknowledged.Load() {
			t.Fatalf("%d acknowledged; verify: %+v, %v", acknowledged.Load(), report, err)
		}
	}
}
