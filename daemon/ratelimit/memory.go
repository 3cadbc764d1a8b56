package ratelimit

import (
	"net/netip"
	"sync"
)

// Memory bounds the bytes that requests hold at once, of all callers and of one address: most of it is held before anybody
// knows whose it is. It is safe for concurrent use.
type Memory struct {
	total, each int64

	mu   sync.Mutex // guards the next two
	held int64
	from map[netip.Prefix]int64
}

// NewMemory gives room for total bytes, of which one address gets at most each.
func NewMemory(total, each int64) *Memory {
	return &Memory{total: total, each: each, from: map[netip.Prefix]int64{}}
}

// Take takes bytes for a request from an address, which Give gives back. It takes nothing and gives an OverloadedError where
// there are not so many.
func (m *Memory) Take(from netip.Prefix, bytes int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if bytes > m.total-m.held || bytes > m.each-m.from[from] {
		return overloaded("memory for requests")
	}
	m.held += bytes
	m.from[from] += bytes
	return nil
}

// Give gives back what Take took.
func (m *Memory) Give(from netip.Prefix, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held -= bytes
	if m.from[from] -= bytes; m.from[from] == 0 {
		delete(m.from, from)
	}
}
