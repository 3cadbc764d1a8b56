package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// wire carries requests to the endpoint that their context names.
type wire struct {
	config  Config
	network *http.Transport
	sockets map[string]*http.Transport // by path; made once, not changed
}

func newWire(config Config) *wire {
	w := &wire{config: config, network: networkTransport(config), sockets: map[string]*http.Transport{}}
	for _, text := range config.Endpoints {
		if e, err := parseEndpoint(text); err == nil && e.socket != "" {
			w.sockets[e.socket] = socketTransport(config, e.socket)
		}
	}
	return w
}

func networkTransport(config Config) *http.Transport {
	dialer := &net.Dialer{Timeout: config.DialTimeout, KeepAlive: 15 * time.Second}
	return &http.Transport{
		DialContext:           dialer.DialContext,
		TLSClientConfig:       tlsConfig(config),
		TLSHandshakeTimeout:   config.DialTimeout,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		// A dead peer is found by a ping, not by the next caller.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 3 * time.Second, PingTimeout: 2 * time.Second},
	}
}

func socketTransport(config Config, path string) *http.Transport {
	dialer := &net.Dialer{Timeout: config.DialTimeout}
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
		DisableCompression: true,
	}
}

func (w *wire) close() {
	w.network.CloseIdleConnections()
	for _, transport := range w.sockets {
		transport.CloseIdleConnections()
	}
}

// attempt is what is seen of one attempt.
type attempt struct {
	endpoint *endpoint
	sent     atomic.Bool // the request's head went out: from here on it may be done
}

type attemptKey struct{}

// withAttempt binds a context to an endpoint and watches whether the request leaves.
func withAttempt(ctx context.Context, e *endpoint) (context.Context, *attempt) {
	a := &attempt{endpoint: e}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { a.sent.Store(true) },
	})
	return context.WithValue(ctx, attemptKey{}, a), a
}

// Do implements connect.HTTPClient.
func (w *wire) Do(request *http.Request) (*http.Response, error) {
	a, ok := request.Context().Value(attemptKey{}).(*attempt)
	if !ok {
		return nil, errors.New("request without an endpoint")
	}
	target := *request.URL
	target.Scheme, target.Host = a.endpoint.base.Scheme, a.endpoint.base.Host
	request.URL, request.Host = &target, ""
	if request.Context().Value(linearizable{}) != nil {
		request.Header.Set("Warder-Consistency", "linearizable")
	}
	if err := w.authorize(request); err != nil {
		return nil, err
	}
	// RoundTrip follows no redirect: a node that redirects is not one of ours.
	if a.endpoint.socket != "" {
		return w.sockets[a.endpoint.socket].RoundTrip(request)
	}
	return w.network.RoundTrip(request)
}

// noToken is the context key of a call that goes without the token, which is the
// call that gets one.
type noToken struct{}

func (w *wire) authorize(request *http.Request) error {
	if w.config.Token == nil || request.Context().Value(noToken{}) != nil {
		return nil
	}
	token, err := w.config.Token(request.Context())
	if err != nil {
		return fmt.Errorf("get a token: %w", err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

func tlsConfig(config Config) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: config.CA}
	if config.Certificate != nil {
		c.GetClientCertificate = func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return config.Certificate(request.Context())
		}
	}
	if config.TrustDomain != "" {
		// The chain and the SPIFFE ID are checked below instead of the host name, on
		// each handshake, resumed ones too.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(state tls.ConnectionState) error {
			return verifyNode(state.PeerCertificates, config.CA, config.TrustDomain)
		}
	}
	return c
}

// verifyNode accepts a chain to the cluster's CA whose leaf is a node's
// (SPIFFE X.509-SVID, section 5.2: one URI SAN; section 4.4: for servers).
func verifyNode(chain []*x509.Certificate, roots *x509.CertPool, trustDomain string) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: it shows no certificate", errServer)
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("%w: its certificate is not of this cluster: %w", errServer, err)
	}
	if len(chain[0].URIs) != 1 || !isNode(chain[0].URIs[0], trustDomain) {
		return fmt.Errorf("%w: its certificate does not name a node of %s", errServer, trustDomain)
	}
	return nil
}

func isNode(id *url.URL, trustDomain string) bool {
	name, found := strings.CutPrefix(id.Path, "/node/")
	return id.Scheme == "spiffe" && id.Host == trustDomain && found && name != "" && !strings.Contains(name, "/")
}
