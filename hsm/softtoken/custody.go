package softtoken

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"warder/hsm"
)

const kekSize = 32 // AES-256

func (t *token) CreateKEK(ctx context.Context, id hsm.KEKID) error {
	t.making.Lock()
	defer t.making.Unlock()
	has, err := t.HasKEK(ctx, id)
	if err != nil {
		return err
	}
	if has {
		return fmt.Errorf("%w: KEK %s is there already", hsm.ErrBadInput, id)
	}
	kek := make([]byte, kekSize)
	defer clear(kek)
	rand.Read(kek)
	return t.keys.put(kekName(id), kek)
}

func (t *token) HasKEK(ctx context.Context, id hsm.KEKID) (bool, error) {
	if err := t.ready(ctx); err != nil {
		return false, err
	}
	kek, err := t.keys.get(kekName(id))
	clear(kek)
	if errors.Is(err, hsm.ErrKeyNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (t *token) transport() (*rsa.PrivateKey, error) {
	return findOrMake(t, transportName, func() (*rsa.PrivateKey, error) {
		return rsa.GenerateKey(rand.Reader, hsm.RSABits)
	})
}

func (t *token) TransportKey(ctx context.Context) (*rsa.PublicKey, error) {
	if err := t.ready(ctx); err != nil {
		return nil, err
	}
	key, err := t.transport()
	if err != nil {
		return nil, err
	}
	return &key.PublicKey, nil
}

// ExportKEK gives hsm.Transport bytes, the form that tokens on PKCS#11 use too.
func (t *token) ExportKEK(ctx context.Context, id hsm.KEKID, to *rsa.PublicKey) ([]byte, error) {
	if err := t.ready(ctx); err != nil {
		return nil, err
	}
	kek, err := t.keys.get(kekName(id))
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	wrapped, err := hsm.EncryptOAEP(to, hsm.TransportHash, kek)
	if err != nil {
		return nil, err
	}
	return hsm.EncodeTransport(wrapped), nil
}

func (t *token) ImportKEK(ctx context.Context, id hsm.KEKID, wrapped []byte) error {
	if has, err := t.HasKEK(ctx, id); err != nil || has {
		return err
	}
	ciphertext, err := hsm.DecodeTransport(wrapped)
	if err != nil {
		return err
	}
	key, err := t.transport()
	if err != nil {
		return err
	}
	kek, err := decryptOAEP(key, hsm.TransportHash, ciphertext)
	if err != nil {
		return err
	}
	defer clear(kek)
	if len(kek) != kekSize {
		return fmt.Errorf("%w: a KEK has %d bytes", hsm.ErrBadInput, kekSize)
	}
	return t.keys.put(kekName(id), kek)
}

func (t *token) GenerateWrapped(ctx context.Context, id hsm.KEKID, alg hsm.Algorithm) (hsm.WrappedKey, error) {
	if err := t.ready(ctx); err != nil {
		return hsm.WrappedKey{}, err
	}
	// Hardware wraps no Ed25519 (seen so far), and development should not succeed where production cannot.
	if alg != hsm.ECDSAP256SHA256 {
		return hsm.WrappedKey{}, fmt.Errorf("%w: the software token keeps no %.40q keys in custody: use %q, or custody level sealed", hsm.ErrMechanism, alg, hsm.ECDSAP256SHA256)
	}
	aead, err := t.kek(id)
	if err != nil {
		return hsm.WrappedKey{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return hsm.WrappedKey{}, fmt.Errorf("%w: making a device key: %w", hsm.ErrUnavailable, err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return hsm.WrappedKey{}, fmt.Errorf("%w: encoding a device key: %w", hsm.ErrUnavailable, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return hsm.WrappedKey{}, fmt.Errorf("%w: encoding a device key: %w", hsm.ErrUnavailable, err)
	}
	defer clear(der)
	return hsm.WrappedKey{Algorithm: alg, Public: public, Blob: aead.Seal(nil, nil, der, id[:])}, nil
}

func (t *token) SignWrapped(ctx context.Context, id hsm.KEKID, key hsm.WrappedKey, digest []byte) ([]byte, error) {
	if err := t.ready(ctx); err != nil {
		return nil, err
	}
	aead, err := t.kek(id)
	if err != nil {
		return nil, err
	}
	private, err := unwrap(aead, id, key)
	if err != nil {
		return nil, err
	}
	return signDigest(private, digest)
}

func unwrap(aead cipher.AEAD, id hsm.KEKID, key hsm.WrappedKey) (*ecdsa.PrivateKey, error) {
	refused := fmt.Errorf("%w: the device key was not wrapped by KEK %s, or is damaged", hsm.ErrBadInput, id)
	if key.Algorithm != hsm.ECDSAP256SHA256 {
		return nil, fmt.Errorf("%w: no %.40q keys in custody", hsm.ErrMechanism, key.Algorithm)
	}
	der, err := aead.Open(nil, nil, key.Blob, id[:])
	if err != nil {
		return nil, refused
	}
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	private, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, refused
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil || !bytes.Equal(public, key.Public) {
		return nil, refused
	}
	return private, nil
}

func (t *token) kek(id hsm.KEKID) (cipher.AEAD, error) {
	kek, err := t.keys.get(kekName(id))
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, fmt.Errorf("%w: KEK %s is damaged", hsm.ErrUnavailable, id)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func kekName(id hsm.KEKID) string { return "kek-" + id.String() }
