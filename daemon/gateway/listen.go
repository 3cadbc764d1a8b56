package gateway

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
)

// counts are the open connections, in all and from each address.
type counts struct {
	total, each int

	mu   sync.Mutex // guards the next two
	open int
	from map[netip.Prefix]int
}

func newCounts(l Limits) *counts {
	return &counts{total: l.Connections, each: l.ConnectionsPerAddress, from: map[netip.Prefix]int{}}
}

// enter counts a connection, unless there are too many.
func (c *counts) enter(from netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= c.total || c.from[from] >= c.each {
		return false
	}
	c.open++
	c.from[from]++
	return true
}

func (c *counts) leave(from netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if c.from[from]--; c.from[from] == 0 {
		delete(c.from, from)
	}
}

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
	counts *counts
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
		if l.counts.enter(from) {
			return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.counts.leave(from) })}, nil
		}
		l.logger.Debug("connection refused: too many are open", "from", from)
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
