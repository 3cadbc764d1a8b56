package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"warder/api/verify"
)

// VerifyDir proves a log's files without opening the log: while a node writes to them, or from a copy. The keys are
// the node's verifier keys, the anchors those that the cluster keeps. Beside the faults of [verify.Log] it finds a
// [*Damage] of the files themselves. It changes nothing.
func VerifyDir(dir string, keys []string, anchors []verify.Anchor) (verify.Report, error) {
	signed, err := readSmall(filepath.Join(dir, "checkpoint"), verify.MaxCheckpoint)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return verify.Report{}, fmt.Errorf("audit log: %w", err)
	}
	s, err := openStored(dir)
	if err != nil {
		return verify.Report{}, err
	}
	defer s.hashes.file.Close()
	if signed == nil {
		return verify.Report{}, s.unsigned()
	}
	return verify.Log(s.entries(), verify.Evidence{Checkpoint: signed, Keys: keys, Anchors: anchors})
}

// unsigned is what to say of a log without a checkpoint: its damage if it has any, else that the file is missing.
func (s *stored) unsigned() error {
	for _, err := range s.entries() {
		if err != nil {
			return err
		}
	}
	return &Damage{"checkpoint", 0, 0, "the file is missing: a log is signed within a second of its first entry"}
}

// stored is a log's files, for reading only.
type stored struct {
	at       position
	segments []*segment
	hashes   hashFile
}

func openStored(dir string) (*stored, error) {
	file, err := os.Open(filepath.Join(dir, "mark"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Damage{"mark", 0, 0, "the file is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	defer file.Close()
	m, err := readMark(file)
	if err != nil {
		return nil, err
	}
	s := &stored{at: m.at}
	if s.segments, err = listSegments(dir, m.id); err != nil {
		return nil, err
	}
	good, err := chain(s.segments, s.at.size)
	if err != nil {
		return nil, err
	}
	s.segments = s.segments[:good]
	if s.hashes.file, err = os.Open(filepath.Join(dir, "hashes")); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return s, nil
}

// entries gives every entry up to the last whole group, and a [*Damage] where the files stop before what was
// acknowledged, or in a way that is no crash's.
func (s *stored) entries() iter.Seq2[verify.Entry, error] {
	return func(yield func(verify.Entry, error) bool) {
		var next uint64
		for i, segment := range s.segments {
			err := s.settle(segment, i == len(s.segments)-1)
			if err == nil && segment.first != next {
				err = &Damage{segment.name(), 0, next, "the segment does not begin where the one before it ends"}
			}
			if err == nil {
				err = s.read(segment, func(e verify.Entry) bool {
					next = e.Index + 1
					return yield(e, nil)
				})
			}
			if errors.Is(err, errStop) {
				return
			}
			if err != nil {
				yield(verify.Entry{}, err)
				return
			}
		}
		if next < s.at.size {
			yield(verify.Entry{}, s.short(next))
		}
	}
}

// read gives a segment's entries; errStop when yield wants no more.
func (s *stored) read(segment *segment, yield func(verify.Entry) bool) error {
	err := segment.scan(place{segment.first, segmentHeader}, segment.length.Load(), func(f frame) error {
		var leaf [1]verify.Hash
		if err := s.hashes.read(tlog.StoredHashIndex(0, int64(f.index)), leaf[:]); err != nil {
			return err
		}
		if !yield(verify.Entry{Index: f.index, Leaf: slices.Clone(f.leaf), Stored: leaf[0]}) {
			return errStop
		}
		return nil
	})
	if end := new(torn); errors.As(err, &end) {
		return end.damage(segment)
	}
	return err
}

// settle finds the end of the last segment. A node may be writing there: what looks like damage is one only if it still
// looks so a little later, and no group was written over it meanwhile.
func (s *stored) settle(segment *segment, last bool) error {
	if !last {
		return nil
	}
	end, _, err := segment.reach(s.at.size)
	for range 10 {
		if bad := new(Damage); !errors.As(err, &bad) || bad.Index < s.at.size {
			break
		}
		time.Sleep(10 * time.Millisecond)
		passed := end.offset
		if end, _, err = segment.reach(s.at.size); errors.Is(err, ErrDamaged) && end.offset > passed {
			err = nil
		}
	}
	if err == nil {
		segment.length.Store(end.offset)
	}
	return err
}

func (s *stored) short(next uint64) *Damage {
	file, offset := segmentName(0), int64(0)
	if n := len(s.segments); n > 0 {
		file, offset = s.segments[n-1].name(), s.segments[n-1].length.Load()
	}
	return &Damage{file, offset, next, fmt.Sprintf("the log ends after %d entries, the mark has %d", next, s.at.size)}
}
