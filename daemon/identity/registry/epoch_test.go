package registry_test

import (
	"errors"
	"testing"
	"time"

	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/keystore/keystoretest"
)

// TestAKeyOfAnEarlierEpochIsNotBound binds keys that were certified before their identity was revoked or disabled.
func TestAKeyOfAnEarlierEpochIsNotBound(t *testing.T) {
	db, _ := keystoretest.Open(t)
	r := registry.New(db, time.Now)
	p := identity.Principal{Kind: identity.Device, Namespace: identity.MustName("default"), Name: identity.MustName("meter")}
	known, err := r.Create(t.Context(), p, nil, registry.KeyHash{1})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.BindInEpoch(t.Context(), p, known.Epoch, registry.KeyHash{2}); err != nil || !got.Binds(registry.KeyHash{2}) {
		t.Errorf("in its epoch: %v, %v", got, err)
	}
	if _, err := r.Revoke(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := r.BindInEpoch(t.Context(), p, known.Epoch, registry.KeyHash{2}); !errors.Is(err, registry.ErrEpoch) {
		t.Errorf("after the revocation: %v; want ErrEpoch", err)
	}
	if got, _ := r.Lookup(p); len(got.Keys) > 0 {
		t.Errorf("a revoked identity has the keys %v", got.Keys)
	}
}
