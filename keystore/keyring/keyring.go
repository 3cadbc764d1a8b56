package keyring

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
)

// Errors of this package.
var (
	// ErrSealed says that the node holds no keyring.
	ErrSealed = errors.New("the node is sealed")
	// ErrDamaged says that bytes were changed, or moved to a place that they were not sealed for.
	ErrDamaged = errors.New("sealed bytes were changed or moved")
	// ErrNewerKey says that the data key that bytes were sealed with is not in the keyring, but may be in a newer one.
	ErrNewerKey = errors.New("sealed with a data key that is newer than the keyring")
	// ErrUnknownKey says that no newer keyring will hold the data key that bytes were sealed with either.
	ErrUnknownKey = errors.New("sealed with a data key that the keyring does not hold")
	// ErrState says that a data key's state does not allow the change.
	ErrState = errors.New("the data key's state does not allow it")
	// ErrNotRecipient says that the keyring is not sealed to the unwrapper's key.
	ErrNotRecipient = errors.New("the keyring is not sealed to this key")
)

// MaxDataKeys bounds a keyring.
const MaxDataKeys = 64

// Keyring is the unsealed keyring. It is safe for concurrent use and never changes. It prints nothing of what it holds
// and is never encoded but by SealTo.
type Keyring struct {
	// open gives what the keyring holds. A function is the one thing that fmt does not look into: it calls no method of
	// a value in an unexported field, and follows pointers there for a verb that does not fit ("%s").
	open func() *contents
}

func hold(c *contents) *Keyring { return &Keyring{open: func() *contents { return c }} }

// contents is what a keyring holds. It does not change once it is held.
type contents struct {
	keys    []dataKey // ascending by id
	active  int       // index into keys
	last    uint32    // the highest id ever given
	blind   *blinder
	lineage *[keySize]byte
}

// New makes a keyring with one active data key, from random.
func New(random io.Reader) (*Keyring, error) {
	var secrets [3]*[keySize]byte
	for i := range secrets {
		secrets[i] = new([keySize]byte)
		if _, err := io.ReadFull(random, secrets[i][:]); err != nil {
			return nil, fmt.Errorf("make a keyring: %w", err)
		}
	}
	key, err := newDataKey(DataKey{ID: 1, State: Active}, secrets[0])
	if err != nil {
		return nil, err
	}
	return hold(&contents{keys: []dataKey{key}, last: 1, blind: newBlinder(secrets[1]), lineage: secrets[2]}), nil
}

// Derive gives a subkey of the lineage secret for one use (HKDF-SHA-256, RFC 5869). It outlives rotations.
func (k *Keyring) Derive(label string) [32]byte {
	return derive(k.open().lineage[:], nil, "warder derive v1\x00"+label)
}

// derive is HKDF-SHA-256 (RFC 5869) of 32 bytes; all keys that are derived here come from it.
func derive(secret, salt []byte, info string) [keySize]byte {
	key, err := hkdf.Key(sha256.New, secret, salt, info, keySize)
	if err != nil {
		panic(fmt.Sprintf("keyring: HKDF of 32 bytes: %v", err))
	}
	return [keySize]byte(key)
}

// Commitment commits to the lineage secret without telling it. It is the same for the life of the cluster: who pins it
// cannot be given another cluster's keyring, nor a forged one.
func (k *Keyring) Commitment() [32]byte {
	mac := hmac.New(sha256.New, k.open().lineage[:])
	mac.Write([]byte("warder lineage v1"))
	return [32]byte(mac.Sum(nil))
}

// DataKeys gives the data keys, ascending by id.
func (k *Keyring) DataKeys() []DataKey {
	keys := k.open().keys
	names := make([]DataKey, len(keys))
	for i := range keys {
		names[i] = keys[i].DataKey
	}
	return names
}

// Active is the id of the data key that seals.
func (k *Keyring) Active() uint32 { return k.open().sealing().ID }

// Seals is how often this process has sealed with the active key, through this keyring, those it was made of and those
// that a [Holder] held before it. See [MaxSeals].
func (k *Keyring) Seals() uint64 { return k.open().sealing().seals.Load() }

// AddDataKey gives a keyring with one more data key, pending: it opens, and does not seal.
func (k *Keyring) AddDataKey() (*Keyring, uint32, error) {
	grown := k.open().clone()
	if len(grown.keys) >= MaxDataKeys || grown.last == math.MaxUint32 {
		return nil, 0, fmt.Errorf("%w: the keyring holds %d data keys of at most %d, the newest is %d: drop retired ones",
			ErrState, len(grown.keys), MaxDataKeys, grown.last)
	}
	secret := new([keySize]byte)
	_, _ = rand.Read(secret[:]) // never fails: crypto/rand ends the process instead
	key, err := newDataKey(DataKey{ID: grown.last + 1, State: Pending}, secret)
	if err != nil {
		return nil, 0, err
	}
	grown.keys = append(grown.keys, key)
	grown.last = key.ID
	return hold(grown), key.ID, nil
}

// Activate gives a keyring that seals with the pending key of that id; the key that sealed until then is retired. The id
// of the key that seals only grows, so that a floor under ids keeps retired keys from sealing. [ErrState] says that there
// is no pending key of that id, or that a newer one is active.
func (k *Keyring) Activate(id uint32) (*Keyring, error) {
	next := k.open().clone()
	at := next.index(id)
	if at < next.active || next.keys[at].State != Pending {
		return nil, fmt.Errorf("%w: data key %d is not pending, or older than the active one: drop it and add another", ErrState, id)
	}
	next.keys[next.active].State = Retired
	next.keys[at].State, next.active = Active, at
	return hold(next), nil
}

// DropDataKey gives a keyring without the retired or pending key of that id. What it sealed can never be opened again,
// and its id is not given again. [ErrState] says that the key is active, or not there.
func (k *Keyring) DropDataKey(id uint32) (*Keyring, error) {
	next := k.open().clone()
	at := next.index(id)
	if at < 0 || at == next.active {
		return nil, fmt.Errorf("%w: data key %d is active, or not there", ErrState, id)
	}
	next.keys = slices.Delete(next.keys, at, at+1)
	if at < next.active {
		next.active--
	}
	return hold(next), nil
}

func (c *contents) sealing() *dataKey { return &c.keys[c.active] }

// index gives the place of a data key, -1 where there is none of that id. It is a loop over a few, and on every read's
// way.
func (c *contents) index(id uint32) int {
	for i := range c.keys {
		if c.keys[i].ID == id {
			return i
		}
	}
	return -1
}

func (c *contents) clone() *contents {
	copied := *c
	copied.keys = slices.Clone(c.keys)
	return &copied
}

// adopt gives contents like c that go on counting the seals of the keys that they share with old.
func (c *contents) adopt(old *contents) *contents {
	next := c.clone()
	for i := range next.keys {
		key := &next.keys[i]
		at := old.index(key.ID)
		if at < 0 || old.keys[at].seals == key.seals || *old.keys[at].secret != *key.secret {
			continue
		}
		old.keys[at].seals.Add(key.seals.Load())
		key.seals = old.keys[at].seals
	}
	return next
}

const hidden = "[keyring]"

var errEncoded = errors.New("a keyring is never encoded but sealed")

// Format prints no secret, whatever the verb.
func (k Keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue prints no secret.
func (k Keyring) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON refuses.
func (k Keyring) MarshalJSON() ([]byte, error) { return nil, errEncoded }

// MarshalText refuses.
func (k Keyring) MarshalText() ([]byte, error) { return nil, errEncoded }

// MarshalBinary refuses, and with it encoding/gob.
func (k Keyring) MarshalBinary() ([]byte, error) { return nil, errEncoded }
