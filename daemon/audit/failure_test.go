package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warder/daemon/audit"
)

// TestFailureLatches lets each disk operation fail once: that append and every later one must fail, and the log be
// unhealthy, until it is opened again.
func TestFailureLatches(t *testing.T) {
	broken := errors.New("input/output error")
	for _, step := range []string{"write segment", "sync segment", "allocate segment", "sync allocated", "sync hashes",
		"create segment", "sync header", "sync directory"} {
		t.Run(strings.ReplaceAll(step, " ", "-"), func(t *testing.T) {
			dir := t.TempDir()
			cfg := testConfig(dir)
			cfg.CheckpointEvery, cfg.MarkEvery = time.Hour, time.Hour
			failing, failed := false, 0
			cfg.SetProbe(func(s string) error {
				if failing && s == step && failed == 0 {
					failed++
					return broken
				}
				return nil
			})
			l := open(t, cfg)
			if step == "write segment" || step == "sync segment" {
				fill(t, l, 3) // the others come with the first record
			}
			failing = true
			acknowledged := l.Size()
			for range 3 {
				if _, err := l.Append(t.Context(), testRecord(int(acknowledged))); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, broken) {
					t.Fatalf("append: %v", err)
				}
			}
			if err := l.Healthy(); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("healthy: %v", err)
			}
			if err := l.Close(); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("close: %v", err)
			}
			l = open(t, testConfig(dir))
			if l.Size() < acknowledged {
				t.Errorf("%d entries after reopening, %d were acknowledged", l.Size(), acknowledged)
			}
			fill(t, l, 1)
			closeLog(t, l)
		})
	}
}

// TestFailureBehindLatches lets what is not waited for fail: the mark, which follows, and the end of a full segment.
func TestFailureBehindLatches(t *testing.T) {
	broken := errors.New("input/output error")
	for _, step := range []string{"write mark", "sync mark", "trim segment"} {
		t.Run(strings.ReplaceAll(step, " ", "-"), func(t *testing.T) {
			dir := t.TempDir()
			cfg := testConfig(dir)
			cfg.CheckpointEvery, cfg.MarkEvery, cfg.SegmentBytes = time.Hour, time.Millisecond, 1
			var failing atomic.Bool
			cfg.SetProbe(func(s string) error {
				if failing.Load() && s == step {
					return broken
				}
				return nil
			})
			l := open(t, cfg)
			fill(t, l, 3)
			failing.Store(true)
			acknowledged, err := appendUntilRefused(t, l)
			if !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, broken) {
				t.Fatalf("append: %v", err)
			}
			if err := l.Healthy(); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("healthy: %v", err)
			}
			failing.Store(false)
			if _, err := l.Append(t.Context(), testRecord(0)); !errors.Is(err, broken) {
				t.Errorf("append after the failure: %v", err)
			}
			if err := l.Close(); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("close: %v", err)
			}
			l = open(t, testConfig(dir))
			if int(l.Size()) < 3+acknowledged {
				t.Errorf("%d entries after reopening, %d were acknowledged", l.Size(), 3+acknowledged)
			}
			closeLog(t, l)
		})
	}
}

// tmpfs mounts a small file system; it needs root, as the project's tests run.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Logf("no tmpfs (%v): the test runs without a small disk", err)
		return ""
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDiskFailsClosed(t *testing.T) {
	dir := tmpfs(t, "size=256k")
	if dir == "" {
		return
	}
	l := open(t, testConfig(filepath.Join(dir, "audit")))
	acknowledged, err := appendUntilRefused(t, l)
	if !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("after %d entries: %v", acknowledged, err)
	}
	if err := l.Healthy(); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("healthy: %v", err)
	}
	if err := l.Close(); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("close: %v", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	l = open(t, testConfig(filepath.Join(dir, "audit")))
	if int(l.Size()) < acknowledged {
		t.Errorf("%d entries with space again, %d were acknowledged", l.Size(), acknowledged)
	}
	checkEntries(t, l)
	closeLog(t, l)
}

// TestReadOnlyFileFailsClosed makes the open segment immutable (chattr +i), which even root cannot write through.
func TestReadOnlyFileFailsClosed(t *testing.T) {
	dir := t.TempDir()
	l := open(t, testConfig(dir))
	defer l.Close()
	fill(t, l, 2)
	immutable(t, segmentFile(dir))
	if n, err := appendUntilRefused(t, l); n != 0 || !errors.Is(err, audit.ErrUnavailable) {
		t.Fatalf("append: %d entries, %v", n, err)
	}
	if err := l.Healthy(); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("healthy: %v", err)
	}
}

const immutableFlag = 0x10 // FS_IMMUTABLE_FL of linux/fs.h

// immutable sets the flag, or, on a file system where it does not stop who has the file open, removes the file: the log
// must fail closed either way.
func immutable(t *testing.T, path string) {
	t.Helper()
	if !honoursImmutable(t) {
		t.Log("an immutable file can be written here by who has it open: removing the file instead")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	setImmutable(t, path, true)
	t.Cleanup(func() { setImmutable(t, path, false) })
}

// honoursImmutable tries it: ext4 and xfs refuse such a write; tmpfs takes the flag, and the write.
func honoursImmutable(t *testing.T) bool {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "tried"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutableFlag) != nil {
		return false
	}
	_, err = f.WriteString("x")
	setImmutable(t, f.Name(), false)
	return err != nil
}

func setImmutable(t *testing.T, path string, on bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		t.Fatal(err)
	}
	flags &^= immutableFlag
	if on {
		flags |= immutableFlag
	}
	if err := errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func appendUntilRefused(t testing.TB, l *audit.Log) (acknowledged int, err error) {
	t.Helper()
	for i := range 10000 {
		if _, err := l.Append(t.Context(), testRecord(i)); err != nil {
			return acknowledged, err
		}
		acknowledged++
	}
	return acknowledged, nil
}

func TestRemovedFileFailsClosed(t *testing.T) {
	for _, file := range []string{"00000000000000000000.seg", "mark"} {
		dir := t.TempDir()
		l := open(t, testConfig(dir))
		fill(t, l, 2)
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := l.Append(t.Context(), testRecord(2)); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("append without %s: %v", file, err)
			}
		}
		if err := l.Healthy(); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("healthy without %s: %v", file, err)
		}
		l.Close()
	}
}

// TestReplacedDirectoryIsNoticed moves the directory away, as a careless log rotation would.
func TestReplacedDirectoryIsNoticed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, testConfig(dir))
	defer l.Close()
	fill(t, l, 1)
	if _, err := l.SignNow(); err != nil { // nothing is left to write: only looking can tell
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	for _, err := range l.Tail(t.Context(), 1) {
		if !errors.Is(err, audit.ErrUnavailable) {
			t.Fatalf("tail ended with %v", err)
		}
	}
}
