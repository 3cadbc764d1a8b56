package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// NodeID gives the trust domain and the node's ID that a certificate names: its one URI SAN must be
// spiffe://<trust domain>/node/<id>.
func NodeID(cert *x509.Certificate) (trustDomain, id string, err error) {
	if len(cert.URIs) != 1 {
		return "", "", fmt.Errorf("certificate has %d URI names, want one: %w", len(cert.URIs), ErrPeer)
	}
	uri := cert.URIs[0]
	id, found := strings.CutPrefix(uri.Path, "/node/")
	plain := uri.Scheme == "spiffe" && uri.RawQuery == "" && uri.Fragment == "" && uri.User == nil && uri.Port() == "" && uri.RawPath == ""
	if !found || !plain || !validDomain(uri.Host) || !ValidID(id) {
		return "", "", fmt.Errorf("certificate names %q, which is no node: %w", uri.Redacted(), ErrPeer)
	}
	return uri.Host, id, nil
}

// validDomain holds a trust domain to the characters of the SPIFFE ID specification, section 2.1.
func validDomain(domain string) bool {
	return domain != "" && len(domain) <= 255 && strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}

// ValidID tells whether id is 1 to 63 bytes of [a-z0-9] with single "-" inside.
func ValidID(id string) bool {
	if id == "" || len(id) > 63 || id[0] == '-' || id[len(id)-1] == '-' || strings.Contains(id, "--") {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// verifyPeer checks the other end of a handshake against the roots of this moment, and gives its ID.
func (t *TLS) verifyPeer(state tls.ConnectionState, usage x509.ExtKeyUsage) (string, error) {
	if len(state.PeerCertificates) == 0 {
		return "", fmt.Errorf("no certificate: %w", ErrPeer)
	}
	leaf, intermediates := state.PeerCertificates[0], x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	options := x509.VerifyOptions{Roots: t.Roots(), Intermediates: intermediates, CurrentTime: time.Now(),
		KeyUsages: []x509.ExtKeyUsage{usage}}
	if options.Roots == nil { // nil would mean the system's roots
		return "", fmt.Errorf("no roots to verify it with: %w", ErrPeer)
	}
	if _, err := leaf.Verify(options); err != nil {
		return "", errors.Join(ErrPeer, err)
	}
	domain, id, err := NodeID(leaf)
	if err != nil {
		return "", err
	}
	if own, err := t.trustDomain(); err != nil || own != domain {
		return "", errors.Join(err, fmt.Errorf("node %s is of trust domain %q, not of %q: %w", id, domain, own, ErrPeer))
	}
	if t.Admit != nil {
		if err := t.Admit(id, leaf); err != nil {
			return "", errors.Join(ErrPeer, err)
		}
	}
	return id, nil
}

func (t *TLS) trustDomain() (string, error) {
	own := t.Certificate()
	if own == nil || len(own.Certificate) == 0 {
		return "", errors.New("this node has no certificate")
	}
	leaf := own.Leaf
	if leaf == nil {
		parsed, err := x509.ParseCertificate(own.Certificate[0])
		if err != nil {
			return "", err
		}
		leaf = parsed
	}
	domain, _, err := NodeID(leaf)
	return domain, err
}
