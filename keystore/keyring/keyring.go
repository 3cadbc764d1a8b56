package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
)

// Errors of this package.
var (
	// ErrSealed says that the node holds no keyring.
	ErrSealed = errors.New("the node is sealed")
	// ErrDamaged says that bytes were changed, or moved to a place that they were not sealed for.
	ErrDamaged = errors.New("sealed bytes were changed or moved")
	// ErrUnknownKey says that the data key that bytes were sealed with is not in the keyring.
	ErrUnknownKey = errors.New("sealed with a data key that the keyring does not hold")
	// ErrState says that a data key's state does not allow the change.
	ErrState = errors.New("the data key's state does not allow it")
	// ErrNotRecipient says that the keyring is not sealed to the unwrapper's key.
	ErrNotRecipient = errors.New("the keyring is not sealed to this key")
)

// Sizes, in bytes.
const (
	keySize   = 32
	nonceSize = 12
	tagSize   = 16
	// Overhead is what Seal adds: version u8, data key id u32, nonce, tag.
	Overhead = 1 + 4 + nonceSize + tagSize
	// BlindSize is the size of a blinded part.
	BlindSize = 16
)

// sealVersion is the first byte of what Seal gives.
const sealVersion = 1

// maxDataKeys bounds a keyring.
const maxDataKeys = 64

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
	return map[State]string{Pending: "pending", Active: "active", Retired: "retired"}[s]
}

// DataKey is what may be told of a data key. Ids grow: a newer key has a higher one.
type DataKey struct {
	ID    uint32
	State State
}

// dataKey is a data key with its ready AEAD.
type dataKey struct {
	DataKey
	secret [keySize]byte
	aead   cipher.AEAD
	// seals counts what this process sealed with the key: random nonces of 96 bits bound it to 2^32
	// (NIST SP 800-38D, section 8.3).
	seals *atomic.Uint64
}

// Keyring is the unsealed keyring. It is safe for concurrent use and never changes.
type Keyring struct {
	keys    []dataKey // ascending by id
	active  int       // index into keys
	blind   [keySize]byte
	lineage [keySize]byte
}

// New makes a keyring with one active data key, from random.
func New(random io.Reader) (*Keyring, error) {
	k := &Keyring{}
	var first [keySize]byte
	for _, secret := range []*[keySize]byte{&first, &k.blind, &k.lineage} {
		if _, err := io.ReadFull(random, secret[:]); err != nil {
			return nil, fmt.Errorf("make a keyring: %w", err)
		}
	}
	key, err := newDataKey(DataKey{ID: 1, State: Active}, first)
	if err != nil {
		return nil, err
	}
	k.keys = []dataKey{key}
	return k, nil
}

func newDataKey(name DataKey, secret [keySize]byte) (dataKey, error) {
	block, err := aes.NewCipher(secret[:])
	if err != nil {
		return dataKey{}, fmt.Errorf("data key %d: %w", name.ID, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return dataKey{}, fmt.Errorf("data key %d: %w", name.ID, err)
	}
	return dataKey{DataKey: name, secret: secret, aead: aead, seals: new(atomic.Uint64)}, nil
}

// Seal seals plaintext with the active data key (AES-256-GCM, NIST SP 800-38D), bound to additional data:
// version u8 | data key id u32 big-endian | nonce 12 | ciphertext | tag 16.
func (k *Keyring) Seal(additional, plaintext []byte) []byte {
	key := &k.keys[k.active]
	sealed := make([]byte, 5+nonceSize, Overhead+len(plaintext))
	sealed[0] = sealVersion
	binary.BigEndian.PutUint32(sealed[1:], key.ID)
	nonce := sealed[5 : 5+nonceSize]
	_, _ = rand.Read(nonce) // never fails: crypto/rand ends the process instead
	key.seals.Add(1)
	return key.aead.Seal(sealed, nonce, plaintext, additional)
}

// Open opens what Seal sealed for the same additional data, or gives ErrDamaged or ErrUnknownKey.
func (k *Keyring) Open(additional, sealed []byte) ([]byte, error) {
	id, err := KeyID(sealed)
	if err != nil {
		return nil, err
	}
	for i := range k.keys {
		if k.keys[i].ID != id {
			continue
		}
		nonce, body := sealed[5:5+nonceSize], sealed[5+nonceSize:]
		plaintext, err := k.keys[i].aead.Open(nil, nonce, body, additional)
		if err != nil {
			return nil, ErrDamaged
		}
		return plaintext, nil
	}
	return nil, fmt.Errorf("%w: data key %d", ErrUnknownKey, id)
}

// KeyID tells which data key sealed the bytes, or gives ErrDamaged.
func KeyID(sealed []byte) (uint32, error) {
	if len(sealed) < Overhead || sealed[0] != sealVersion {
		return 0, ErrDamaged
	}
	return binary.BigEndian.Uint32(sealed[1:]), nil
}

// Blind gives the first 16 bytes of HMAC-SHA-256 under the blinding key over parent and part (RFC 2104). Parents are
// themselves whole blinded parts, so that no two inputs run together.
func (k *Keyring) Blind(parent []byte, part string) [BlindSize]byte {
	mac := hmac.New(sha256.New, k.blind[:])
	mac.Write(parent)
	mac.Write([]byte(part))
	return [BlindSize]byte(mac.Sum(nil))
}

// Derive gives a subkey of the lineage secret for one use (HKDF-SHA-256, RFC 5869). It outlives rotations.
func (k *Keyring) Derive(label string) [32]byte {
	key, err := hkdf.Key(sha256.New, k.lineage[:], nil, "warder derive v1\x00"+label, keySize)
	if err != nil {
		panic(fmt.Sprintf("keyring: HKDF of 32 bytes: %v", err))
	}
	return [32]byte(key)
}

// Commitment commits to the lineage secret without telling it. It is the same for the life of the cluster.
func (k *Keyring) Commitment() [32]byte {
	mac := hmac.New(sha256.New, k.lineage[:])
	mac.Write([]byte("warder lineage v1"))
	return [32]byte(mac.Sum(nil))
}

// DataKeys gives the data keys, ascending by id.
func (k *Keyring) DataKeys() []DataKey {
	names := make([]DataKey, len(k.keys))
	for i, key := range k.keys {
		names[i] = key.DataKey
	}
	return names
}

// Active is the id of the data key that seals.
func (k *Keyring) Active() uint32 { return k.keys[k.active].ID }

// Seals is how often this process has sealed with the active key. A rotation is due well before 2^32 in all processes.
func (k *Keyring) Seals() uint64 { return k.keys[k.active].seals.Load() }

// AddDataKey gives a keyring with one more data key, pending: it opens, and does not seal.
func (k *Keyring) AddDataKey() (*Keyring, uint32, error) {
	if len(k.keys) >= maxDataKeys {
		return nil, 0, fmt.Errorf("%w: a keyring holds at most %d data keys", ErrState, maxDataKeys)
	}
	var secret [keySize]byte
	_, _ = rand.Read(secret[:]) // never fails: crypto/rand ends the process instead
	id := k.keys[len(k.keys)-1].ID + 1
	key, err := newDataKey(DataKey{ID: id, State: Pending}, secret)
	if err != nil {
		return nil, 0, err
	}
	grown := k.clone()
	grown.keys = append(grown.keys, key)
	return grown, id, nil
}

// Activate gives a keyring that seals with the pending key of that id; the key that sealed until then is retired.
func (k *Keyring) Activate(id uint32) (*Keyring, error) {
	next := k.clone()
	for i := range next.keys {
		if next.keys[i].ID == id && next.keys[i].State == Pending {
			next.keys[next.active].State = Retired
			next.keys[i].State, next.active = Active, i
			return next, nil
		}
	}
	return nil, fmt.Errorf("%w: data key %d is not pending", ErrState, id)
}

// DropDataKey gives a keyring without the retired or pending key of that id. What it sealed can never be opened again.
func (k *Keyring) DropDataKey(id uint32) (*Keyring, error) {
	next := &Keyring{blind: k.blind, lineage: k.lineage}
	for _, key := range k.keys {
		if key.ID == id {
			continue
		}
		if key.State == Active {
			next.active = len(next.keys)
		}
		next.keys = append(next.keys, key)
	}
	if id == k.Active() || len(next.keys) == len(k.keys) {
		return nil, fmt.Errorf("%w: data key %d is active, or not there", ErrState, id)
	}
	return next, nil
}

func (k *Keyring) clone() *Keyring {
	copied := *k
	copied.keys = append([]dataKey(nil), k.keys...)
	return &copied
}

// Format prints no secret, whatever the verb.
func (k *Keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[keyring]") }

// LogValue prints no secret.
func (k *Keyring) LogValue() slog.Value { return slog.StringValue("[keyring]") }

// MarshalJSON refuses: a keyring travels sealed only.
func (k *Keyring) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a keyring is never encoded but sealed")
}
