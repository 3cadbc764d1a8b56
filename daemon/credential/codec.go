package credential

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"warder/daemon/broker"
	"warder/keystore"
)

// The material of a version, sealed by the keystore, is:
//
//	version  u8      1
//	count    u8      1..16
//	count times, names ascending:
//	  name   u8 length, bytes
//	  value  u32 length (big endian), bytes
//
// Nothing follows. It is not JSON so that no copy of a value is left in a decoder.

const codecVersion = 1

func encode(v Values) (keystore.Secret, error) {
	if len(v) == 0 || len(v) > MaxFields {
		return keystore.Secret{}, fmt.Errorf("%w: it has 1 to %d fields", ErrInvalid, MaxFields)
	}
	size := 2
	for name, s := range v {
		if len(name) > 255 || s.Len() > broker.MaxField {
			return keystore.Secret{}, fmt.Errorf("%w: a field is too long", ErrInvalid)
		}
		size += 5 + len(name) + s.Len()
	}
	if size > keystore.MaxMaterial {
		return keystore.Secret{}, fmt.Errorf("%w: its fields are %d bytes in all, the most is %d", ErrInvalid, size, keystore.MaxMaterial)
	}
	out := make([]byte, 0, size) // of the final size: growing would leave copies behind
	out = append(out, codecVersion, byte(len(v)))
	for _, name := range slices.Sorted(maps.Keys(v)) {
		out = append(out, byte(len(name)))
		out = append(out, name...)
		out = binary.BigEndian.AppendUint32(out, uint32(v[name].Len()))
		out = append(out, v[name].Reveal()...)
	}
	return keystore.NewSecret(out), nil
}

// errDamaged is of a record that the seal vouches for and encode did not write.
var errDamaged = fmt.Errorf("%w: its stored fields do not decode", ErrInvalid)

// decode gives values that share s's memory: wiping s wipes them.
func decode(s keystore.Secret) (Values, error) {
	b := s.Reveal()
	if len(b) < 2 || b[0] != codecVersion || b[1] == 0 || b[1] > MaxFields {
		return nil, errDamaged
	}
	count, rest, last := int(b[1]), b[2:], ""
	v := make(Values, count)
	for range count {
		name, after, ok := cut(rest, 1)
		if !ok {
			return nil, errDamaged
		}
		value, after, ok := cut(after, 4)
		if !ok || string(name) <= last {
			return nil, errDamaged
		}
		rest, last = after, string(name)
		v[last] = keystore.NewSecret(value)
	}
	if len(rest) > 0 {
		return nil, errDamaged
	}
	return v, nil
}

// cut takes a length of width bytes and as many bytes.
func cut(b []byte, width int) (piece, rest []byte, ok bool) {
	if len(b) < width {
		return nil, nil, false
	}
	n := 0
	for _, c := range b[:width] {
		n = n<<8 | int(c)
	}
	b = b[width:]
	if n > len(b) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}
