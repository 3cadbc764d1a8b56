package kv

import (
	"errors"
	"fmt"

	"warder/keystore/keyring"
)

// blind returns the path of a key: for each part a MAC under the blinding key,
// over the path so far and the part.
func blind(ring *keyring.Keyring, k Key) string {
	path := make([]byte, 0, MaxParts*blindSize)
	for rest := k.joined; rest != ""; {
		n := int(rest[0])
		b := ring.Blind(path, rest[1:1+n])
		path = append(path, b[:]...)
		rest = rest[1+n:]
	}
	return string(path)
}

// seal seals a value with its name before it, bound to its place.
func seal(ring *keyring.Keyring, t Target, k Key, value []byte) []byte {
	plain := make([]byte, 0, 1+len(k.joined)+len(value))
	plain = append(k.appendTo(plain), value...)
	defer clear(plain)
	return ring.Seal(t.additional(), plain)
}

// open is the inverse of seal.
func open(ring *keyring.Keyring, t Target, r row) (Key, []byte, error) {
	plain, err := ring.Open(t.additional(), r.sealed())
	if errors.Is(err, keyring.ErrDamaged) {
		return Key{}, nil, fmt.Errorf("%w: record %v does not open: %w", ErrDamaged, t, err)
	}
	if err != nil {
		return Key{}, nil, fmt.Errorf("open record %v: %w", t, err)
	}
	k, value, err := parseKey(plain)
	if err != nil {
		return Key{}, nil, fmt.Errorf("%w: record %v holds no name", ErrDamaged, t)
	}
	return k, value, nil
}
