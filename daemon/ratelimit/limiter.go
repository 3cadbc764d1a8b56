package ratelimit

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"warder/daemon/identity"
)

// Class is a kind of request with a rate of its own.
type Class uint8

// The classes.
const (
	Read Class = iota + 1
	Write
	Admin
	Unauthenticated
)

// String names the class.
func (c Class) String() string {
	switch c {
	case Read:
		return "read"
	case Write:
		return "write"
	case Admin:
		return "admin"
	case Unauthenticated:
		return "unauthenticated"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// ErrLimited says that the caller asks too often. It is wrapped by every LimitedError.
var ErrLimited = errors.New("too many requests")

// LimitedError says when it is worth asking again.
type LimitedError struct {
	Class      Class
	RetryAfter time.Duration
}

func (e *LimitedError) Error() string {
	return fmt.Sprintf("%v of class %s: ask again in %s", ErrLimited, e.Class, e.RetryAfter)
}

// Unwrap makes errors.Is(err, ErrLimited) true.
func (e *LimitedError) Unwrap() error { return ErrLimited }

// Rate is what one caller may do: so many requests a second, and so many at once after a pause.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Rates are the limits of each class.
type Rates map[Class]Rate

// DefaultRates hold a fleet of bots back from nothing that they should do, and an attacker from most.
func DefaultRates() Rates {
	return Rates{
		Read: {PerSecond: 20000, Burst: 40000}, Write: {PerSecond: 5000, Burst: 10000},
		Admin: {PerSecond: 200, Burst: 400}, Unauthenticated: {PerSecond: 100, Burst: 1000},
	}
}

const (
	// shards spread the callers over locks.
	shards = 16
	// maxCallers bounds the callers remembered in one generation of one shard; two generations are kept.
	maxCallers = 65536 / shards
	// prefix is how much of an IPv6 address counts: who holds one address holds its network (RFC 6177, section 2).
	prefix = 64
)

// key is one caller's place in one class. An address stands where no principal is known.
type key struct {
	principal identity.Principal
	address   netip.Addr
	class     Class
}

// Limiter counts by the generic cell rate algorithm (ITU-T I.371, annex A): for each caller it keeps the one time at
// which its next request would be due. It is safe for concurrent use.
type Limiter struct {
	rates  Rates
	clock  func() time.Time
	seed   maphash.Seed
	shards [shards]shard
}

// shard keeps two generations of callers: when the young one is full, the old one is forgotten.
type shard struct {
	mu         sync.Mutex
	young, old map[key]time.Time // guarded by mu
}

// New gives a limiter. A class without a rate is refused always.
func New(rates Rates, clock func() time.Time) *Limiter {
	l := &Limiter{rates: rates, clock: clock, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].young = map[key]time.Time{}
	}
	return l
}

// Allow counts one request of a principal, or gives a LimitedError.
func (l *Limiter) Allow(principal identity.Principal, class Class) error {
	return l.take(key{principal: principal, class: class})
}

// AllowAddress counts one request from an address without a known principal, or gives a LimitedError. IPv6 addresses
// of one network of 64 bits count as one, and an IPv4 address counts as itself however it is written.
func (l *Limiter) AllowAddress(address netip.Addr, class Class) error {
	address = address.Unmap().WithZone("")
	if address.Is6() {
		network, err := address.Prefix(prefix)
		if err == nil {
			address = network.Addr()
		}
	}
	return l.take(key{address: address, class: class})
}

func (l *Limiter) take(k key) error {
	rate, ok := l.rates[k.class]
	if !ok || rate.PerSecond <= 0 || rate.Burst <= 0 {
		return &LimitedError{Class: k.class, RetryAfter: time.Minute}
	}
	interval := time.Duration(float64(time.Second) / rate.PerSecond)
	s := &l.shards[maphash.Comparable(l.seed, k)%shards]
	if wait := s.take(k, l.clock(), interval, interval*time.Duration(rate.Burst-1)); wait > 0 {
		return &LimitedError{Class: k.class, RetryAfter: wait}
	}
	return nil
}

// take counts a request that is due, and else says how long until it would be.
func (s *shard) take(k key, now time.Time, interval, tolerance time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	due, known := s.young[k]
	if !known {
		due = s.old[k]
	}
	if due.Before(now) {
		due = now
	}
	if wait := due.Sub(now) - tolerance; wait > 0 {
		return wait
	}
	if !known && len(s.young) >= maxCallers {
		s.old, s.young = s.young, map[key]time.Time{}
	}
	s.young[k] = due.Add(interval)
	return 0
}
