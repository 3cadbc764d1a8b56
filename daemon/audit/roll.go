package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// aheadBytes is how far the active segment is filled with zeros ahead of its end: a write into blocks that exist costs
// the file system no change of its own books, and its sync waits for data alone.
const aheadBytes = 1 << 20

var zeros [128 << 10]byte

// room gives the segment that the group goes into, starting a new one when the group would not fit.
func (l *Log) room(g *group) (*os.File, *segment, error) {
	l.files.Lock()
	defer l.files.Unlock()
	var last *segment
	if n := len(l.segments); n > 0 {
		last = l.segments[n-1]
		if length := last.length.Load(); length == segmentHeader || length+int64(len(g.frames)) <= l.cfg.SegmentBytes {
			return l.active, last, nil
		}
	}
	if err := l.roll(g.first, last); err != nil {
		return nil, nil, fmt.Errorf("starting a new audit segment: %w", err)
	}
	return l.active, l.segments[len(l.segments)-1], nil
}

// roll starts the segment of entry first. What the next Open relies on is flushed before: the end of the segment so
// far, the mark, and the tree's nodes.
func (l *Log) roll(first uint64, previous *segment) error {
	if previous != nil {
		if err := errors.Join(l.trimTo(previous.length.Load()), l.markNow()); err != nil {
			return err
		}
	}
	if err := l.cfg.probe("sync hashes"); err != nil {
		return err
	}
	if err := dataSync(l.hashes.file); err != nil {
		return err
	}
	if err := l.cfg.probe("create segment"); err != nil {
		return err
	}
	next := &segment{path: filepath.Join(l.cfg.Dir, segmentName(first)), id: l.origin.Log, first: first, indexed: true}
	file, err := os.OpenFile(next.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := l.begin(file, first, previous); err != nil {
		return errors.Join(err, file.Close())
	}
	next.length.Store(segmentHeader)
	l.active, l.segments = file, append(l.segments, next)
	return nil
}

// begin writes a new segment's header, makes it and its name durable and closes the segment before it.
func (l *Log) begin(file *os.File, first uint64, previous *segment) error {
	if _, err := file.Write(appendHeader(nil, l.origin.Log, first, previous)); err != nil {
		return err
	}
	l.ahead = segmentHeader
	if err := l.cfg.probe("sync header"); err != nil {
		return err
	}
	if err := dataSync(file); err != nil {
		return err
	}
	if err := l.cfg.probe("sync directory"); err != nil {
		return err
	}
	if err := syncDir(l.cfg.Dir); err != nil {
		return err
	}
	if l.active == nil {
		return nil
	}
	return l.active.Close()
}

// allocate makes sure that the active segment has durable zeros up to a place, so that what a crash leaves of a group
// lies among zeros. A full disk is no failure yet: the group itself may still find room.
func (l *Log) allocate(file *os.File, need int64) error {
	if need <= l.ahead {
		return nil
	}
	if err := l.cfg.probe("allocate segment"); err != nil {
		return err
	}
	for to := max(need, min(l.ahead+aheadBytes, l.cfg.SegmentBytes)); l.ahead < to; {
		n, err := file.WriteAt(zeros[:min(int64(len(zeros)), to-l.ahead)], l.ahead)
		l.ahead += int64(n)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := l.cfg.probe("sync allocated"); err != nil {
		return err
	}
	return dataSync(file)
}

// trim cuts the zeros behind the log's last group, durably.
func (l *Log) trim() error {
	l.files.Lock()
	defer l.files.Unlock()
	if l.active == nil {
		return nil
	}
	return l.trimTo(l.segments[len(l.segments)-1].length.Load())
}

// trimTo is trim; files is held.
func (l *Log) trimTo(length int64) error {
	if l.ahead <= length {
		return nil
	}
	if err := l.cfg.probe("trim segment"); err != nil {
		return err
	}
	if err := errors.Join(l.active.Truncate(length), l.active.Sync()); err != nil {
		return err
	}
	l.ahead = length
	return nil
}
