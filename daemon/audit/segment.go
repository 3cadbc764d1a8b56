package audit

import (
	"bufio"
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

	"warder/api/verify"
)

const (
	segmentMagic  = "WARDAUD1"
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

// segment is one file of frames.
type segment struct {
	path   string
	first  uint64       // index of its first entry
	length atomic.Int64 // bytes that are known good; the writer moves it, after the sync

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
func (s *segment) checkHeader(id [8]byte, previous *segment) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	have := make([]byte, segmentHeader)
	if _, err := io.ReadFull(f, have); err != nil {
		return &Damage{s.name(), 0, s.first, "the header is cut"}
	}
	want := appendHeader(nil, id, s.first, previous)
	for i := range want {
		if have[i] != want[i] {
			return &Damage{s.name(), int64(i), s.first, "the header does not follow from the segment before it"}
		}
	}
	return nil
}

// listSegments gives the directory's segments in order; lengths are those of the files.
func listSegments(dir string) ([]*segment, error) {
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
		s := &segment{path: filepath.Join(dir, entry.Name()), first: first}
		s.length.Store(info.Size())
		segments = append(segments, s)
	}
	slices.SortFunc(segments, func(a, b *segment) int { return strings.Compare(a.path, b.path) })
	return segments, nil
}

// torn says that a segment stops making sense at a place: the end of a crash, or damage. The caller knows which.
type torn struct {
	place
	reason string
}

func (t *torn) Error() string { return t.reason }

func (t *torn) damage(s *segment) *Damage { return &Damage{s.name(), t.offset, t.index, t.reason} }

// frame is one entry as a segment holds it; leaf is valid until the next call.
type frame struct {
	place
	leaf []byte
}

// scan reads frames from a place to the byte end. It gives nil at a clean end, *torn at the first frame that is not
// whole and right, or the error of fn.
func (s *segment) scan(at place, end int64, fn func(frame) error) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(io.NewSectionReader(f, at.offset, max(0, end-at.offset)), 256<<10)
	leaf := make([]byte, verify.MaxRecord)
	for ; ; at.index++ {
		n, err := readFrame(r, at.index, leaf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if reason := new(torn); errors.As(err, &reason) {
			reason.place = at
			return reason
		}
		if err != nil {
			return err
		}
		if err := fn(frame{at, leaf[:n]}); err != nil {
			return err
		}
		at.offset += frameHeader + int64(n)
	}
}

// readFrame reads one frame into leaf; io.EOF only at a clean end.
func readFrame(r io.Reader, index uint64, leaf []byte) (int, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); errors.Is(err, io.EOF) {
		return 0, io.EOF
	} else if errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, &torn{reason: "a frame's header is cut"}
	} else if err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(header[:4])
	if n == 0 || n > uint32(len(leaf)) {
		return 0, &torn{reason: "a frame's length is out of bounds"}
	}
	if _, err := io.ReadFull(r, leaf[:n]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, &torn{reason: "a frame is cut"}
	} else if err != nil {
		return 0, err
	}
	sum := frameSum(crc32.Checksum(leaf[:n], castagnoli), index)
	if sum != binary.BigEndian.Uint32(header[4:]) {
		return 0, &torn{reason: "a frame's checksum does not match"}
	}
	return int(n), nil
}
