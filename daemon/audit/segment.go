package audit

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	segmentMagic  = "WARDAUD2"
	formerMagic   = "WARDAUD1"
	segmentHeader = 44 // magic 8 | log id 8 | first index 8 | previous first index 8 | previous length 8 | crc 4
	frameHeader   = 8  // length 4 | crc32c(leaf || index) 4
	indexEvery    = 64 // one place in memory for so many entries
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameSum binds a leaf to its place: a frame that was moved or repeated does not check.
func frameSum(leafSum uint32, index uint64) uint32 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], index)
	return crc32.Update(leafSum, castagnoli, b[:])
}

// segment is one file of groups.
type segment struct {
	path   string
	id     [8]byte      // of the log
	first  uint64       // index of its first entry
	length atomic.Int64 // bytes up to the end of the last whole group; the writer moves it, after the sync

	mu      sync.Mutex // guards places and indexed
	places  []place    // of every indexEvery-th entry, ascending
	indexed bool       // places cover the file
}

// place is where an entry's frame begins.
type place struct {
	index  uint64
	offset int64
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d.seg", first) }

func (s *segment) name() string { return filepath.Base(s.path) }

// note adds places to the index.
func (s *segment) note(places ...place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places = append(s.places, places...)
}

// find gives the last known place at or before an entry, reading the segment once to build the index if needed.
func (s *segment) find(index uint64) (place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.indexed {
		var places []place
		err := s.scan(place{s.first, segmentHeader}, s.length.Load(), func(f frame) error {
			if f.index%indexEvery == 0 {
				places = append(places, f.place)
			}
			return nil
		})
		if err != nil {
			return place{}, err
		}
		s.places, s.indexed = places, true
	}
	i, exact := slices.BinarySearchFunc(s.places, index, func(p place, index uint64) int { return cmp.Compare(p.index, index) })
	switch {
	case exact:
		return s.places[i], nil
	case i == 0:
		return place{s.first, segmentHeader}, nil
	}
	return s.places[i-1], nil
}

// appendHeader appends a segment's header; previous is nil for the first segment.
func appendHeader(b []byte, id [8]byte, first uint64, previous *segment) []byte {
	start := len(b)
	b = append(b, segmentMagic...)
	b = append(b, id[:]...)
	b = binary.BigEndian.AppendUint64(b, first)
	var previousFirst, previousLength uint64
	if previous != nil {
		previousFirst, previousLength = previous.first, uint64(previous.length.Load())
	}
	b = binary.BigEndian.AppendUint64(b, previousFirst)
	b = binary.BigEndian.AppendUint64(b, previousLength)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// checkHeader compares the file's header with the one that it must have.
func (s *segment) checkHeader(previous *segment) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	have := make([]byte, segmentHeader)
	if _, err := io.ReadFull(f, have); err != nil {
		return &Damage{s.name(), 0, s.first, "the header is cut"}
	}
	if string(have[:8]) == formerMagic {
		return &Damage{s.name(), 0, s.first, "the segment has format 1, which this version does not read"}
	}
	want := appendHeader(nil, s.id, s.first, previous)
	for i := range want {
		if have[i] != want[i] {
			return &Damage{s.name(), int64(i), s.first, "the header does not follow from the segment before it"}
		}
	}
	return nil
}

// unfinished says whether a crash left the segment before anything could be written to it: its header is not what any
// log wrote, and nothing follows it. A group is written only when header and name are durable.
func (s *segment) unfinished() (bool, error) {
	b, err := s.tail(0)
	if err != nil || len(b) > segmentHeader {
		return false, err
	}
	b = append(b, make([]byte, segmentHeader-len(b))...)
	return crc32.Checksum(b[:segmentHeader-4], castagnoli) != binary.BigEndian.Uint32(b[segmentHeader-4:]), nil
}

// listSegments gives the directory's segments in order; lengths are those of the files.
func listSegments(dir string, id [8]byte) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segments []*segment
	for _, entry := range entries {
		digits, found := strings.CutSuffix(entry.Name(), ".seg")
		if !found {
			continue
		}
		first, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || segmentName(first) != entry.Name() {
			return nil, &Damage{entry.Name(), 0, 0, "the name is no segment's"}
		}
		info, err := entry.Info()
		if err != nil {
			return nil, err
		}
		s := &segment{path: filepath.Join(dir, entry.Name()), id: id, first: first}
		s.length.Store(info.Size())
		segments = append(segments, s)
	}
	slices.SortFunc(segments, func(a, b *segment) int { return strings.Compare(a.path, b.path) })
	return segments, nil
}

// chain checks that each segment follows from the one before it and gives how many do: all, or all but a last one that a
// crash left unfinished. Entries up to size were acknowledged.
func chain(segments []*segment, size uint64) (int, error) {
	var previous *segment
	for i, s := range segments {
		if previous == nil && s.first != 0 {
			return i, &Damage{segmentName(0), 0, 0, "the file is missing"}
		}
		err := s.checkHeader(previous)
		if errors.Is(err, ErrDamaged) && i == len(segments)-1 && s.first >= size {
			unfinished, readErr := s.unfinished()
			if readErr != nil || unfinished {
				return i, readErr
			}
		}
		if err != nil {
			return i, err
		}
		previous = s
	}
	return len(segments), nil
}
