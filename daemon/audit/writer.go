package audit

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// write writes the groups that no caller writes itself: while it waits for a sync, the callers that arrive gather in the
// next group.
func (l *Log) write() {
	for {
		select {
		case <-l.work:
			l.gather()
			for l.waiting() {
				l.flush()
			}
		case <-l.quit:
			l.flush()
			return
		}
	}
}

// lead lets a caller who would wait anyway write the open group, which saves two changes of goroutine. Where another is
// at it, that one looks again when it is done.
func (l *Log) lead() {
	if !l.writing.TryLock() {
		return
	}
	l.flushOpen()
	l.writing.Unlock()
	if l.waiting() {
		l.wake()
	}
}

// waiting says whether records wait for the disk.
func (l *Log) waiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open.leaves) > 0
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

func (l *Log) flush() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.flushOpen()
}

// flushOpen writes the open group, if it holds anything, and answers its callers; writing is held.
func (l *Log) flushOpen() {
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
	if g.taken != nil {
		close(g.taken)
	}
	return g
}

// commit makes a group durable with one sync: its frames, and the footer that says that they are all there. The mark
// follows in its own time.
func (l *Log) commit(g *group) error {
	before := l.tree.Size()
	l.nodes = l.nodes[:0]
	for _, leaf := range g.leaves {
		l.nodes = l.tree.Append(leaf, l.nodes)
	}
	at := position{l.tree.Size(), l.tree.Root()}
	g.end(l.origin.Log, at)
	file, s, err := l.room(g)
	if err != nil {
		return err
	}
	start := s.length.Load()
	if err := l.store(file, g.frames, start); err != nil {
		return err
	}
	if err := l.hashes.write(tlog.StoredHashCount(int64(before)), l.nodes); err != nil {
		return err
	}
	for i := range g.places {
		g.places[i].offset += start
	}
	s.note(g.places...)
	s.length.Store(start + int64(len(g.frames)))
	l.publish(at)
	return nil
}

// store writes a group where zeros are, and waits for the disk.
func (l *Log) store(file *os.File, frames []byte, start int64) error {
	if err := l.allocate(file, start+int64(len(frames))); err != nil {
		return fmt.Errorf("allocating room in the audit segment: %w", err)
	}
	if err := l.cfg.probe("write segment"); err != nil {
		return err
	}
	if _, err := file.WriteAt(frames, start); err != nil {
		return err
	}
	if err := l.cfg.probe("sync segment"); err != nil {
		return err
	}
	if err := dataSync(file); err != nil {
		return err
	}
	if err := present(l.mark.file); err != nil {
		return err
	}
	return l.cfg.probe("acknowledged")
}

// publish shows the new size to readers, and to the mark.
func (l *Log) publish(at position) {
	l.committed.Store(&at)
	l.mu.Lock()
	l.announce()
	l.mu.Unlock()
	select {
	case l.behind <- struct{}{}:
	default:
	}
}
