package ratelimit_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"warder/daemon/identity"
	"warder/daemon/ratelimit"
)

func principal(name string) identity.Principal {
	return identity.Principal{Kind: identity.Workload, Namespace: identity.MustName("default"), Name: identity.MustName(name)}
}

func TestBurstThenRate(t *testing.T) {
	now := time.Unix(1000, 0)
	rates := ratelimit.Rates{ratelimit.Read: {PerSecond: 10, Burst: 5}, ratelimit.Admin: {PerSecond: 1, Burst: 1}}
	limiter := ratelimit.New(rates, func() time.Time { return now })
	for i := range 5 {
		if err := limiter.Allow(principal("bot"), ratelimit.Read); err != nil {
			t.Fatalf("request %d of the burst: %v", i, err)
		}
	}
	err := limiter.Allow(principal("bot"), ratelimit.Read)
	var limited *ratelimit.LimitedError
	if !errors.As(err, &limited) || !errors.Is(err, ratelimit.ErrLimited) || limited.RetryAfter != 100*time.Millisecond {
		t.Fatalf("after the burst: %v; want a wait of 100ms", err)
	}
	if err := limiter.Allow(principal("bot"), ratelimit.Admin); err != nil {
		t.Errorf("reading used up the lane of administration: %v", err)
	}
	if err := limiter.Allow(principal("other"), ratelimit.Read); err != nil {
		t.Errorf("one caller used up another's rate: %v", err)
	}
	now = now.Add(limited.RetryAfter)
	if err := limiter.Allow(principal("bot"), ratelimit.Read); err != nil {
		t.Errorf("after the told wait: %v", err)
	}
	if err := limiter.Allow(principal("bot"), ratelimit.Read); err == nil {
		t.Error("two requests were allowed where one was due")
	}
}

func TestUnknownClassIsRefused(t *testing.T) {
	limiter := ratelimit.New(ratelimit.Rates{}, time.Now)
	if err := limiter.AllowAddress(netip.MustParseAddr("192.0.2.1"), ratelimit.Unauthenticated); !errors.Is(err, ratelimit.ErrLimited) {
		t.Errorf("a class without a rate: %v; want %v", err, ratelimit.ErrLimited)
	}
}

// TestAddressesOfOneCaller: who holds one address cannot ask as another.
func TestAddressesOfOneCaller(t *testing.T) {
	for _, test := range []struct {
		first, second string
		same          bool
	}{
		{"192.0.2.1", "192.0.2.1", true}, {"192.0.2.1", "::ffff:192.0.2.1", true}, {"192.0.2.1", "192.0.2.2", false},
		{"2001:db8::1", "2001:db8::ffff:1", true}, {"2001:db8::1", "2001:db8:0:1::1", false}, {"fe80::1%eth0", "fe80::1%eth1", true},
	} {
		limiter := ratelimit.New(ratelimit.Rates{ratelimit.Unauthenticated: {PerSecond: 1, Burst: 1}}, func() time.Time { return time.Unix(1000, 0) })
		if err := limiter.AllowAddress(netip.MustParseAddr(test.first), ratelimit.Unauthenticated); err != nil {
			t.Fatal(err)
		}
		if err := limiter.AllowAddress(netip.MustParseAddr(test.second), ratelimit.Unauthenticated); (err != nil) != test.same {
			t.Errorf("%s after %s: %v; want them to count as one: %v", test.second, test.first, err, test.same)
		}
	}
}

// TestAFloodDoesNotFreeWhoeverFloods: others that ask, fewer than are remembered, never end a caller's wait.
func TestAFloodDoesNotFreeWhoeverFloods(t *testing.T) {
	rates := ratelimit.Rates{ratelimit.Unauthenticated: {PerSecond: 1, Burst: 1}}
	limiter := ratelimit.New(rates, func() time.Time { return time.Unix(1000, 0) })
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range 50000 {
		if err := limiter.AllowAddress(address(i), ratelimit.Unauthenticated); err != nil {
			t.Fatalf("a first request from %s: %v", address(i), err)
		}
	}
	for i := range 50000 {
		if err := limiter.AllowAddress(address(i), ratelimit.Unauthenticated); err == nil {
			t.Fatalf("%s was forgotten while it was limited", address(i))
		}
	}
}

// TestRateHolds is over virtual time: whatever the pauses, a caller gets its burst and its rate, and no more; and a wait
// that it was told is long enough.
func TestRateHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := ratelimit.Rate{PerSecond: float64(rapid.IntRange(1, 1000).Draw(t, "rate")), Burst: rapid.IntRange(1, 50).Draw(t, "burst")}
		start := time.Unix(1000, 0)
		now := start
		limiter := ratelimit.New(ratelimit.Rates{ratelimit.Write: rate}, func() time.Time { return now })
		allowed := 0
		for _, pause := range rapid.SliceOfN(rapid.Int64Range(0, int64(100*time.Millisecond)), 1, 200).Draw(t, "pauses") {
			now = now.Add(time.Duration(pause))
			err := limiter.Allow(principal("bot"), ratelimit.Write)
			var limited *ratelimit.LimitedError
			if errors.As(err, &limited) {
				now = now.Add(limited.RetryAfter)
				err = limiter.Allow(principal("bot"), ratelimit.Write)
			}
			if err != nil {
				t.Fatalf("after the told wait: %v", err)
			}
			allowed++
			if most := float64(rate.Burst) + now.Sub(start).Seconds()*rate.PerSecond*1.001; float64(allowed) > most+1 {
				t.Fatalf("%d requests in %s; want at most %v", allowed, now.Sub(start), most)
			}
		}
	})
}

func BenchmarkAllow(b *testing.B) {
	limiter := ratelimit.New(ratelimit.Rates{ratelimit.Read: {PerSecond: 1e9, Burst: 1 << 30}}, time.Now)
	who := principal("bot")
	b.ReportAllocs()
	for b.Loop() {
		if err := limiter.Allow(who, ratelimit.Read); err != nil {
			b.Fatal(err)
		}
	}
}
