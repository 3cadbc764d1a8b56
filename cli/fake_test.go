package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"warder/api/codec"
	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
	"warder/api/warder/v1/warderv1connect"
)

const trustDomain = "warder.test"

// fake is a node that keeps what it is told in memory and checks what it is sent
// as the real one does. mu guards every map.
type fake struct {
	warderv1connect.UnimplementedSystemServiceHandler
	warderv1connect.UnimplementedIdentityServiceHandler
	warderv1connect.UnimplementedPolicyServiceHandler
	warderv1connect.UnimplementedCredentialServiceHandler
	warderv1connect.UnimplementedKeyServiceHandler
	warderv1connect.UnimplementedDeviceServiceHandler
	warderv1connect.UnimplementedTokenServiceHandler

	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	audit  *fakeAudit
	server *httptest.Server
	behind atomic.Int32 // how many more times GetStatus says that the node does not serve yet

	mu          sync.Mutex
	policies    map[string]*warderv1.Policy
	identities  map[string]*warderv1.Identity
	credentials map[string]*stored
	keys        map[string]*ecdsa.PrivateKey
	rotations   int
	tokens      int
}

type stored struct {
	facts  *warderv1.Credential
	fields []*warderv1.SecretField
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{
		policies: map[string]*warderv1.Policy{}, identities: map[string]*warderv1.Identity{},
		credentials: map[string]*stored{}, keys: map[string]*ecdsa.PrivateKey{},
	}
	f.caKey, f.ca = newCA(t)
	f.audit = newFakeAudit(t)
	f.server = httptest.NewUnstartedServer(f.handler(t, false))
	pool := x509.NewCertPool()
	pool.AddCert(f.ca)
	nodeKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	f.server.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{f.sign(t, nodeKey.Public(), "/node/n1")}, PrivateKey: nodeKey}},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: pool,
	}
	f.server.EnableHTTP2 = true
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newCA(t testing.TB) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	ca, err := x509.ParseCertificate(der)
	must(t, err)
	return key, ca
}

func (f *fake) sign(t testing.TB, public any, path string) []byte {
	der, err := f.certify(public, path)
	if t != nil {
		must(t, err)
	}
	return der
}

func (f *fake) certify(public any, path string) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: path}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	return x509.CreateCertificate(rand.Reader, template, f.ca, public, f.caKey)
}

func (f *fake) caPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ca.Raw}))
}

// fromCSR certifies a request's key, as the real node does.
func (f *fake) fromCSR(csr []byte, path string) (*warderv1.Certificate, error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil || request.CheckSignature() != nil {
		return nil, reason.New(warderv1.Reason_REASON_INVALID_ARGUMENT, "csr: does not prove possession of its key")
	}
	der, err := f.certify(request.PublicKey, path)
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return &warderv1.Certificate{ChainPem: string(chain), CaCertificatePem: f.caPEM(), Serial: "7"}, err
}

// serveSocket serves the node on its local socket.
func (f *fake) serveSocket(t testing.TB, path string) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	must(t, err)
	server := &http.Server{Handler: f.handler(t, true), ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
}

// serveMetrics serves a metrics page and returns its address.
func serveMetrics(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 12.5\n")
	}))
	t.Cleanup(server.Close)
	return server.URL + "/metrics"
}

func (f *fake) handler(t testing.TB, local bool) http.Handler {
	t.Helper()
	checker, err := codec.NewChecker()
	must(t, err)
	options := append(codec.HandlerOptions(1<<20), connect.WithInterceptors(checker.Interceptor()))
	mux := http.NewServeMux()
	mux.Handle(warderv1connect.NewSystemServiceHandler(f, options...))
	mux.Handle(warderv1connect.NewClusterServiceHandler(fakeCluster{fake: f}, options...))
	mux.Handle(warderv1connect.NewIdentityServiceHandler(f, options...))
	mux.Handle(warderv1connect.NewPolicyServiceHandler(f, options...))
	mux.Handle(warderv1connect.NewCredentialServiceHandler(f, options...))
	mux.Handle(warderv1connect.NewKeyServiceHandler(f, options...))
	mux.Handle(warderv1connect.NewDeviceServiceHandler(f, options...))
	mux.Handle(warderv1connect.NewTokenServiceHandler(f, options...))
	mux.Handle(warderv1connect.NewAuditServiceHandler(f.audit, options...))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		enrol := strings.HasSuffix(r.URL.Path, "/EnrolDevice")
		if !local && !enrol && len(r.TLS.PeerCertificates) == 0 {
			refuse := reason.New(warderv1.Reason_REASON_UNAUTHENTICATED, "no client certificate")
			_ = connect.NewErrorWriter().Write(w, r, refuse)
			return
		}
		ctx := r.Context()
		if !local && len(r.TLS.PeerCertificates) > 0 {
			ctx = context.WithValue(ctx, callerKey{}, r.TLS.PeerCertificates[0].URIs[0].Path)
		}
		mux.ServeHTTP(w, r.WithContext(context.WithValue(ctx, tokenKey{}, r.Header.Get("Authorization"))))
	})
}

type (
	callerKey struct{}
	tokenKey  struct{}
)

// needToken refuses a workload's or a device's call without a token.
func needToken(ctx context.Context) error {
	caller, _ := ctx.Value(callerKey{}).(string)
	if strings.Contains(caller, "/operator/") || ctx.Value(tokenKey{}) == "Bearer token-of-the-fake" {
		return nil
	}
	return reason.New(warderv1.Reason_REASON_UNAUTHENTICATED, "a token is needed")
}

func notFound(what string) error {
	return reason.With(&warderv1.ErrorInfo{Reason: warderv1.Reason_REASON_NOT_FOUND, IncidentId: "i-42"}, what+" does not exist")
}
