package token

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// Lifetimes of signing keys: a new one is published for publishAhead before it signs, and one that signs no more is
// published until its last token has ended.
const (
	keyLife      = 30 * 24 * time.Hour
	publishAhead = 2 * time.Minute
	keepAfter    = MaxTTL + maxLeeway + publishAhead
)

// signingKey is one of the cluster's keys as its record has it.
type signingKey struct {
	ID   string    `json:"kid"`
	Seed []byte    `json:"seed"` // RFC 8032, section 5.1.5
	From time.Time `json:"from"` // when it begins to sign
}

// maxKeys bounds the keys that are published at once.
const maxKeys = 16

// ErrTooManyKeys says that keys were rotated faster than the old ones' tokens end.
var ErrTooManyKeys = errors.New("there are 16 token keys already: rotate again when the oldest one's tokens have ended, within two hours")

func keysPrefix() kv.Key { return kv.K("token") }
func keysRecord() kv.Key { return kv.K("token", "keys") }

// Found makes a new cluster's first signing key.
func Found(tx *kv.Tx, now time.Time) error {
	tx.MustNotExist(keysRecord())
	key, err := newSigningKey(now)
	if err != nil {
		return err
	}
	return putKeys(tx, []signingKey{key})
}

func newSigningKey(from time.Time) (signingKey, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return signingKey{}, err
	}
	public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	id := sha256.Sum256(public)
	return signingKey{ID: hex.EncodeToString(id[:8]), Seed: seed, From: from.UTC()}, nil
}

func putKeys(tx *kv.Tx, keys []signingKey) error {
	text, err := json.Marshal(keys)
	if err != nil {
		return fmt.Errorf("encode the token keys: %w", err)
	}
	tx.Put(keysRecord(), text)
	return nil
}

func readKeys(tx *kv.Tx) ([]signingKey, error) {
	text, _, err := tx.Get(keysRecord())
	if err != nil {
		return nil, fmt.Errorf("read the token keys: %w", err)
	}
	var keys []signingKey
	if err := json.Unmarshal(text, &keys); err != nil || len(keys) == 0 {
		return nil, errors.New("the token keys do not parse")
	}
	return keys, nil
}

// rotate adds a key when the newest is old, and drops those whose last token has ended. Of all nodes that try, one does.
func rotate(ctx context.Context, db *kv.DB, now time.Time, force bool) error {
	return db.Update(ctx, func(tx *kv.Tx) error {
		keys, err := readKeys(tx)
		if err != nil {
			return err
		}
		slices.SortFunc(keys, func(a, b signingKey) int { return a.From.Compare(b.From) })
		kept := slices.DeleteFunc(slices.Clone(keys), func(k signingKey) bool {
			at := slices.IndexFunc(keys, func(other signingKey) bool { return other.ID == k.ID })
			return at+1 < len(keys) && now.Sub(keys[at+1].From) > keepAfter
		})
		if newest := keys[len(keys)-1]; force || now.Sub(newest.From) > keyLife {
			if len(kept) >= maxKeys {
				return ErrTooManyKeys
			}
			next, err := newSigningKey(now.Add(publishAhead))
			if err != nil {
				return err
			}
			kept = append(kept, next)
		} else if len(kept) == len(keys) {
			return nil
		}
		return putKeys(tx, kept)
	})
}

// signer is a signing key ready for use. Its header is encoded once, and a token's header must be that of a key, byte
// for byte: no header is ever parsed.
type signer struct {
	id      string
	header  string
	private ed25519.PrivateKey
	public  ed25519.PublicKey
	from    time.Time
}

func newSigner(key signingKey) (signer, error) {
	if len(key.Seed) != ed25519.SeedSize {
		return signer{}, errors.New("a token key has the wrong size")
	}
	private := ed25519.NewKeyFromSeed(key.Seed)
	header := fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"wt+jwt"}`, key.ID)
	return signer{
		id: key.ID, header: base64.RawURLEncoding.EncodeToString([]byte(header)), private: private,
		public: private.Public().(ed25519.PublicKey), from: key.From,
	}, nil
}

// jwk is a public key as RFC 8037, section 2, writes it.
type jwk struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	ID        string `json:"kid"`
	X         string `json:"x"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
}

// Rotate publishes a new signing key at once; it signs when every node has had time to see it.
func (s *Service) Rotate(ctx context.Context) error {
	if err := rotate(ctx, s.cfg.DB, s.cfg.Clock(), true); err != nil {
		return fmt.Errorf("rotate the token keys: %w", err)
	}
	return kv.AfterChange(s.Reload(ctx))
}

// JWKS gives the public keys as a JWK set (RFC 7517, section 5).
func (s *Service) JWKS() ([]byte, error) {
	at := s.current.Load()
	if len(at.signers) == 0 {
		return nil, keyring.ErrSealed
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	for _, key := range at.signers {
		x := base64.RawURLEncoding.EncodeToString(key.public)
		set.Keys = append(set.Keys, jwk{KeyType: "OKP", Curve: "Ed25519", ID: key.id, X: x, Use: "sig", Algorithm: "EdDSA"})
	}
	return json.Marshal(set)
}
