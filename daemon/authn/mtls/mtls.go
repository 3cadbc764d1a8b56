package mtls

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
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
	// Roots gives the authorities of now. It is called for each request: while nothing changes it must give the same
	// pool, or every chain is verified anew. Nil refuses everyone.
	Roots    func() *x509.CertPool
	Registry Registry
}

// Authenticator verifies client certificates. It is safe for concurrent use.
type Authenticator struct{ cfg Config }

// New gives an authenticator.
func New(cfg Config) *Authenticator { return &Authenticator{cfg: cfg} }

// Peer is a verified certificate. It is kept with its connection, and safe for concurrent use.
type Peer struct {
	principal     identity.Principal
	leaf          *x509.Certificate
	intermediates *x509.CertPool
	cert          [sha256.Size]byte
	key           registry.KeyHash
	// roots are those that its chain was last verified against.
	roots atomic.Pointer[x509.CertPool]
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
// of now, with one URI that is a principal of the trust domain (X.509-SVID, sections 2 to 5).
func (a *Authenticator) Verify(state *tls.ConnectionState, now time.Time) (*Peer, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil, ErrNoCertificate
	}
	if len(state.PeerCertificates) > maxChain {
		return nil, fmt.Errorf("%w: it came with more than %d certificates", ErrMalformed, maxChain-1)
	}
	peer := &Peer{leaf: state.PeerCertificates[0], intermediates: x509.NewCertPool()}
	for _, certificate := range state.PeerCertificates[1:] {
		peer.intermediates.AddCert(certificate)
	}
	if err := peer.current(now); err != nil {
		return nil, err
	}
	if err := peer.chain(a.cfg.Roots(), now); err != nil {
		return nil, err
	}
	if err := peer.name(a.cfg.TrustDomain); err != nil {
		return nil, err
	}
	peer.cert, peer.key = sha256.Sum256(peer.leaf.Raw), sha256.Sum256(peer.leaf.RawSubjectPublicKeyInfo)
	return peer, nil
}

// Check says who a verified peer is on this request: its certificate holds now and is from an authority of now, its
// identity is registered and active, and its key is one of the identity's. It costs no storage and no signature, but
// the first time after the authorities have changed.
func (a *Authenticator) Check(peer *Peer, now time.Time) (Authenticated, error) {
	if peer == nil {
		return Authenticated{}, ErrNoCertificate
	}
	if err := peer.current(now); err != nil {
		return Authenticated{}, err
	}
	if roots := a.cfg.Roots(); roots != peer.roots.Load() {
		if err := peer.chain(roots, now); err != nil {
			return Authenticated{}, err
		}
	}
	known, _ := a.cfg.Registry.Lookup(peer.principal)
	bound := known.Binds(peer.key)
	if known.State != registry.Enabled { // an unknown one has no state
		return Authenticated{}, ErrUnknownIdentity
	}
	if !bound {
		return Authenticated{}, ErrWrongKey
	}
	return Authenticated{
		Principal: peer.principal, Identity: known, CertSHA256: peer.cert, Key: peer.key, NotAfter: peer.leaf.NotAfter,
	}, nil
}

// current holds a time against the certificate's validity (RFC 5280, section 4.1.2.5: both ends are inside).
func (p *Peer) current(now time.Time) error {
	if now.Before(p.leaf.NotBefore) {
		return ErrNotYetValid
	}
	if now.After(p.leaf.NotAfter) {
		return ErrExpired
	}
	return nil
}

// chain verifies the certificate's path to one of the roots (RFC 5280, section 6).
func (p *Peer) chain(roots *x509.CertPool, now time.Time) error {
	if roots == nil { // the standard library would take the system's
		return fmt.Errorf("%w: this node knows no authority", ErrUnknownAuthority)
	}
	_, err := p.leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: p.intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage {
		return fmt.Errorf("%w: it is not for client authentication", ErrMalformed)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknownAuthority, err)
	}
	p.roots.Store(roots)
	return nil
}

// name finds the principal of a verified certificate (X.509-SVID, sections 2 and 4).
func (p *Peer) name(trustDomain string) error {
	signs := p.leaf.KeyUsage&x509.KeyUsageDigitalSignature != 0 && p.leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) == 0
	if p.leaf.IsCA || !signs || !slices.Contains(p.leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return fmt.Errorf("%w: it must be a leaf for signatures in client authentication, and for no certificates", ErrMalformed)
	}
	texts := uris(p.leaf)
	if len(texts) != 1 {
		return fmt.Errorf("%w: it has %d URIs, and must have one", ErrMalformed, len(texts))
	}
	var err error
	if p.principal, err = identity.ParseSPIFFE(texts[0], trustDomain); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}
