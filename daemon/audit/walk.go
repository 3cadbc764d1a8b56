package audit

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"warder/api/verify"
)

// witness is a size at which the root is known.
type witness struct {
	size uint64
	root verify.Hash
	name string
}

// walk recomputes the tree from frames and compares it with the witnesses and with the stored nodes.
type walk struct {
	log     *Log
	tree    verify.Tree
	known   []witness
	pending []verify.Hash // nodes not yet compared
	base    int64         // stored index of pending[0]
	differs bool          // some stored node is not what the frames give
	suspect *Damage       // the first entry whose stored leaf hash differs
	repairs bool          // write the nodes instead of comparing them
}

const compareNodes = 8192

// check compares the root where a witness knows it.
func (w *walk) check() error {
	for _, k := range w.known {
		if k.size != w.tree.Size() || k.root == w.tree.Root() {
			continue
		}
		if err := w.compare(); err != nil {
			return err
		}
		if w.suspect != nil {
			return w.suspect
		}
		return &Damage{k.name, 0, k.size, fmt.Sprintf("the first %d entries do not hash to the root that it holds", k.size)}
	}
	return nil
}

// segment reads one segment, the last one up to its last whole group.
func (w *walk) segment(s *segment, last bool) error {
	s.places = nil
	if last {
		if err := w.end(s); err != nil {
			return err
		}
	}
	err := s.scanGroups(place{w.tree.Size(), segmentHeader}, s.length.Load(),
		func(f frame) error { return w.entry(s, f) },
		func(f footer, end place) error { return w.group(s, f, end) })
	if end := new(torn); errors.As(err, &end) {
		return end.damage(s)
	}
	if err != nil {
		return err
	}
	s.indexed = true
	return w.compare()
}

// end finds where the last segment ends.
func (w *walk) end(s *segment) error {
	end, rest, err := s.reach(w.floor())
	if err != nil {
		return err
	}
	if rest != nil {
		w.log.cfg.Logger.Warn("cutting the unacknowledged end that a crash left in the audit log",
			"file", s.name(), "offset", end.offset, "entry", end.index, "reason", rest.reason)
	}
	s.length.Store(end.offset)
	return nil
}

// floor is how many entries are known to have been acknowledged.
func (w *walk) floor() uint64 {
	var size uint64
	for _, k := range w.known {
		size = max(size, k.size)
	}
	return size
}

// group holds the root of a group that no witness covers against its footer.
func (w *walk) group(s *segment, f footer, end place) error {
	if w.repairs || f.size <= w.floor() || f.root == w.tree.Root() {
		return nil
	}
	return &Damage{s.name(), end.offset - footerBytes, f.size - 1, "the entries do not hash to the root that their group holds"}
}

func (w *walk) entry(s *segment, f frame) error {
	if f.index%indexEvery == 0 {
		s.places = append(s.places, f.place)
	}
	if len(w.pending) == 0 {
		w.base = tlog.StoredHashIndex(0, int64(f.index))
	}
	leaf := verify.LeafHash(f.leaf)
	if len(w.pending) >= compareNodes {
		if err := w.compare(); err != nil {
			return err
		}
		w.base = tlog.StoredHashIndex(0, int64(f.index))
	}
	w.pending = w.tree.Append(leaf, w.pending)
	return w.check()
}

// compare holds the pending nodes against the stored ones, or writes them.
func (w *walk) compare() error {
	if len(w.pending) == 0 {
		return nil
	}
	defer func() { w.pending = w.pending[:0] }()
	if w.repairs {
		return w.log.hashes.write(w.base, w.pending)
	}
	stored := make([]verify.Hash, len(w.pending))
	if err := w.log.hashes.read(w.base, stored); err != nil {
		return err
	}
	for i := range stored {
		if stored[i] == w.pending[i] {
			continue
		}
		w.differs = true
		w.suspicion(w.base+int64(i), stored[i])
	}
	return nil
}

// suspicion remembers the first entry whose stored leaf hash is another than its frame's. An absent node (a crash
// before it was written) says nothing.
func (w *walk) suspicion(node int64, stored verify.Hash) {
	level, n := tlog.SplitStoredHashIndex(node)
	if level != 0 || w.suspect != nil || stored == (verify.Hash{}) {
		return
	}
	for _, s := range w.log.segments {
		if s.first <= uint64(n) {
			w.suspect = &Damage{s.name(), 0, uint64(n), "the entry is another than the one that was acknowledged"}
		}
	}
}

// missing says whether the log ends before something that a witness knows.
func (w *walk) missing() error {
	for _, k := range w.known {
		if size := w.tree.Size(); k.size > size {
			file, offset := segmentName(0), int64(0)
			if n := len(w.log.segments); n > 0 {
				file, offset = w.log.segments[n-1].name(), w.log.segments[n-1].length.Load()
			}
			return &Damage{file, offset, size, fmt.Sprintf("the log ends after %d entries, the %s has %d", size, k.name, k.size)}
		}
	}
	return nil
}

// repair writes the stored nodes again from segments that have been proved right.
func (w *walk) repair(segments []*segment, from verify.Tree) error {
	w.log.cfg.Logger.Warn("rebuilding stored nodes of the audit tree", "dir", w.log.cfg.Dir)
	again := walk{log: w.log, tree: from, repairs: true}
	for _, s := range segments {
		if err := again.segment(s, false); err != nil {
			return err
		}
	}
	w.log.tree = again.tree
	return dataSync(w.log.hashes.file)
}
