package seal

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"warder/hsm"
	"warder/keystore/keyring"
)

// scheme is the first part of a recipient's ID: RSA-OAEP under a key in an HSM.
const scheme = "rsa-oaep"

// recipient wraps for an HSM's root key with its public half, in Go.
type recipient struct {
	public *rsa.PublicKey
	hash   hsm.Hash
	id     string
}

func newRecipient(key RootKey) (recipient, error) {
	parsed, err := x509.ParsePKIXPublicKey(key.Public)
	if err != nil {
		return recipient{}, fmt.Errorf("parse a member's root key: %w", err)
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < minRootBits {
		return recipient{}, fmt.Errorf("a member's root key must be RSA of at least %d bits", minRootBits)
	}
	hash := hsm.Hash(key.Hash)
	return recipient{public: public, hash: hash, id: recipientID(hash, fingerprintOf(key.Public))}, nil
}

// minRootBits is the smallest root key taken (hsm.md: RSA-3072; NIST SP 800-57 part 1, table 2: 128 bits of strength).
const minRootBits = 3072

func (r recipient) ID() string { return r.id }

func (r recipient) Wrap(secret []byte) ([]byte, error) {
	return hsm.EncryptOAEP(r.public, r.hash, secret)
}

// unwrapper opens an entry inside the HSM.
type unwrapper struct{ key hsm.RootKey }

func (u unwrapper) ID() string { return recipientID(u.key.Hash(), u.key.Fingerprint()) }

func (u unwrapper) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	return u.key.Decrypt(ctx, wrapped)
}

func recipientID(hash hsm.Hash, fingerprint hsm.Fingerprint) string {
	return strings.Join([]string{scheme, string(hash), strings.TrimPrefix(fingerprint.String(), "sha256:")}, ":")
}

// findRootKey gives the key of this token that is among the recipients: the newest sealing lists the newest key last.
func findRootKey(ctx context.Context, token hsm.Token, recipients []string) (hsm.RootKey, error) {
	for i := len(recipients) - 1; i >= 0; i-- {
		parts := strings.Split(recipients[i], ":")
		if len(parts) != 3 || parts[0] != scheme {
			continue
		}
		fingerprint, err := hsm.ParseFingerprint("sha256:" + parts[2])
		if err != nil {
			continue
		}
		key, err := token.RootKey(ctx, fingerprint)
		if errors.Is(err, hsm.ErrKeyNotFound) {
			continue
		}
		return key, err
	}
	return nil, fmt.Errorf("%w: none of its %d recipients is a key of token %q; was this node removed, or its token replaced?",
		keyring.ErrNotRecipient, len(recipients), token.Info().Label)
}

func recipientsOf(keys []RootKey) ([]keyring.Recipient, error) {
	recipients := make([]keyring.Recipient, 0, len(keys))
	for _, key := range keys {
		one, err := newRecipient(key)
		if err != nil {
			return nil, err
		}
		recipients = append(recipients, one)
	}
	return recipients, nil
}

// fingerprintOf is the fingerprint of a key in DER SubjectPublicKeyInfo.
func fingerprintOf(spki []byte) hsm.Fingerprint { return sha256.Sum256(spki) }
