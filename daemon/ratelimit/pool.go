package ratelimit

import (
	"net/netip"
	"sync"
)

// Pool bounds how much of one thing is held at once, by all addresses together and by one: connections, or the bytes of
// requests, of which most is held before anybody knows whose it is. It is safe for concurrent use.
type Pool struct {
	of          string
	total, each int64

	mu   sync.Mutex // guards the next two
	held int64
	from map[netip.Prefix]int64
}

// NewPool gives room for total of something, of which one address gets at most each.
func NewPool(of string, total, each int64) *Pool {
	return &Pool{of: of, total: total, each: each, from: map[netip.Prefix]int64{}}
}

// Take takes an amount for an address, which Give gives back. It takes nothing and gives an OverloadedError where there is
// not so much.
func (p *Pool) Take(from netip.Prefix, amount int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if amount > p.total-p.held || amount > p.each-p.from[from] {
		return overloaded(p.of)
	}
	p.held += amount
	p.from[from] += amount
	return nil
}

// Give gives back what Take took.
func (p *Pool) Give(from netip.Prefix, amount int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held -= amount
	if p.from[from] -= amount; p.from[from] == 0 {
		delete(p.from, from)
	}
}
