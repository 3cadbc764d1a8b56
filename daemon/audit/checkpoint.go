package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"warder/api/verify"
)

func (l *Log) checkpointPath() string { return filepath.Join(l.cfg.Dir, "checkpoint") }

// openCheckpoint reads the latest signed checkpoint; a log that is younger than a second has none.
func (l *Log) openCheckpoint() error {
	signed, err := readSmall(l.checkpointPath(), verify.MaxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	c, err := verify.OpenCheckpoint(signed, l.keys...)
	if err != nil {
		return &Damage{"checkpoint", 0, 0, err.Error()}
	}
	if c.Origin != l.origin {
		return &Damage{"checkpoint", 0, 0, "it is of another log: " + c.Origin.String()}
	}
	l.signed.Store(&c)
	return nil
}

// readSmall reads a file, refusing one longer than limit.
func readSmall(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed", path, info.Size(), limit)
	}
	return os.ReadFile(path)
}

// keepSigned signs a checkpoint whenever the log has grown since the last, once per interval, and looks whether the
// files are still where they were opened.
func (l *Log) keepSigned() {
	ticker := time.NewTicker(l.cfg.CheckpointEvery)
	defer ticker.Stop()
	for {
		select {
		case <-l.quit:
			return
		case <-ticker.C:
		}
		if err := l.inPlace(); err != nil {
			_ = l.latch(err) // SignNow sees it and ends this
		}
		if _, err := l.SignNow(); err != nil {
			return
		}
	}
}

// inPlace says whether the open files are still the ones that the directory holds.
func (l *Log) inPlace() error {
	if err := sameFile(l.mark.file); err != nil {
		return err
	}
	l.files.Lock()
	defer l.files.Unlock()
	if l.active == nil {
		return nil
	}
	return sameFile(l.active)
}

// SignNow gives a checkpoint of everything that is durable, signing and storing a new one when the log has grown.
// A failure is latched.
func (l *Log) SignNow() (verify.Checkpoint, error) {
	l.signing.Lock()
	defer l.signing.Unlock()
	if err := l.failed(); err != nil {
		return verify.Checkpoint{}, err
	}
	at := *l.committed.Load()
	if last := l.signed.Load(); last != nil && last.Size == at.size {
		return *last, nil
	}
	c := verify.Checkpoint{Origin: l.origin, Size: at.size, Root: at.root, Time: l.cfg.Clock()}
	if err := verify.SignCheckpoint(&c, l.cfg.Key); err != nil {
		return verify.Checkpoint{}, l.latch(err)
	}
	if err := l.markNow(); err != nil {
		return verify.Checkpoint{}, l.latch(err)
	}
	if err := l.cfg.probe("write checkpoint"); err != nil {
		return verify.Checkpoint{}, l.latch(err)
	}
	if err := writeFileSync(l.checkpointPath(), c.Note); err != nil {
		return verify.Checkpoint{}, l.latch(err)
	}
	l.signed.Store(&c)
	return c, nil
}

// Checkpoint gives the latest signed checkpoint, at most an interval old; of an empty log it signs one.
func (l *Log) Checkpoint() (verify.Checkpoint, error) {
	if c := l.signed.Load(); c != nil {
		return *c, l.failed()
	}
	return l.SignNow()
}

// Check holds the log against the cluster's anchors of it (verify.ErrTruncated, verify.ErrRewritten) and latches a
// contradiction: a node whose past is not the one that the cluster saw must not go on. Anchors of other logs and
// nodes are left alone.
func (l *Log) Check(anchors []verify.Anchor) error {
	size := l.Size()
	for _, a := range anchors {
		if a.Origin != l.origin {
			continue
		}
		if a.Size > size {
			return l.latch(&verify.Fault{Kind: verify.ErrTruncated, From: size, To: a.Size, Detail: "an anchor is beyond the end"})
		}
		tree, err := l.resume(a.Size)
		if err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		if tree.Root() != a.Root {
			return l.latch(&verify.Fault{Kind: verify.ErrRewritten, To: a.Size, Detail: "an anchor has another root"})
		}
	}
	return nil
}
