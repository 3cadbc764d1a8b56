package mtls

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"warder/daemon/identity"
	"warder/daemon/identity/registry"
)

// Errors, each with one cause that a caller may know. Unknown and disabled identities are the same error.
var (
	ErrNoCertificate    = errors.New("no client certificate was presented")
	ErrExpired          = errors.New("the client certificate has expired")
	ErrNotYetValid      = errors.New("the client certificate is not valid yet")
	ErrUnknownAuthority = errors.New("the client certificate is not from this cluster's authority")
	ErrMalformed        = errors.New("the client certificate names no principal")
	ErrUnknownIdentity  = errors.New("the client certificate names no identity that may call")
	ErrWrongKey         = errors.New("the client certificate's key is not bound to its identity")
)

// maxChain bounds the certificates that a client may send.
const maxChain = 4

// Registry finds registered identities in memory.
type Registry interface {
	Lookup(p identity.Principal) (registry.Identity, bool)
}

// Config is what an Authenticator works with.
type Config struct {
	TrustDomain string
	// Roots gives the authorities of now: they are asked for each connection.
	Roots    func() *x509.CertPool
	Registry Registry
}

// Authenticator verifies client certificates. It is safe for concurrent use.
type Authenticator struct{ cfg Config }

// New gives an authenticator.
func New(cfg Config) *Authenticator { return &Authenticator{cfg: cfg} }

// Peer is a verified certificate, as far as it cannot change.
type Peer struct {
	principal identity.Principal
	notBefore time.Time
	notAfter  time.Time
	cert      [sha256.Size]byte
	key       registry.KeyHash
}

// Authenticated is who calls, now.
type Authenticated struct {
	Principal  identity.Principal
	Identity   registry.Identity
	CertSHA256 [sha256.Size]byte // of the certificate's DER (RFC 8705, section 3.1: x5t#S256)
	Key        registry.KeyHash
	NotAfter   time.Time
}

// Verify checks the chain that a connection's handshake presented: a leaf for client authentication, from an authority
// of now, with one URI that is a principal of the trust domain (X.509-SVID, section 2).
func (a *Authenticator) Verify(state *tls.ConnectionState, now time.Time) (*Peer, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil, ErrNoCertificate
	}
	if len(state.PeerCertificates) > maxChain {
		return nil, fmt.Errorf("%w: it came with more than %d certificates", ErrMalformed, maxChain)
	}
	leaf := state.PeerCertificates[0]
	if err := period(leaf.NotBefore, leaf.NotAfter, now); err != nil {
		return nil, err
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range state.PeerCertificates[1:] {
		intermediates.AddCert(certificate)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.cfg.Roots(), Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknownAuthority, err)
	}
	if leaf.IsCA || len(leaf.URIs) != 1 || len(leaf.ExtKeyUsage) == 0 {
		return nil, fmt.Errorf("%w: it must be a leaf with exactly one URI and a key usage", ErrMalformed)
	}
	principal, err := identity.FromSPIFFE(leaf.URIs[0], a.cfg.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return &Peer{
		principal: principal, notBefore: leaf.NotBefore, notAfter: leaf.NotAfter,
		cert: sha256.Sum256(leaf.Raw), key: sha256.Sum256(leaf.RawSubjectPublicKeyInfo),
	}, nil
}

// Check says who a verified peer is on this request: its certificate holds now, its identity is registered and active,
// and its key is one of the identity's.
func (a *Authenticator) Check(peer *Peer, now time.Time) (Authenticated, error) {
	if err := period(peer.notBefore, peer.notAfter, now); err != nil {
		return Authenticated{}, err
	}
	known, ok := a.cfg.Registry.Lookup(peer.principal)
	if !ok || known.State != registry.Enabled {
		return Authenticated{}, ErrUnknownIdentity
	}
	if !known.Binds(peer.key) {
		return Authenticated{}, ErrWrongKey
	}
	return Authenticated{
		Principal: peer.principal, Identity: known, CertSHA256: peer.cert, Key: peer.key, NotAfter: peer.notAfter,
	}, nil
}

// period holds a time against a certificate's validity (RFC 5280, section 4.1.2.5: both ends are inside).
func period(notBefore, notAfter, now time.Time) error {
	if now.Before(notBefore) {
		return ErrNotYetValid
	}
	if now.After(notAfter) {
		return ErrExpired
	}
	return nil
}
