package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"warder/daemon/identity"
	"warder/daemon/pki"
	"warder/keystore/keyring"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

const domain = "example.org"

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	bot  = identity.Principal{Kind: identity.Workload, Namespace: identity.MustName("default"), Name: identity.MustName("bot")}
)

func newCA(t testing.TB) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(domain, "test", noon)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// requestBy asks for everything that a request can ask for.
func requestBy(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	template := &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root", Organization: []string{"admins"}}, DNSNames: []string{"*"}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		EmailAddresses: []string{"root@example.org"}, URIs: []*url.URL{{Scheme: "spiffe", Host: domain, Path: "/ns/default/operator/root"}},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}},
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func verify(ca *pki.CA, certificate *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate())
	_, err := certificate.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func TestRoot(t *testing.T) {
	root := newCA(t).Certificate()
	if !root.IsCA || !root.MaxPathLenZero || root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(root.PermittedURIDomains) != 1 {
		t.Errorf("the root is an authority: %v, path length 0: %v, usage %v, domains %v", root.IsCA, root.MaxPathLenZero, root.KeyUsage, root.PermittedURIDomains)
	}
	if root.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P256() || root.NotAfter.Sub(noon) != pki.RootTTL {
		t.Errorf("the root has the key %T and ends at %s", root.PublicKey, root.NotAfter)
	}
	if _, err := pki.NewCA("Example.org", "x", noon); !errors.Is(err, identity.ErrTrustDomain) {
		t.Errorf("a trust domain in capitals: %v", err)
	}
}

func TestOnlyTheKeyIsTakenFromARequest(t *testing.T) {
	ca, key := newCA(t), newKey(t)
	issued, err := ca.Issue(requestBy(t, key), bot, time.Hour, noon)
	if err != nil {
		t.Fatal(err)
	}
	certificate := parse(t, issued.DER)
	if !key.PublicKey.Equal(certificate.PublicKey) {
		t.Error("the certificate is for another key")
	}
	names := len(certificate.DNSNames) + len(certificate.IPAddresses) + len(certificate.EmailAddresses) + len(certificate.Subject.Names)
	if certificate.IsCA || names != 0 || len(certificate.URIs) != 1 || certificate.URIs[0].String() != "spiffe://example.org/ns/default/workload/bot" {
		t.Errorf("it says more than the cluster does: CA %v, subject %v, URIs %v, %d other names", certificate.IsCA, certificate.Subject, certificate.URIs, names)
	}
	if len(certificate.ExtKeyUsage) != 1 || certificate.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || certificate.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("its usages are %v and %v", certificate.ExtKeyUsage, certificate.KeyUsage)
	}
	if len(certificate.SubjectKeyId) == 0 || !bytes.Equal(certificate.AuthorityKeyId, ca.Certificate().SubjectKeyId) {
		t.Errorf("its key identifiers are %x and %x", certificate.SubjectKeyId, certificate.AuthorityKeyId)
	}
	if certificate.SerialNumber.Sign() <= 0 || certificate.SerialNumber.BitLen() < 64 || issued.Serial != certificate.SerialNumber.Text(16) {
		t.Errorf("its serial number is %s", certificate.SerialNumber)
	}
	if want, _ := pki.KeyOf(requestBy(t, key)); issued.Key != want || issued.Key != sha256.Sum256(certificate.RawSubjectPublicKeyInfo) {
		t.Errorf("its key's hash is %x; want %x", issued.Key, want)
	}
	if err := verify(ca, certificate, x509.ExtKeyUsageClientAuth, noon); err != nil {
		t.Error(err)
	}
	if err := verify(ca, certificate, x509.ExtKeyUsageServerAuth, noon); err == nil {
		t.Error("a caller's certificate serves as a server's")
	}
	if err := verify(newCA(t), certificate, x509.ExtKeyUsageClientAuth, noon); err == nil {
		t.Error("it verifies under another cluster's root")
	}
}

func TestKeysThatAreCertified(t *testing.T) {
	ca := newCA(t)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curve := func(c elliptic.Curve) crypto.Signer { key, _ := ecdsa.GenerateKey(c, rand.Reader); return key }
	t.Setenv("GODEBUG", "rsa1024min=0")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ordinary, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key  crypto.Signer
		good bool
	}{
		"P-256": {curve(elliptic.P256()), true}, "P-384": {curve(elliptic.P384()), true}, "Ed25519": {edwards, true}, "RSA-2048": {ordinary, true},
		"P-224": {curve(elliptic.P224()), false}, "P-521": {curve(elliptic.P521()), false}, "RSA-1024": {small, false},
	} {
		issued, err := ca.Issue(requestBy(t, test.key), bot, time.Hour, noon)
		if test.good != (err == nil) || !test.good && (!errors.Is(err, pki.ErrRequest) || issued.DER != nil) {
			t.Errorf("%s: %v; want it certified: %v", name, err, test.good)
		}
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	ca, good := newCA(t), requestBy(t, newKey(t))
	for i := range good { // whatever is changed, possession is no longer proved
		changed := bytes.Clone(good)
		changed[i] ^= 1
		if _, err := ca.Issue(changed, bot, time.Hour, noon); !errors.Is(err, pki.ErrRequest) {
			t.Fatalf("byte %d changed: %v; want %v", i, err, pki.ErrRequest)
		}
	}
	for name, request := range map[string][]byte{"nothing": nil, "trailing": append(bytes.Clone(good), 0), "huge": make([]byte, 1<<20), "PEM": []byte("-----BEGIN")} {
		if _, err := ca.Issue(request, bot, time.Hour, noon); !errors.Is(err, pki.ErrRequest) {
			t.Errorf("%s: %v; want %v", name, err, pki.ErrRequest)
		}
	}
	for _, ttl := range []time.Duration{0, -time.Hour, time.Second, pki.MaxTTL + 1} {
		if _, err := ca.Issue(good, bot, ttl, noon); !errors.Is(err, pki.ErrRequest) {
			t.Errorf("for %s: %v; want %v", ttl, err, pki.ErrRequest)
		}
	}
	for _, who := range []identity.Principal{{}, {Kind: identity.Workload}, {Kind: identity.Node, Namespace: bot.Namespace, Name: bot.Name}} {
		if _, err := ca.Issue(good, who, time.Hour, noon); !errors.Is(err, pki.ErrRequest) {
			t.Errorf("for %v: %v; want %v", who, err, pki.ErrRequest)
		}
	}
}

func TestNothingOutlivesTheRoot(t *testing.T) {
	ca, request := newCA(t), requestBy(t, newKey(t))
	late := noon.Add(pki.RootTTL - time.Hour)
	issued, err := ca.Issue(request, bot, pki.DefaultTTL, late)
	if err != nil || !issued.NotAfter.Equal(ca.Certificate().NotAfter) {
		t.Errorf("the certificate ends at %s, %v; want the root's end, %s", issued.NotAfter, err, ca.Certificate().NotAfter)
	}
	for _, now := range []time.Time{noon.Add(pki.RootTTL), noon.Add(-time.Hour)} {
		if _, err := ca.Issue(request, bot, time.Hour, now); !errors.Is(err, pki.ErrAuthority) {
			t.Errorf("at %s: %v; want %v", now, err, pki.ErrAuthority)
		}
	}
}

func TestNodeCertificate(t *testing.T) {
	ca, request := newCA(t), requestBy(t, newKey(t))
	fingerprint := [32]byte{7, 8, 9}
	issued, err := ca.IssueNode(request, "node-1", []string{"node-1.example.org", "localhost", "192.0.2.7", "::1"}, fingerprint, noon)
	if err != nil {
		t.Fatal(err)
	}
	certificate := parse(t, issued.DER)
	if found, ok := pki.HSMFingerprint(certificate); !ok || found != fingerprint {
		t.Errorf("it is bound to %x, %v; want %x", found, ok, fingerprint)
	}
	if issued.SPIFFE != "spiffe://example.org/node/node-1" || len(certificate.DNSNames) != 2 || len(certificate.IPAddresses) != 2 {
		t.Errorf("it names %s, %v, %v", issued.SPIFFE, certificate.DNSNames, certificate.IPAddresses)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if err := verify(ca, certificate, usage, noon); err != nil {
			t.Error(err)
		}
	}
	for _, host := range []string{"", "*", "*.example.org", "0.0.0.0", "::", "fe80::1%eth0", "300.1.1.1", "a..b", "-a", "A", "a b", "user@a", "a/b"} {
		if _, err := ca.IssueNode(request, "node-1", []string{host}, fingerprint, noon); !errors.Is(err, pki.ErrRequest) {
			t.Errorf("host %q: %v; want %v", host, err, pki.ErrRequest)
		}
	}
	for _, node := range []string{"", "Node", "a/b", "../a"} {
		if _, err := ca.IssueNode(request, node, nil, fingerprint, noon); !errors.Is(err, pki.ErrRequest) {
			t.Errorf("node %q: %v; want %v", node, err, pki.ErrRequest)
		}
	}
	caller, err := ca.Issue(request, bot, time.Hour, noon)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := pki.HSMFingerprint(parse(t, caller.DER)); ok {
		t.Error("a caller's certificate is bound to an HSM")
	}
}

// TestOpenSSLAgrees lets an implementation of its own verify the chain, name constraints and all.
func TestOpenSSLAgrees(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("openssl is not installed: nothing to compare with")
		return
	}
	ca, err := pki.NewCA(domain, "test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.Issue(requestBy(t, newKey(t)), bot, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, leaf := filepath.Join(dir, "root.pem"), filepath.Join(dir, "leaf.pem")
	if err := errors.Join(os.WriteFile(root, ca.PEM(), 0o600), os.WriteFile(leaf, issued.PEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", root, leaf).CombinedOutput()
	if err != nil {
		t.Errorf("openssl: %v: %s", err, out)
	}
}

func found(t *testing.T) (*kv.DB, *pki.Authority, *keystoretest.FaultyLog) {
	t.Helper()
	db, log := keystoretest.Open(t)
	if err := db.Update(t.Context(), newCA(t).Store); err != nil {
		t.Fatal(err)
	}
	return db, pki.NewAuthority(db, domain, func() time.Time { return noon }), log
}

func TestRotationOfRoots(t *testing.T) {
	db, authority, _ := found(t)
	ctx := t.Context()
	issue := func() *x509.Certificate {
		t.Helper()
		issued, err := authority.Issue(ctx, requestBy(t, newKey(t)), bot, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return parse(t, issued.DER)
	}
	trusted := func(certificate *x509.Certificate) bool {
		_, err := certificate.Verify(x509.VerifyOptions{Roots: authority.Pool(), CurrentTime: noon, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err == nil
	}
	if authority.Pool() != nil {
		t.Error("roots are trusted that nobody has read")
	}
	before := issue()
	pool := authority.Pool()
	issue()
	if authority.Pool() != pool {
		t.Error("the pool is another though nothing changed")
	}
	first, err := authority.CA(ctx)
	if err != nil {
		t.Fatal(err)
	}
	added, err := authority.AddRoot(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	if during := issue(); !bytes.Equal(during.AuthorityKeyId, before.AuthorityKeyId) || !trusted(before) || authority.Pool() == pool {
		t.Error("a root issues before it is activated, or trust was lost by adding one")
	}
	if err := authority.RemoveRoot(ctx, first.ID()); !errors.Is(err, pki.ErrRootInUse) {
		t.Errorf("removing the root in use: %v; want %v", err, pki.ErrRootInUse)
	}
	if err := authority.Activate(ctx, added); err != nil {
		t.Fatal(err)
	}
	after := issue()
	if bytes.Equal(after.AuthorityKeyId, before.AuthorityKeyId) || !trusted(before) || !trusted(after) {
		t.Error("the new root does not issue, or one of both is not trusted")
	}
	if text, err := authority.RootsPEM(ctx); err != nil || bytes.Count(text, []byte("BEGIN CERTIFICATE")) != 2 {
		t.Errorf("the roots are published as %s, %v", text, err)
	}
	if err := authority.RemoveRoot(ctx, first.ID()); err != nil {
		t.Fatal(err)
	}
	if trusted(before) || !trusted(after) {
		t.Error("a removed root is trusted, or the active one is not")
	}
	for _, err := range []error{authority.Activate(ctx, first.ID()), authority.RemoveRoot(ctx, "")} {
		if !errors.Is(err, pki.ErrNoRoot) {
			t.Errorf("a root that is no more: %v; want %v", err, pki.ErrNoRoot)
		}
	}
	other := pki.NewAuthority(db, domain, func() time.Time { return noon })
	if ca, err := other.CA(ctx); err != nil || ca.ID() != added {
		t.Errorf("another node reads %v, %v", ca, err)
	}
	for err == nil {
		_, err = authority.AddRoot(ctx, "test")
	}
	if !errors.Is(err, pki.ErrTooManyRoots) {
		t.Errorf("adding without end: %v; want %v", err, pki.ErrTooManyRoots)
	}
}

func TestFoundedOnce(t *testing.T) {
	db, authority, log := found(t)
	if err := db.Update(t.Context(), newCA(t).Store); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("a second founding: %v; want %v", err, kv.ErrConflict)
	}
	log.Keys().Clear()
	if _, err := authority.Issue(t.Context(), requestBy(t, newKey(t)), bot, time.Hour); !errors.Is(err, keyring.ErrSealed) {
		t.Errorf("sealed: %v; want %v", err, keyring.ErrSealed)
	}
}

func FuzzKeyOf(f *testing.F) {
	f.Add(requestBy(f, newKey(f)))
	f.Fuzz(func(t *testing.T, request []byte) {
		if _, err := pki.KeyOf(request); err != nil && !errors.Is(err, pki.ErrRequest) {
			t.Errorf("an error of no kind: %v", err)
		}
	})
}
