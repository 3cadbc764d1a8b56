package audit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warder/api/verify"
	"warder/daemon/audit"
)

// copyDir takes the directory as a process that is killed at this moment would leave it.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := crashImage(from, to); err != nil {
		t.Fatal(err)
	}
}

// crashImage is copyDir for a probe, which runs on the log's own goroutine and must not end it.
func crashImage(from, to string) error { return os.CopyFS(to, os.DirFS(from)) }

// TestCrashAtEveryBoundary kills the log before each disk operation of a run over several segments, and checks that
// what was acknowledged until then is there, entry for entry, and that the log goes on.
func TestCrashAtEveryBoundary(t *testing.T) {
	dir, copies := t.TempDir(), t.TempDir()
	cfg := testConfig(dir)
	cfg.SegmentBytes = 1
	cfg.CheckpointEvery = time.Hour // the probe is to see one goroutine: a checkpoint comes at the close
	type crash struct {
		step         string
		acknowledged int
	}
	var crashes []crash
	acknowledged := 0
	cfg.SetProbe(func(step string) error {
		if acknowledged > 6 && step == "write segment" && acknowledged < 250 {
			return nil // the middle of a segment is alike
		}
		if acknowledged > 6 && acknowledged < 250 && step != "create segment" && step != "sync directory" && step != "sync hashes" {
			return nil
		}
		crashes = append(crashes, crash{step, acknowledged})
		return crashImage(dir, filepath.Join(copies, fmt.Sprint(len(crashes)-1)))
	})
	l := open(t, cfg)
	for i := range 400 {
		if _, err := l.Append(t.Context(), testRecord(i)); err != nil {
			t.Fatal(err)
		}
		acknowledged++
		if acknowledged > 270 {
			break
		}
	}
	closeLog(t, l)
	steps := map[string]bool{}
	for i, c := range crashes {
		steps[c.step] = true
		after := open(t, testConfig(filepath.Join(copies, fmt.Sprint(i))))
		if size := int(after.Size()); size < c.acknowledged || size > c.acknowledged+1 {
			t.Fatalf("crash %d before %q: %d entries, %d were acknowledged", i, c.step, size, c.acknowledged)
		}
		checkEntries(t, after)
		closeLog(t, after)
		if _, err := audit.VerifyDir(filepath.Join(copies, fmt.Sprint(i)), verifierKeys(t), nil); err != nil {
			t.Fatalf("crash %d before %q: %v", i, c.step, err)
		}
	}
	for _, step := range []string{"write segment", "sync segment", "write mark", "sync mark", "acknowledged",
		"sync hashes", "create segment", "sync directory", "write checkpoint"} {
		if !steps[step] {
			t.Errorf("no crash before %q", step)
		}
	}
}

func checkEntries(t testing.TB, l *audit.Log) {
	t.Helper()
	next := 0
	for entry, err := range l.Range(0, l.Size()) {
		var r audit.Record
		if err == nil {
			err = r.UnmarshalBinary(entry.Leaf)
		}
		if want := fmt.Sprintf("req-%d", next); err != nil || r.RequestID != want {
			t.Fatalf("entry %d: %q, %v", next, r.RequestID, err)
		}
		next++
	}
	if next != int(l.Size()) {
		t.Fatalf("%d entries of %d", next, l.Size())
	}
	if _, err := l.Append(t.Context(), testRecord(next)); err != nil {
		t.Fatal(err)
	}
}

// TestTornTail loses every possible part of a group that was written and not acknowledged, and checks that exactly
// that is cut; then loses one byte more, which was acknowledged, and checks that this is damage.
func TestTornTail(t *testing.T) {
	dir, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	cfg := testConfig(dir)
	cfg.CheckpointEvery = time.Hour
	appended := 0
	cfg.SetProbe(func(step string) error {
		if step == "write mark" && appended == 4 {
			return crashImage(dir, image)
		}
		return nil
	})
	l := open(t, cfg)
	var before int64
	for i := range 5 {
		if appended == 4 {
			before = size(t, segmentFile(dir))
		}
		if _, err := l.Append(t.Context(), testRecord(i)); err != nil {
			t.Fatal(err)
		}
		appended++
	}
	closeLog(t, l)
	for length := size(t, segmentFile(image)); length >= before; length-- {
		torn := filepath.Join(t.TempDir(), "torn")
		copyDir(t, image, torn)
		if err := os.Truncate(segmentFile(torn), length); err != nil {
			t.Fatal(err)
		}
		want := 4
		if length == size(t, segmentFile(image)) {
			want = 5 // whole, though not acknowledged: kept
		}
		after := open(t, testConfig(torn))
		if int(after.Size()) != want {
			t.Fatalf("cut at %d: %d entries, want %d", length, after.Size(), want)
		}
		checkEntries(t, after)
		closeLog(t, after)
	}
	if err := os.Truncate(segmentFile(image), before-1); err != nil {
		t.Fatal(err)
	}
	wantDamage(t, image, "00000000000000000000.seg", 3)
}

func segmentFile(dir string) string { return filepath.Join(dir, "00000000000000000000.seg") }

func size(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func wantDamage(t testing.TB, dir, file string, index uint64) {
	t.Helper()
	l, err := audit.Open(testConfig(dir))
	if err == nil {
		l.Close()
	}
	var damage *audit.Damage
	if !errors.As(err, &damage) || damage.File != file || damage.Index != index {
		t.Errorf("open gave %v, want damage of %s at entry %d", err, file, index)
	}
	_, err = audit.VerifyDir(dir, verifierKeys(t), nil)
	if !errors.As(err, &damage) || damage.File != file || damage.Index != index {
		t.Errorf("verify gave %v, want damage of %s at entry %d", err, file, index)
	}
}

// TestEveryFlippedByteIsNamed flips each byte of each file. A byte of the segment or the checkpoint is damage; one
// slot of the mark or the derived nodes may be lost, and then nothing else is.
func TestEveryFlippedByteIsNamed(t *testing.T) {
	dir := t.TempDir()
	l := open(t, testConfig(dir))
	fill(t, l, 4)
	closeLog(t, l)
	for _, file := range []string{"00000000000000000000.seg", "checkpoint"} {
		path := filepath.Join(dir, file)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			flipped := bytes.Clone(whole)
			flipped[i] ^= 0x01
			if err := os.WriteFile(path, flipped, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := audit.Open(testConfig(dir))
			var damage *audit.Damage
			if !errors.As(err, &damage) || damage.File != file {
				if err == nil {
					l.Close()
				}
				t.Fatalf("byte %d of %s: %v", i, file, err)
			}
			if _, err := audit.VerifyDir(dir, verifierKeys(t), nil); err == nil {
				t.Fatalf("byte %d of %s: verified", i, file)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, flipped) {
				t.Fatalf("byte %d of %s: opening a damaged log changed it", i, file)
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, offsets := range map[string][]int64{"mark": {0, 20, 40, 4096, 4120, 4160}, "hashes": {0, 40, 100, 200}} {
		for _, offset := range offsets {
			flip(t, filepath.Join(dir, file), offset)
			l := open(t, testConfig(dir))
			if l.Size() != 4 {
				t.Errorf("byte %d of %s: %d entries", offset, file, l.Size())
			}
			proof, err := l.Inclusion(1, 4)
			if err != nil || len(proof) != 2 {
				t.Errorf("byte %d of %s: %v", offset, file, err)
			}
			closeLog(t, l)
		}
	}
	flip(t, filepath.Join(dir, "mark"), 20)
	flip(t, filepath.Join(dir, "mark"), 4160)
	wantDamage(t, dir, "mark", 0)
}

// TestWholeFramesLostOrRewritten cuts a log between two frames, and rewrites an entry together with its checksum:
// no frame is wrong then, only the log.
func TestWholeFramesLostOrRewritten(t *testing.T) {
	dir := t.TempDir()
	l := open(t, testConfig(dir))
	fill(t, l, 3)
	boundary := size(t, segmentFile(dir))
	fill(t, l, 1)
	closeLog(t, l)
	whole, err := os.ReadFile(segmentFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(segmentFile(dir), boundary); err != nil {
		t.Fatal(err)
	}
	if l, err := audit.Open(testConfig(dir)); !errors.Is(err, audit.ErrDamaged) {
		if err == nil {
			l.Close()
		}
		t.Errorf("open a cut log: %v", err)
	}
	if _, err := audit.VerifyDir(dir, verifierKeys(t), nil); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("verify a cut log: %v", err)
	}

	last := whole[boundary:]
	leaf := last[8:]
	leaf[bytes.Index(leaf, []byte("req-0"))+4] = '7'
	place := append(bytes.Clone(leaf), 0, 0, 0, 0, 0, 0, 0, 3)
	binary.BigEndian.PutUint32(last[4:], crc32.Checksum(place, crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(segmentFile(dir), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = audit.Open(testConfig(dir))
	var damage *audit.Damage
	if !errors.As(err, &damage) || damage.Index != 3 || damage.File != "00000000000000000000.seg" {
		t.Errorf("open a rewritten log: %v", err)
	}
	_, err = audit.VerifyDir(dir, verifierKeys(t), nil)
	var fault *verify.Fault
	if !errors.As(err, &fault) || !errors.Is(err, verify.ErrChanged) || fault.From != 3 || !fault.Exact {
		t.Errorf("verify a rewritten log: %v", err)
	}
}

func TestMissingFilesAreNamed(t *testing.T) {
	whole := t.TempDir()
	cfg := testConfig(whole)
	cfg.SegmentBytes = 1
	l := open(t, cfg)
	appendMany(t, l, 1000)
	closeLog(t, l)
	segments, _ := filepath.Glob(filepath.Join(whole, "*.seg"))
	for _, file := range []string{"mark", filepath.Base(segments[0]), filepath.Base(segments[1]), filepath.Base(segments[len(segments)-1])} {
		dir := filepath.Join(t.TempDir(), "copy")
		copyDir(t, whole, dir)
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
		if l, err := audit.Open(testConfig(dir)); !errors.Is(err, audit.ErrDamaged) {
			if err == nil {
				l.Close()
			}
			t.Errorf("without %s: open gave %v", file, err)
		}
		if _, err := audit.VerifyDir(dir, verifierKeys(t), nil); !errors.Is(err, audit.ErrDamaged) {
			t.Errorf("without %s: verify gave %v", file, err)
		}
	}
}

// TestFailureLatches lets each disk operation fail once: that append and every later one must fail, and the log be
// unhealthy, until it is opened again.
func TestFailureLatches(t *testing.T) {
	broken := errors.New("input/output error")
	for _, step := range []string{"write segment", "sync segment", "write mark", "sync mark", "sync hashes", "create segment", "sync directory"} {
		t.Run(strings.ReplaceAll(step, " ", "-"), func(t *testing.T) {
			dir := t.TempDir()
			cfg := testConfig(dir)
			cfg.CheckpointEvery = time.Hour
			failing, failed := false, 0
			cfg.SetProbe(func(s string) error {
				if failing && s == step && failed == 0 {
					failed++
					return broken
				}
				return nil
			})
			inNewSegment := step == "sync hashes" || step == "create segment" || step == "sync directory"
			l := open(t, cfg)
			if !inNewSegment {
				fill(t, l, 3)
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
	setFlags(t, path, immutableFlag)
	t.Cleanup(func() { setFlags(t, path, 0) })
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
	setFlags(t, f.Name(), 0)
	return err != nil
}

func setFlags(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
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
