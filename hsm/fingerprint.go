package hsm

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
)

const fingerprintPrefix = "sha256:"

// Fingerprint names a key pair: SHA-256 of the DER SubjectPublicKeyInfo (RFC 5280 4.1.2.7).
type Fingerprint [sha256.Size]byte

// FingerprintOf computes the fingerprint of a public key (*rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey).
func FingerprintOf(pub crypto.PublicKey) (Fingerprint, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("%w: public key has no fingerprint: %w", ErrBadInput, err)
	}
	return sha256.Sum256(der), nil
}

// String gives "sha256:" and 64 hexadecimal digits.
func (f Fingerprint) String() string { return fingerprintPrefix + hex.EncodeToString(f[:]) }

// ParseFingerprint reads what String gives, and nothing else: one key has one spelling.
func ParseFingerprint(s string) (Fingerprint, error) {
	var f Fingerprint
	digits, ok := strings.CutPrefix(s, fingerprintPrefix)
	if !ok || len(digits) != 2*len(f) || strings.ToLower(digits) != digits {
		return Fingerprint{}, errFingerprint()
	}
	if _, err := hex.Decode(f[:], []byte(digits)); err != nil {
		return Fingerprint{}, errFingerprint()
	}
	return f, nil
}

func errFingerprint() error {
	return fmt.Errorf("%w: a key fingerprint is %q and 64 lower-case hexadecimal digits", ErrBadInput, fingerprintPrefix)
}
