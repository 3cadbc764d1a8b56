package kv

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
)

const (
	snapshotMagic = "WDRSNAP1"
	maxRowKey     = 2 + MaxParts*blindSize + 8
	maxRowSize    = 8 + maxSealedSize
)

// Snapshot is a consistent reading of the whole store at one index. It must be
// closed. docs/formats.md, "Snapshot", draws the stream.
type Snapshot struct {
	view  *view
	state state
}

// Snapshot takes a snapshot of what is applied, without stopping changes. It
// writes a mark first: once it returns, the store never opens again at less
// than [Snapshot.Index], so that the log below may be dropped.
func (s *Store) Snapshot() (*Snapshot, error) {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.Mark(); err != nil {
		return nil, err
	}
	v, err := s.view()
	if err != nil {
		return nil, err
	}
	return &Snapshot{view: v, state: s.state}, nil
}

// Index returns the index of the last log entry in the snapshot.
func (p *Snapshot) Index() uint64 { return p.state.applied() }

// Close lets go of the snapshot.
func (p *Snapshot) Close() error {
	if p.view != nil {
		p.view.release()
		p.view = nil
	}
	return nil
}

// WriteTo streams the snapshot. It checks what it reads against the running
// hash, and returns [ErrDamaged] rather than pass on a damaged state.
func (p *Snapshot) WriteTo(w io.Writer) (int64, error) {
	if p.view == nil {
		return 0, ErrClosed
	}
	out := newHashWriter(w)
	err := guarded(func() error { return p.stream(out) })
	return out.written, err
}

func (p *Snapshot) stream(out *hashWriter) error {
	out.Write(p.state.appendTo([]byte(snapshotMagic)))
	var count uint64
	var total sum
	err := p.view.each(nil, nil, func(key []byte, r row) error {
		count++
		total.add(rowDigest(key, r))
		head := binary.BigEndian.AppendUint16(make([]byte, 0, 6), uint16(len(key)))
		out.Write(binary.BigEndian.AppendUint32(head, uint32(len(r))))
		out.Write(key)
		_, err := out.Write(r)
		return err
	})
	if err != nil {
		return fmt.Errorf("write snapshot at index %d: %w", p.Index(), err)
	}
	if count != p.state.count || total != p.state.sum {
		return fmt.Errorf("%w: %s does not give the state it says: no snapshot at index %d",
			ErrDamaged, p.view.base.gen.dir, p.Index())
	}
	return out.finish()
}

// hashWriter buffers, counts and hashes what passes. Its errors stick in the
// buffer, so that only the last of a row of writes needs a look.
type hashWriter struct {
	buf     *bufio.Writer
	hash    hash.Hash
	written int64
}

func newHashWriter(w io.Writer) *hashWriter {
	out := &hashWriter{hash: sha256.New()}
	out.buf = bufio.NewWriterSize(countWriter{w, &out.written}, 256<<10)
	return out
}

func (w *hashWriter) Write(b []byte) (int, error) {
	w.hash.Write(b)
	return w.buf.Write(b)
}

// finish writes the end of the rows and the hash of everything before it.
func (w *hashWriter) finish() error {
	w.Write([]byte{0, 0})
	if _, err := w.buf.Write(w.hash.Sum(nil)); err != nil {
		return err
	}
	return w.buf.Flush()
}

type countWriter struct {
	w io.Writer
	n *int64
}

func (c countWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	*c.n += int64(n)
	return n, err
}
