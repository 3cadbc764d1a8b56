package keyring

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// Bounds of a sealed keyring. Each is checked before what it bounds is read.
const (
	MaxSealed     = 64 << 10 // the whole, in bytes
	MaxRecipients = 64
	MaxID         = 255  // a cluster's or a recipient's id, in bytes
	MaxWrapped    = 2048 // what a recipient's Wrap may give, in bytes
)

// Recipient can be sealed to. Wrap is done with a public key, so it needs no HSM; it keeps no copy of the secret.
type Recipient interface {
	ID() string
	Wrap(secret []byte) ([]byte, error)
}

// Unwrapper opens what its Recipient wrapped, inside an HSM. The secret that it gives is wiped after use.
type Unwrapper interface {
	ID() string
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// Header is the readable part of a sealed keyring. The body's tag covers it.
type Header struct {
	ClusterID  string
	Epoch      uint64 // grows by one with each sealing
	Commitment [32]byte
	Recipients []string // their ids, each once
}

// SealTo seals the keyring to every recipient. Each sealing has a body key of its own.
func (k *Keyring) SealTo(clusterID string, epoch uint64, recipients []Recipient) ([]byte, error) {
	header := Header{ClusterID: clusterID, Epoch: epoch, Commitment: k.Commitment()}
	for _, recipient := range recipients {
		header.Recipients = append(header.Recipients, recipient.ID())
	}
	prefix, err := header.encode()
	if err != nil {
		return nil, fmt.Errorf("seal the keyring: %w", err)
	}
	bodyKey := make([]byte, keySize)
	_, _ = rand.Read(bodyKey) // never fails: crypto/rand ends the process instead
	defer clear(bodyKey)
	sealed := slices.Clone(prefix)
	for i, recipient := range recipients {
		if sealed, err = appendEntry(sealed, prefix, header.Recipients[i], recipient, bodyKey); err != nil {
			return nil, fmt.Errorf("seal the keyring to %s: %w", header.Recipients[i], err)
		}
	}
	body := k.open().encode()
	defer clear(body)
	// The body's additional data is all that stands before it, so that entries cannot be dropped or exchanged either.
	box, err := lock(bodyKey, sealed, body)
	if err != nil {
		return nil, fmt.Errorf("seal the keyring: %w", err)
	}
	if sealed = append(sealed, box...); len(sealed) > MaxSealed {
		return nil, fmt.Errorf("seal the keyring: %d bytes are more than %d: remove recipients or drop retired data keys",
			len(sealed), MaxSealed)
	}
	return sealed, nil
}

// Unseal opens the entry that is the unwrapper's, and then the body. The error is [ErrNotRecipient], [ErrDamaged], or
// what Unwrap gave. What was opened is whole, but may be older than the newest sealing, and anyone who knows the
// recipient's public key could have made it: hold Commitment and Epoch to what the node remembers.
func Unseal(ctx context.Context, sealed []byte, unwrapper Unwrapper) (*Keyring, error) {
	parts, err := split(sealed)
	if err != nil {
		return nil, err
	}
	at := slices.Index(parts.header.Recipients, unwrapper.ID())
	if at < 0 {
		return nil, fmt.Errorf("%w: %s", ErrNotRecipient, unwrapper.ID())
	}
	bodyKey, err := parts.entries[at].open(ctx, parts.prefix, unwrapper)
	if err != nil {
		return nil, fmt.Errorf("open the entry of %s: %w", unwrapper.ID(), err)
	}
	defer clear(bodyKey)
	body, err := unlock(bodyKey, parts.bound, parts.box)
	if err != nil {
		return nil, fmt.Errorf("open the sealed keyring: %w", err)
	}
	defer clear(body)
	held, err := parse(body)
	if err != nil {
		return nil, err
	}
	k := hold(held)
	if k.Commitment() != parts.header.Commitment {
		return nil, fmt.Errorf("%w: the commitment is of another keyring", ErrDamaged)
	}
	return k, nil
}

// Inspect reads the header without opening anything: only Unseal proves it. The error is [ErrDamaged].
func Inspect(sealed []byte) (Header, error) {
	parts, err := split(sealed)
	return parts.header, err
}

// entry is one recipient's way to the body's key: wrapped is the recipient's own wrapping of a random X, and box is
// the body's key under HKDF(X).
type entry struct{ wrapped, box []byte }

func appendEntry(sealed, prefix []byte, id string, recipient Recipient, bodyKey []byte) ([]byte, error) {
	secret := make([]byte, keySize)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the process instead
	defer clear(secret)
	wrapped, err := recipient.Wrap(secret)
	if err != nil {
		return nil, err
	}
	if len(wrapped) > MaxWrapped {
		return nil, fmt.Errorf("its wrapping has %d bytes, more than %d", len(wrapped), MaxWrapped)
	}
	key := entryKey(secret, prefix, id)
	defer clear(key)
	box, err := lock(key, prefix, bodyKey)
	if err != nil {
		return nil, err
	}
	sealed = append(binary.BigEndian.AppendUint16(sealed, uint16(len(wrapped))), wrapped...)
	return append(sealed, box...), nil
}

func (e entry) open(ctx context.Context, prefix []byte, unwrapper Unwrapper) ([]byte, error) {
	secret, err := unwrapper.Unwrap(ctx, e.wrapped)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	if len(secret) != keySize {
		return nil, fmt.Errorf("%w: it holds %d bytes", ErrDamaged, len(secret))
	}
	key := entryKey(secret, prefix, unwrapper.ID())
	defer clear(key)
	return unlock(key, prefix, e.box)
}

// entryKey is HKDF-SHA-256 (RFC 5869) of X, with the header and the recipient's id as its context.
func entryKey(secret, prefix []byte, id string) []byte {
	digest := sha256.Sum256(prefix)
	key := derive(secret, digest[:], "warder keyring entry v1\x00"+id)
	return key[:]
}

// lock is AES-256-GCM with a random nonce in front. Each key locks once.
func lock(key, additional, plaintext []byte) ([]byte, error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, nonceSize, nonceSize+len(plaintext)+tagSize)
	_, _ = rand.Read(nonce) // never fails: crypto/rand ends the process instead
	return aead.Seal(nonce, nonce, plaintext, additional), nil
}

func unlock(key, additional, box []byte) ([]byte, error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	if len(box) < nonceSize+tagSize {
		return nil, ErrDamaged
	}
	plaintext, err := aead.Open(nil, box[:nonceSize], box[nonceSize:], additional)
	if err != nil {
		return nil, ErrDamaged
	}
	return plaintext, nil
}
