package ratelimit_test

import (
	"errors"
	"net/netip"
	"testing"

	"warder/daemon/ratelimit"
)

func TestPool(t *testing.T) {
	one, two := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64")
	pool := ratelimit.NewPool("memory for requests", 100, 60)
	take := func(from netip.Prefix, amount int64, want bool) {
		t.Helper()
		err := pool.Take(from, amount)
		if err == nil != want || err != nil && !errors.Is(err, ratelimit.ErrOverloaded) {
			t.Errorf("%s takes %d: %v", from, amount, err)
		}
		if wait, told := ratelimit.RetryAfter(err); err != nil && (!told || wait <= 0) {
			t.Errorf("the refusal does not say when to come back: %v", err)
		}
	}
	take(one, 61, false)
	take(one, 60, true)
	take(one, 1, false)
	take(two, 41, false)
	take(two, 40, true)
	take(two, 1, false)
	pool.Give(one, 60)
	take(two, 21, false)
	take(two, 20, true)
	take(one, 40, true)
}
