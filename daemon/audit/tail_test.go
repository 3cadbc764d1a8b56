package audit_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"warder/api/verify"
	"warder/daemon/audit"
)

// behind gives a log that a crash left with a mark that covers nothing yet: groups of one entry each, and where each
// group ends.
func behind(t *testing.T, groups int) (dir string, ends []int64) {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.CheckpointEvery, cfg.MarkEvery, cfg.SegmentBytes = time.Hour, time.Hour, 1
	l := open(t, cfg)
	defer l.Close()
	for i := range groups {
		if _, err := l.Append(t.Context(), testRecord(i)); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, written(t, segmentFile(cfg.Dir)))
	}
	dir = filepath.Join(t.TempDir(), "crashed")
	copyDir(t, cfg.Dir, dir)
	return dir, ends
}

// change opens copies of a log, each with its segment changed.
func change(t *testing.T, dir string, edit func(content []byte) []byte) (string, []byte) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "changed")
	copyDir(t, dir, to)
	content, err := os.ReadFile(segmentFile(to))
	if err != nil {
		t.Fatal(err)
	}
	content = edit(content)
	if err := os.WriteFile(segmentFile(to), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return to, content
}

func wantSize(t *testing.T, what, dir string, entries int) {
	t.Helper()
	l, err := audit.Open(testConfig(dir))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if int(l.Size()) != entries {
		t.Fatalf("%s: %d entries, want %d", what, l.Size(), entries)
	}
	checkEntries(t, l)
	closeLog(t, l)
	if report, err := audit.VerifyDir(dir, verifierKeys(t), nil); err != nil || int(report.Entries) != entries+1 {
		t.Fatalf("%s: verify: %+v, %v", what, report, err)
	}
}

func TestMarkMayBeBehind(t *testing.T) {
	dir, _ := behind(t, 5)
	wantSize(t, "a crash before the mark", dir, 5)
}

// TestFlippedTailAfterCrash flips each byte of groups that the mark does not cover. None is taken for a write that was
// cut short: nothing is missing.
func TestFlippedTailAfterCrash(t *testing.T) {
	dir, ends := behind(t, 2)
	for i := int64(44); i < ends[1]; i++ {
		changed, content := change(t, dir, func(b []byte) []byte { b[i] ^= 0x01; return b })
		l, err := audit.Open(testConfig(changed))
		var damage *audit.Damage
		if !errors.As(err, &damage) || damage.File != "00000000000000000000.seg" {
			if err == nil {
				l.Close()
			}
			t.Fatalf("byte %d: %v", i, err)
		}
		if inFooter := i >= ends[0]-56 && i < ends[0]; damage.Index != 0 && i < ends[0] && !inFooter || damage.Index == 0 && i >= ends[0] {
			t.Fatalf("byte %d: entry %d is named", i, damage.Index)
		}
		if i%16 == 0 {
			if _, err := audit.VerifyDir(changed, verifierKeys(t), nil); !errors.Is(err, audit.ErrDamaged) {
				t.Fatalf("byte %d: verify: %v", i, err)
			}
		}
		if after, err := os.ReadFile(segmentFile(changed)); err != nil || !bytes.Equal(after, content) {
			t.Fatalf("byte %d: opening a damaged log changed it", i)
		}
	}
}

// TestLossBeforeAWholeGroup loses a group that is followed by another: it was durable when that was written.
func TestLossBeforeAWholeGroup(t *testing.T) {
	dir, ends := behind(t, 3)
	for name, edit := range map[string]func(b []byte) []byte{
		"zeroed":          func(b []byte) []byte { clear(b[ends[0]:ends[1]]); return b },
		"without footer":  func(b []byte) []byte { clear(b[ends[1]-56 : ends[1]]); return b },
		"twice the first": func(b []byte) []byte { copy(b[ends[0]:ends[1]], b[44:ends[0]]); return b },
	} {
		changed, _ := change(t, dir, edit)
		t.Log(name)
		wantDamage(t, changed, "00000000000000000000.seg", 1)
	}
}

// TestLossOfTheEnd loses whole groups at the end, after a crash and before the mark covered them. The files alone do not
// show it; an anchor does.
func TestLossOfTheEnd(t *testing.T) {
	dir, ends := behind(t, 3)
	changed, _ := change(t, dir, func(b []byte) []byte { return b[:ends[1]] })
	l := open(t, testConfig(dir))
	c, err := l.SignNow()
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	l = open(t, testConfig(changed))
	defer l.Close()
	if l.Size() != 2 {
		t.Fatalf("%d entries, want 2", l.Size())
	}
	anchor := verify.Anchor{Origin: c.Origin, Size: c.Size, Root: c.Root, Time: c.Time}
	if err := l.Check([]verify.Anchor{anchor}); !errors.Is(err, verify.ErrTruncated) {
		t.Errorf("against an anchor: %v", err)
	}
}

// TestRoomAhead changes the zeros behind the last group: there is nothing to lose.
func TestRoomAhead(t *testing.T) {
	dir, ends := behind(t, 2)
	for name, edit := range map[string]func(b []byte) []byte{
		"none":           func(b []byte) []byte { return b[:ends[1]] },
		"cut":            func(b []byte) []byte { return b[:ends[1]+1000] },
		"longer":         func(b []byte) []byte { return append(b, make([]byte, 5000)...) },
		"a bit":          func(b []byte) []byte { b[ends[1]+100] = 1; return b },
		"a bit far away": func(b []byte) []byte { b[ends[1]+10000] = 1; return b },
	} {
		changed, _ := change(t, dir, edit)
		wantSize(t, name, changed, 2)
	}
}

// TestCloseLeavesNoRoom: the last segment of a closed log ends with its last group.
func TestCloseLeavesNoRoom(t *testing.T) {
	dir := t.TempDir()
	l := open(t, testConfig(dir))
	fill(t, l, 3)
	closeLog(t, l)
	info, err := os.Stat(segmentFile(dir))
	if err != nil || info.Size() != written(t, segmentFile(dir)) {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}

// TestFormerFormat: a log of the format before is named, not taken for damage to a header.
func TestFormerFormat(t *testing.T) {
	dir, _ := behind(t, 1)
	changed, _ := change(t, dir, func(b []byte) []byte { b[7] = '1'; return b })
	_, err := audit.Open(testConfig(changed))
	if !errors.Is(err, audit.ErrDamaged) || !bytes.Contains([]byte(err.Error()), []byte("format 1")) {
		t.Errorf("open: %v", err)
	}
}
