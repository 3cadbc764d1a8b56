package softtoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"fmt"

	"warder/hsm"
)

// rootKey reads its private half at each use: a destroyed key is gone for everyone who still holds one of these.
type rootKey struct {
	token  *token
	fp     hsm.Fingerprint
	public *rsa.PublicKey
}

func (k *rootKey) Fingerprint() hsm.Fingerprint { return k.fp }
func (k *rootKey) Public() *rsa.PublicKey       { return k.public }
func (k *rootKey) Hash() hsm.Hash               { return k.token.info.OAEP }

func (k *rootKey) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	if err := k.token.ready(ctx); err != nil {
		return nil, err
	}
	private, err := readKey[*rsa.PrivateKey](k.token, rootName(k.fp))
	if err != nil {
		return nil, err
	}
	return decryptOAEP(private, k.token.info.OAEP, ciphertext)
}

func decryptOAEP(key *rsa.PrivateKey, h hsm.Hash, ciphertext []byte) ([]byte, error) {
	fn, err := h.New()
	if err != nil {
		return nil, err
	}
	if len(ciphertext) != key.Size() { // RFC 8017 7.1.2, step 1: crypto/rsa takes one without its leading zeros too
		return nil, fmt.Errorf("%w: a ciphertext of %d bytes for a key of %d", hsm.ErrBadInput, len(ciphertext), key.Size())
	}
	plain, err := rsa.DecryptOAEP(fn, nil, key, ciphertext, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: not a ciphertext for this key", hsm.ErrBadInput)
	}
	return plain, nil
}

type signer struct {
	token  *token
	fp     hsm.Fingerprint
	public *ecdsa.PublicKey
}

func (s *signer) Fingerprint() hsm.Fingerprint { return s.fp }
func (s *signer) Public() crypto.PublicKey     { return s.public }

func (s *signer) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	if err := s.token.ready(ctx); err != nil {
		return nil, err
	}
	key, err := readKey[*ecdsa.PrivateKey](s.token, nodeName)
	if err != nil {
		return nil, err
	}
	return signDigest(key, digest)
}

func signDigest(key *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	if len(digest) != hsm.DigestSize {
		return nil, fmt.Errorf("%w: a digest has %d bytes, this one %d", hsm.ErrBadInput, hsm.DigestSize, len(digest))
	}
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		return nil, fmt.Errorf("%w: signing: %w", hsm.ErrUnavailable, err)
	}
	return signature, nil
}
