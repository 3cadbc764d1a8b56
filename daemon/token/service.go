package token

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// sweepEvery is how often what has expired is swept from storage, and keys are looked at for their age.
const sweepEvery = time.Minute

// Identities finds registered identities in memory.
type Identities interface {
	Lookup(p identity.Principal) (registry.Identity, bool)
}

// Config is what a Service works with. Every field is required.
type Config struct {
	DB         *kv.DB
	Identities Identities
	Issuer     string
	// Leeway is how far clocks may be apart, at most 30 s.
	Leeway time.Duration
	Clock  func() time.Time
}

// view is the keys and the revocation list, at one state of the cluster.
type view struct {
	signers []signer // ascending by from
	revoked map[string]struct{}
}

// Service issues, verifies and revokes. It is safe for concurrent use.
type Service struct {
	cfg Config

	loading sync.Mutex
	current atomic.Pointer[view]
}

// New gives a service that has no keys until Run, or a change, has loaded them.
func New(cfg Config) (*Service, error) {
	if cfg.Leeway < 0 || cfg.Leeway > maxLeeway {
		return nil, fmt.Errorf("the leeway of tokens must be 0 to %s", maxLeeway)
	}
	s := &Service{cfg: cfg}
	s.current.Store(&view{})
	return s, nil
}

func revokedPrefix() kv.Key       { return kv.K("token-revoked") }
func revokedKey(id string) kv.Key { return kv.K("token-revoked", id) }
func countedPrefix() kv.Key       { return kv.K("token-counted") }
func countedKey(id string) kv.Key { return kv.K("token-counted", id) }
func usesKey(id string) kv.Key    { return kv.K("token-uses", id) }

// Run follows keys and revocations until ctx ends, and sweeps what has expired.
func (s *Service) Run(ctx context.Context) error {
	keys, revoked := s.cfg.DB.Watch(kv.K("token")), s.cfg.DB.Watch(revokedPrefix())
	defer keys.Close()
	defer revoked.Close()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		if err := s.load(ctx); err != nil {
			s.current.Store(&view{})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-keys.C():
		case <-revoked.C():
		case <-sweep.C:
			s.sweep(ctx)
		}
	}
}

// sweep is best effort: what it leaves, the next one finds.
func (s *Service) sweep(ctx context.Context) {
	if len(s.current.Load().signers) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, sweepEvery/2)
	defer cancel()
	_ = rotate(bounded, s.cfg.DB, s.cfg.Clock(), false)
	_ = s.forgetExpired(bounded)
}

// Rotate publishes a new signing key at once; it signs when every node has had time to see it.
func (s *Service) Rotate(ctx context.Context) error {
	return rotate(ctx, s.cfg.DB, s.cfg.Clock(), true)
}

func (s *Service) load(ctx context.Context) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	next := &view{revoked: map[string]struct{}{}}
	err := s.cfg.DB.View(ctx, func(tx *kv.Tx) error {
		keys, err := readKeys(tx)
		if err != nil {
			return err
		}
		for _, key := range keys {
			ready, err := newSigner(key)
			if err != nil {
				return err
			}
			next.signers = append(next.signers, ready)
		}
		for item, err := range tx.Scan(revokedPrefix()) {
			if err != nil {
				return err
			}
			parts := item.Key.Parts()
			next.revoked[parts[len(parts)-1]] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(next.signers, func(a, b signer) int { return a.from.Compare(b.from) })
	s.current.Store(next)
	return nil
}

// Request is what a token is asked for.
type Request struct {
	Subject     registry.Identity
	Certificate [32]byte // SHA-256 of the DER of the certificate to bind to
	NotAfter    time.Time
	Grants      []Grant
	TTL         time.Duration
	MaxUses     uint32
}

// Issue signs a token. It ends no later than the certificate that it is bound to.
func (s *Service) Issue(request Request) (string, Claims, error) {
	if request.TTL < MinTTL || request.TTL > MaxTTL || len(request.Grants) == 0 || len(request.Grants) > maxGrants {
		return "", Claims{}, fmt.Errorf("%w: want a life of %s to %s and 1 to %d grants", ErrBadRequest, MinTTL, MaxTTL, maxGrants)
	}
	now := s.cfg.Clock()
	key, err := s.current.Load().signerAt(now)
	if err != nil {
		return "", Claims{}, err
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", Claims{}, err
	}
	expires := now.Add(request.TTL)
	if expires.After(request.NotAfter) {
		expires = request.NotAfter
	}
	claims := Claims{
		Issuer: s.cfg.Issuer, Subject: request.Subject.Principal, IssuedAt: now.Unix(), NotUntil: now.Unix(),
		Expires: expires.Unix(), ID: hex.EncodeToString(id[:]), Binding: bind(request.Certificate),
		Epoch: request.Subject.Epoch, MaxUses: request.MaxUses,
	}
	for _, grant := range request.Grants {
		grant.Type = detailType
		claims.Grants = append(claims.Grants, grant)
	}
	text, err := key.sign(claims)
	return text, claims, err
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

func (k signer) sign(claims Claims) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode a token: %w", err)
	}
	size := len(k.header) + 1 + base64.RawURLEncoding.EncodedLen(len(payload)) + 1 + base64.RawURLEncoding.EncodedLen(ed25519.SignatureSize)
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

// Verify checks a token that came with a certificate, and gives the claims that its signature covers.
func (s *Service) Verify(raw string, certificate [32]byte) (Claims, error) {
	claims, err := s.Parse(raw)
	if err != nil {
		return Claims{}, err
	}
	if subtle.ConstantTimeCompare([]byte(claims.Binding.Certificate), []byte(bind(certificate).Certificate)) != 1 {
		return Claims{}, ErrNotBound
	}
	return claims, s.Live(claims)
}

// Parse verifies a token's signature and gives what it covers (RFC 7515, section 5.2; RFC 8725, section 3).
func (s *Service) Parse(raw string) (Claims, error) {
	if len(raw) > maxToken {
		return Claims{}, ErrInvalid
	}
	header, rest, _ := strings.Cut(raw, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	at := s.current.Load()
	if len(at.signers) == 0 {
		return Claims{}, keyring.ErrSealed
	}
	key := slices.IndexFunc(at.signers, func(k signer) bool { return k.header == header })
	mac, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	if key < 0 || err != nil || !ed25519.Verify(at.signers[key].public, []byte(raw[:len(header)+1+len(payload)]), mac) {
		return Claims{}, ErrInvalid
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil {
		return Claims{}, ErrInvalid
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	var claims Claims
	if err := decoder.Decode(&claims); err != nil || claims.Issuer != s.cfg.Issuer {
		return Claims{}, ErrInvalid
	}
	return claims, nil
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
	if _, revoked := s.current.Load().revoked[claims.ID]; revoked {
		return ErrRevoked
	}
	return nil
}

// Spend takes one of a token's uses, where those are counted: at apply, so that of parallel uses on any nodes no more
// than the token has are taken.
func (s *Service) Spend(ctx context.Context, claims Claims) error {
	if claims.MaxUses == 0 {
		return nil
	}
	expires, err := claims.ExpiresAt().MarshalText()
	if err != nil {
		return fmt.Errorf("encode a token's end: %w", err)
	}
	err = s.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		tx.Add(usesKey(claims.ID), 1, int64(claims.MaxUses))
		tx.Put(countedKey(claims.ID), expires)
		return nil
	})
	if errors.Is(err, kv.ErrLimit) {
		return ErrUsedUp
	}
	return err
}

// Revoke voids a token on every node, until it would have ended by itself.
func (s *Service) Revoke(ctx context.Context, id string, expires time.Time) error {
	text, err := expires.UTC().MarshalText()
	if err != nil {
		return fmt.Errorf("%w: its end is no time", ErrBadRequest)
	}
	err = s.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		tx.Put(revokedKey(id), text)
		return nil
	})
	if err != nil {
		return err
	}
	return s.load(ctx)
}

// forgetExpired deletes revocations and counters of tokens that have ended by themselves.
func (s *Service) forgetExpired(ctx context.Context) error {
	return s.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		limit := s.cfg.Clock().Add(-2 * maxLeeway)
		for _, prefix := range []kv.Key{revokedPrefix(), countedPrefix()} {
			expired, err := expiredIn(tx, prefix, limit)
			if err != nil {
				return err
			}
			for _, key := range expired {
				tx.Delete(key)
				if parts := key.Parts(); parts[0] == countedPrefix().Parts()[0] {
					tx.DropCounter(usesKey(parts[1]))
				}
			}
		}
		return nil
	})
}

// maxSweep bounds what one sweep deletes.
const maxSweep = 512

func expiredIn(tx *kv.Tx, prefix kv.Key, limit time.Time) ([]kv.Key, error) {
	var expired []kv.Key
	for item, err := range tx.Scan(prefix) {
		if err != nil {
			return nil, err
		}
		var ends time.Time
		if err := ends.UnmarshalText(item.Value); err != nil {
			return nil, fmt.Errorf("a stored token's end does not parse: %w", err)
		}
		if ends.Before(limit) {
			expired = append(expired, item.Key)
		}
		if len(expired) == maxSweep {
			break
		}
	}
	return expired, nil
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
