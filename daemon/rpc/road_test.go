package rpc

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"warder/daemon/audit"
	"warder/daemon/authn/mtls"
	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/daemon/policy"
	"warder/daemon/token"
	"warder/keystore/keyring"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

// TestNoRefusalWithoutItsGrounds: a node that loses what it decides by in the course of a request tells its caller that, and
// not that it is not permitted. It was found by the battery, on a node that was stopped.
func TestNoRefusalWithoutItsGrounds(t *testing.T) {
	db, log := keystoretest.Open(t)
	people := registry.New(db, time.Now)
	tokens, err := token.New(token.Config{DB: db, Identities: people, Issuer: "https://test", Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(t.Context(), func(tx *kv.Tx) error { return token.Found(tx, time.Now()) }); err != nil {
		t.Fatal(err)
	}
	clock := &wall{}
	s := &Server{Config: Config{Cluster: clock, Registry: people, Tokens: tokens, Policies: policy.New(db, nil)}}
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.founded(method{}, errDenied); !errors.Is(got, errDenied) {
		t.Errorf("a node that has everything refuses with %v", got)
	}
	log.Keys().Clear()
	if err := s.Reload(t.Context()); err == nil {
		t.Fatal("a node without keys reads its records")
	}
	for _, refused := range []error{errDenied, errTokenScope, errUnauthenticated} {
		if got := s.founded(method{}, refused); !errors.Is(got, errUnread) {
			t.Errorf("a node that has nothing left to decide by refuses with %v", got)
		}
	}
	if got := s.founded(method{}, errSealed); !errors.Is(got, errSealed) {
		t.Errorf("a sealed node says %v", got)
	}
	if s.founded(method{}, nil) != nil {
		t.Error("what was decided before is taken back")
	}
}

// wall is a cluster of which nothing is asked but whether this node's clock is right.
type wall struct {
	Cluster
	wrong error
}

// Clock implements Cluster.
func (w *wall) Clock() error { return w.wrong }

// TestNothingIsDecidedByAWrongClock: a clock that is set in the course of a request has decided nothing, neither that
// something has expired nor that it has not. It was found by the battery, which sets clocks under load.
func TestNothingIsDecidedByAWrongClock(t *testing.T) {
	s := &Server{Config: Config{Cluster: &wall{wrong: errors.New("five minutes behind")}}}
	for _, decided := range []error{nil, mtls.ErrNotYetValid, mtls.ErrExpired, errDenied} {
		if got := s.founded(method{}, decided); !errors.Is(got, errClock) {
			t.Errorf("what was decided as %v stands as %v", decided, got)
		}
	}
	if got := s.founded(method{sealed: true}, nil); got != nil {
		t.Errorf("what a node answers whatever its state is refused: %v", got)
	}
}

// TestAFaultIsLoggedThoughItsCallerIsNotTold: who may not know of an object does not learn that it is damaged; the log does.
func TestAFaultIsLoggedThoughItsCallerIsNotTold(t *testing.T) {
	db, _ := keystoretest.Open(t)
	policies := policy.New(db, nil)
	if err := policies.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := &Server{Config: Config{Policies: policies, Logger: slog.New(slog.NewTextHandler(&log, nil))}}
	home := identity.MustName("default")
	call := &Call{ID: "theid", Principal: identity.Principal{Kind: identity.Workload, Namespace: home, Name: identity.MustName("bot")}, Authentication: "mtls"}
	found := target{resource: policy.Resource{Type: policy.Key, Namespace: home, Name: identity.MustName("one")}}
	for err, logged := range map[error]bool{keyring.ErrUnknownKey: true, keyring.ErrDamaged: true, kv.ErrNotFound: false} {
		log.Reset()
		if got := s.hide(call, method{action: policy.KeySign}, nil, found, err); !errors.Is(got, errDenied) {
			t.Errorf("%v is told as %v", err, got)
		}
		if text := log.String(); strings.Contains(text, "theid") != logged {
			t.Errorf("%v leaves %q in the log", err, text)
		}
	}
}

// TestEachRequestIsCountedOnce also where its record fails: on the road, and before it.
func TestEachRequestIsCountedOnce(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Config{Dir: t.TempDir(), Node: "one", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	var counted []string
	s := &Server{Config: Config{Audit: log, Clock: time.Now, Logger: slog.New(slog.DiscardHandler), Observe: func(_, reason string, _ time.Duration) {
		counted = append(counted, reason)
	}}}
	for name, handler := range map[string]http.HandlerFunc{
		"before the road": http.NotFound,
		"on the road": func(w http.ResponseWriter, r *http.Request) {
			if _, err := travelled(r.Context(), s, "/warder.v1.KeyService/GetKey", r.Header, "no message", func() (any, error) { return nil, nil }); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		},
	} {
		counted = nil
		answer := httptest.NewRecorder()
		s.Edge(handler, false).ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/warder.v1.KeyService/GetKey", http.NoBody))
		if answer.Code != http.StatusServiceUnavailable || len(counted) != 1 {
			t.Errorf("%s: %d, counted as %v", name, answer.Code, counted)
		}
	}
}
