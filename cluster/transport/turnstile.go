package transport

import (
	"net"
	"sync"
)

const (
	handshakes            = 256 // at once
	handshakesFromAddress = 32  // of them from one address: anybody can connect and say nothing
)

// turnstile bounds the handshakes under way, all together and from one address.
type turnstile struct {
	mu   sync.Mutex // guards all below
	all  int
	from map[string]int
}

func newTurnstile() *turnstile { return &turnstile{from: map[string]int{}} }

// enter says whether one more from that address may begin; leave must follow it then.
func (t *turnstile) enter(address net.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	host := hostOf(address)
	if t.all >= handshakes || t.from[host] >= handshakesFromAddress {
		return false
	}
	t.all++
	t.from[host]++
	return true
}

func (t *turnstile) leave(address net.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	host := hostOf(address)
	t.all--
	if t.from[host]--; t.from[host] == 0 {
		delete(t.from, host)
	}
}

func hostOf(address net.Addr) string {
	host, _, err := net.SplitHostPort(address.String())
	if err != nil {
		return address.String()
	}
	return host
}
