package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	handshakeTime = 5 * time.Second
	keepAlive     = 15 * time.Second
)

// TLS says who this node is and whom it accepts. The functions are called for every connection, so that a
// renewed certificate and changed roots take effect without a restart; they must be safe for concurrent use.
type TLS struct {
	Certificate func() *tls.Certificate                       // this node's, with its key
	Roots       func() *x509.CertPool                         // of the cluster's CA; nil refuses everyone
	Admit       func(id string, cert *x509.Certificate) error // a further check of a verified peer; may be nil
}

// tcp is a Network over TCP and TLS 1.3.
type tcp struct {
	listener net.Listener
	tls      TLS
	logger   *slog.Logger
	accepted chan Stream
	closed   chan struct{}
	running  sync.WaitGroup
	ending   context.Context //nolint:containedctx // ends handshakes at Close
	end      context.CancelFunc

	mu      sync.Mutex // guards streams and over
	streams map[net.Conn]string
	over    bool
}

// Listen gives a network that accepts on listener, which it owns from now on.
func Listen(listener net.Listener, auth TLS, logger *slog.Logger) (Network, error) {
	if auth.Certificate == nil || auth.Roots == nil {
		return nil, errors.New("transport needs a certificate and roots")
	}
	t := &tcp{listener: listener, tls: auth, logger: logger, accepted: make(chan Stream),
		closed: make(chan struct{}), streams: map[net.Conn]string{}}
	t.ending, t.end = context.WithCancel(context.Background())
	t.running.Go(t.listen)
	return t, nil
}

func (t *tcp) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true}
}

func (t *tcp) own() (*tls.Certificate, error) {
	if cert := t.tls.Certificate(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("this node has no certificate")
}

// Dial verifies the peer by verifyPeer in place of the standard library's check, which would ask for a host name.
func (t *tcp) Dial(ctx context.Context, id, addr string, protocol Protocol) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conf := t.config()
	conf.InsecureSkipVerify = true // VerifyConnection does more
	conf.NextProtos = []string{string(protocol)}
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.own() }
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		peer, err := t.tls.verifyPeer(state, x509.ExtKeyUsageServerAuth)
		if err == nil && peer != id {
			err = fmt.Errorf("node %s answers in the place of %s: %w", peer, id, ErrPeer)
		}
		if err == nil && state.NegotiatedProtocol != string(protocol) {
			err = fmt.Errorf("node %s does not speak %s: %w", id, protocol, ErrPeer)
		}
		return err
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{KeepAlive: keepAlive}, Config: conf}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to node %s at %s: %w", id, addr, err)
	}
	return t.track(conn, id)
}

func (t *tcp) listen() {
	gate := newTurnstile()
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			if t.isClosed() || errors.Is(err, net.ErrClosed) {
				return
			}
			t.logger.Warn("accept a node's connection", "error", err)
			select { // out of file descriptors, mostly: give it a moment
			case <-t.closed:
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		from := conn.RemoteAddr()
		if !gate.enter(from) {
			_ = conn.Close()
			continue
		}
		t.running.Go(func() { defer gate.leave(from); t.handshake(conn) })
	}
}

func (t *tcp) handshake(raw net.Conn) {
	var peer string
	conf := t.config()
	conf.ClientAuth = tls.RequireAnyClientCert // verified below, against the roots of this moment
	conf.NextProtos = []string{string(Raft), string(Forward)}
	conf.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.own() }
	conf.VerifyConnection = func(state tls.ConnectionState) (err error) {
		peer, err = t.tls.verifyPeer(state, x509.ExtKeyUsageClientAuth)
		return err
	}
	conn := tls.Server(raw, conf)
	ctx, cancel := context.WithTimeout(t.ending, handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		t.logger.Warn("a node's connection is refused", "address", raw.RemoteAddr().String(), "error", err)
		_ = raw.Close()
		return
	}
	protocol := Protocol(conn.ConnectionState().NegotiatedProtocol)
	if protocol != Raft && protocol != Forward {
		_ = conn.Close()
		return
	}
	tracked, err := t.track(conn, peer)
	if err != nil {
		return
	}
	select {
	case t.accepted <- Stream{Conn: tracked, Peer: peer, Protocol: protocol}:
	case <-t.closed:
	}
}

func (t *tcp) Accept() (Stream, error) {
	select {
	case stream := <-t.accepted:
		return stream, nil
	case <-t.closed:
		return Stream{}, ErrClosed
	}
}

func (t *tcp) Cut(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for conn, peer := range t.streams {
		if peer == id {
			closeNow(conn)
		}
	}
}

// Close waits for the handshakes that are under way.
func (t *tcp) Close() error {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return nil
	}
	t.over = true
	close(t.closed)
	t.end()
	err := t.listener.Close()
	for conn := range t.streams {
		closeNow(conn)
	}
	t.mu.Unlock()
	t.running.Wait()
	return err
}

func (t *tcp) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

// track remembers conn until it is closed.
func (t *tcp) track(conn net.Conn, peer string) (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		closeNow(conn)
		return nil, ErrClosed
	}
	t.streams[conn] = peer
	return &tracked{Conn: conn, forget: func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.streams, conn)
	}}, nil
}

// closeNow closes the socket below TLS: the farewell that tls.Conn.Close sends could wait on a dead peer.
func closeNow(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	_ = conn.Close()
}

type tracked struct {
	net.Conn
	forget func()
}

func (c *tracked) Close() error {
	c.forget()
	return c.Conn.Close()
}
