package audit

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"

	"warder/api/verify"
)

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

// scan reads entries from a place to the byte end, which is the end of a group. It gives nil at a clean end, *torn at
// the first frame or footer that is not whole and right, or the error of fn.
func (s *segment) scan(at place, end int64, fn func(frame) error) error {
	return s.scanGroups(at, end, fn, func(footer, place) error { return nil })
}

// scanGroups is scan that also gives the footers, each with the place behind it.
func (s *segment) scanGroups(at place, end int64, fn func(frame) error, whole func(footer, place) error) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := &reader{
		from:  bufio.NewReaderSize(io.NewSectionReader(f, at.offset, max(0, end-at.offset)), 256<<10),
		id:    s.id,
		at:    at,
		group: at,
		known: at.offset == segmentHeader,
		leaf:  make([]byte, verify.MaxRecord),
	}
	for {
		err := r.next(fn, whole)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// reader goes through the groups of a segment.
type reader struct {
	from  io.Reader
	id    [8]byte
	at    place // of the next frame or footer
	group place // where the group began, or reading
	known bool  // it was the group
	leaf  []byte
}

// next reads one frame or footer; io.EOF only at a clean end.
func (r *reader) next(fn func(frame) error, whole func(footer, place) error) error {
	var header [frameHeader]byte
	n, err := io.ReadFull(r.from, header[:])
	switch {
	case errors.Is(err, io.EOF) && r.at == r.group:
		return io.EOF
	case errors.Is(err, io.EOF):
		return &torn{place{r.group.index, r.at.offset}, "a group has no footer"}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &torn{r.at, "a frame's header is cut"}
	case err != nil:
		return err
	}
	length := binary.BigEndian.Uint32(header[:4])
	if length == footerTag {
		return r.footer(header[:n], whole)
	}
	if length == 0 && r.at != r.group {
		return &torn{place{r.group.index, r.at.offset}, "a group has no footer"}
	}
	if length == 0 || length > uint32(len(r.leaf)) {
		return &torn{r.at, "a frame's length is out of bounds"}
	}
	leaf := r.leaf[:length]
	if _, err := io.ReadFull(r.from, leaf); isEOF(err) {
		return &torn{r.at, "a frame is cut"}
	} else if err != nil {
		return err
	}
	if frameSum(crc32.Checksum(leaf, castagnoli), r.at.index) != binary.BigEndian.Uint32(header[4:]) {
		return &torn{r.at, "a frame's checksum does not match"}
	}
	if err := fn(frame{r.at, leaf}); err != nil {
		return err
	}
	r.at.index++
	r.at.offset += frameHeader + int64(length)
	return nil
}

// footer reads the rest of a footer and holds it against what came before it.
func (r *reader) footer(header []byte, whole func(footer, place) error) error {
	var b [footerBytes]byte
	copy(b[:], header)
	bad := place{r.group.index, r.at.offset} // no entry of the group is vouched for
	if _, err := io.ReadFull(r.from, b[len(header):]); isEOF(err) {
		return &torn{bad, "a group's footer is cut"}
	} else if err != nil {
		return err
	}
	f, ok := decodeFooter(b[:], r.id)
	if !ok {
		return &torn{bad, "a group's footer does not match its checksum"}
	}
	if f.size != r.at.index || r.known && int64(f.bytes) != r.at.offset-r.group.offset {
		return &torn{bad, "a group's footer is not of the frames before it"}
	}
	r.at.offset += footerBytes
	r.group, r.known = r.at, true
	return whole(f, r.at)
}
