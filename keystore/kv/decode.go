package kv

import (
	"encoding/binary"
	"fmt"
)

// DecodeBatch reads an encoded batch. It takes only what [Batch.Encode] gives:
// each batch has one encoding. The result shares memory with data. Sizes are
// bounded before anything is allocated.
func DecodeBatch(data []byte) (*Batch, error) {
	if len(data) > MaxBatchSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errMalformed, len(data), MaxBatchSize)
	}
	r := reader{rest: data}
	if v := r.u8(); v != batchVersion {
		return nil, fmt.Errorf("%w: version %d, want %d", errMalformed, v, batchVersion)
	}
	var n [5]int
	total := 0
	for i := range n {
		n[i] = int(r.u16())
		total += n[i]
	}
	// The shortest operation, an empty keyring, takes 5 bytes.
	if r.bad || total > MaxOperations || total*5 > len(r.rest) {
		return nil, fmt.Errorf("%w: %d operations in %d bytes", errMalformed, total, len(data))
	}
	b := decodeOperations(&r, n)
	if r.bad || len(r.rest) != 0 {
		return nil, fmt.Errorf("%w: truncated, out of bounds or followed by bytes", errMalformed)
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	return b, nil
}

func decodeOperations(r *reader, n [5]int) *Batch {
	var b Batch
	b.If = decodeEach(r, n[0], func() If { return If{r.target(), r.u64()} })
	b.Put = decodeEach(r, n[1], func() Put { return Put{r.target(), r.bytes(maxSealedSize)} })
	b.Delete = decodeEach(r, n[2], r.target)
	b.Append = decodeEach(r, n[3], func() Append { return Append{r.target(), r.bytes(maxSealedSize)} })
	b.Add = decodeEach(r, n[4], func() Add { return Add{r.target(), int64(r.u64()), int64(r.u64())} })
	return &b
}

func decodeEach[T any](r *reader, n int, one func() T) []T {
	if n == 0 || r.bad {
		return nil
	}
	out := make([]T, 0, n)
	for range n {
		out = append(out, one())
		if r.bad {
			return nil
		}
	}
	return out
}

// reader takes big-endian fields from the front of rest. After the first field
// that is not there, bad is set and every field is zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) bytes(limit int) []byte {
	n := r.u32()
	if n > uint32(limit) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}

func (r *reader) target() Target {
	t := Target{Space: Space(r.u8())}
	if t.Space.system() {
		return t
	}
	n := r.u8()
	if n > MaxParts {
		r.bad = true
		return Target{}
	}
	t.Path = string(r.take(int(n) * blindSize))
	if t.Space == SpaceLeaf {
		t.Index = r.u64()
	}
	if !t.valid() {
		r.bad = true
	}
	return t
}
