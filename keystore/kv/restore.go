package kv

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// Restore replaces all that the store holds by the snapshot in r. It builds a
// new generation beside the current one, checks the hash of the stream, the
// count and the running hash, reads it all back from disk, and only then
// switches, by one rename: a crash leaves the old state or the new one. Views
// that are open go on to read the old one.
//
// A snapshot of the same lineage at or below [Store.Applied] is skipped: the
// log's own snapshot at start is older than the store that it belongs to.
// [ErrDamaged] means that the stream is bad; the store is as it was.
func (s *Store) Restore(r io.Reader) error {
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	in := newHashReader(r)
	st, err := in.header()
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	if s.skips(st) {
		s.log.Info("snapshot skipped, the store is not behind it", "snapshot", st.applied(), "store", s.state.applied())
		return nil
	}
	g, err := s.build(in, st)
	if err != nil {
		return fmt.Errorf("restore snapshot at index %d: %w", st.applied(), err)
	}
	return s.switchTo(g, st)
}

// skips reports whether a snapshot has nothing that the store lacks. A side
// that never accepted a batch has no lineage, and agrees with any.
func (s *Store) skips(st state) bool {
	var none [16]byte
	same := st.lineage == s.state.lineage || st.lineage == none || s.state.lineage == none
	return same && !s.state.behind(st)
}

// build makes the next generation of the stream, durable and read back.
func (s *Store) build(in *hashReader, st state) (*generation, error) {
	number := s.gen.number + 1
	dir := generationDir(s.dir, number)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	g, err := s.fill(in, st, number)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return g, nil
}

func (s *Store) fill(in *hashReader, st state, number uint64) (*generation, error) {
	if err := s.load(in, st, number); err != nil {
		return nil, err
	}
	if err := syncFiles(generationDir(s.dir, number)); err != nil {
		return nil, err
	}
	g, err := openGeneration(s.dir, number, s.log, true)
	if err != nil {
		return nil, err
	}
	found, err := g.scan()
	if err == nil && found != st {
		err = fmt.Errorf("%w: %s is not what was written to it", ErrDamaged, g.dir)
	}
	if err != nil {
		return nil, errors.Join(err, g.db.Close())
	}
	return g, nil
}

// load writes the stream's rows into a new generation and closes it.
func (s *Store) load(in *hashReader, st state, number uint64) error {
	g, err := openGeneration(s.dir, number, s.log, false)
	if err != nil {
		return err
	}
	err = guarded(func() error { return s.loadRows(g.db, in, st) })
	return errors.Join(err, g.db.Close(), g.log.err())
}

func (s *Store) loadRows(db *badger.DB, in *hashReader, st state) error {
	w := db.NewWriteBatch()
	defer w.Cancel()
	var count uint64
	var total sum
	for key, r := range in.rows(st) {
		if count++; count%1024 == 0 {
			if err := s.checkSpace(); err != nil {
				return err
			}
		}
		total.add(rowDigest(key, r))
		if err := w.Set(key, r); err != nil {
			return err
		}
	}
	if in.err != nil {
		return in.err
	}
	if count != st.count || total != st.sum {
		return fmt.Errorf("%w: the rows of the snapshot do not give its state", ErrDamaged)
	}
	if err := w.Set([]byte{byte(spaceState)}, st.row()); err != nil {
		return err
	}
	return w.Flush()
}

// switchTo makes g the store. When the mark cannot be written it is unknown
// which generation the next start finds: the store stops.
func (s *Store) switchTo(g *generation, st state) error {
	if err := (mark{generation: g.number, state: st}).write(s.dir); err != nil {
		return s.fail(errors.Join(err, g.db.Close()))
	}
	s.mu.Lock()
	old := s.gen
	s.gen, s.state, s.marked = g, st, st.applied()
	s.mu.Unlock()
	old.dropped.Store(true)
	old.release()
	s.tell(nil)
	return nil
}

// syncFiles fsyncs every file of a closed generation, and the directory.
func syncFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := syncPath(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return syncPath(dir)
}

// hashReader reads a snapshot and hashes what passes.
type hashReader struct {
	buf  *bufio.Reader
	hash hash.Hash
	err  error // what ended rows
}

func newHashReader(r io.Reader) *hashReader {
	return &hashReader{buf: bufio.NewReaderSize(r, 256<<10), hash: sha256.New()}
}

// fill reads len(b) bytes. A stream that ends early is damaged; any other
// failure to read is the stream's own error.
func (r *hashReader) fill(b []byte) error {
	_, err := io.ReadFull(r.buf, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the snapshot is cut short", ErrDamaged)
	}
	r.hash.Write(b)
	return err
}

func (r *hashReader) header() (state, error) {
	b := make([]byte, len(snapshotMagic)+stateSize)
	if err := r.fill(b); err != nil {
		return state{}, err
	}
	in := reader{rest: b}
	magic := string(in.take(len(snapshotMagic)))
	st := in.state()
	if magic != snapshotMagic || in.bad {
		return state{}, fmt.Errorf("%w: not a snapshot of this version", ErrDamaged)
	}
	return st, nil
}

// rows yields the rows in their order, until the end, which must be followed by
// the right hash and nothing else. Afterwards r.err is set if it was not.
func (r *hashReader) rows(st state) func(func([]byte, row) bool) {
	return func(yield func([]byte, row) bool) {
		var last []byte
		for {
			key, value, err := r.next()
			if err == nil && key != nil {
				err = checkRow(last, key, value, st)
			}
			if err != nil || key == nil {
				r.err = err
				return
			}
			if !yield(key, value) {
				return
			}
			last = key
		}
	}
}

func checkRow(last, key []byte, r row, st state) error {
	t, err := parseRowKey(key)
	if err != nil || bytes.Compare(last, key) >= 0 {
		return fmt.Errorf("%w: row with key %x in the snapshot", ErrDamaged, key)
	}
	return r.check(t, st.seq)
}

// next returns the next row, or a nil key after the trailer.
func (r *hashReader) next() (key []byte, value row, err error) {
	var head [6]byte
	if err := r.fill(head[:2]); err != nil {
		return nil, nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:2]))
	if n == 0 {
		return nil, nil, r.trailer()
	}
	if err := r.fill(head[2:]); err != nil {
		return nil, nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if n > maxRowKey || size > maxRowSize {
		return nil, nil, fmt.Errorf("%w: a row of %d and %d bytes in the snapshot", ErrDamaged, n, size)
	}
	b := make([]byte, n+int(size))
	if err := r.fill(b); err != nil {
		return nil, nil, err
	}
	return b[:n:n], b[n:], nil
}

func (r *hashReader) trailer() error {
	want := r.hash.Sum(nil)
	got := make([]byte, len(want))
	if err := r.fill(got); err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return fmt.Errorf("%w: the hash of the snapshot does not match", ErrDamaged)
	}
	if _, err := r.buf.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: bytes follow the snapshot", ErrDamaged)
	}
	return nil
}
