package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"

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
	if s.segments, err = listSegments(dir); err != nil {
		return nil, err
	}
	if err := s.checkHeaders(m.id); err != nil {
		return nil, err
	}
	if s.hashes.file, err = os.Open(filepath.Join(dir, "hashes")); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return s, nil
}

func (s *stored) checkHeaders(id [8]byte) error {
	var previous *segment
	for i, next := range s.segments {
		if previous == nil && next.first != 0 {
			return &Damage{segmentName(0), 0, 0, "the file is missing"}
		}
		if err := next.checkHeader(id, previous); err != nil {
			if i == len(s.segments)-1 && next.first >= s.at.size && errors.Is(err, ErrDamaged) {
				s.segments = s.segments[:i]
				return nil
			}
			return err
		}
		previous = next
	}
	return nil
}

// entries gives every entry, and a [*Damage] where the files stop before what was acknowledged.
func (s *stored) entries() iter.Seq2[verify.Entry, error] {
	return func(yield func(verify.Entry, error) bool) {
		var next uint64
		for _, segment := range s.segments {
			if segment.first != next {
				yield(verify.Entry{}, &Damage{segment.name(), 0, next, "the segment does not begin where the one before it ends"})
				return
			}
			err := segment.scan(place{next, segmentHeader}, segment.length.Load(), func(f frame) error {
				var leaf [1]verify.Hash
				if err := s.hashes.read(tlog.StoredHashIndex(0, int64(f.index)), leaf[:]); err != nil {
					return err
				}
				next = f.index + 1
				if !yield(verify.Entry{Index: f.index, Leaf: slices.Clone(f.leaf), Stored: leaf[0]}, nil) {
					return errStop
				}
				return nil
			})
			end := new(torn)
			switch {
			case errors.Is(err, errStop):
				return
			case errors.As(err, &end) && end.index < s.at.size:
				yield(verify.Entry{}, end.damage(segment))
				return
			case errors.As(err, &end):
				return
			case err != nil:
				yield(verify.Entry{}, err)
				return
			}
		}
		if next < s.at.size {
			yield(verify.Entry{}, s.short(next))
		}
	}
}

func (s *stored) short(next uint64) *Damage {
	file, offset := segmentName(0), int64(0)
	if n := len(s.segments); n > 0 {
		file, offset = s.segments[n-1].name(), s.segments[n-1].length.Load()
	}
	return &Damage{file, offset, next, fmt.Sprintf("the log ends after %d entries, the mark has %d", next, s.at.size)}
}
