package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"warder/api/verify"
)

// write is the one goroutine that touches the disk for records: while it waits for a sync, the callers that arrive
// gather in the next group.
func (l *Log) write() {
	for {
		select {
		case <-l.work:
			l.gather()
			l.flush()
		case <-l.quit:
			l.flush()
			return
		}
	}
}

// gather lets a relaxed log collect for its interval.
func (l *Log) gather() {
	if l.cfg.Mode != Relaxed {
		return
	}
	timer := time.NewTimer(relaxedInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.quit:
	}
}

// flush writes the open group, if it holds anything, and answers its callers.
func (l *Log) flush() {
	g := l.take()
	if g == nil {
		return
	}
	l.busySince.Store(l.cfg.Clock().UnixNano())
	err := l.failed()
	if err == nil {
		if err = l.commit(g); err != nil {
			err = l.latch(err)
		}
	}
	l.busySince.Store(0)
	l.spare = g.room()
	g.err = err
	close(g.done)
}

func (l *Log) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

func (l *Log) take() *group {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.open
	if len(g.leaves) == 0 {
		return nil
	}
	l.open = newGroup(l.next)
	l.open.frames, l.open.leaves, l.spare = l.spare.frames, l.spare.leaves, group{}
	close(g.taken)
	return g
}

// commit makes a group durable: the frames first, then the mark that acknowledges them. Between the two syncs a
// crash leaves whole frames that the mark does not cover; the next Open keeps them.
func (l *Log) commit(g *group) error {
	file, s, err := l.room(g)
	if err != nil {
		return err
	}
	start := s.length.Load()
	if err := l.cfg.probe("write segment"); err != nil {
		return err
	}
	if _, err := file.WriteAt(g.frames, start); err != nil {
		return err
	}
	if err := l.cfg.probe("sync segment"); err != nil {
		return err
	}
	if err := dataSync(file); err != nil {
		return err
	}
	before := l.tree.Size()
	var nodes []verify.Hash
	for _, leaf := range g.leaves {
		nodes = l.tree.Append(leaf, nodes)
	}
	if err := l.hashes.write(tlog.StoredHashCount(int64(before)), nodes); err != nil {
		return err
	}
	if err := l.acknowledge(position{l.tree.Size(), l.tree.Root()}); err != nil {
		return err
	}
	for i := range g.places {
		g.places[i].offset += start
	}
	s.note(g.places...)
	s.length.Store(start + int64(len(g.frames)))
	l.publish()
	return nil
}

// acknowledge writes the mark and waits for it.
func (l *Log) acknowledge(at position) error {
	if err := l.cfg.probe("write mark"); err != nil {
		return err
	}
	if err := l.mark.write(at); err != nil {
		return err
	}
	if err := l.cfg.probe("sync mark"); err != nil {
		return err
	}
	if err := dataSync(l.mark.file); err != nil {
		return err
	}
	return l.cfg.probe("acknowledged")
}

// publish shows the new size to readers.
func (l *Log) publish() {
	at := l.mark.at
	l.committed.Store(&at)
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

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

// roll starts the segment of entry first. The tree's nodes so far are flushed, because Open resumes from them.
func (l *Log) roll(first uint64, previous *segment) error {
	if err := l.cfg.probe("sync hashes"); err != nil {
		return err
	}
	if err := dataSync(l.hashes.file); err != nil {
		return err
	}
	if err := l.cfg.probe("create segment"); err != nil {
		return err
	}
	next := &segment{path: filepath.Join(l.cfg.Dir, segmentName(first)), first: first, indexed: true}
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

// begin writes a new segment's header, makes its name durable and closes the segment before it.
func (l *Log) begin(file *os.File, first uint64, previous *segment) error {
	if _, err := file.Write(appendHeader(nil, l.origin.Log, first, previous)); err != nil {
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
