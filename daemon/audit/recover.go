package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"warder/api/verify"
)

// recover opens the files and checks them. It gives the older segments that it did not read through.
func (l *Log) recover() (unread []*segment, err error) {
	if err := os.MkdirAll(l.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err := l.openMark(); err != nil {
		return nil, err
	}
	l.origin = verify.Origin{Node: l.cfg.Node, Log: l.mark.id}
	if l.hashes.file, err = os.OpenFile(filepath.Join(l.cfg.Dir, "hashes"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err := l.openSegments(); err != nil {
		return nil, err
	}
	if err := l.openCheckpoint(); err != nil {
		return nil, err
	}
	start, err := l.readThrough()
	if err != nil {
		return nil, err
	}
	if err := l.settle(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	at := l.mark.at
	l.committed.Store(&at)
	l.next, l.open = at.size, newGroup(at.size)
	return l.segments[:start], nil
}

// openMark opens and locks the mark, creating a new log in an empty directory.
func (l *Log) openMark() error {
	path := filepath.Join(l.cfg.Dir, "mark")
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := l.create(path); err != nil {
			return err
		}
		file, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	m, err := readMark(file)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	l.mark = m
	return m.lock()
}

// create makes a new log where there is none. The random id makes it another log than any before it.
func (l *Log) create(path string) error {
	entries, err := os.ReadDir(l.cfg.Dir)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() != "mark.new" {
			return &Damage{"mark", 0, 0, "the file is missing beside " + entry.Name()}
		}
	}
	var id [8]byte
	rand.Read(id[:])
	if err := createMark(path, id); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return syncDir(filepath.Dir(l.cfg.Dir))
}

// openSegments lists the segments, checks that each follows from the one before, and opens the last for writing.
func (l *Log) openSegments() error {
	segments, err := listSegments(l.cfg.Dir, l.mark.id)
	if err != nil {
		return err
	}
	good, err := chain(segments, l.mark.at.size)
	if err != nil {
		return err
	}
	for _, s := range segments[good:] {
		l.cfg.Logger.Warn("removing an audit segment that a crash left unfinished", "file", s.name())
		if err := errors.Join(os.Remove(s.path), syncDir(l.cfg.Dir)); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
	}
	if good == 0 {
		if n := l.mark.at.size; n > 0 {
			return &Damage{segmentName(0), 0, 0, fmt.Sprintf("the file is missing: %d entries were acknowledged", n)}
		}
		return nil
	}
	l.segments = segments[:good]
	l.active, err = os.OpenFile(segments[good-1].path, os.O_RDWR, 0)
	return err
}

// readThrough reads the newest segments, resuming the tree at their start from the stored nodes, or the whole log
// when that does not lead to the acknowledged root. It gives the number of segments that it left out.
func (l *Log) readThrough() (start int, err error) {
	start = max(0, len(l.segments)-l.cfg.VerifySegments)
	for start > 0 && l.segments[start].first > l.mark.at.size {
		start--
	}
	if start > 0 {
		tree, err := l.resume(l.segments[start].first)
		if err == nil {
			err = l.readFrom(start, tree)
		}
		if err == nil {
			return start, nil
		}
		l.cfg.Logger.Warn("audit log does not read back from its stored nodes: reading all of it", "error", err)
	}
	return 0, l.readFrom(0, verify.Tree{})
}

// resume gives the tree of the first size entries from the stored nodes.
func (l *Log) resume(size uint64) (verify.Tree, error) {
	edge, err := l.hashes.ReadHashes(verify.EdgeIndexes(size))
	if err != nil {
		return verify.Tree{}, err
	}
	return verify.ResumeTree(size, edge), nil
}

func (l *Log) readFrom(start int, tree verify.Tree) error {
	known := []witness{{l.mark.at.size, l.mark.at.root, "mark"}}
	if c := l.signed.Load(); c != nil {
		known = append(known, witness{c.Size, c.Root, "checkpoint"})
	}
	w := walk{log: l, tree: tree, known: known}
	if err := w.check(); err != nil {
		return err
	}
	for i, s := range l.segments[start:] {
		last := start+i == len(l.segments)-1
		if err := w.segment(s, last); err != nil {
			return err
		}
		if !last && w.tree.Size() != l.segments[start+i+1].first {
			return &Damage{s.name(), s.length.Load(), w.tree.Size(), "the next segment does not begin where this one ends"}
		}
	}
	if err := w.missing(); err != nil {
		return err
	}
	if w.differs {
		return w.repair(l.segments[start:], tree)
	}
	l.tree = w.tree
	return nil
}

// settle makes the state on disk agree with what was read: what a crash left behind the last whole group goes, whole
// groups that the mark does not cover are acknowledged now, and a mark with one unreadable slot gets both back.
func (l *Log) settle() error {
	nodes := tlog.StoredHashCount(int64(l.tree.Size())) * tlog.HashSize
	if err := l.hashes.file.Truncate(nodes); err != nil {
		return err
	}
	if err := l.settleSegment(); err != nil {
		return err
	}
	at := position{l.tree.Size(), l.tree.Root()}
	writes := 0
	if at.size > l.mark.at.size {
		writes = 1
	}
	if l.mark.repaired {
		l.cfg.Logger.Warn("one slot of the audit mark was unreadable and is written again", "dir", l.cfg.Dir)
		writes = 2
	}
	for range writes {
		if err := l.mark.write(at); err != nil {
			return err
		}
		if err := dataSync(l.mark.file); err != nil {
			return err
		}
	}
	return nil
}

// settleSegment cuts the last segment behind its last whole group and makes durable what the mark does not cover. That
// is written once more: of a group whose fsync failed the kernel may keep in memory, as clean, what the disk does not
// have.
func (l *Log) settleSegment() error {
	if l.active == nil {
		return nil
	}
	s := l.segments[len(l.segments)-1]
	info, err := l.active.Stat()
	if err != nil {
		return err
	}
	l.ahead = info.Size()
	if err := l.trim(); err != nil {
		return err
	}
	if l.tree.Size() == l.mark.at.size {
		return nil
	}
	from, err := s.find(max(s.first, l.mark.at.size))
	if err != nil {
		return err
	}
	for b := make([]byte, len(zeros)); from.offset < s.length.Load(); from.offset += int64(len(b)) {
		b = b[:min(int64(len(b)), s.length.Load()-from.offset)]
		if _, err := l.active.ReadAt(b, from.offset); err != nil {
			return err
		}
		if _, err := l.active.WriteAt(b, from.offset); err != nil {
			return err
		}
	}
	return dataSync(l.active)
}
