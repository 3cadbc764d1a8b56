package hsm

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP does not lean on collision resistance, and some tokens know nothing else
	"crypto/sha256"
	"fmt"
	"hash"
)

// Hash names the hash of RSA-OAEP and of its MGF1 (RFC 8017 7.1).
type Hash string

// The hashes that tokens were seen to offer.
const (
	SHA1   Hash = "SHA-1"
	SHA256 Hash = "SHA-256"
)

// minRSABits is the least modulus that is encrypted to.
const minRSABits = 2048

// ParseHash checks that s is one of the hashes, letter for letter.
func ParseHash(s string) (Hash, error) {
	h := Hash(s)
	if _, err := h.New(); err != nil {
		return "", err
	}
	return h, nil
}

// New gives the hash function.
func (h Hash) New() (hash.Hash, error) {
	switch h {
	case SHA1:
		return sha1.New(), nil //nolint:gosec // as above
	case SHA256:
		return sha256.New(), nil
	}
	return nil, fmt.Errorf("%w: unknown OAEP hash %.40q: use %q or %q", ErrBadInput, string(h), SHA1, SHA256)
}

// EncryptOAEP encrypts to a root key's public half, in Go, with no label: some modules fail when there is one.
// The plaintext is at most the modulus less twice the hash and 2 bytes: 318 bytes for RSA-3072 with SHA-256.
func EncryptOAEP(pub *rsa.PublicKey, h Hash, plaintext []byte) ([]byte, error) {
	fn, err := h.New()
	if err != nil {
		return nil, err
	}
	if pub == nil || pub.N == nil || pub.N.BitLen() < minRSABits {
		return nil, fmt.Errorf("%w: an RSA key of at least %d bits is needed", ErrBadInput, minRSABits)
	}
	sealed, err := rsa.EncryptOAEP(fn, rand.Reader, pub, plaintext, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: encrypting to the root key: %w", ErrBadInput, err)
	}
	return sealed, nil
}
