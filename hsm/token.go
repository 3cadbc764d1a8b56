package hsm

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
)

// RSABits is the size of every RSA key that Warder has a token make (root keys and transport keys).
const RSABits = 3072

// DigestSize is the length in bytes of what [Signer.Sign] and [Token.SignWrapped] take: a SHA-256 digest.
const DigestSize = 32

// Info describes a token, for status pages. Nothing in it is secret.
type Info struct {
	Module         string // path of the PKCS#11 library, or the name of the software
	Label          string // the token's label, trimmed of its padding
	Serial         string // the token's serial number, trimmed; may be empty
	Manufacturer   string
	Model          string
	OAEP           Hash   // the hash that its RSA-OAEP was seen to work with
	Software       bool   // keys are in the process or in plain files: development only
	CustodyCapable bool   // device keys can be held at level `hsm`
	Detail         string // why not, or what else an operator should know; may be empty
}

// Algorithm names what a device key signs with. The set is closed and only grows.
type Algorithm string

// The algorithms of device keys.
const (
	ECDSAP256SHA256 Algorithm = "ecdsa-p256-sha256" // FIPS 186-5, signatures in ASN.1 DER
	Ed25519         Algorithm = "ed25519"           // RFC 8032; no token seen so far wraps it
)

// ParseAlgorithm checks that s is one of the algorithms, letter for letter.
func ParseAlgorithm(s string) (Algorithm, error) {
	switch a := Algorithm(s); a {
	case ECDSAP256SHA256, Ed25519:
		return a, nil
	}
	return "", fmt.Errorf("%w: unknown algorithm %.40q: use %q or %q", ErrBadInput, s, ECDSAP256SHA256, Ed25519)
}

// KEKID names a key-encryption key (its CKA_ID). All nodes' HSMs hold the same key under the same id.
type KEKID [16]byte

// String gives the id in hexadecimal.
func (id KEKID) String() string { return hex.EncodeToString(id[:]) }

// Token is one logged-in token. All methods are safe for concurrent use and honour ctx: when it ends the caller gets
// its error at once; the operation is abandoned, and what hangs past the module's own time limit is killed.
type Token interface {
	// Info is what was found out when the token was opened.
	Info() Info
	// Check decrypts a canary on a session reserved for it.
	Check(ctx context.Context) error

	// CreateRootKey makes an RSA-3072 key that can only decrypt, is sensitive and not extractable.
	// Several keys may have one label: the fingerprint is the name. Errors: ErrTokenFull, ErrMechanism.
	CreateRootKey(ctx context.Context, label string) (RootKey, error)
	// RootKey finds a root key by its fingerprint, or ErrKeyNotFound.
	RootKey(ctx context.Context, fp Fingerprint) (RootKey, error)
	// DestroyKey destroys the root key of that fingerprint, or ErrKeyNotFound.
	DestroyKey(ctx context.Context, fp Fingerprint) error

	// NodeKey finds the node's identity key (EC P-256, sign only), or makes it.
	NodeKey(ctx context.Context) (Signer, error)

	// CreateKEK makes an AES-256 key that wraps and unwraps device keys; ErrBadInput when the id is taken.
	CreateKEK(ctx context.Context, id KEKID) error
	// TransportKey is the public half of this token's RSA-3072 key that unwraps KEKs; found, or made.
	TransportKey(ctx context.Context) (*rsa.PublicKey, error)
	// ExportKEK wraps a KEK inside this token under another token's transport key.
	ExportKEK(ctx context.Context, id KEKID, to *rsa.PublicKey) ([]byte, error)
	// ImportKEK unwraps what ExportKEK gave inside this token. Importing an id that is there does nothing.
	ImportKEK(ctx context.Context, id KEKID, wrapped []byte) error
	// HasKEK says whether the token holds the KEK.
	HasKEK(ctx context.Context, id KEKID) (bool, error)
	// GenerateWrapped makes a device key in the token and gives it wrapped under the KEK; the token keeps nothing.
	// ErrMechanism for an algorithm that the token cannot wrap, ErrKeyNotFound without the KEK.
	GenerateWrapped(ctx context.Context, id KEKID, alg Algorithm) (WrappedKey, error)
	// SignWrapped unwraps the key inside the token and signs a SHA-256 digest; the signature is ASN.1 DER.
	// ErrBadInput when the key was not wrapped by this KEK or is not the private half of key.Public.
	SignWrapped(ctx context.Context, id KEKID, key WrappedKey, digest []byte) ([]byte, error)

	// Close logs out and ends the module's process. Calls after it give ErrUnavailable.
	Close() error
}

// RootKey is a decrypt-only RSA key in a token.
type RootKey interface {
	Fingerprint() Fingerprint
	Public() *rsa.PublicKey
	Hash() Hash
	// Decrypt undoes [EncryptOAEP] with the key's Hash. ErrBadInput when it is not a ciphertext for this key.
	Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error)
}

// Signer is a signing key in a token.
type Signer interface {
	Fingerprint() Fingerprint
	Public() crypto.PublicKey
	// Sign signs a SHA-256 digest (32 bytes); the signature is ASN.1 DER (RFC 3279 2.2.3).
	Sign(ctx context.Context, digest []byte) ([]byte, error)
}

// WrappedKey is a device key as it is stored: its public half, and its private half wrapped under a KEK.
type WrappedKey struct {
	Algorithm Algorithm
	Public    []byte // DER SubjectPublicKeyInfo
	Blob      []byte // the token's own form: a private key under the KEK, useless without the token
}
