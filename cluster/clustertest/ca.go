package clustertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"warder/cluster/transport"
)

// CA issues certificates to nodes of a trust domain, valid for the day around its time.
type CA struct {
	t      testing.TB
	domain string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	now    time.Time
}

// NewCA gives a CA with a new key.
func NewCA(t testing.TB, domain string) *CA {
	t.Helper()
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0)}
	key, cert := certify(t, template, template, nil)
	return &CA{t: t, domain: domain, cert: cert, key: key, now: now}
}

func certify(t testing.TB, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// In gives the same CA issuing in another trust domain.
func (c *CA) In(domain string) *CA {
	other := *c
	other.domain = domain
	return &other
}

// At gives the same CA issuing at another time.
func (c *CA) At(now time.Time) *CA {
	other := *c
	other.now = now
	return &other
}

// Node gives the TLS side of the node id.
func (c *CA) Node(id string) transport.TLS {
	c.t.Helper()
	return c.Named("spiffe://" + c.domain + "/node/" + id)
}

// Named gives a TLS side whose certificate names uri.
func (c *CA) Named(uri string) transport.TLS {
	c.t.Helper()
	name, err := url.Parse(uri)
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{name},
		NotBefore: c.now.Add(-12 * time.Hour), NotAfter: c.now.Add(12 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	key, cert := certify(c.t, template, c.cert, c.key)
	pair, roots := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, x509.NewCertPool()
	roots.AddCert(c.cert)
	return transport.TLS{Certificate: func() *tls.Certificate { return pair }, Roots: func() *x509.CertPool { return roots }}
}

// Join gives auth with the roots of another side.
func Join(auth transport.TLS, roots func() *x509.CertPool) transport.TLS {
	auth.Roots = roots
	return auth
}
