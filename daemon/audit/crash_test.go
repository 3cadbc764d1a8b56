package audit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

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
	cfg.CheckpointEvery, cfg.MarkEvery = time.Hour, time.Hour // the probe is to see one goroutine: both come at the close
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
		if acknowledged > 6 && acknowledged < 250 && (step == "sync segment" || step == "acknowledged") {
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
	for _, step := range []string{"write segment", "sync segment", "acknowledged", "allocate segment", "sync allocated",
		"trim segment", "write mark", "sync mark", "sync hashes", "create segment", "sync header", "sync directory", "write checkpoint"} {
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
	cfg.CheckpointEvery, cfg.MarkEvery = time.Hour, time.Hour
	appended := 0
	cfg.SetProbe(func(step string) error {
		if step == "sync segment" && appended == 4 {
			return crashImage(dir, image)
		}
		return nil
	})
	l := open(t, cfg)
	var before int64
	for i := range 5 {
		if appended == 4 {
			before = written(t, segmentFile(dir))
			if _, err := l.SignNow(); err != nil { // the mark has four
				t.Fatal(err)
			}
		}
		if _, err := l.Append(t.Context(), testRecord(i)); err != nil {
			t.Fatal(err)
		}
		appended++
	}
	closeLog(t, l)
	whole := written(t, segmentFile(image))
	for length := whole + 3; length >= before; length-- {
		for name, lose := range map[string]func(path string, length int64) error{"cut": os.Truncate, "zeroed": zeroFrom} {
			if name == "zeroed" && length < whole-60 && length%16 != 0 {
				continue
			}
			torn := filepath.Join(t.TempDir(), "torn")
			copyDir(t, image, torn)
			if err := lose(segmentFile(torn), length); err != nil {
				t.Fatal(err)
			}
			want := 4
			if length >= whole {
				want = 5 // whole, though not acknowledged: kept
			}
			after := open(t, testConfig(torn))
			if int(after.Size()) != want {
				t.Fatalf("%s at %d: %d entries, want %d", name, length, after.Size(), want)
			}
			checkEntries(t, after)
			closeLog(t, after)
		}
	}
	if err := os.Truncate(segmentFile(image), before-1); err != nil {
		t.Fatal(err)
	}
	wantDamage(t, image, "00000000000000000000.seg", 3)
}

// written is where a segment's groups end: the zeros behind them are room for more.
func written(t testing.TB, path string) int64 {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(bytes.TrimRight(content, "\x00")))
}

// zeroFrom makes zeros of a file's bytes from an offset on.
func zeroFrom(path string, offset int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return errors.Join(os.Truncate(path, offset), os.Truncate(path, info.Size()))
}

func segmentFile(dir string) string { return filepath.Join(dir, "00000000000000000000.seg") }

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
	boundary := written(t, segmentFile(dir))
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

	last := whole[boundary : len(whole)-56] // without the group's footer
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
