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

// keyOf and materialOf are the two records of a version's material: what opens it, and what it is.
func (r Ref) keyOf(number uint32) kv.Key { return kv.K("entry-key", r.version(number)) }

func (r Ref) materialOf(number uint32) kv.Key { return kv.K("entry-material", r.version(number)) }

// version names one version of all, in one part: a record brings a row for each part above its own, and nobody scans for
// these. A name that does not fit gives a part that is too long as well.
func (r Ref) version(number uint32) string {
	name := make([]byte, 0, 128)
	for _, part := range []string{r.Kind, r.Namespace, r.Name} {
		name = append(append(name, byte(len(part))), part...)
	}
	return string(binary.BigEndian.AppendUint32(name, number))
}

// Material gives a version's material, or that of the active version where number is 0. The Secret is the caller's, to
// wipe after use. The error is [ErrNotFound], [ErrNoVersion], [ErrNoActiveVersion], [ErrDestroyed] or [ErrDamaged].
func Material(tx *kv.Tx, ref Ref, number uint32) (Secret, Version, error) {
	entry, err := Get(tx, ref)
	if err != nil {
		return Secret{}, Version{}, err
	}
	version, err := entry.pick(number)
	if err != nil {
		return Secret{}, Version{}, err
	}
	secret, err := openMaterial(tx, ref, version.Number)
	if err != nil {
		return Secret{}, Version{}, err
	}
	return secret, version, nil
}

// pick gives the version of that number, the active one for 0, if it has material.
func (e Entry) pick(number uint32) (Version, error) {
	if number == 0 {
		version, ok := e.Active()
		if !ok {
			return Version{}, fmt.Errorf("%w: %s", ErrNoActiveVersion, e.Ref)
		}
		return version, nil
	}
	version, err := e.Version(number)
	if err == nil && version.State == Destroyed {
		return Version{}, fmt.Errorf("%w: version %d of %s", ErrDestroyed, number, e.Ref)
	}
	return version, err
}

// putMaterial seals the material under a fresh key, which seals nothing else. kv keeps copies of both until the
// transaction is proposed.
func putMaterial(tx *kv.Tx, ref Ref, number uint32, material Secret) error {
	key := make([]byte, versionKeySize)
	_, _ = rand.Read(key) // never fails: crypto/rand ends the process instead
	defer clear(key)
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

// openMaterial opens what putMaterial sealed. That one of the records is missing is damage: they come and go with the
// entry's version, in one batch.
func openMaterial(tx *kv.Tx, ref Ref, number uint32) (Secret, error) {
	key, _, err := tx.Get(ref.keyOf(number))
	if err != nil {
		return Secret{}, missing(err, "key", number, ref)
	}
	defer clear(key)
	box, _, err := tx.Get(ref.materialOf(number))
	if err != nil {
		return Secret{}, missing(err, "material", number, ref)
	}
	aead, err := gcm(key)
	if err != nil || len(box) < aead.NonceSize()+aead.Overhead() {
		return Secret{}, fmt.Errorf("%w: version %d of %s has a wrong size", ErrDamaged, number, ref)
	}
	nonce, sealed := box[:aead.NonceSize()], box[aead.NonceSize():]
	material, err := aead.Open(sealed[:0], nonce, sealed, ref.additional(number))
	if err != nil {
		return Secret{}, fmt.Errorf("%w: version %d of %s does not open", ErrDamaged, number, ref)
	}
	return NewSecret(material), nil
}

func missing(err error, what string, number uint32, ref Ref) error {
	if errors.Is(err, kv.ErrNotFound) {
		return fmt.Errorf("%w: version %d of %s has no %s", ErrDamaged, number, ref, what)
	}
	return err
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
