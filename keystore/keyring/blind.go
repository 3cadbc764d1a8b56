package keyring

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"sync"
)

// BlindSize is the size of a blinded part, in bytes.
const BlindSize = 16

// blinder is HMAC-SHA-256 under the blinding key. Its pool keeps keyed states: keying anew costs more than the rest of
// a short MAC (203 ns and no allocation against 730 ns and 7, measured).
type blinder struct {
	secret *[keySize]byte
	states sync.Pool // of *blinding
}

// blinding is one keyed state and the space that a MAC needs, so that nothing else is allocated.
type blinding struct {
	mac   hash.Hash
	input []byte
	sum   [sha256.Size]byte
}

// newBlinder takes the secret over.
func newBlinder(secret *[keySize]byte) *blinder {
	b := &blinder{secret: secret}
	b.states.New = func() any { return &blinding{mac: hmac.New(sha256.New, secret[:])} }
	return b
}

// Blind gives the first 16 bytes of HMAC-SHA-256 under the blinding key over parent and part (RFC 2104). A path of
// blinded parts is one name's only as long as each parent is the whole path before the part: two paths are then equal
// part by part or not at all.
func (k *Keyring) Blind(parent []byte, part string) [BlindSize]byte {
	states := &k.open().blind.states
	b := states.Get().(*blinding)
	b.input = append(append(b.input[:0], parent...), part...)
	b.mac.Reset()
	b.mac.Write(b.input)
	blinded := [BlindSize]byte(b.mac.Sum(b.sum[:0]))
	clear(b.input) // the name stays in no pool
	states.Put(b)
	return blinded
}
