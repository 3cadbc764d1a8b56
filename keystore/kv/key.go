package kv

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a [Key].
const (
	MaxParts    = 8   // parts in a key
	MaxPartSize = 255 // bytes in a part
)

// ErrBadKey is returned for a key with no, too many, empty or oversize parts.
var ErrBadKey = errors.New("key is not valid")

// Key names a record, a counter, a log, or a prefix of records: 1 to 8 parts of
// 1 to 255 bytes each. Parts are opaque bytes; nothing is normalised, and no
// character separates them. The zero Key has no parts and names the whole
// store; only [DB.Watch] takes it. A Key is comparable.
type Key struct {
	joined string // each part behind its length in one byte
	parts  uint8  // MaxParts+1 when the key is malformed
}

// K makes a key of its parts. A key that breaks the bounds is reported as
// [ErrBadKey] by whatever uses it.
func K(parts ...string) Key {
	if len(parts) > MaxParts {
		return Key{parts: MaxParts + 1}
	}
	size := len(parts)
	for _, p := range parts {
		if len(p) == 0 || len(p) > MaxPartSize {
			return Key{parts: MaxParts + 1}
		}
		size += len(p)
	}
	var b strings.Builder
	b.Grow(size)
	for _, p := range parts {
		b.WriteByte(byte(len(p)))
		b.WriteString(p)
	}
	return Key{joined: b.String(), parts: uint8(len(parts))}
}

// Parts returns the parts that the key was made of; nil for a malformed key.
func (k Key) Parts() []string {
	if k.parts > MaxParts {
		return nil
	}
	parts := make([]string, 0, k.parts)
	for rest := k.joined; rest != ""; {
		n := int(rest[0])
		parts = append(parts, rest[1:1+n])
		rest = rest[1+n:]
	}
	return parts
}

// Under reports whether k lies strictly beneath prefix.
func (k Key) Under(prefix Key) bool {
	return k.parts <= MaxParts && prefix.parts < k.parts && strings.HasPrefix(k.joined, prefix.joined)
}

// String joins the parts by slashes, for a person to read. It is not a form
// that can be parsed.
func (k Key) String() string { return strings.Join(k.Parts(), "/") }

func (k Key) check() error {
	if k.parts == 0 || k.parts > MaxParts {
		return fmt.Errorf("%w: want 1 to %d parts of 1 to %d bytes", ErrBadKey, MaxParts, MaxPartSize)
	}
	return nil
}

// parseKey reads the form that a sealed value carries its name in: the number
// of parts, then each part behind its length. It returns what follows.
func parseKey(b []byte) (Key, []byte, error) {
	if len(b) == 0 || b[0] == 0 || b[0] > MaxParts {
		return Key{}, nil, errShort
	}
	end := 1
	for range b[0] {
		if end >= len(b) || b[end] == 0 || end+1+int(b[end]) > len(b) {
			return Key{}, nil, errShort
		}
		end += 1 + int(b[end])
	}
	return Key{joined: string(b[1:end]), parts: b[0]}, b[end:], nil
}

func (k Key) appendTo(b []byte) []byte {
	return append(append(b, k.parts), k.joined...)
}
