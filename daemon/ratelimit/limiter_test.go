package ratelimit_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

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
	if err := limiter.AllowAddress("192.0.2.1", ratelimit.Unauthenticated); !errors.Is(err, ratelimit.ErrLimited) {
		t.Errorf("a class without a rate: %v; want %v", err, ratelimit.ErrLimited)
	}
}

func TestAFloodOfAddressesDoesNotFreeOneThatFloods(t *testing.T) {
	now := time.Unix(1000, 0)
	rates := ratelimit.Rates{ratelimit.Unauthenticated: {PerSecond: 1, Burst: 1}}
	limiter := ratelimit.New(rates, func() time.Time { return now })
	if err := limiter.AllowAddress("192.0.2.1", ratelimit.Unauthenticated); err != nil {
		t.Fatal(err)
	}
	for i := range 60000 {
		_ = limiter.AllowAddress(fmt.Sprint("host", i), ratelimit.Unauthenticated)
	}
	if err := limiter.AllowAddress("192.0.2.1", ratelimit.Unauthenticated); err == nil {
		t.Error("an address was forgotten while it was limited")
	}
}
