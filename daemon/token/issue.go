package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"time"

	"warder/daemon/identity/registry"
	"warder/keystore/keyring"
)

// Request is what a token is asked for.
type Request struct {
	Subject     registry.Identity
	Certificate [32]byte  // SHA-256 of the DER of the certificate to bind to
	NotAfter    time.Time // of that certificate
	Grants      []Grant
	TTL         time.Duration // 0 stands for DefaultTTL
	MaxUses     uint32        // 0 stands for any number
}

// Issue signs a token. It ends no later than the certificate that it is bound to. The error is ErrBadRequest, or
// [keyring.ErrSealed] where there are no keys to sign with.
func (s *Service) Issue(request Request) (string, Claims, error) {
	now := s.cfg.Clock()
	claims, err := s.claims(request, now)
	if err != nil {
		return "", Claims{}, err
	}
	key, err := s.current.Load().signerAt(now)
	if err != nil {
		return "", Claims{}, err
	}
	text, err := key.sign(&claims)
	if err != nil {
		return "", Claims{}, err
	}
	return text, claims, nil
}

// claims gives what a token of the request says, checked.
func (s *Service) claims(request Request, now time.Time) (Claims, error) {
	expires, err := request.end(now)
	if err != nil {
		return Claims{}, err
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return Claims{}, fmt.Errorf("make a token's id: %w", err)
	}
	claims := Claims{
		Issuer: s.cfg.Issuer, Subject: request.Subject.Principal, Audience: s.cfg.Audience,
		IssuedAt: now.Unix(), NotUntil: now.Unix(), Expires: expires.Unix(), ID: hex.EncodeToString(id[:]),
		Binding: bind(request.Certificate), Epoch: request.Subject.Epoch, Grants: slices.Clone(request.Grants), MaxUses: request.MaxUses,
	}
	for i := range claims.Grants {
		claims.Grants[i].Type = detailType
	}
	return claims, claims.check()
}

// end gives the moment at which a token of the request ends: absolute from then on.
func (r *Request) end(now time.Time) (time.Time, error) {
	ttl := r.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < MinTTL || ttl > MaxTTL {
		return time.Time{}, fmt.Errorf("%w: want a life of %s to %s", ErrBadRequest, MinTTL, MaxTTL)
	}
	if r.Subject.State != registry.Enabled || r.Subject.Epoch > math.MaxInt64 {
		return time.Time{}, fmt.Errorf("%w: its subject is not active", ErrBadRequest)
	}
	end := now.Add(ttl)
	if end.After(r.NotAfter) {
		end = r.NotAfter
	}
	if end.Unix() <= now.Unix() {
		return time.Time{}, fmt.Errorf("%w: the certificate that it would be bound to has ended", ErrBadRequest)
	}
	return end, nil
}

func bind(certificate [32]byte) Binding {
	return Binding{Certificate: base64.RawURLEncoding.EncodeToString(certificate[:])}
}

// signerAt gives the newest key that signs by now.
func (v *view) signerAt(now time.Time) (signer, error) {
	for _, key := range slices.Backward(v.signers) {
		if !key.from.After(now) {
			return key, nil
		}
	}
	if len(v.signers) > 0 { // a clock behind the founding node's: the first key signs all the same
		return v.signers[0], nil
	}
	return signer{}, keyring.ErrSealed
}

// sign writes a token in the compact serialisation (RFC 7515, section 3.1).
func (k signer) sign(claims *Claims) (string, error) {
	payload := claims.appendPayload(make([]byte, 0, 768))
	size := len(k.header) + 1 + base64.RawURLEncoding.EncodedLen(len(payload)) + 1 + signatureText
	if size > maxToken {
		return "", fmt.Errorf("%w: it would have %d bytes, more than %d; ask for fewer grants", ErrBadRequest, size, maxToken)
	}
	text := make([]byte, 0, size)
	text = append(append(text, k.header...), '.')
	text = base64.RawURLEncoding.AppendEncode(text, payload)
	signature := ed25519.Sign(k.private, text)
	text = base64.RawURLEncoding.AppendEncode(append(text, '.'), signature)
	return string(text), nil
}
