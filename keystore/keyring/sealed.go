package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Bounds of a sealed keyring. Each is checked before what it bounds is read.
const (
	MaxSealed     = 64 << 10 // the whole, in bytes
	MaxRecipients = 64
	maxID         = 255  // a cluster's or a recipient's id, in bytes
	maxWrapped    = 2048 // one recipient's entry, in bytes
)

// magic begins a sealed keyring: its form and version.
const magic = "WKR1"

// Recipient can be sealed to. Wrap is done with a public key, so it needs no HSM.
type Recipient interface {
	ID() string
	Wrap(secret []byte) ([]byte, error)
}

// Unwrapper opens what its Recipient wrapped, inside an HSM.
type Unwrapper interface {
	ID() string
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

// Header is the readable part of a sealed keyring. The body's tag covers it.
type Header struct {
	ClusterID  string
	Epoch      uint64 // grows by one with each sealing
	Commitment [32]byte
	Recipients []string
}

// entry is one recipient's way to the body's key: wrapped is the recipient's own wrapping of a random X, and box is
// the body's key under HKDF(X).
type entry struct {
	id      string
	wrapped []byte
	box     []byte
}

// SealTo seals the keyring to every recipient. Each sealing has a body key of its own.
func (k *Keyring) SealTo(clusterID string, epoch uint64, recipients []Recipient) ([]byte, error) {
	if len(recipients) == 0 || len(recipients) > MaxRecipients {
		return nil, fmt.Errorf("seal the keyring: %d recipients; want 1 to %d", len(recipients), MaxRecipients)
	}
	header := Header{ClusterID: clusterID, Epoch: epoch, Commitment: k.Commitment()}
	seen := map[string]bool{}
	for _, recipient := range recipients {
		if seen[recipient.ID()] {
			return nil, fmt.Errorf("seal the keyring: recipient %s is named twice", recipient.ID())
		}
		seen[recipient.ID()] = true
		header.Recipients = append(header.Recipients, recipient.ID())
	}
	prefix, err := header.encode()
	if err != nil {
		return nil, err
	}
	bodyKey := make([]byte, keySize)
	_, _ = rand.Read(bodyKey) // never fails: crypto/rand ends the process instead
	defer clear(bodyKey)
	sealed := append([]byte(nil), prefix...)
	for _, recipient := range recipients {
		if sealed, err = appendEntry(sealed, prefix, recipient, bodyKey); err != nil {
			return nil, fmt.Errorf("seal the keyring to %s: %w", recipient.ID(), err)
		}
	}
	body := k.encode()
	defer clear(body)
	// The body's additional data is all that stands before it, so that entries cannot be dropped or exchanged either.
	box, err := lock(bodyKey, sealed, body)
	if err != nil {
		return nil, err
	}
	sealed = append(binary.BigEndian.AppendUint32(sealed, uint32(len(box))), box...)
	if len(sealed) > MaxSealed {
		return nil, fmt.Errorf("seal the keyring: %d bytes are more than %d: fewer recipients or data keys are needed", len(sealed), MaxSealed)
	}
	return sealed, nil
}

// Unseal opens the entry that is the unwrapper's, and then the body.
func Unseal(ctx context.Context, sealed []byte, unwrapper Unwrapper) (*Keyring, error) {
	header, prefix, entries, box, err := decode(sealed)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.id != unwrapper.ID() {
			continue
		}
		bodyKey, err := openEntry(ctx, prefix, entry, unwrapper)
		if err != nil {
			return nil, err
		}
		defer clear(bodyKey)
		body, err := unlock(bodyKey, sealed[:len(sealed)-len(box)-4], box)
		if err != nil {
			return nil, err
		}
		defer clear(body)
		k, err := parse(body)
		if err != nil {
			return nil, err
		}
		if k.Commitment() != header.Commitment {
			return nil, fmt.Errorf("%w: the commitment is of another keyring", ErrDamaged)
		}
		return k, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrNotRecipient, unwrapper.ID())
}

// Inspect reads the header without opening anything: only Unseal proves it.
func Inspect(sealed []byte) (Header, error) {
	header, _, _, _, err := decode(sealed)
	return header, err
}

func appendEntry(sealed, prefix []byte, recipient Recipient, bodyKey []byte) ([]byte, error) {
	secret := make([]byte, keySize)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the process instead
	defer clear(secret)
	wrapped, err := recipient.Wrap(secret)
	if err != nil {
		return nil, err
	}
	if len(wrapped) > maxWrapped {
		return nil, fmt.Errorf("its wrapping has %d bytes, more than %d", len(wrapped), maxWrapped)
	}
	box, err := lock(entryKey(secret, prefix, recipient.ID()), prefix, bodyKey)
	if err != nil {
		return nil, err
	}
	sealed = append(binary.BigEndian.AppendUint16(sealed, uint16(len(wrapped))), wrapped...)
	return append(sealed, box...), nil
}

func openEntry(ctx context.Context, prefix []byte, e entry, unwrapper Unwrapper) ([]byte, error) {
	secret, err := unwrapper.Unwrap(ctx, e.wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap the entry of %s: %w", e.id, err)
	}
	defer clear(secret)
	if len(secret) != keySize {
		return nil, fmt.Errorf("%w: the entry of %s", ErrDamaged, e.id)
	}
	return unlock(entryKey(secret, prefix, e.id), prefix, e.box)
}

// entryKey is HKDF-SHA-256 (RFC 5869) of X, with the header and the recipient's id as its context.
func entryKey(secret, prefix []byte, id string) []byte {
	digest := sha256.Sum256(prefix)
	key, err := hkdf.Key(sha256.New, secret, digest[:], "warder keyring entry v1\x00"+id, keySize)
	if err != nil {
		panic(fmt.Sprintf("keyring: HKDF of 32 bytes: %v", err))
	}
	return key
}

// lock is AES-256-GCM with a fresh random nonce in front.
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
		return nil, fmt.Errorf("%w: the sealed keyring", ErrDamaged)
	}
	return plaintext, nil
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return cipher.NewGCM(block)
}

// encode gives the header: magic | cluster id u8+text | epoch u64 | commitment 32 | count u8 | (id u8+text)…
func (h Header) encode() ([]byte, error) {
	out := []byte(magic)
	texts := append([]string{h.ClusterID}, h.Recipients...)
	for i, text := range texts {
		if len(text) == 0 || len(text) > maxID {
			return nil, fmt.Errorf("seal the keyring: an id has %d bytes; want 1 to %d", len(text), maxID)
		}
		out = append(append(out, byte(len(text))), text...)
		if i == 0 {
			out = binary.BigEndian.AppendUint64(out, h.Epoch)
			out = append(out, h.Commitment[:]...)
			out = append(out, byte(len(h.Recipients)))
		}
	}
	return out, nil
}

// reader takes bytes from the front and remembers that there were too few.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.short, r.rest = true, nil
		return make([]byte, min(n, keySize))
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) text() string { return string(r.take(int(r.take(1)[0]))) }

func decode(sealed []byte) (header Header, prefix []byte, entries []entry, box []byte, err error) {
	bad := fmt.Errorf("%w: the sealed keyring does not parse", ErrDamaged)
	if len(sealed) > MaxSealed || len(sealed) < len(magic) || string(sealed[:len(magic)]) != magic {
		return Header{}, nil, nil, nil, bad
	}
	r := &reader{rest: sealed[len(magic):]}
	header.ClusterID = r.text()
	header.Epoch = binary.BigEndian.Uint64(r.take(8))
	copy(header.Commitment[:], r.take(32))
	count := int(r.take(1)[0])
	if r.short || count == 0 || count > MaxRecipients {
		return Header{}, nil, nil, nil, bad
	}
	seen := map[string]bool{}
	for range count {
		id := r.text()
		if id == "" || seen[id] {
			return Header{}, nil, nil, nil, bad
		}
		seen[id] = true
		header.Recipients = append(header.Recipients, id)
	}
	prefix = sealed[:len(sealed)-len(r.rest)]
	for _, id := range header.Recipients {
		size := int(binary.BigEndian.Uint16(r.take(2)))
		if size > maxWrapped {
			return Header{}, nil, nil, nil, bad
		}
		entries = append(entries, entry{id: id, wrapped: r.take(size), box: r.take(nonceSize + keySize + tagSize)})
	}
	size := binary.BigEndian.Uint32(r.take(4))
	if r.short || header.ClusterID == "" || uint64(size) != uint64(len(r.rest)) {
		return Header{}, nil, nil, nil, bad
	}
	return header, prefix, entries, r.rest, nil
}

// encode gives the body: blind 32 | lineage 32 | count u8 | (id u32, state u8, secret 32)…, ascending by id.
func (k *Keyring) encode() []byte {
	out := make([]byte, 0, 2*keySize+1+len(k.keys)*(4+1+keySize))
	out = append(append(out, k.blind[:]...), k.lineage[:]...)
	out = append(out, byte(len(k.keys)))
	for _, key := range k.keys {
		out = binary.BigEndian.AppendUint32(out, key.ID)
		out = append(append(out, byte(key.State)), key.secret[:]...)
	}
	return out
}

func parse(body []byte) (*Keyring, error) {
	bad := fmt.Errorf("%w: the keyring's body does not parse", ErrDamaged)
	r := &reader{rest: body}
	k := &Keyring{active: -1}
	copy(k.blind[:], r.take(keySize))
	copy(k.lineage[:], r.take(keySize))
	count := int(r.take(1)[0])
	if r.short || count > maxDataKeys {
		return nil, bad
	}
	for i := range count {
		name := DataKey{ID: binary.BigEndian.Uint32(r.take(4)), State: State(r.take(1)[0])}
		key, err := newDataKey(name, [keySize]byte(r.take(keySize)))
		if err != nil {
			return nil, err
		}
		ordered := i == 0 || name.ID > k.keys[i-1].ID
		known := name.State >= Pending && name.State <= Retired
		if r.short || !ordered || !known || name.State == Active && k.active >= 0 {
			return nil, bad
		}
		if name.State == Active {
			k.active = i
		}
		k.keys = append(k.keys, key)
	}
	if k.active < 0 || len(r.rest) != 0 {
		return nil, bad
	}
	return k, nil
}
