package token

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
)

// Sweep is what Run does each minute.
func (s *Service) Sweep(ctx context.Context) { s.sweep(ctx) }

// VerifySignature is Parse without what it remembers.
func (s *Service) VerifySignature(raw string) (Claims, bool) { return s.current.Load().verify(raw) }

// SignAnything signs what Issue would never write, by the service's newest key.
func (s *Service) SignAnything(payload string) string {
	signers := s.current.Load().signers
	return s.SignUnder(signers[len(signers)-1].header, base64.RawURLEncoding.EncodeToString([]byte(payload)))
}

// SignUnder signs a header and a payload, both in base64url, by the service's newest key.
func (s *Service) SignUnder(header, payload string) string {
	signers := s.current.Load().signers
	text := header + "." + payload
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(signers[len(signers)-1].private, []byte(text)))
}

// Payload writes claims.
func Payload(c Claims) string { return string(c.appendPayload(nil)) }

// ParsePayload reads claims.
func ParsePayload(text string) (Claims, bool) { return parsePayload(text) }

// MaxKeys bounds the keys published at once.
const MaxKeys = maxKeys

// Verifies is the check of a token's signature, under any key.
func Verifies(public ed25519.PublicKey, text, signature string) bool {
	return signer{public: public}.verifies(text, signature)
}
