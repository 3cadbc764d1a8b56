package device

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"warder/daemon/identity"
	"warder/hsm"
	"warder/keystore"
	"warder/keystore/kv"
)

// maxMessage bounds what an Ed25519 key signs, in bytes.
const maxMessage = 64 << 10

// Hardware is where custody "hsm" is kept: this node's token, and the cluster's key-encryption key in it.
type Hardware interface {
	Token() (hsm.Token, error)
	CustodyID(ctx context.Context) (hsm.KEKID, error)
}

// Keys creates, rotates, destroys and signs with keys in custody.
type Keys struct {
	db       *kv.DB
	hardware Hardware
	clock    func() time.Time
	cache    *signerCache
}

// NewKeys gives the keys stored in db.
func NewKeys(db *kv.DB, hardware Hardware, clock func() time.Time) *Keys {
	return &Keys{db: db, hardware: hardware, clock: clock, cache: newSignerCache(cachedSigners)}
}

// Run forgets the parsed private keys whenever a key changes anywhere in the cluster, and when ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	watcher := k.db.Watch(keystore.Prefix(keyKind))
	defer watcher.Close()
	defer k.cache.clear()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.C():
			k.cache.clear()
		}
	}
}

// Forget drops the parsed private keys, as when the node is sealed.
func (k *Keys) Forget() { k.cache.clear() }

// Create makes a key and its first version, active.
func (k *Keys) Create(ctx context.Context, namespace, name identity.Name, spec Spec) (Key, error) {
	if spec.Owner.Namespace != namespace {
		return Key{}, ErrOwner
	}
	info, err := json.Marshal(spec)
	if err != nil {
		return Key{}, fmt.Errorf("encode a key: %w", err)
	}
	version, material, err := k.generate(ctx, spec)
	if err != nil {
		return Key{}, err
	}
	defer material.Wipe()
	return k.change(ctx, func(tx *kv.Tx) (keystore.Entry, error) {
		return keystore.Create(tx, ref(namespace, name), info, material, version, k.clock())
	})
}

// Rotate makes a new version active and retires the one before it.
func (k *Keys) Rotate(ctx context.Context, namespace, name identity.Name) (Key, error) {
	key, err := k.Get(ctx, namespace, name)
	if err != nil {
		return Key{}, err
	}
	version, material, err := k.generate(ctx, key.Spec)
	if err != nil {
		return Key{}, err
	}
	defer material.Wipe()
	return k.change(ctx, func(tx *kv.Tx) (keystore.Entry, error) {
		return keystore.AddVersion(tx, ref(namespace, name), material, version, keystore.Active, k.clock())
	})
}

// Destroy shreds the private key of one version for ever; its public half stays.
func (k *Keys) Destroy(ctx context.Context, namespace, name identity.Name, version uint32) (Key, error) {
	return k.change(ctx, func(tx *kv.Tx) (keystore.Entry, error) {
		return keystore.Destroy(tx, ref(namespace, name), version, k.clock())
	})
}

// Get gives a key's public part, or keystore.ErrNotFound.
func (k *Keys) Get(ctx context.Context, namespace, name identity.Name) (Key, error) {
	var key Key
	err := k.db.View(ctx, func(tx *kv.Tx) error {
		entry, err := keystore.Get(tx, ref(namespace, name))
		if err != nil {
			return err
		}
		key, err = fromEntry(entry)
		return err
	})
	return key, err
}

// List gives the public parts of a namespace's keys.
func (k *Keys) List(ctx context.Context, namespace identity.Name) ([]Key, error) {
	var keys []Key
	err := k.db.View(ctx, func(tx *kv.Tx) error {
		keys = nil
		for entry, err := range keystore.List(tx, keyKind, namespace.String()) {
			if err != nil {
				return err
			}
			key, err := fromEntry(entry)
			if err != nil {
				return err
			}
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}

func (k *Keys) change(ctx context.Context, change func(*kv.Tx) (keystore.Entry, error)) (Key, error) {
	var entry keystore.Entry
	err := k.db.Update(ctx, func(tx *kv.Tx) (err error) {
		entry, err = change(tx)
		return err
	})
	if err != nil {
		return Key{}, err
	}
	return fromEntry(entry)
}

// generate makes a version where its custody says, and gives its stored public part and its material: PKCS #8 for
// "sealed", the HSM's wrapped form for "hsm".
func (k *Keys) generate(ctx context.Context, spec Spec) ([]byte, keystore.Secret, error) {
	var public []byte
	var material keystore.Secret
	var err error
	switch spec.Custody {
	case CustodySealed:
		public, material, err = generateSealed(spec.Algorithm)
	case CustodyHSM:
		public, material, err = k.generateInHSM(ctx, spec.Algorithm)
	default:
		err = fmt.Errorf("%w: %q", ErrCustodyUnsupported, spec.Custody)
	}
	if err != nil {
		return nil, keystore.Secret{}, err
	}
	info, err := json.Marshal(versionInfo{Public: public})
	if err != nil {
		return nil, keystore.Secret{}, fmt.Errorf("encode a key's version: %w", err)
	}
	return info, material, nil
}

func (k *Keys) generateInHSM(ctx context.Context, algorithm hsm.Algorithm) ([]byte, keystore.Secret, error) {
	token, id, err := k.custody(ctx)
	if err != nil {
		return nil, keystore.Secret{}, err
	}
	wrapped, err := token.GenerateWrapped(ctx, id, algorithm)
	if errors.Is(err, hsm.ErrMechanism) {
		return nil, keystore.Secret{}, fmt.Errorf("%w: %w; choose custody \"sealed\", or another algorithm", ErrCustodyUnsupported, err)
	}
	if err != nil {
		return nil, keystore.Secret{}, err
	}
	return wrapped.Public, keystore.NewSecret(wrapped.Blob), nil
}

func (k *Keys) custody(ctx context.Context) (hsm.Token, hsm.KEKID, error) {
	id, err := k.hardware.CustodyID(ctx)
	if err != nil {
		return nil, id, err
	}
	token, err := k.hardware.Token()
	return token, id, err
}

// Signature is what a key made, and with which version and custody.
type Signature struct {
	Bytes     []byte
	Algorithm hsm.Algorithm
	Version   uint32
	Custody   Custody
}

// Sign signs with the active version: for ECDSA a SHA-256 digest of 32 bytes, giving ASN.1 DER (RFC 3279, 2.2.3); for
// Ed25519 the message itself, giving 64 bytes (RFC 8032). The caller names the algorithm, which must be the key's own.
func (k *Keys) Sign(ctx context.Context, key Key, algorithm hsm.Algorithm, input []byte) (Signature, error) {
	if key.Spec.Algorithm != algorithm {
		return Signature{}, fmt.Errorf("%w: it is %s", ErrAlgorithm, key.Spec.Algorithm)
	}
	if algorithm == hsm.ECDSAP256SHA256 && len(input) != sha256.Size || len(input) == 0 || len(input) > maxMessage {
		return Signature{}, ErrInput
	}
	version, ok := key.Active()
	if !ok {
		return Signature{}, keystore.ErrNoActiveVersion
	}
	sign := k.signSealed
	if key.Spec.Custody == CustodyHSM {
		sign = k.signInHSM
	}
	bytes, err := sign(ctx, key, version, input)
	return Signature{Bytes: bytes, Algorithm: algorithm, Version: version.Number, Custody: key.Spec.Custody}, err
}

func (k *Keys) signInHSM(ctx context.Context, key Key, version KeyVersion, digest []byte) ([]byte, error) {
	token, id, err := k.custody(ctx)
	if err != nil {
		return nil, err
	}
	blob, err := k.material(ctx, key, version)
	if err != nil {
		return nil, err
	}
	defer blob.Wipe()
	wrapped := hsm.WrappedKey{Algorithm: key.Spec.Algorithm, Public: version.Public, Blob: blob.Reveal()}
	return token.SignWrapped(ctx, id, wrapped, digest)
}

func (k *Keys) signSealed(ctx context.Context, key Key, version KeyVersion, input []byte) ([]byte, error) {
	at := signerKey{namespace: key.Namespace, name: key.Name, version: version.Number, revision: key.Revision}
	signer, cached := k.cache.get(at)
	if !cached {
		var err error
		if signer, err = k.openSealed(ctx, key, version); err != nil {
			return nil, err
		}
		k.cache.put(at, signer)
	}
	options := crypto.SignerOpts(crypto.SHA256)
	if key.Spec.Algorithm == hsm.Ed25519 {
		options = crypto.Hash(0)
	}
	return signer.Sign(rand.Reader, input, options)
}

func (k *Keys) openSealed(ctx context.Context, key Key, version KeyVersion) (crypto.Signer, error) {
	der, err := k.material(ctx, key, version)
	if err != nil {
		return nil, err
	}
	defer der.Wipe()
	parsed, err := x509.ParsePKCS8PrivateKey(der.Reveal())
	if err != nil {
		return nil, fmt.Errorf("key %s/%s version %d does not parse", key.Namespace, key.Name, version.Number)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s/%s version %d cannot sign", key.Namespace, key.Name, version.Number)
	}
	return signer, nil
}

func (k *Keys) material(ctx context.Context, key Key, version KeyVersion) (keystore.Secret, error) {
	var material keystore.Secret
	err := k.db.View(ctx, func(tx *kv.Tx) (err error) {
		material, _, err = keystore.Material(tx, ref(key.Namespace, key.Name), version.Number)
		return err
	})
	return material, err
}
