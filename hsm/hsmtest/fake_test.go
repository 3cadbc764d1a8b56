package hsmtest_test

import (
	"context"
	"errors"
	"testing"

	"warder/hsm"
	"warder/hsm/hsmtest"
)

func TestFakeContract(t *testing.T) {
	hsmtest.Run(t, func(t *testing.T) hsm.Token { return hsmtest.NewFake(t) })
}

func TestFakeFailsBothWays(t *testing.T) {
	fake, boom := hsmtest.NewFake(t), errors.New("boom")
	id := hsm.KEKID{7}
	fake.Fail("CreateKEK", hsmtest.Fault{Err: boom, Left: 1})
	if err := fake.CreateKEK(t.Context(), id); !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	if has, _ := fake.HasKEK(t.Context(), id); has {
		t.Fatal("not done, yet there")
	}
	fake.Fail("CreateKEK", hsmtest.Fault{Err: boom, Done: true})
	if err := fake.CreateKEK(t.Context(), id); !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	if has, _ := fake.HasKEK(t.Context(), id); !has {
		t.Fatal("done, yet not there")
	}
	if n := fake.Calls("CreateKEK"); n != 2 {
		t.Errorf("counted %d calls", n)
	}
	fake.Mend()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fake.Fail("Check", hsmtest.Fault{Hang: true})
	if err := fake.Check(ctx); !errors.Is(err, hsm.ErrTimeout) {
		t.Errorf("a hang gave %v", err)
	}
}
