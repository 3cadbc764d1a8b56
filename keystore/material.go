package keystore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"warder/keystore/kv"
)

// versionKeySize is the size of a version's own AES-256 key, in bytes.
const versionKeySize = 32

// The two records of a version's material: what opens it, and what it is.
func (r Ref) keyOf(number uint32) kv.Key {
	return kv.K("entry-key", r.Kind, r.Namespace, r.Name, versionPart(number))
}

func (r Ref) materialOf(number uint32) kv.Key {
	return kv.K("entry-material", r.Kind, r.Namespace, r.Name, versionPart(number))
}

// Material gives a version's material, or that of the active version where number is 0.
func Material(tx *kv.Tx, ref Ref, number uint32) (Secret, Version, error) {
	entry, err := Get(tx, ref)
	if err != nil {
		return Secret{}, Version{}, err
	}
	version, ok := entry.Active()
	if number != 0 {
		found, err := entry.find(number)
		if err != nil {
			return Secret{}, Version{}, err
		}
		version, ok = *found, true
	}
	if !ok {
		return Secret{}, Version{}, fmt.Errorf("%w: %s %s/%s", ErrNoActiveVersion, ref.Kind, ref.Namespace, ref.Name)
	}
	if version.State == Destroyed {
		return Secret{}, Version{}, fmt.Errorf("%w: version %d of %s %s/%s", ErrDestroyed, version.Number, ref.Kind, ref.Namespace, ref.Name)
	}
	secret, err := openMaterial(tx, ref, version.Number)
	return secret, version, err
}

func putMaterial(tx *kv.Tx, ref Ref, number uint32, material Secret) error {
	key := make([]byte, versionKeySize)
	_, _ = rand.Read(key) // never fails: crypto/rand ends the process instead
	aead, err := gcm(key)
	if err != nil {
		return err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+material.Len()+aead.Overhead())
	_, _ = rand.Read(nonce) // as above
	tx.Put(ref.keyOf(number), key)
	tx.Put(ref.materialOf(number), aead.Seal(nonce, nonce, material.Reveal(), ref.additional(number)))
	return nil
}

func openMaterial(tx *kv.Tx, ref Ref, number uint32) (Secret, error) {
	damaged := fmt.Errorf("%w: version %d of %s %s/%s", ErrDamaged, number, ref.Kind, ref.Namespace, ref.Name)
	key, _, err := tx.Get(ref.keyOf(number))
	if errors.Is(err, kv.ErrNotFound) {
		return Secret{}, damaged
	}
	if err != nil {
		return Secret{}, err
	}
	defer clear(key)
	box, _, err := tx.Get(ref.materialOf(number))
	if errors.Is(err, kv.ErrNotFound) {
		return Secret{}, damaged
	}
	if err != nil {
		return Secret{}, err
	}
	aead, err := gcm(key)
	if err != nil || len(box) < aead.NonceSize() {
		return Secret{}, damaged
	}
	material, err := aead.Open(nil, box[:aead.NonceSize()], box[aead.NonceSize():], ref.additional(number))
	if err != nil {
		return Secret{}, damaged
	}
	return NewSecret(material), nil
}

func shred(tx *kv.Tx, ref Ref, number uint32) {
	tx.Delete(ref.keyOf(number))
	tx.Delete(ref.materialOf(number))
}

// additional binds material to its place: each part with its length, and the version.
func (r Ref) additional(number uint32) []byte {
	out := []byte("warder material v1")
	for _, part := range []string{r.Kind, r.Namespace, r.Name} {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(part))), part...)
	}
	return binary.BigEndian.AppendUint32(out, number)
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("a version's own key: %w", err)
	}
	return cipher.NewGCM(block)
}
