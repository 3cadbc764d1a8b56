package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"warder/daemon/ratelimit"
)

// Limits bound what callers can take. Zero fields get the defaults.
type Limits struct {
	Connections           int           // open at once; 4096
	ConnectionsPerAddress int           // from one IPv4 address or IPv6 /64; 256
	Streams               int           // at once on one HTTP/2 connection; 128
	BodyBytes             int64         // of one request; 1 MiB
	HeaderBytes           int           // of one request; 32 KiB
	Memory                int64         // bytes of headers and bodies that all requests hold at once; 512 MiB
	MemoryPerAddress      int64         // the same from one address; 32 MiB
	HeaderTimeout         time.Duration // from connecting to the end of the headers, the TLS handshake included; 5 s
	RequestTimeout        time.Duration // of one request, and of a stream's body; 30 s
	IdleTimeout           time.Duration // of a kept connection; 2 min
	ShutdownTimeout       time.Duration // for requests in flight at a stop; 10 s
}

// Config says what to listen on and what to do with what comes.
type Config struct {
	Addresses []string // host:port of the TLS listeners
	Handler   http.Handler

	// Certificate gives the certificate for a handshake; it is asked each time, so that a renewed one is used at once.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	MinVersion  uint16 // tls.VersionTLS12 when 0; lower is refused

	Socket        string // path of the unix socket; empty: none
	SocketHandler http.Handler

	MetricsAddress string // host:port of the plain listener; empty: none
	MetricsHandler http.Handler

	// Live and Ready say what /healthz and /readyz answer: nil is 200, an error 503 with its text, which anybody
	// can read. Nil functions are always well.
	Live, Ready func() error

	// Stream says which requests may last: they have no deadline once their body was read, and end when the gateway
	// stops. Nil: none.
	Stream func(*http.Request) bool
	// ConnContext, when not nil, adds to the context of each TCP connection (http.Server.ConnContext).
	ConnContext func(context.Context, net.Conn) context.Context

	Limits Limits
	Logger *slog.Logger // discards when nil
}

func (c Config) withDefaults() (Config, error) {
	if len(c.Addresses) > 0 && (c.Handler == nil || c.Certificate == nil) {
		return c, errors.New("gateway: a TLS listener needs a handler and a certificate")
	}
	if c.Socket != "" && c.SocketHandler == nil || c.MetricsAddress != "" && c.MetricsHandler == nil {
		return c, errors.New("gateway: a listener without a handler")
	}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	if c.MinVersion < tls.VersionTLS12 {
		return c, errors.New("gateway: TLS below 1.2 is not offered (RFC 8996)")
	}
	if c.Stream == nil {
		c.Stream = func(*http.Request) bool { return false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l := &c.Limits
	set(&l.Connections, 4096)
	set(&l.ConnectionsPerAddress, 256)
	set(&l.Streams, 128)
	set(&l.BodyBytes, 1<<20)
	set(&l.HeaderBytes, 32<<10)
	set(&l.Memory, 512<<20)
	set(&l.MemoryPerAddress, 32<<20)
	set(&l.HeaderTimeout, 5*time.Second)
	set(&l.RequestTimeout, 30*time.Second)
	set(&l.IdleTimeout, 2*time.Minute)
	set(&l.ShutdownTimeout, 10*time.Second)
	return c, nil
}

func set[T int | int64 | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Gateway is a set of open listeners.
type Gateway struct {
	cfg      Config
	doors    []door
	stopping atomic.Bool
	stopped  chan struct{} // closed when Run begins to stop: streams end
}

// door is a listener and the server behind it.
type door struct {
	name     string
	listener net.Listener
	server   *http.Server
	secure   bool
}

// Open opens the listeners, so that callers wait from here on; Run serves and closes them.
func Open(cfg Config) (*Gateway, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg, stopped: make(chan struct{})}
	if err := g.open(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func (g *Gateway) open() error {
	connections, memory := g.connections(), g.memory()
	for _, address := range g.cfg.Addresses {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("listening for callers on %s: %w", address, err)
		}
		server := g.server(g.cfg.Handler, memory)
		server.TLSConfig = g.tls()
		server.ConnContext = g.cfg.ConnContext
		g.add(door{"api", &limited{listener, connections, g.cfg.Logger}, server, true})
	}
	if g.cfg.Socket != "" {
		listener, err := listenSocket(g.cfg.Socket, g.cfg.Logger)
		if err != nil {
			return err
		}
		server := g.server(g.cfg.SocketHandler, g.memory())
		server.ConnContext = withPeer
		g.add(door{"socket", listener, server, false})
	}
	if g.cfg.MetricsAddress != "" {
		listener, err := net.Listen("tcp", g.cfg.MetricsAddress)
		if err != nil {
			return fmt.Errorf("listening for metrics on %s: %w", g.cfg.MetricsAddress, err)
		}
		g.add(door{"metrics", &limited{listener, g.connections(), g.cfg.Logger}, g.server(g.cfg.MetricsHandler, g.memory()), false})
	}
	if len(g.doors) == 0 {
		return errors.New("gateway: nothing to listen on")
	}
	return nil
}

func (g *Gateway) add(d door) { g.doors = append(g.doors, d) }

func (g *Gateway) connections() *ratelimit.Pool {
	return ratelimit.NewPool("room for connections", int64(g.cfg.Limits.Connections), int64(g.cfg.Limits.ConnectionsPerAddress))
}

func (g *Gateway) memory() *ratelimit.Pool {
	return ratelimit.NewPool("memory for requests", g.cfg.Limits.Memory, g.cfg.Limits.MemoryPerAddress)
}

// What one HTTP/2 connection may hold that no request does, in bytes: what was sent of bodies and not read yet, and one frame
// (RFC 9113, section 4.2: no peer may set less), for which room is made before anything of it is looked at.
const (
	unread = 64 << 10
	frame  = 16 << 10
)

// server makes the HTTP server of one listener.
func (g *Gateway) server(handler http.Handler, memory *ratelimit.Pool) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:                      g.edge(handler, memory),
		ReadHeaderTimeout:            g.cfg.Limits.HeaderTimeout,
		IdleTimeout:                  g.cfg.Limits.IdleTimeout,
		MaxHeaderBytes:               g.cfg.Limits.HeaderBytes,
		DisableGeneralOptionsHandler: true,
		Protocols:                    &protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          g.cfg.Limits.Streams,
			MaxReadFrameSize:              frame,
			MaxReceiveBufferPerConnection: unread,
			MaxReceiveBufferPerStream:     unread,
			SendPingTimeout:               g.cfg.Limits.IdleTimeout / 2,
			WriteByteTimeout:              g.cfg.Limits.RequestTimeout,
		},
		ErrorLog: slog.NewLogLogger(g.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// tls asks for a client certificate without judging it. Resumption stays on: a resumed session carries the
// certificate that it began with, which is judged again behind the gateway.
func (g *Gateway) tls() *tls.Config {
	return &tls.Config{
		MinVersion:     g.cfg.MinVersion,
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: g.cfg.Certificate,
		NextProtos:     []string{"h2", "http/1.1"},
	}
}

// Addresses gives where the TLS listeners are, in the order of the configuration: the ports that the system chose
// for port 0.
func (g *Gateway) Addresses() []net.Addr { return g.addresses("api") }

// MetricsAddress gives where the metrics listener is; nil when there is none.
func (g *Gateway) MetricsAddress() net.Addr {
	if found := g.addresses("metrics"); len(found) > 0 {
		return found[0]
	}
	return nil
}

func (g *Gateway) addresses(name string) []net.Addr {
	var found []net.Addr
	for _, d := range g.doors {
		if d.name == name {
			found = append(found, d.listener.Addr())
		}
	}
	return found
}

// Run serves until the context ends or a listener fails. At the end of the context /readyz answers 503, streams are
// ended, requests in flight get the shutdown timeout, and the rest is cut off. It returns nil after such an end.
func (g *Gateway) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range g.doors {
		group.Go(func() error {
			if err := d.serve(); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving %s on %s: %w", d.name, d.listener.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		g.stop(ctx)
		return nil
	})
	return group.Wait()
}

func (d door) serve() error {
	if d.secure {
		return d.server.ServeTLS(d.listener, "", "")
	}
	return d.server.Serve(d.listener)
}

// stop ends all servers within one shutdown timeout.
func (g *Gateway) stop(ctx context.Context) {
	g.stopping.Store(true)
	close(g.stopped)
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.Limits.ShutdownTimeout)
	defer cancel()
	var group errgroup.Group
	for _, d := range g.doors {
		group.Go(func() error {
			if err := d.server.Shutdown(deadline); err != nil {
				g.cfg.Logger.Warn("requests were cut off at the stop", "listener", d.name, "error", err)
				return d.server.Close()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		g.cfg.Logger.Warn("closing connections", "error", err)
	}
}

// Close closes the listeners of a gateway that was opened and is not going to run.
func (g *Gateway) Close() error {
	var err error
	for _, d := range g.doors {
		if closing := d.listener.Close(); !errors.Is(closing, net.ErrClosed) && !errors.Is(closing, os.ErrNotExist) {
			err = errors.Join(err, closing)
		}
	}
	return err
}
