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
	"os"
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

func TestOversizeBodyAndHeaders(t *testing.T) {
	r := serve(t, gateway.Config{Limits: gateway.Limits{BodyBytes: 1000, HeaderBytes: 4096}})
	for _, http2 := range []bool{false, true} {
		c := client(t, clientConfig(), http2)
		if resp, body := fetch(t, c, "POST", "https://"+r.address, strings.NewReader(strings.Repeat("x", 1000))); resp.StatusCode != 200 || len(body) != 1000 {
			t.Errorf("http2 %v: body at the limit: %d", http2, resp.StatusCode)
		}
		resp, body := fetch(t, c, "POST", "https://"+r.address, io.MultiReader(strings.NewReader(strings.Repeat("x", 1001))))
		if !strings.Contains(body, "too large") {
			t.Errorf("http2 %v: body beyond the limit: %d %d bytes", http2, resp.StatusCode, len(body))
		}
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+r.address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
		if resp, err := c.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("http2 %v: long headers: %d", http2, resp.StatusCode)
			}
		} else if !http2 {
			t.Errorf("long headers: %v", err)
		}
	}
}

// TestSlowClients: a connection that says nothing, one that stops in its headers and one that stops in its body are
// each ended by the server.
func TestSlowClients(t *testing.T) {
	handled := make(chan error, 1)
	r := serve(t, gateway.Config{
		Limits: gateway.Limits{HeaderTimeout: 100 * time.Millisecond, RequestTimeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond},
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			handled <- err
		}),
	})
	silent, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	wantClosed(t, "no handshake", silent)
	for name, text := range map[string]string{
		"half a header": "GET / HTTP/1.1\r\nHost: x\r\nX-",
		"half a body":   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
		"idle":          "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
	} {
		conn, err := tls.Dial("tcp", r.address, clientConfig())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		wantClosed(t, name, conn)
		conn.Close()
		if name == "half a body" {
			if err := <-handled; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the handler read %v", err)
			}
		} else if name == "idle" {
			if err := <-handled; err != nil {
				t.Errorf("the handler read %v", err)
			}
		}
	}
}

func wantClosed(t *testing.T, name string, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the server did not end the connection", name)
	}
}

func TestSlowHandlerLosesItsContext(t *testing.T) {
	r := serve(t, gateway.Config{
		Limits: gateway.Limits{RequestTimeout: 50 * time.Millisecond},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			fmt.Fprint(w, context.Cause(r.Context()))
		}),
	})
	if _, body := fetch(t, client(t, clientConfig(), false), "GET", "https://"+r.address, nil); body != context.DeadlineExceeded.Error() {
		t.Errorf("answer %q", body)
	}
}

// TestStreamOutlivesTheRequestTimeout, with a body and without one.
func TestStreamOutlivesTheRequestTimeout(t *testing.T) {
	const timeout = 50 * time.Millisecond
	r := serve(t, gateway.Config{
		Limits: gateway.Limits{RequestTimeout: timeout},
		Stream: func(*http.Request) bool { return true },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-time.After(4 * timeout):
				fmt.Fprint(w, "still here")
			case <-r.Context().Done():
			}
		}),
	})
	for _, http2 := range []bool{false, true} {
		for _, body := range []string{"", "x"} {
			if _, text := fetch(t, client(t, clientConfig(), http2), "POST", "https://"+r.address, strings.NewReader(body)); text != "still here" {
				t.Errorf("http2 %v, body %q: %q", http2, body, text)
			}
		}
	}
}

// TestFollowerThatDoesNotRead: a stream may last, but what is sent on it must be taken.
func TestFollowerThatDoesNotRead(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2 %v", http2), func(t *testing.T) {
			ended := make(chan struct{})
			r := serve(t, gateway.Config{
				Limits: gateway.Limits{RequestTimeout: 200 * time.Millisecond},
				Stream: func(*http.Request) bool { return true },
				Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					defer close(ended)
					for piece := make([]byte, 64<<10); ; {
						if _, err := w.Write(piece); err != nil {
							return
						}
						w.(http.Flusher).Flush()
					}
				}),
			})
			resp, err := client(t, clientConfig(), http2).Get("https://" + r.address)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("the stream goes on though nobody reads it")
			}
		})
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	for name, limits := range map[string]gateway.Limits{"total": {Connections: 2}, "one address": {ConnectionsPerAddress: 2}} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, gateway.Config{Limits: limits})
			var open []*tls.Conn
			for range 2 {
				conn, err := tls.Dial("tcp", r.address, clientConfig())
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, conn)
			}
			if conn, err := tls.Dial("tcp", r.address, clientConfig()); err == nil {
				conn.Close()
				t.Error("a third connection is served")
			}
			open[0].Close()
			deadline := time.Now().Add(10 * time.Second)
			for {
				conn, err := tls.Dial("tcp", r.address, clientConfig())
				if err == nil {
					conn.Close()
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the place of a closed connection is not given free")
				}
			}
			open[1].Close()
		})
	}
}

// TestMemoryIsBounded: what one request holds another cannot have, until it ends; its headers count too.
func TestMemoryIsBounded(t *testing.T) {
	came := make(chan struct{})
	whole := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			if _, err := io.ReadFull(r.Body, make([]byte, 60_000)); err != nil {
				t.Error(err)
			}
			came <- struct{}{}
		}
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	for _, http2 := range []bool{false, true} {
		c := client(t, clientConfig(), http2)
		var url string
		begin := func() { // anew: a request may hold its memory for a moment after its answer
			url = "https://" + serve(t, gateway.Config{Handler: whole, Limits: gateway.Limits{Memory: 1 << 20, MemoryPerAddress: 110_000}}).address
		}
		full := func(body io.Reader) bool {
			_, text := fetch(t, c, "POST", url, body)
			return strings.Contains(text, "memory for requests is full")
		}
		begin()
		if full(strings.NewReader(strings.Repeat("x", 90_000))) {
			t.Errorf("http2 %v: what fits is refused", http2)
		}
		begin()
		if !full(strings.NewReader(strings.Repeat("x", 100_000))) {
			t.Errorf("http2 %v: one request holds more than its address may", http2)
		}
		begin()
		reader, writer := io.Pipe()
		first := make(chan struct{})
		go func() {
			defer close(first)
			if resp, err := c.Post(url+"/slow", "text/plain", reader); err == nil {
				resp.Body.Close()
			}
		}()
		if _, err := writer.Write(make([]byte, 60_000)); err != nil {
			t.Fatal(err)
		}
		<-came
		if !full(strings.NewReader(strings.Repeat("x", 60_000))) {
			t.Errorf("http2 %v: two hold more than their address may", http2)
		}
		if full(strings.NewReader("small")) {
			t.Errorf("http2 %v: a small request finds no room", http2)
		}
		writer.Close()
		<-first
		for deadline := time.Now().Add(10 * time.Second); full(strings.NewReader(strings.Repeat("x", 60_000))); {
			if time.Now().After(deadline) {
				t.Fatalf("http2 %v: what a request held is not given back", http2)
			}
		}
	}
	r := serve(t, gateway.Config{Handler: whole, Limits: gateway.Limits{MemoryPerAddress: 20_000}})
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+r.address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", 10_000))
	resp, err := client(t, clientConfig(), true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "memory for requests is full") {
		t.Errorf("long headers: %d %q %v", resp.StatusCode, text, err)
	}
}

// TestFramesAreBounded: the server makes room for a frame before it looks at it, so it must not take one of any size.
func TestFramesAreBounded(t *testing.T) {
	r := serve(t, gateway.Config{})
	conn, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // as above
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	unknown := "\x00\x40\x01\xfa\x00\x00\x00\x00\x00" // the head of one of 16 KiB and a byte, of which nothing follows
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settings+unknown); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(4 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for head := make([]byte, 9); ; {
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(conn, payload); err != nil {
			t.Fatal(err)
		}
		if head[3] == 7 { // GOAWAY
			if len(payload) < 8 || payload[7] != 6 { // FRAME_SIZE_ERROR (RFC 9113, section 7)
				t.Errorf("GOAWAY with %x", payload)
			}
			return
		}
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
