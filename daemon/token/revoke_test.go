package token_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"warder/daemon/identity"
	"warder/daemon/token"
	"warder/keystore/kv"
)

func TestUsesAreCounted(t *testing.T) {
	w := newWorld(t)
	asked := request()
	asked.MaxUses = 5
	_, claims := w.issue(t, asked)
	var spent, refused atomic.Int64
	var running sync.WaitGroup
	for range 40 {
		running.Go(func() {
			switch err := w.service.Spend(t.Context(), claims); {
			case err == nil:
				spent.Add(1)
			case errors.Is(err, token.ErrUsedUp):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	running.Wait()
	if spent.Load() != 5 || refused.Load() != 35 {
		t.Errorf("%d uses were taken and %d refused; want 5 and 35", spent.Load(), refused.Load())
	}
	_, unlimited := w.issue(t, request())
	for range 10 {
		if err := w.service.Spend(t.Context(), unlimited); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExpiredRecordsAreSwept(t *testing.T) {
	w := newWorld(t)
	asked := request()
	asked.MaxUses = 1
	raw, claims := w.issue(t, asked)
	if err := w.service.Spend(t.Context(), claims); err != nil {
		t.Fatal(err)
	}
	// A revocation asks for a year; no token lives that long.
	if err := w.service.Revoke(t.Context(), operator, claims.ID, noon.AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		t.Helper()
		err := w.db.View(t.Context(), func(tx *kv.Tx) error {
			for _, prefix := range []string{"token-revoked", "token-counted"} {
				for _, err := range tx.Scan(kv.K(prefix)) {
					if err != nil {
						return err
					}
					n++
				}
			}
			uses, err := tx.Counter(kv.K("token-uses", claims.ID))
			n += int(uses)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	w.service.Sweep(t.Context())
	if n := count(); n != 3 {
		t.Errorf("%d records before the end; want the revocation, the counter and its end", n)
	}
	if _, err := w.service.Verify(raw, certificate); !errors.Is(err, token.ErrRevoked) {
		t.Errorf("after a sweep before its end: %v; want %v", err, token.ErrRevoked)
	}
	w.now = noon.Add(2 * time.Hour)
	w.service.Sweep(t.Context())
	if n := count(); n != 0 {
		t.Errorf("%d records remain long after the end", n)
	}
	for _, id := range []string{"", "x", strings.Repeat("A", 32), claims.ID + "0", strings.Repeat("z", 32)} {
		if err := w.service.Revoke(t.Context(), operator, id, noon); !errors.Is(err, token.ErrBadRequest) {
			t.Errorf("Revoke(%q) = %v; want %v", id, err, token.ErrBadRequest)
		}
	}
}

// TestARevocationReachesAsFarAsItsCaller revokes the id of one token as several principals.
func TestARevocationReachesAsFarAsItsCaller(t *testing.T) {
	name := identity.MustName
	subject := bot.Principal
	colleague, stranger := subject, operator
	colleague.Name, stranger.Namespace = name("colleague"), name("elsewhere")
	local := identity.Principal{Kind: identity.Operator, Namespace: subject.Namespace, Name: name("local")}
	for by, want := range map[identity.Principal]error{subject: token.ErrRevoked, local: token.ErrRevoked, operator: token.ErrRevoked, colleague: nil, stranger: nil} {
		w := newWorld(t)
		raw, claims := w.issue(t, request())
		if err := w.service.Revoke(t.Context(), by, claims.ID, claims.ExpiresAt()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.service.Verify(raw, certificate); !errors.Is(err, want) {
			t.Errorf("revoked by %s: %v; want %v", by, err, want)
		}
	}
}

// TestACallerWhoGivesUpHarmsNobody: a change whose caller goes away while it is read back leaves the keys in force.
func TestACallerWhoGivesUpHarmsNobody(t *testing.T) {
	w := newWorld(t)
	raw, _ := w.issue(t, request())
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := w.service.Reload(gone); err == nil {
		t.Fatal("a reload went on without its caller")
	}
	if _, err := w.service.Verify(raw, certificate); err != nil || w.service.Problem() != nil {
		t.Errorf("after a reload that was given up: %v, %v", err, w.service.Problem())
	}
}
