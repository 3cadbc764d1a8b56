package gateway_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"warder/daemon/gateway"
)

func certificate(t testing.TB, name string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// running is a gateway under test.
type running struct {
	address string
	log     *lockedBuffer
	stop    func() error // ends Run and gives what it returned
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t *testing.T, cfg gateway.Config) *running {
	t.Helper()
	if cfg.Addresses == nil {
		cfg.Addresses = []string{"127.0.0.1:0"}
	}
	if cfg.Certificate == nil {
		own := certificate(t, "server")
		cfg.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own, nil }
	}
	if cfg.Handler == nil {
		cfg.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(w, r.Body); err != nil {
				http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			}
		})
	}
	log := &lockedBuffer{}
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g, err := gateway.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	r := &running{log: log, stop: stop}
	if addresses := g.Addresses(); len(addresses) > 0 {
		r.address = addresses[0].String()
	}
	return r
}

func clientConfig() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the server's certificate is not what is tested
}

func client(t testing.TB, cfg *tls.Config, http2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: http2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func fetch(t testing.TB, c *http.Client, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func TestProtocols(t *testing.T) {
	r := serve(t, gateway.Config{})
	for name, c := range map[string]struct {
		http2 bool
		proto string
	}{"http/1.1": {false, "HTTP/1.1"}, "h2": {true, "HTTP/2.0"}} {
		resp, body := fetch(t, client(t, clientConfig(), c.http2), "POST", "https://"+r.address+"/x", strings.NewReader("hello"))
		if resp.Proto != c.proto || body != "hello" || resp.TLS.Version != tls.VersionTLS13 {
			t.Errorf("%s: %s, %q, TLS %x", name, resp.Proto, body, resp.TLS.Version)
		}
		if id := resp.Header.Get(gateway.RequestHeader); len(id) != 26 {
			t.Errorf("%s: request id %q", name, id)
		}
	}
}

func TestTLSVersions(t *testing.T) {
	for _, c := range []struct {
		least, client uint16
		ok            bool
	}{
		{0, tls.VersionTLS10, false}, {0, tls.VersionTLS11, false}, {0, tls.VersionTLS12, true}, {0, tls.VersionTLS13, true},
		{tls.VersionTLS13, tls.VersionTLS12, false}, {tls.VersionTLS13, tls.VersionTLS13, true},
	} {
		r := serve(t, gateway.Config{MinVersion: c.least})
		cfg := clientConfig()
		cfg.MinVersion, cfg.MaxVersion = c.client, c.client
		conn, err := tls.Dial("tcp", r.address, cfg)
		if err == nil {
			conn.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("least %x, client %x: %v", c.least, c.client, err)
		}
	}
	if _, err := gateway.Open(gateway.Config{Addresses: []string{"127.0.0.1:0"}, Handler: http.NotFoundHandler(), MinVersion: tls.VersionTLS11,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }}); err == nil {
		t.Error("TLS 1.1 can be configured")
	}
}

// TestClientCertificateIsAskedForNotJudged: without one the request arrives, with one its key was proved; what it is
// worth is decided behind the gateway. A resumed session still carries it.
func TestClientCertificateIsAskedForNotJudged(t *testing.T) {
	r := serve(t, gateway.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if certificates := r.TLS.PeerCertificates; len(certificates) > 0 {
			name = certificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s %v", name, r.TLS.DidResume)
	})})
	if _, body := fetch(t, client(t, clientConfig(), false), "GET", "https://"+r.address, nil); body != "nobody false" {
		t.Errorf("without a certificate: %s", body)
	}
	cfg := clientConfig()
	cfg.Certificates = []tls.Certificate{*certificate(t, "bot")}
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	c := client(t, cfg, false)
	if _, body := fetch(t, c, "GET", "https://"+r.address, nil); body != "bot false" {
		t.Errorf("with a certificate: %s", body)
	}
	c.CloseIdleConnections()
	if _, body := fetch(t, c, "GET", "https://"+r.address, nil); body != "bot true" {
		t.Errorf("resumed: %s", body)
	}
	stolen := *certificate(t, "bot")
	stolen.PrivateKey = certificate(t, "thief").PrivateKey
	cfg = clientConfig()
	cfg.Certificates = []tls.Certificate{stolen}
	if resp, err := client(t, cfg, false).Get("https://" + r.address); err == nil {
		resp.Body.Close()
		t.Error("a certificate without its key got through")
	}
}

func TestRenewedCertificateIsUsedAtOnce(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	current.Store(certificate(t, "first"))
	r := serve(t, gateway.Config{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }})
	for _, name := range []string{"first", "second"} {
		conn, err := tls.Dial("tcp", r.address, clientConfig())
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; got != name {
			t.Errorf("certificate of %s, want %s", got, name)
		}
		conn.Close()
		current.Store(certificate(t, "second"))
	}
}

func TestPanicGivesAnIncident(t *testing.T) {
	const canary = "a-secret-in-a-panic"
	r := serve(t, gateway.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/value":
			panic(errors.New(canary))
		case "/late":
			_, _ = io.WriteString(w, "half")
			panic("late")
		}
		var none []int
		_ = none[len(r.URL.Path)]
	})})
	c := client(t, clientConfig(), false)
	for _, path := range []string{"/value", "/index"} {
		resp, body := fetch(t, c, "GET", "https://"+r.address+path, nil)
		id := resp.Header.Get(gateway.RequestHeader)
		if resp.StatusCode != 500 || !strings.Contains(body, "incident "+id) || !strings.Contains(r.log.String(), "incident="+id) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	if strings.Contains(r.log.String(), canary) {
		t.Error("the log holds what was panicked with")
	}
	if !strings.Contains(r.log.String(), "index out of range") {
		t.Error("the log does not hold the runtime's own message")
	}
	if resp, err := c.Get("https://" + r.address + "/late"); err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Error("half an answer looks whole")
		}
	}
}

func TestHealth(t *testing.T) {
	var sealed atomic.Bool
	sealed.Store(true)
	r := serve(t, gateway.Config{Ready: func() error {
		if sealed.Load() {
			return errors.New("the node is sealed")
		}
		return nil
	}})
	c := client(t, clientConfig(), false)
	want := func(method, path string, status int, text string) {
		t.Helper()
		if resp, body := fetch(t, c, method, "https://"+r.address+path, nil); resp.StatusCode != status || !strings.Contains(body, text) {
			t.Errorf("%s %s: %d %q", method, path, resp.StatusCode, body)
		}
	}
	want("GET", "/healthz", 200, "ok")
	want("GET", "/readyz", 503, "the node is sealed")
	sealed.Store(false)
	want("GET", "/readyz", 200, "ok")
	want("POST", "/readyz", 405, "")
}

// TestStopLetsRequestsFinish: a request in flight is answered, a stream is ended, and a request that does not come
// to its end is cut off at the deadline.
func TestStopLetsRequestsFinish(t *testing.T) {
	arrived, release := make(chan string, 3), make(chan struct{})
	r := serve(t, gateway.Config{
		Limits: gateway.Limits{ShutdownTimeout: 300 * time.Millisecond},
		Stream: func(r *http.Request) bool { return r.URL.Path == "/stream" },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			arrived <- r.URL.Path
			switch r.URL.Path {
			case "/stream":
				<-r.Context().Done()
			case "/short":
				<-release
			case "/stuck":
				<-r.Context().Done()
			}
			_, _ = io.WriteString(w, "done")
		}),
	})
	answers := map[string]chan string{}
	for _, path := range []string{"/stream", "/short", "/stuck"} {
		answers[path] = make(chan string, 1)
		go func() {
			resp, err := client(t, clientConfig(), false).Get("https://" + r.address + path)
			if err != nil {
				answers[path] <- "cut"
				return
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			answers[path] <- string(body)
		}()
		<-arrived
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	if got := <-answers["/stream"]; got != "done" {
		t.Errorf("stream: %s", got)
	}
	close(release)
	for path, want := range map[string]string{"/short": "done", "/stuck": "cut"} {
		if got := <-answers[path]; got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
