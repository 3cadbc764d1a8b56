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
	"slices"
)

// VerifySnapshot reads a snapshot to its end, without a store and without keys,
// and returns the index and the state hash that a store restored from it has.
// It finds what [Store.Restore] finds: the error is [ErrDamaged], or the
// reader's own.
func VerifySnapshot(r io.Reader) (index uint64, stateHash [32]byte, err error) {
	in := newHashReader(r)
	st, err := in.header()
	if err == nil {
		err = in.verify(st, func([]byte, row) error { return nil })
	}
	if err != nil {
		return 0, stateHash, fmt.Errorf("verify snapshot: %w", err)
	}
	index, stateHash = st.lastWhole()
	return index, stateHash, nil
}

// hashReader reads a snapshot and hashes what passes.
type hashReader struct {
	buf  *bufio.Reader
	hash hash.Hash
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
	if part := b[len(snapshotMagic)+statePart:][:4]; binary.BigEndian.Uint32(part) != 0 {
		more := make([]byte, len(state{}.whole))
		if err := r.fill(more); err != nil {
			return state{}, err
		}
		b = slices.Concat(b, more)
	}
	in := reader{rest: b}
	magic := string(in.take(len(snapshotMagic)))
	st := in.state()
	if magic != snapshotMagic || in.bad {
		return state{}, fmt.Errorf("%w: not a snapshot of this version", ErrDamaged)
	}
	return st, nil
}

// verify passes every row to each, in order, and checks each of them, the hash
// at the end, that nothing follows it, and that the rows give the state st.
func (r *hashReader) verify(st state, each func(key []byte, r row) error) error {
	var last []byte
	var count uint64
	var total sum
	for {
		key, value, err := r.next()
		if err != nil {
			return err
		}
		if key == nil {
			break
		}
		if err := checkRow(last, key, value, st); err != nil {
			return err
		}
		count++
		total.add(rowDigest(key, value))
		if err := each(key, value); err != nil {
			return err
		}
		last = key
	}
	if count != st.count || total != st.sum {
		return fmt.Errorf("%w: the rows of the snapshot do not give its state", ErrDamaged)
	}
	return nil
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
