package softtoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"warder/hsm"
)

const (
	nodeName      = "node"
	transportName = "transport"
)

// token is the software token. The store is safe by itself.
type token struct {
	info hsm.Info
	keys store

	making sync.Mutex // one maker at a time of a key that there is once

	mu     sync.Mutex // guards closed
	closed bool
}

// Open opens the software token whose keys are files of mode 0600 in dir (made when it is not there), or one in memory
// when dir is empty. For development only: Info().Software is true.
func Open(dir string) (hsm.Token, error) {
	keys, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	where := dir
	if where == "" {
		where = "memory"
	}
	return &token{keys: keys, info: hsm.Info{
		Module: "software", Label: "software", Serial: where, Manufacturer: "Warder", Model: "software token",
		OAEP: hsm.SHA256, Software: true, CustodyCapable: true, Detail: "development only: keys are not protected",
	}}, nil
}

func (t *token) Info() hsm.Info { return t.info }

// ready refuses work after Close and for callers that are gone.
func (t *token) ready(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return fmt.Errorf("%w: the software token was closed", hsm.ErrUnavailable)
	}
	return ctx.Err()
}

func (t *token) Check(ctx context.Context) error {
	if err := t.ready(ctx); err != nil {
		return err
	}
	return t.keys.check()
}

func (t *token) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	return nil
}

func (t *token) CreateRootKey(ctx context.Context, _ string) (hsm.RootKey, error) {
	if err := t.ready(ctx); err != nil {
		return nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, hsm.RSABits)
	if err != nil {
		return nil, fmt.Errorf("%w: making a root key: %w", hsm.ErrUnavailable, err)
	}
	fp, err := hsm.FingerprintOf(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := t.putKey(rootName(fp), key); err != nil {
		return nil, err
	}
	return &rootKey{token: t, fp: fp, public: &key.PublicKey}, nil
}

func (t *token) RootKey(ctx context.Context, fp hsm.Fingerprint) (hsm.RootKey, error) {
	if err := t.ready(ctx); err != nil {
		return nil, err
	}
	key, err := readKey[*rsa.PrivateKey](t, rootName(fp))
	if err != nil {
		return nil, err
	}
	return &rootKey{token: t, fp: fp, public: &key.PublicKey}, nil
}

func (t *token) DestroyKey(ctx context.Context, fp hsm.Fingerprint) error {
	if err := t.ready(ctx); err != nil {
		return err
	}
	return t.keys.remove(rootName(fp))
}

func (t *token) NodeKey(ctx context.Context) (hsm.Signer, error) {
	if err := t.ready(ctx); err != nil {
		return nil, err
	}
	key, err := findOrMake(t, nodeName, func() (*ecdsa.PrivateKey, error) {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	})
	if err != nil {
		return nil, err
	}
	fp, err := hsm.FingerprintOf(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return &signer{token: t, fp: fp, public: &key.PublicKey}, nil
}

// findOrMake reads a key, or makes it once however many ask at a time.
func findOrMake[K crypto.Signer](t *token, name string, generate func() (K, error)) (K, error) {
	t.making.Lock()
	defer t.making.Unlock()
	key, err := readKey[K](t, name)
	if !errors.Is(err, hsm.ErrKeyNotFound) {
		return key, err
	}
	if key, err = generate(); err != nil {
		return key, fmt.Errorf("%w: making the %s key: %w", hsm.ErrUnavailable, name, err)
	}
	return key, t.putKey(name, key)
}

func (t *token) putKey(name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("%w: encoding the %s key: %w", hsm.ErrUnavailable, name, err)
	}
	defer clear(der)
	return t.keys.put(name, der)
}

func readKey[K crypto.Signer](t *token, name string) (K, error) {
	var none K
	der, err := t.keys.get(name)
	if err != nil {
		return none, err
	}
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if key, ok := parsed.(K); err == nil && ok {
		return key, nil
	}
	return none, fmt.Errorf("%w: software key %s is damaged: restore its file or start with a new folder", hsm.ErrUnavailable, name)
}

func rootName(fp hsm.Fingerprint) string { return fmt.Sprintf("root-%x", fp[:]) }
