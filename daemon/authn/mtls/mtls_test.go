package mtls_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"warder/daemon/authn/mtls"
	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/daemon/pki"
)

const domain = "example.org"

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	bot  = identity.Principal{Kind: identity.Workload, Namespace: identity.MustName("default"), Name: identity.MustName("bot")}
)

// people are the registered identities.
type people struct {
	mu  sync.Mutex
	all map[identity.Principal]registry.Identity
}

func (p *people) Lookup(who identity.Principal) (registry.Identity, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, ok := p.all[who]
	return found, ok
}

func (p *people) put(i registry.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[i.Principal] = i
}

// world is a root, and the bot with its key bound.
type world struct {
	t             testing.TB
	rootKey       *ecdsa.PrivateKey
	root          *x509.Certificate
	key           *ecdsa.PrivateKey
	people        *people
	pool          *x509.CertPool
	authenticator *mtls.Authenticator
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, people: &people{all: map[identity.Principal]registry.Identity{}}, key: newKey(t), rootKey: newKey(t)}
	w.root = w.certify(&x509.Certificate{
		NotAfter: noon.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, PermittedURIDomains: []string{domain},
	}, nil, w.rootKey)
	w.trust(w.root)
	w.people.put(registry.Identity{Principal: bot, Keys: []registry.KeyHash{hashOf(t, w.key)}, Epoch: 1, State: registry.Enabled})
	w.authenticator = mtls.New(mtls.Config{TrustDomain: domain, Roots: func() *x509.CertPool { return w.pool }, Registry: w.people})
	return w
}

func (w *world) trust(roots ...*x509.Certificate) {
	w.pool = x509.NewCertPool()
	for _, root := range roots {
		w.pool.AddCert(root)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func hashOf(t testing.TB, key crypto.Signer) registry.KeyHash {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(spki)
}

// leaf is a proper certificate of the bot, for tests to spoil.
func leaf() *x509.Certificate {
	return &x509.Certificate{
		NotBefore: noon.Add(-time.Minute), NotAfter: noon.Add(time.Hour), URIs: []*url.URL{bot.SPIFFE(domain)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
}

func (w *world) certify(template *x509.Certificate, parent *x509.Certificate, key crypto.Signer) *x509.Certificate {
	w.t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), w.rootKey)
	if err != nil {
		w.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	return certificate
}

func state(chain ...*x509.Certificate) *tls.ConnectionState {
	return &tls.ConnectionState{PeerCertificates: chain}
}

// authenticate is a first request.
func (w *world) authenticate(state *tls.ConnectionState, now time.Time) (mtls.Authenticated, error) {
	peer, err := w.authenticator.Verify(state, now)
	if err != nil {
		return mtls.Authenticated{}, err
	}
	return w.authenticator.Check(peer, now)
}

func TestWhoCalls(t *testing.T) {
	w := newWorld(t)
	certificate := w.certify(leaf(), w.root, w.key)
	caller, err := w.authenticate(state(certificate), noon)
	if err != nil {
		t.Fatal(err)
	}
	if caller.Principal != bot || caller.Identity.Principal != bot || caller.CertSHA256 != sha256.Sum256(certificate.Raw) ||
		caller.Key != hashOf(t, w.key) || !caller.NotAfter.Equal(certificate.NotAfter) {
		t.Errorf("the caller is %+v", caller)
	}
}

func TestCertificatesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	uri := func(text string) []*url.URL {
		parsed, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{parsed}
	}
	for name, test := range map[string]struct {
		spoil func(*x509.Certificate)
		want  error
	}{
		"expired":            {func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }, mtls.ErrExpired},
		"not yet valid":      {func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) }, mtls.ErrNotYetValid},
		"no URI":             {func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"bot"} }, mtls.ErrMalformed},
		"two URIs":           {func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, mtls.ErrMalformed},
		"no names at all":    {func(c *x509.Certificate) { c.URIs = nil }, mtls.ErrMalformed},
		"of a node":          {func(c *x509.Certificate) { c.URIs = uri("spiffe://example.org/node/bot") }, mtls.ErrMalformed},
		"a name in capitals": {func(c *x509.Certificate) { c.URIs = uri("spiffe://example.org/ns/default/workload/Bot") }, mtls.ErrMalformed},
		"an empty fragment": {func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: domain, Path: bot.SPIFFE(domain).Path, RawFragment: "", ForceQuery: true}}
		}, mtls.ErrMalformed},
		"another trust domain": {func(c *x509.Certificate) { c.URIs = uri("spiffe://example.com/ns/default/workload/bot") }, mtls.ErrUnknownAuthority},
		"for servers":          {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, mtls.ErrMalformed},
		"for any use":          {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, mtls.ErrMalformed},
		"for no stated use":    {func(c *x509.Certificate) { c.ExtKeyUsage = nil }, mtls.ErrMalformed},
		"an authority": {func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		}, mtls.ErrMalformed},
		"not for signatures":    {func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, mtls.ErrMalformed},
		"an unknown identity":   {func(c *x509.Certificate) { c.URIs = uri("spiffe://example.org/ns/default/workload/other") }, mtls.ErrUnknownIdentity},
		"another namespace's":   {func(c *x509.Certificate) { c.URIs = uri("spiffe://example.org/ns/other/workload/bot") }, mtls.ErrUnknownIdentity},
		"another kind's caller": {func(c *x509.Certificate) { c.URIs = uri("spiffe://example.org/ns/default/operator/bot") }, mtls.ErrUnknownIdentity},
	} {
		template := leaf()
		test.spoil(template)
		if caller, err := w.authenticate(state(w.certify(template, w.root, w.key)), noon); !errors.Is(err, test.want) || caller.Principal != (identity.Principal{}) {
			t.Errorf("%s: %v; want %v and nobody", name, err, test.want)
		}
	}
	good := w.certify(leaf(), w.root, w.key)
	for name, test := range map[string]struct {
		state *tls.ConnectionState
		want  error
	}{
		"no connection": {nil, mtls.ErrNoCertificate}, "no certificate": {state(), mtls.ErrNoCertificate},
		"a long chain": {state(good, good, good, good, good), mtls.ErrMalformed},
		"another root": {state(newWorld(t).certify(leaf(), nil, newKey(t))), mtls.ErrUnknownAuthority},
		"another key":  {state(w.certify(leaf(), w.root, newKey(t))), mtls.ErrWrongKey},
	} {
		if _, err := w.authenticate(test.state, noon); !errors.Is(err, test.want) {
			t.Errorf("%s: %v; want %v", name, err, test.want)
		}
	}
	if _, err := w.authenticator.Check(nil, noon); !errors.Is(err, mtls.ErrNoCertificate) {
		t.Errorf("nobody: %v", err)
	}
}

// TestOneSpellingInACertificate forges names whose parsed form is the bot's.
func TestOneSpellingInACertificate(t *testing.T) {
	w := newWorld(t)
	for _, text := range []string{"SPIFFE://example.org/ns/default/workload/bot", "spiffe://example.org/ns/default/workload/bot#"} {
		template := leaf()
		template.URIs = []*url.URL{{Opaque: text}} // written as it stands
		certificate := w.certify(template, w.root, w.key)
		if got := certificate.URIs[0].String(); got != bot.SPIFFE(domain).String() {
			t.Fatalf("the forged %q parses to %q: it tests nothing", text, got)
		}
		if _, err := w.authenticate(state(certificate), noon); !errors.Is(err, mtls.ErrMalformed) {
			t.Errorf("%q: %v; want %v", text, err, mtls.ErrMalformed)
		}
	}
}

func TestEachRequestLooksAgain(t *testing.T) {
	w := newWorld(t)
	peer, err := w.authenticator.Verify(state(w.certify(leaf(), w.root, w.key)), noon)
	if err != nil {
		t.Fatal(err)
	}
	known, _ := w.people.Lookup(bot)
	expect := func(name string, now time.Time, want error) {
		t.Helper()
		if _, err := w.authenticator.Check(peer, now); !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", name, err, want)
		}
	}
	expect("at once", noon, nil)
	expect("at its last second", noon.Add(time.Hour), nil)
	expect("after its end", noon.Add(time.Hour+1), mtls.ErrExpired)
	expect("with a clock set back", noon.Add(-time.Hour), mtls.ErrNotYetValid)
	changed := known
	changed.State = registry.Disabled
	w.people.put(changed)
	expect("disabled", noon, mtls.ErrUnknownIdentity)
	changed.State, changed.Keys = registry.Enabled, nil
	w.people.put(changed)
	expect("its keys forgotten", noon, mtls.ErrWrongKey)
	changed.Keys = []registry.KeyHash{hashOf(t, newKey(t))}
	w.people.put(changed)
	expect("another key bound", noon, mtls.ErrWrongKey)
	changed.Keys = append(changed.Keys, known.Keys...)
	w.people.put(changed)
	expect("bound beside another", noon, nil)
	delete(w.people.all, bot)
	expect("deleted", noon, mtls.ErrUnknownIdentity)
	w.people.put(known)

	other := newWorld(t).root
	w.trust(w.root, other)
	expect("a root added", noon, nil)
	w.trust(other)
	expect("its root removed", noon, mtls.ErrUnknownAuthority)
	w.pool = nil
	expect("no roots known", noon, mtls.ErrUnknownAuthority)
	w.trust(w.root)
	expect("its root back", noon, nil)
}

// TestUnknownAndDisabledAreAlike: a caller cannot learn which names are registered.
func TestUnknownAndDisabledAreAlike(t *testing.T) {
	w := newWorld(t)
	peer := state(w.certify(leaf(), w.root, newKey(t))) // a key that is bound to nobody
	known, _ := w.people.Lookup(bot)
	known.State = registry.Disabled
	w.people.put(known)
	_, disabled := w.authenticate(peer, noon)
	delete(w.people.all, bot)
	_, unknown := w.authenticate(peer, noon)
	if disabled == nil || unknown == nil || disabled.Error() != unknown.Error() {
		t.Errorf("disabled: %v; unknown: %v; want the same", disabled, unknown)
	}
}

// TestOverTLS is the real thing, by the cluster's own authority: a handshake, and a resumed session after a revocation.
func TestOverTLS(t *testing.T) {
	now := time.Now()
	ca, err := pki.NewCA(domain, "test", now)
	if err != nil {
		t.Fatal(err)
	}
	request := func(key crypto.Signer) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	clientKey, serverKey := newKey(t), newKey(t)
	client, err := ca.Issue(request(clientKey), bot, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ca.IssueNode(request(serverKey), "n1", []string{"localhost"}, [32]byte{}, now)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate())
	all := &people{all: map[identity.Principal]registry.Identity{}}
	known := registry.Identity{Principal: bot, Keys: []registry.KeyHash{client.Key}, State: registry.Enabled}
	all.put(known)
	authenticator := mtls.New(mtls.Config{TrustDomain: domain, Roots: func() *x509.CertPool { return pool }, Registry: all})

	serverConfig := &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.DER}, PrivateKey: serverKey}},
	}
	clientConfig := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(1),
		Certificates: []tls.Certificate{{Certificate: [][]byte{client.DER}, PrivateKey: clientKey}},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	connect := func() tls.ConnectionState {
		t.Helper()
		accepted := make(chan *tls.Conn, 1)
		go func() {
			defer close(accepted)
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving := tls.Server(conn, serverConfig)
			if _, err := serving.Write([]byte("x")); err == nil { // it brings the session ticket
				accepted <- serving
			}
		}()
		dialled, err := tls.Dial("tcp", listener.Addr().String(), clientConfig)
		if err != nil {
			t.Fatal(err)
		}
		defer dialled.Close()
		if _, err := dialled.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		serving, ok := <-accepted
		if !ok {
			t.Fatal("the server refused the connection")
		}
		defer serving.Close()
		return serving.ConnectionState()
	}
	authenticate := func(state tls.ConnectionState) error {
		peer, err := authenticator.Verify(&state, now)
		if err != nil {
			return err
		}
		_, err = authenticator.Check(peer, now)
		return err
	}
	if err := authenticate(connect()); err != nil {
		t.Fatal(err)
	}
	resumed := connect()
	if !resumed.DidResume {
		t.Fatal("the second connection does not resume the first: it tests nothing")
	}
	if err := authenticate(resumed); err != nil {
		t.Errorf("resumed: %v", err)
	}
	known.Keys = nil
	all.put(known)
	if err := authenticate(connect()); !errors.Is(err, mtls.ErrWrongKey) {
		t.Errorf("resumed after a revocation: %v; want %v", err, mtls.ErrWrongKey)
	}
	pool = x509.NewCertPool()
	clientConfig.RootCAs = x509.NewCertPool()
	clientConfig.RootCAs.AddCert(ca.Certificate())
	if err := authenticate(connect()); !errors.Is(err, mtls.ErrUnknownAuthority) {
		t.Errorf("after the roots changed: %v; want %v", err, mtls.ErrUnknownAuthority)
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	w := newWorld(t)
	peer, err := w.authenticator.Verify(state(w.certify(leaf(), w.root, w.key)), noon)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = w.authenticator.Check(peer, noon) }); n != 0 {
		t.Errorf("a request costs %v allocations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	w := newWorld(b)
	peer, err := w.authenticator.Verify(state(w.certify(leaf(), w.root, w.key)), noon)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.authenticator.Check(peer, noon); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	connection := state(w.certify(leaf(), w.root, w.key))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.authenticator.Verify(connection, noon); err != nil {
			b.Fatal(err)
		}
	}
}
