package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync/atomic"
)

// Sizes of a sealed value, in bytes.
const (
	keySize   = 32
	nonceSize = 12
	tagSize   = 16
	// Overhead is what Seal adds: version u8, data key id u32, nonce, tag.
	Overhead = nonceEnd + tagSize

	idEnd    = 1 + 4
	nonceEnd = idEnd + nonceSize
)

// sealVersion is the first byte of what Seal gives.
const sealVersion = 1

// MaxSeals is how many values may be sealed with one data key, by all processes together: random nonces of 96 bits
// collide with a probability above 2^-32 beyond it (NIST SP 800-38D, section 8.3). Rotate well before.
const MaxSeals = 1 << 32

// State is the state of a data key.
type State uint8

// The states. A keyring has one active key; it opens with every key that it holds.
const (
	Pending State = iota + 1
	Active
	Retired
)

// String names the state.
func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Active:
		return "active"
	case Retired:
		return "retired"
	default:
		return fmt.Sprintf("state(%d)", uint8(s))
	}
}

// DataKey is what may be told of a data key. An id is never given twice: a newer key has a higher one.
type DataKey struct {
	ID    uint32
	State State
}

// dataKey is a data key with its ready AEAD. Copies share what the pointers name.
type dataKey struct {
	DataKey
	secret *[keySize]byte
	aead   cipher.AEAD
	seals  *atomic.Uint64 // by this process
}

// newDataKey takes the secret over.
func newDataKey(name DataKey, secret *[keySize]byte) (dataKey, error) {
	aead, err := gcm(secret[:])
	if err != nil {
		return dataKey{}, fmt.Errorf("data key %d: %w", name.ID, err)
	}
	return dataKey{DataKey: name, secret: secret, aead: aead, seals: new(atomic.Uint64)}, nil
}

// Seal seals plaintext with the active data key (AES-256-GCM, NIST SP 800-38D), bound to additional data:
// version u8 | data key id u32 big-endian | nonce 12 | ciphertext | tag 16. The result is the one allocation.
func (k *Keyring) Seal(additional, plaintext []byte) []byte {
	key := k.open().sealing()
	sealed := make([]byte, nonceEnd, Overhead+len(plaintext))
	sealed[0] = sealVersion
	binary.BigEndian.PutUint32(sealed[1:], key.ID)
	_, _ = rand.Read(sealed[idEnd:]) // never fails: crypto/rand ends the process instead
	key.seals.Add(1)
	return key.aead.Seal(sealed, sealed[idEnd:], plaintext, additional)
}

// Open opens what Seal sealed for the same additional data, or gives [ErrDamaged], [ErrNewerKey] or [ErrUnknownKey].
// The plaintext is the caller's.
func (k *Keyring) Open(additional, sealed []byte) ([]byte, error) {
	id, err := KeyID(sealed)
	if err != nil {
		return nil, err
	}
	held := k.open()
	if id > held.last {
		return nil, fmt.Errorf("%w: data key %d", ErrNewerKey, id)
	}
	at := held.index(id)
	if at < 0 {
		return nil, fmt.Errorf("%w: data key %d", ErrUnknownKey, id)
	}
	plaintext, err := held.keys[at].aead.Open(nil, sealed[idEnd:nonceEnd], sealed[nonceEnd:], additional)
	if err != nil {
		return nil, ErrDamaged
	}
	return plaintext, nil
}

// KeyID tells which data key sealed the bytes, or gives [ErrDamaged] where Seal cannot have made them. Only Open proves
// what it tells.
func KeyID(sealed []byte) (uint32, error) {
	if len(sealed) < Overhead || sealed[0] != sealVersion {
		return 0, ErrDamaged
	}
	return binary.BigEndian.Uint32(sealed[1:]), nil
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
