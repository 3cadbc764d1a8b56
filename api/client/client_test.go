package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warder/api/client"
	"warder/api/codec"
	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
	"warder/api/warder/v1/warderv1connect"
)

const trustDomain = "warder.test"

// authority is a certificate authority for one test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{key: key, cert: cert, pool: pool}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) issue(t *testing.T, spiffe string, notAfter time.Time) tls.Certificate {
	t.Helper()
	id, err := url.Parse(spiffe)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{id}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// node is a fake node: what it answers can be changed while it runs.
type node struct {
	warderv1connect.UnimplementedSystemServiceHandler
	warderv1connect.UnimplementedPolicyServiceHandler
	warderv1connect.UnimplementedTokenServiceHandler
	calls  atomic.Int64
	answer atomic.Pointer[func(context.Context) error]
	server *httptest.Server
	heads  chan http.Header
}

func (n *node) handle(ctx context.Context) error {
	n.calls.Add(1)
	if answer := n.answer.Load(); answer != nil {
		return (*answer)(ctx)
	}
	return nil
}

func (n *node) set(answer func(context.Context) error) { n.answer.Store(&answer) }

func (n *node) refuse(why warderv1.Reason) {
	n.set(func(context.Context) error { return reason.New(why, "the test says so") })
}

func (n *node) GetStatus(ctx context.Context, _ *warderv1.GetStatusRequest) (*warderv1.GetStatusResponse, error) {
	if err := n.handle(ctx); err != nil {
		return nil, err
	}
	return &warderv1.GetStatusResponse{NodeId: n.server.URL}, nil
}

// PutPolicy stands for a change that cannot be repeated.
func (n *node) PutPolicy(ctx context.Context, _ *warderv1.PutPolicyRequest) (*warderv1.PutPolicyResponse, error) {
	return &warderv1.PutPolicyResponse{}, n.handle(ctx)
}

func (n *node) IssueToken(context.Context, *warderv1.IssueTokenRequest) (*warderv1.IssueTokenResponse, error) {
	n.calls.Add(1)
	return &warderv1.IssueTokenResponse{Token: "token-1", ExpiresAt: timestamppb.New(time.Now().Add(time.Minute))}, nil
}

func (n *node) mux() http.Handler {
	mux := http.NewServeMux()
	options := codec.HandlerOptions(1 << 20)
	mux.Handle(warderv1connect.NewSystemServiceHandler(n, options...))
	mux.Handle(warderv1connect.NewPolicyServiceHandler(n, options...))
	mux.Handle(warderv1connect.NewTokenServiceHandler(n, options...))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case n.heads <- r.Header.Clone():
		default:
		}
		mux.ServeHTTP(w, r)
	})
}

func newNode(t *testing.T, ca *authority) *node {
	t.Helper()
	n := &node{heads: make(chan http.Header, 64)}
	n.server = httptest.NewUnstartedServer(n.mux())
	n.server.EnableHTTP2 = true
	n.server.TLS = &tls.Config{
		Certificates: []tls.Certificate{ca.issue(t, "spiffe://"+trustDomain+"/node/n1", time.Now().Add(time.Hour))},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ca.pool,
	}
	n.server.Config.ErrorLog = nil
	n.server.StartTLS()
	t.Cleanup(n.server.Close)
	return n
}

func dial(t *testing.T, ca *authority, change func(*client.Config), nodes ...*node) *client.Client {
	t.Helper()
	config := client.Config{
		CA: ca.pool, TrustDomain: trustDomain, Timeout: 3 * time.Second,
		Certificate: client.StaticCertificate(ca.issue(t, "spiffe://"+trustDomain+"/ns/a/workload/bot", time.Now().Add(time.Hour))),
	}
	for _, n := range nodes {
		config.Endpoints = append(config.Endpoints, n.server.URL)
	}
	if change != nil {
		change(&config)
	}
	c, err := client.Dial(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func status(t *testing.T, c *client.Client) (string, error) {
	t.Helper()
	reply, err := c.System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
	return reply.GetNodeId(), err
}

func TestStaysWithWhoAnswers(t *testing.T) {
	ca := newAuthority(t)
	first, second := newNode(t, ca), newNode(t, ca)
	c := dial(t, ca, nil, first, second)
	first.refuse(warderv1.Reason_REASON_NO_LEADER)
	for range 3 {
		if got, err := status(t, c); err != nil || got != second.server.URL {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if first.calls.Load() != 1 || second.calls.Load() != 3 {
		t.Errorf("calls: %d and %d, want 1 and 3", first.calls.Load(), second.calls.Load())
	}
}

func TestEndpointDown(t *testing.T) {
	ca := newAuthority(t)
	first, second := newNode(t, ca), newNode(t, ca)
	c := dial(t, ca, nil, first, second)
	first.server.Close()
	if got, err := status(t, c); err != nil || got != second.server.URL {
		t.Fatalf("got %q, %v", got, err)
	}
	second.server.Close()
	c = dial(t, ca, nil, first, second) // on a connection that was open, the change might have left
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Policies.PutPolicy(ctx, &warderv1.PutPolicyRequest{})
	if !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("got %v, want ErrUnreachable", err)
	}
}

func TestRefusalsThatAreFinal(t *testing.T) {
	ca := newAuthority(t)
	first, second := newNode(t, ca), newNode(t, ca)
	c := dial(t, ca, nil, first, second)
	for _, why := range []warderv1.Reason{warderv1.Reason_REASON_PERMISSION_DENIED, warderv1.Reason_REASON_NOT_FOUND, warderv1.Reason_REASON_INTERNAL} {
		first.calls.Store(0)
		first.refuse(why)
		_, err := status(t, c)
		if client.Reason(err) != why || !errors.Is(err, client.ReasonError(why)) || first.calls.Load() != 1 || second.calls.Load() != 0 {
			t.Errorf("%s: got %v after %d and %d calls", why, err, first.calls.Load(), second.calls.Load())
		}
	}
}

// TestStaysWithWhoRefuses: a refusal is an answer too.
func TestStaysWithWhoRefuses(t *testing.T) {
	ca := newAuthority(t)
	first, second := newNode(t, ca), newNode(t, ca)
	c := dial(t, ca, nil, first, second)
	first.refuse(warderv1.Reason_REASON_STALE)
	second.refuse(warderv1.Reason_REASON_NOT_FOUND)
	for range 3 {
		if _, err := status(t, c); !errors.Is(err, client.ErrNotFound) {
			t.Fatalf("got %v", err)
		}
	}
	if first.calls.Load() != 1 || second.calls.Load() != 3 {
		t.Errorf("calls: %d and %d, want 1 and 3", first.calls.Load(), second.calls.Load())
	}
}

// TestEveryNodeSealed: what another node could do is asked of each node once.
func TestEveryNodeSealed(t *testing.T) {
	ca := newAuthority(t)
	first, second := newNode(t, ca), newNode(t, ca)
	c := dial(t, ca, nil, first, second)
	first.refuse(warderv1.Reason_REASON_SEALED)
	second.refuse(warderv1.Reason_REASON_SEALED)
	_, err := status(t, c)
	if !errors.Is(err, client.ErrSealed) || first.calls.Load() != 1 || second.calls.Load() != 1 {
		t.Errorf("got %v after %d and %d calls", err, first.calls.Load(), second.calls.Load())
	}
}

func TestLostAnswer(t *testing.T) {
	ca := newAuthority(t)
	first, second := newNode(t, ca), newNode(t, ca)
	c := dial(t, ca, nil, first, second)
	first.set(func(context.Context) error { panic(http.ErrAbortHandler) })
	if got, err := status(t, c); err != nil || got != second.server.URL {
		t.Errorf("an idempotent call: got %q, %v", got, err)
	}
	second.set(func(context.Context) error { panic(http.ErrAbortHandler) })
	first.calls.Store(0)
	second.calls.Store(0)
	_, err := c.Policies.PutPolicy(t.Context(), &warderv1.PutPolicyRequest{})
	if !errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("a change: got %v, want ErrOutcomeUnknown", err)
	}
	if calls := first.calls.Load() + second.calls.Load(); calls != 1 {
		t.Errorf("the change was sent %d times", calls)
	}
}

// TestChangeIsRepeatedWhenNotDone: the reason says that nothing was done.
func TestChangeIsRepeatedWhenNotDone(t *testing.T) {
	ca := newAuthority(t)
	first := newNode(t, ca)
	c := dial(t, ca, nil, first)
	first.set(func(context.Context) error {
		if first.calls.Load() < 4 {
			return reason.New(warderv1.Reason_REASON_NO_LEADER, "no leader")
		}
		return nil
	})
	if _, err := c.Policies.PutPolicy(t.Context(), &warderv1.PutPolicyRequest{}); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestNodeThatHangs(t *testing.T) {
	ca := newAuthority(t)
	first, second := newNode(t, ca), newNode(t, ca)
	c := dial(t, ca, func(config *client.Config) { config.AttemptTimeout = 100 * time.Millisecond }, first, second)
	first.set(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	if got, err := status(t, c); err != nil || got != second.server.URL {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRateLimitIsWaitedFor(t *testing.T) {
	ca := newAuthority(t)
	first, second := newNode(t, ca), newNode(t, ca)
	c := dial(t, ca, nil, first, second)
	const pause = 60 * time.Millisecond
	first.set(func(context.Context) error {
		if first.calls.Load() > 1 {
			return nil
		}
		return reason.With(&warderv1.ErrorInfo{Reason: warderv1.Reason_REASON_RATE_LIMITED, RetryAfter: durationpb.New(pause)}, "slow down")
	})
	began := time.Now()
	if got, err := status(t, c); err != nil || got != first.server.URL || time.Since(began) < pause {
		t.Errorf("got %q, %v after %s", got, err, time.Since(began))
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	ca := newAuthority(t)
	first := newNode(t, ca)
	c := dial(t, ca, func(config *client.Config) { config.Retry.Attempts = 3 }, first)
	first.refuse(warderv1.Reason_REASON_OVERLOADED)
	_, err := status(t, c)
	var failure *client.Error
	if !errors.As(err, &failure) || failure.Attempts != 3 || first.calls.Load() != 3 || failure.Hint == "" {
		t.Errorf("got %v after %d calls", err, first.calls.Load())
	}
}

func TestServerIsVerified(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	n := newNode(t, ca)
	tests := map[string]func(*client.Config){
		"another CA":           func(c *client.Config) { c.CA = other.pool },
		"another trust domain": func(c *client.Config) { c.TrustDomain = "other.test" },
		"by host name":         func(c *client.Config) { c.TrustDomain = "" },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := status(t, dial(t, ca, change, n))
			if !errors.Is(err, client.ErrUnreachable) || n.calls.Load() != 0 {
				t.Errorf("got %v after %d calls", err, n.calls.Load())
			}
			var failure *client.Error
			if errors.As(err, &failure) && failure.Attempts != 1 {
				t.Errorf("a server that is not trusted was tried %d times", failure.Attempts)
			}
		})
	}
}

func TestOwnCertificateIsRefused(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	n := newNode(t, ca)
	const id = "spiffe://" + trustDomain + "/ns/a/workload/bot"
	tests := map[string]struct {
		certificate func(context.Context) (*tls.Certificate, error)
		want        warderv1.Reason
	}{
		"none":       {nil, warderv1.Reason_REASON_UNAUTHENTICATED},
		"expired":    {client.StaticCertificate(ca.issue(t, id, time.Now().Add(-time.Hour))), warderv1.Reason_REASON_CERTIFICATE_EXPIRED},
		"another CA": {client.StaticCertificate(other.issue(t, id, time.Now().Add(time.Hour))), warderv1.Reason_REASON_CERTIFICATE_UNKNOWN},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := status(t, dial(t, ca, func(c *client.Config) { c.Certificate = test.certificate }, n))
			if got := client.Reason(err); got != test.want {
				t.Errorf("got %v (%v), want %v", got, err, test.want)
			}
		})
	}
}

func TestUnixSocket(t *testing.T) {
	n := &node{heads: make(chan http.Header, 1)}
	n.server = &httptest.Server{URL: "local"}
	path := filepath.Join(t.TempDir(), "warder.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: n.mux(), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	c, err := client.Dial(client.Config{Endpoints: []string{"unix://" + path}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if got, err := status(t, c); err != nil || got != "local" {
		t.Errorf("got %q, %v", got, err)
	}
	if head := <-n.heads; head.Get("Accept-Encoding") == "gzip" || head.Get("Content-Encoding") != "" {
		t.Errorf("the client offers compression: %v", head)
	}
}

func TestAtOneEndpoint(t *testing.T) {
	ca := newAuthority(t)
	first, second := newNode(t, ca), newNode(t, ca)
	c := dial(t, ca, nil, first, second)
	for _, n := range []*node{second, first, second} {
		reply, err := c.System.GetStatus(client.At(t.Context(), n.server.URL), &warderv1.GetStatusRequest{})
		if err != nil || reply.GetNodeId() != n.server.URL {
			t.Errorf("got %q, %v", reply.GetNodeId(), err)
		}
	}
	if _, err := c.System.GetStatus(client.At(t.Context(), "https://elsewhere:1"), &warderv1.GetStatusRequest{}); err == nil {
		t.Error("an endpoint that is not the client's was taken")
	}
}

func TestTokenSource(t *testing.T) {
	ca := newAuthority(t)
	n := newNode(t, ca)
	issuer := dial(t, ca, nil, n)
	source := client.NewTokenSource(issuer, nil, time.Minute)
	c := dial(t, ca, func(config *client.Config) { config.Token = source.Token }, n)
	var callers sync.WaitGroup
	for range 3 {
		callers.Go(func() {
			if _, err := status(t, c); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if n.calls.Load() != 4 {
		t.Errorf("%d calls, want 3 and one for the token", n.calls.Load())
	}
	with := 0
	for range 4 {
		if head := <-n.heads; head.Get("Authorization") == "Bearer token-1" {
			with++
		}
	}
	if with != 3 {
		t.Errorf("%d calls had the token, want 3", with)
	}
}

func TestConfigIsChecked(t *testing.T) {
	bad := []client.Config{
		{},
		{Endpoints: []string{"https://a:1"}},
		{Endpoints: []string{"http://a:1"}, CA: x509.NewCertPool()},
		{Endpoints: []string{"https://a:1/path"}, CA: x509.NewCertPool()},
		{Endpoints: []string{"https://user@a:1"}, CA: x509.NewCertPool()},
		{Endpoints: []string{"unix://relative"}},
		{Endpoints: []string{"://"}},
	}
	for _, config := range bad {
		if _, err := client.Dial(config); err == nil || !strings.HasPrefix(err.Error(), "dial: ") {
			t.Errorf("%q: got %v", config.Endpoints, err)
		}
	}
}

func FuzzDial(f *testing.F) {
	for _, seed := range []string{"https://a:1", "unix:///a", "https://[::1]:8200/", "https://a?b", "unix://a/b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		c, err := client.Dial(client.Config{Endpoints: []string{endpoint}, CA: x509.NewCertPool()})
		if err == nil && !strings.HasPrefix(endpoint, "https://") && !strings.HasPrefix(endpoint, "unix:///") {
			t.Errorf("endpoint %q was taken", endpoint)
		}
		if err == nil {
			c.Close()
		}
	})
}
