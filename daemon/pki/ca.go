package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"warder/daemon/identity"
)

// Lifetimes.
const (
	RootTTL    = 10 * 365 * 24 * time.Hour
	NodeTTL    = 365 * 24 * time.Hour
	DefaultTTL = 30 * 24 * time.Hour
	MaxTTL     = 366 * 24 * time.Hour
	MinTTL     = time.Minute
	// backdate lets a certificate hold on machines whose clocks are a little behind.
	backdate = time.Minute
)

// maxRequest bounds a certificate request, in bytes.
const maxRequest = 8 << 10

// ErrRequest says that a certificate request is not one that is certified.
var ErrRequest = errors.New("the certificate request is refused")

// ErrAuthority says that the cluster's authority cannot certify now.
var ErrAuthority = errors.New("the cluster's certificate authority cannot be used")

// hsmExtension marks a node's certificate with the SHA-256 of its HSM key's SubjectPublicKeyInfo: an OCTET STRING
// under a UUID-based arc (ITU-T X.667), not critical.
func hsmExtension() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 25, 1978365042, 1, 1}
}

// CA certifies with one root key.
type CA struct {
	certificate *x509.Certificate
	key         crypto.Signer
	trustDomain string
}

// NewCA makes a root (EC P-256) for a trust domain: it may certify that domain's URIs (RFC 5280, section 4.2.1.10), and
// nothing below it may be an authority.
func NewCA(trustDomain, cluster string, now time.Time) (*CA, error) {
	if err := identity.CheckTrustDomain(trustDomain); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Warder CA " + cluster},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(RootTTL), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, PermittedURIDomains: []string{trustDomain},
		PermittedDNSDomainsCritical: true,
		URIs:                        []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the authority's certificate: %w", err)
	}
	return openCA(der, key, trustDomain)
}

func openCA(der []byte, key crypto.Signer, trustDomain string) (*CA, error) {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the authority's certificate: %w", err)
	}
	return &CA{certificate: certificate, key: key, trustDomain: trustDomain}, nil
}

// PEM gives the root's certificate.
func (c *CA) PEM() []byte { return encodePEM(c.certificate.Raw) }

// Certificate gives the root's certificate. It must not be changed.
func (c *CA) Certificate() *x509.Certificate { return c.certificate }

func encodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Certificate is one that was issued.
type Certificate struct {
	PEM       []byte
	DER       []byte
	NotBefore time.Time
	NotAfter  time.Time
	Serial    string
	SPIFFE    string
	// Key is the SHA-256 of the certified key's SubjectPublicKeyInfo.
	Key [sha256.Size]byte
}

// Issue certifies the key of a request (PKCS #10, DER) for a caller: client authentication only. A node is no caller: it
// is certified by IssueNode.
func (c *CA) Issue(request []byte, principal identity.Principal, ttl time.Duration, now time.Time) (Certificate, error) {
	if principal.Kind == identity.Node || principal.Name.IsZero() || principal.Namespace.IsZero() {
		return Certificate{}, fmt.Errorf("%w: %q is no operator, workload or device", ErrRequest, principal)
	}
	template := &x509.Certificate{
		URIs: []*url.URL{principal.SPIFFE(c.trustDomain)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	return c.issue(request, template, ttl, now)
}

// NodeURI is the SPIFFE ID of a node.
func NodeURI(trustDomain, node string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/node/" + node}
}

// IssueNode certifies a node's TLS key: server and client authentication, at the hosts (names or addresses) that it is
// reached by, bound to the fingerprint of the node's HSM key.
func (c *CA) IssueNode(request []byte, node string, hosts []string, hsmFingerprint [32]byte, now time.Time) (Certificate, error) {
	if _, err := identity.ParseName(node); err != nil {
		return Certificate{}, fmt.Errorf("%w: the node's name: %w", ErrRequest, err)
	}
	value, err := asn1.Marshal(hsmFingerprint[:])
	if err != nil {
		return Certificate{}, fmt.Errorf("encode an HSM's fingerprint: %w", err)
	}
	template := &x509.Certificate{
		URIs:            []*url.URL{NodeURI(c.trustDomain, node)},
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		ExtraExtensions: []pkix.Extension{{Id: hsmExtension(), Value: value}},
	}
	if template.DNSNames, template.IPAddresses, err = splitHosts(hosts); err != nil {
		return Certificate{}, err
	}
	return c.issue(request, template, NodeTTL, now)
}

func (c *CA) issue(request []byte, template *x509.Certificate, ttl time.Duration, now time.Time) (Certificate, error) {
	public, err := provenKey(request)
	if err != nil {
		return Certificate{}, err
	}
	if ttl < MinTTL || ttl > MaxTTL {
		return Certificate{}, fmt.Errorf("%w: a certificate may live for %s to %s", ErrRequest, MinTTL, MaxTTL)
	}
	if now.Before(c.certificate.NotBefore) || !now.Add(MinTTL).Before(c.certificate.NotAfter) {
		return Certificate{}, fmt.Errorf("%w: its own certificate is valid from %s to %s only: rotate the authority, or set this node's clock",
			ErrAuthority, c.certificate.NotBefore, c.certificate.NotAfter)
	}
	serial, err := newSerial()
	if err != nil {
		return Certificate{}, err
	}
	if template.SubjectKeyId, err = keyID(public); err != nil {
		return Certificate{}, err
	}
	template.SerialNumber, template.BasicConstraintsValid = serial, true
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(ttl)
	if template.NotAfter.After(c.certificate.NotAfter) {
		template.NotAfter = c.certificate.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, c.certificate, public, c.key)
	if err != nil {
		return Certificate{}, fmt.Errorf("issue a certificate: %w", err)
	}
	issued, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, fmt.Errorf("read back an issued certificate: %w", err)
	}
	return Certificate{
		PEM: encodePEM(der), DER: der, NotBefore: issued.NotBefore, NotAfter: issued.NotAfter,
		Serial: issued.SerialNumber.Text(16), SPIFFE: issued.URIs[0].String(), Key: sha256.Sum256(issued.RawSubjectPublicKeyInfo),
	}, nil
}

// HSMFingerprint reads the HSM key's fingerprint from a node's certificate.
func HSMFingerprint(certificate *x509.Certificate) (fingerprint [32]byte, ok bool) {
	for _, extension := range certificate.Extensions {
		if !extension.Id.Equal(hsmExtension()) {
			continue
		}
		var value []byte
		rest, err := asn1.Unmarshal(extension.Value, &value)
		if err != nil || len(rest) > 0 || len(value) != len(fingerprint) {
			return fingerprint, false
		}
		return [32]byte(value), true
	}
	return fingerprint, false
}

// IssuedAt tells when one of this package's certificates was issued, to the second.
func IssuedAt(certificate *x509.Certificate) time.Time { return certificate.NotBefore.Add(backdate) }

// newSerial gives a random serial number of 127 bits, positive and not zero (RFC 5280, section 4.1.2.2).
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}
