package keyring

import (
	"encoding/binary"
	"fmt"
)

// magic begins a sealed keyring; the digit is the version of its form.
const magic = "WDRKEYR1"

// Sizes, in bytes.
const (
	boxSize     = nonceSize + keySize + tagSize // an entry's box
	bodyHead    = 2*keySize + 4 + 1
	bodyKeySize = 4 + 1 + keySize // one data key in the body
	maxBox      = nonceSize + bodyHead + MaxDataKeys*bodyKeySize + tagSize
)

// encode gives the header: magic | cluster id u8+text | epoch u64 | commitment 32 | count u8 | (id u8+text)…
func (h Header) encode() ([]byte, error) {
	if n := len(h.Recipients); n == 0 || n > MaxRecipients {
		return nil, fmt.Errorf("%d recipients; want 1 to %d", n, MaxRecipients)
	}
	out, err := appendID([]byte(magic), h.ClusterID)
	if err != nil {
		return nil, fmt.Errorf("the cluster's id: %w", err)
	}
	out = binary.BigEndian.AppendUint64(out, h.Epoch)
	out = append(out, h.Commitment[:]...)
	out = append(out, byte(len(h.Recipients)))
	seen := make(map[string]bool, len(h.Recipients))
	for _, id := range h.Recipients {
		if seen[id] {
			return nil, fmt.Errorf("recipient %s is named twice", id)
		}
		seen[id] = true
		if out, err = appendID(out, id); err != nil {
			return nil, fmt.Errorf("a recipient's id: %w", err)
		}
	}
	return out, nil
}

func appendID(out []byte, id string) ([]byte, error) {
	if len(id) == 0 || len(id) > MaxID {
		return nil, fmt.Errorf("%d bytes; want 1 to %d", len(id), MaxID)
	}
	return append(append(out, byte(len(id))), id...), nil
}

// reader takes fields from the front of rest. After the first that is not there, bad is set and every field is zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) uint(size int) (v uint64) {
	for _, b := range r.take(size) {
		v = v<<8 | uint64(b)
	}
	return v
}

func (r *reader) id() string {
	n := int(r.uint(1))
	r.bad = r.bad || n == 0
	return string(r.take(n))
}

func (r *reader) key() (key [keySize]byte) {
	copy(key[:], r.take(keySize))
	return key
}

// parts are the parts of a sealed keyring. They share its memory.
type parts struct {
	header  Header
	prefix  []byte  // the header's bytes
	entries []entry // in the order of the recipients
	bound   []byte  // all before the box: its additional data
	box     []byte
}

func split(sealed []byte) (parts, error) {
	if len(sealed) > MaxSealed {
		return parts{}, fmt.Errorf("%w: a sealed keyring of %d bytes, more than %d", ErrDamaged, len(sealed), MaxSealed)
	}
	r := &reader{rest: sealed}
	if string(r.take(len(magic))) != magic {
		return parts{}, fmt.Errorf("%w: not a sealed keyring of a form that this version knows", ErrDamaged)
	}
	p := parts{header: r.header()}
	p.prefix = sealed[:len(sealed)-len(r.rest)]
	for range p.header.Recipients {
		p.entries = append(p.entries, r.entry())
	}
	p.bound, p.box = sealed[:len(sealed)-len(r.rest)], r.rest
	if r.bad || len(p.box) > maxBox {
		return parts{}, fmt.Errorf("%w: the sealed keyring does not parse", ErrDamaged)
	}
	return p, nil
}

func (r *reader) header() (h Header) {
	h.ClusterID = r.id()
	h.Epoch = r.uint(8)
	h.Commitment = r.key()
	count := int(r.uint(1))
	r.bad = r.bad || count == 0 || count > MaxRecipients
	seen := map[string]bool{}
	for i := 0; i < count && !r.bad; i++ {
		id := r.id()
		r.bad = r.bad || seen[id]
		seen[id] = true
		h.Recipients = append(h.Recipients, id)
	}
	return h
}

func (r *reader) entry() entry {
	size := int(r.uint(2))
	r.bad = r.bad || size > MaxWrapped
	return entry{wrapped: r.take(size), box: r.take(boxSize)}
}

// encode gives the body: blind 32 | lineage 32 | last u32 | count u8 | (id u32, state u8, secret 32)…, ascending by id.
func (c *contents) encode() []byte {
	out := make([]byte, 0, bodyHead+len(c.keys)*bodyKeySize)
	out = append(append(out, c.blind.secret[:]...), c.lineage[:]...)
	out = binary.BigEndian.AppendUint32(out, c.last)
	out = append(out, byte(len(c.keys)))
	for _, key := range c.keys {
		out = binary.BigEndian.AppendUint32(out, key.ID)
		out = append(append(out, byte(key.State)), key.secret[:]...)
	}
	return out
}

// parse reads a body. It copies the secrets, so that the body can be wiped.
func parse(body []byte) (*contents, error) {
	r := &reader{rest: body}
	blind, lineage := r.key(), r.key()
	c := &contents{active: -1, blind: newBlinder(&blind), lineage: &lineage, last: uint32(r.uint(4))}
	count := int(r.uint(1))
	if r.bad || len(r.rest) != count*bodyKeySize || count > MaxDataKeys {
		return nil, errBody("its length is wrong")
	}
	for range count {
		name := DataKey{ID: uint32(r.uint(4)), State: State(r.uint(1))}
		secret := r.key()
		if err := c.fits(name); err != nil {
			return nil, err
		}
		key, err := newDataKey(name, &secret)
		if err != nil {
			return nil, err
		}
		c.keys = append(c.keys, key)
	}
	if c.active < 0 || c.last < c.keys[len(c.keys)-1].ID {
		return nil, errBody("it has no active key, or its highest id is too low")
	}
	return c, nil
}

// fits checks the next data key of a body and notes which is active.
func (c *contents) fits(name DataKey) error {
	n := len(c.keys)
	switch {
	case n == 0 && name.ID == 0, n > 0 && name.ID <= c.keys[n-1].ID:
		return errBody("its ids do not ascend")
	case name.State < Pending || name.State > Retired:
		return errBody("a data key has no known state")
	case name.State == Active && c.active >= 0:
		return errBody("two data keys are active")
	case name.State == Active:
		c.active = n
	}
	return nil
}

func errBody(what string) error { return fmt.Errorf("%w: the keyring's body: %s", ErrDamaged, what) }
