package token

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"warder/daemon/identity/registry"
	"warder/keystore/keyring"
)

// signatureText is the length of a signature in base64url.
const signatureText = (ed25519.SignatureSize*8 + 5) / 6

// Verify checks a token that came with a certificate, and gives the claims that its signature covers. The error is one
// of this package's, or [keyring.ErrSealed].
func (s *Service) Verify(raw string, certificate [32]byte) (Claims, error) {
	claims, err := s.Parse(raw)
	if err != nil {
		return Claims{}, err
	}
	digest, err := claims.Binding.digest()
	if err != nil || subtle.ConstantTimeCompare(digest[:], certificate[:]) != 1 {
		return Claims{}, ErrNotBound
	}
	if err := s.Live(claims); err != nil {
		return Claims{}, err
	}
	return claims, nil
}

// Parse verifies a token's signature and gives what it covers (RFC 7515, section 5.2; RFC 8725, section 3). It says
// nothing of whether the token holds now, and for whom.
func (s *Service) Parse(raw string) (Claims, error) {
	at := s.current.Load()
	if len(at.signers) == 0 {
		return Claims{}, keyring.ErrSealed
	}
	if len(raw) > maxToken {
		return Claims{}, ErrInvalid
	}
	digest := digestOf(raw)
	if claims, ok := at.parsed.find(digest); ok {
		return claims, nil
	}
	claims, ok := at.verify(raw)
	if !ok || claims.Issuer != s.cfg.Issuer || claims.Audience != s.cfg.Audience || !claims.sound() {
		return Claims{}, ErrInvalid
	}
	at.parsed.add(digest, claims)
	return claims, nil
}

// digestOf gives the SHA-256 of a text of at most maxToken bytes. Its copy stays on the stack: on the heap it was the
// largest thing that a request left there.
func digestOf(raw string) [sha256.Size]byte {
	var room [maxToken]byte
	return sha256.Sum256(room[:copy(room[:], raw)])
}

// verify reads the payload only when the signature holds, under the key whose header the token has: the key decides
// the algorithm, not the token (RFC 8725, section 3.1).
func (v *view) verify(raw string) (Claims, bool) {
	header, rest, _ := strings.Cut(raw, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	key := slices.IndexFunc(v.signers, func(k signer) bool { return k.header == header })
	signed := raw[:max(len(raw)-1-len(signature), 0)]
	if key < 0 || !v.signers[key].verifies(signed, signature) {
		return Claims{}, false
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil {
		return Claims{}, false
	}
	return parsePayload(string(text))
}

// verifies says whether a signature in base64url is this key's over the text. There is one spelling of each.
func (k signer) verifies(text, signature string) bool {
	if len(signature) != signatureText {
		return false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	return err == nil && ed25519.Verify(k.public, []byte(text), raw)
}

// sound says whether claims could have been issued at all: in time's order, and for no longer than a token lives.
func (c *Claims) sound() bool {
	life := c.Expires - c.IssuedAt
	_, err := c.Binding.digest()
	return err == nil && life > 0 && life <= int64(MaxTTL/time.Second)+1 && c.NotUntil >= c.IssuedAt && c.NotUntil < c.Expires
}

// Live says whether verified claims hold now: within their time, in their identity's epoch, and not revoked.
func (s *Service) Live(claims Claims) error {
	now, leeway := s.cfg.Clock(), s.cfg.Leeway
	if !now.Before(time.Unix(claims.Expires, 0).Add(leeway)) || now.Add(leeway).Before(time.Unix(claims.NotUntil, 0)) {
		return ErrExpired
	}
	known, ok := s.cfg.Identities.Lookup(claims.Subject)
	if !ok || known.State != registry.Enabled || known.Epoch != claims.Epoch {
		return ErrRevoked
	}
	at := s.current.Load()
	if len(at.signers) == 0 { // the revocations are gone with the keys
		return keyring.ErrSealed
	}
	if at.voids(claims) {
		return ErrRevoked
	}
	return nil
}
