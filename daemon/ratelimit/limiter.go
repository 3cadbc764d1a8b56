package ratelimit

import (
	"errors"
	"fmt"
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
	return map[Class]string{Read: "read", Write: "write", Admin: "admin", Unauthenticated: "unauthenticated"}[c]
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
		Admin: {PerSecond: 200, Burst: 400}, Unauthenticated: {PerSecond: 20, Burst: 100},
	}
}

// maxCallers bounds the callers remembered in one generation; two generations are kept.
const maxCallers = 65536

// key is one caller's place in one class. An address stands where no principal is known.
type key struct {
	principal identity.Principal
	address   string
	class     Class
}

// Limiter counts by the generic cell rate algorithm (ITU-T I.371, annex A): for each caller it keeps the one time at
// which its next request would be due. It is safe for concurrent use.
type Limiter struct {
	rates Rates
	clock func() time.Time

	mu         sync.Mutex
	young, old map[key]time.Time // guarded by mu
}

// New gives a limiter. A class without a rate is refused always.
func New(rates Rates, clock func() time.Time) *Limiter {
	return &Limiter{rates: rates, clock: clock, young: map[key]time.Time{}, old: map[key]time.Time{}}
}

// Allow counts one request of a principal, or gives a LimitedError.
func (l *Limiter) Allow(principal identity.Principal, class Class) error {
	return l.take(key{principal: principal, class: class})
}

// AllowAddress counts one request from an address without a known principal.
func (l *Limiter) AllowAddress(address string, class Class) error {
	return l.take(key{address: address, class: class})
}

func (l *Limiter) take(k key) error {
	rate, ok := l.rates[k.class]
	if !ok || rate.PerSecond <= 0 || rate.Burst <= 0 {
		return &LimitedError{Class: k.class, RetryAfter: time.Minute}
	}
	interval := time.Duration(float64(time.Second) / rate.PerSecond)
	tolerance := interval * time.Duration(rate.Burst-1)
	now := l.clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	due := l.due(k)
	if due.Before(now) {
		due = now
	}
	if wait := due.Sub(now) - tolerance; wait > 0 {
		return &LimitedError{Class: k.class, RetryAfter: wait}
	}
	l.remember(k, due.Add(interval))
	return nil
}

func (l *Limiter) due(k key) time.Time {
	if due, ok := l.young[k]; ok {
		return due
	}
	return l.old[k]
}

// remember keeps two generations: when the young one is full, the old one is forgotten.
func (l *Limiter) remember(k key, due time.Time) {
	if _, known := l.young[k]; !known && len(l.young) >= maxCallers {
		l.old, l.young = l.young, map[key]time.Time{}
	}
	l.young[k] = due
}
