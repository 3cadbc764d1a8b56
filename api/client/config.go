package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Config says whom to call, and how. Endpoints is the one field that is always
// needed; CA is needed for https endpoints.
type Config struct {
	// Endpoints are the nodes: https://host:port, or unix:///path for the local
	// socket. The first is tried first. At most 64.
	Endpoints []string
	// CA holds the cluster's own authority. The system's authorities are never used.
	CA *x509.CertPool
	// TrustDomain, when set, makes the client accept a server by its SPIFFE ID
	// spiffe://<TrustDomain>/node/<id> instead of by host name, so that a node can
	// be reached under any address.
	TrustDomain string
	// Certificate gives the caller's certificate for each new connection; nil for
	// none. It may read it again, so that a renewed one is used.
	Certificate func(context.Context) (*tls.Certificate, error)
	// Token gives a token for each call; nil for none. See TokenSource.
	Token func(context.Context) (string, error)
	// Timeout bounds a call whose context has no deadline. Default 10 s.
	Timeout time.Duration
	// AttemptTimeout bounds one attempt of an idempotent call, so that a node that
	// hangs does not use up the whole time. Default 3 s.
	AttemptTimeout time.Duration
	// DialTimeout bounds making a connection. Default 2 s.
	DialTimeout time.Duration
	// MaxResponse bounds an answer in bytes. Default 8 MiB.
	MaxResponse int
	// Retry says how to try again.
	Retry Retry
}

// Retry says how often and how fast to try again.
type Retry struct {
	// Attempts bounds the attempts of one call, the first included. 0: until the deadline.
	Attempts int
	// Base is the first wait after every endpoint was tried once. Default 25 ms.
	Base time.Duration
	// Max bounds the wait, which doubles each time and is jittered. Default 400 ms.
	Max time.Duration
}

// StaticCertificate is the Certificate of a caller whose certificate does not change.
func StaticCertificate(certificate tls.Certificate) func(context.Context) (*tls.Certificate, error) {
	return func(context.Context) (*tls.Certificate, error) { return &certificate, nil }
}

func (c Config) withDefaults() Config {
	orDuration(&c.Timeout, 10*time.Second)
	orDuration(&c.AttemptTimeout, 3*time.Second)
	orDuration(&c.DialTimeout, 2*time.Second)
	orDuration(&c.Retry.Base, 25*time.Millisecond)
	orDuration(&c.Retry.Max, 400*time.Millisecond)
	if c.MaxResponse == 0 {
		c.MaxResponse = 8 << 20
	}
	return c
}

func orDuration(value *time.Duration, otherwise time.Duration) {
	if *value == 0 {
		*value = otherwise
	}
}

// endpoints parses the endpoints.
func (c Config) endpoints() ([]*endpoint, error) {
	if len(c.Endpoints) == 0 || len(c.Endpoints) > 64 {
		return nil, fmt.Errorf("%d endpoints given: name between 1 and 64", len(c.Endpoints))
	}
	var all []*endpoint
	for _, text := range c.Endpoints {
		parsed, err := parseEndpoint(text)
		if err != nil {
			return nil, fmt.Errorf("endpoint %q: %w", text, err)
		}
		if parsed.secure && c.CA == nil {
			return nil, fmt.Errorf("endpoint %q: no CA certificate given: give the cluster's own", text)
		}
		all = append(all, parsed)
	}
	return all, nil
}

// endpoint is one place to call. It is immutable.
type endpoint struct {
	text   string
	base   *url.URL
	socket string // the unix socket's path; empty for the network
	secure bool
}

func parseEndpoint(text string) (*endpoint, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("does not parse: write https://host:port or unix:///path")
	}
	switch {
	case strings.HasPrefix(text, "unix:///") && parsed.Host == "" && len(parsed.Path) > 1:
		return &endpoint{text: text, socket: parsed.Path, base: &url.URL{Scheme: "http", Host: "warder.local"}}, nil
	case strings.HasPrefix(text, "https://") && parsed.Host != "" && bare(parsed):
		return &endpoint{text: text, secure: true, base: &url.URL{Scheme: "https", Host: parsed.Host}}, nil
	}
	return nil, errors.New("is not of the form https://host:port or unix:///path")
}

// bare tells whether a URL is a place only: no user, path, query or fragment.
func bare(u *url.URL) bool {
	return u.User == nil && (u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.Fragment == ""
}
