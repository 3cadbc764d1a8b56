package token

import (
	"encoding/base64"
	"errors"
	"slices"
	"time"

	"warder/daemon/identity"
)

// Errors of verification. Each is a reason of its own; the text of a token is in none of them.
var (
	ErrInvalid    = errors.New("the token is malformed, or was not signed by this cluster")
	ErrExpired    = errors.New("the token is expired or not valid yet")
	ErrNotBound   = errors.New("the token is bound to another certificate")
	ErrRevoked    = errors.New("the token was revoked")
	ErrUsedUp     = errors.New("the token's uses are used up")
	ErrBadRequest = errors.New("such a token is not issued")
)

// Bounds of a token.
const (
	MaxTTL = time.Hour
	MinTTL = 5 * time.Second
	// DefaultTTL is for a request that asks for none.
	DefaultTTL = 5 * time.Minute
	maxToken   = 4 << 10 // bytes
	maxGrants  = 16
	maxActions = 64 // of one grant
	maxLeeway  = 30 * time.Second
)

// detailType is the type of our authorization details (RFC 9396, section 2).
const detailType = "warder"

// Resource is one object that a grant is for, or what a namespace or the cluster has one of.
type Resource struct {
	Type      string `json:"type"`
	Namespace string `json:"namespace"`
	Name      string `json:"name,omitempty"`
}

// Grant lets the holder do some actions to one resource. There are no wildcards.
type Grant struct {
	Type     string   `json:"type"`
	Actions  []string `json:"actions"`
	Resource Resource `json:"resource"`
}

// Claims are what a verified token says. What a verification returns may be shared: it must not be changed.
type Claims struct {
	Issuer   string             `json:"iss"`
	Subject  identity.Principal `json:"sub"`
	Audience string             `json:"aud"`
	IssuedAt int64              `json:"iat"` // seconds since 1970 (RFC 7519, section 2)
	NotUntil int64              `json:"nbf"`
	Expires  int64              `json:"exp"`
	ID       string             `json:"jti"`
	Binding  Binding            `json:"cnf"`
	Epoch    uint64             `json:"epoch"`
	Grants   []Grant            `json:"authorization_details"`
	MaxUses  uint32             `json:"max_uses,omitempty"`
}

// Binding is the confirmation of RFC 8705, section 3.1: SHA-256 of the certificate's DER, base64url.
type Binding struct {
	Certificate string `json:"x5t#S256"`
}

// ExpiresAt is when the token ends.
func (c Claims) ExpiresAt() time.Time { return time.Unix(c.Expires, 0).UTC() }

// Allows says whether a grant covers the action on exactly that resource.
func (c Claims) Allows(action string, resource Resource) bool {
	return slices.ContainsFunc(c.Grants, func(g Grant) bool {
		return g.Type == detailType && g.Resource == resource && slices.Contains(g.Actions, action)
	})
}

// Digest gives the SHA-256 of the certificate that the token is bound to.
func (b Binding) Digest() ([]byte, error) {
	digest, err := b.digest()
	if err != nil {
		return nil, err
	}
	return digest[:], nil
}

func (b Binding) digest() (digest [32]byte, err error) {
	if len(b.Certificate) != base64.RawURLEncoding.EncodedLen(len(digest)) {
		return digest, ErrInvalid
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(digest[:], []byte(b.Certificate)); err != nil || n != len(digest) {
		return [32]byte{}, ErrInvalid
	}
	return digest, nil
}
