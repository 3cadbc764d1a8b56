package gateway

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"warder/daemon/ratelimit"
)

// neighbourhood is what counts as one address: an IPv4 address, or the /64 that one IPv6 subscriber gets (RFC 6177).
func neighbourhood(a net.Addr) netip.Prefix {
	return neighbourhoodOf(a.String())
}

func neighbourhoodOf(address string) netip.Prefix {
	addressPort, err := netip.ParseAddrPort(address)
	if err != nil { // of a unix socket
		return netip.Prefix{}
	}
	from := addressPort.Addr().Unmap().WithZone("")
	bits := from.BitLen()
	if from.Is6() {
		bits = 64
	}
	prefix, _ := from.Prefix(bits) // bits always fit the address
	return prefix
}

// limited is a listener that closes at once what would be too many.
type limited struct {
	net.Listener
	open   *ratelimit.Pool
	logger *slog.Logger
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := neighbourhood(conn.RemoteAddr())
		full := l.open.Take(from, 1)
		if full == nil {
			return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.open.Give(from, 1) })}, nil
		}
		l.logger.Debug("a connection was refused", "from", from, "error", full)
		_ = conn.Close() // nothing was said on it
	}
}

// counted gives its place free when it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
