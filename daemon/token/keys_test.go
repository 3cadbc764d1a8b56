package token_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warder/daemon/token"
	"warder/keystore/keyring"
)

func TestRotation(t *testing.T) {
	w := newWorld(t)
	old, _ := w.issue(t, request())
	if err := w.service.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys := func() int {
		t.Helper()
		published, err := w.service.JWKS()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(published), `"kid"`)
	}
	if n := keys(); n != 2 {
		t.Fatalf("%d keys are published; want the next one beside the first", n)
	}
	header := func(raw string) string { text, _, _ := strings.Cut(raw, "."); return text }
	if raw, _ := w.issue(t, request()); header(raw) != header(old) {
		t.Error("the new key signs before every node can have seen it")
	}
	w.now = noon.Add(3 * time.Minute)
	fresh, _ := w.issue(t, request())
	if header(fresh) == header(old) {
		t.Error("the old key signs still")
	}
	for name, raw := range map[string]string{"old": old, "new": fresh} {
		if _, err := w.service.Verify(raw, certificate); err != nil {
			t.Errorf("the %s key's token: %v", name, err)
		}
	}
	w.now = noon.Add(2 * time.Hour)
	w.service.Sweep(t.Context())
	if err := w.service.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := keys(); n != 1 {
		t.Errorf("%d keys are published when the old one's tokens have ended; want 1", n)
	}
	if _, err := w.service.Parse(old); !errors.Is(err, token.ErrInvalid) {
		t.Errorf("a token of a key that is no more: %v; want %v", err, token.ErrInvalid)
	}
	for range token.MaxKeys - 1 {
		if err := w.service.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.service.Rotate(t.Context()); !errors.Is(err, token.ErrTooManyKeys) {
		t.Errorf("rotating without end: %v; want %v", err, token.ErrTooManyKeys)
	}
}

func TestKeysAreRotatedByAge(t *testing.T) {
	w := newWorld(t)
	before, _ := w.service.JWKS()
	w.now = noon.Add(31 * 24 * time.Hour)
	for range 3 { // as by three nodes
		w.service.Sweep(t.Context())
	}
	if err := w.service.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := w.service.JWKS()
	if err != nil || strings.Count(string(after), `"kid"`) != 2 || len(after) <= len(before) {
		t.Errorf("after 31 days the keys are %s, %v; want one more", after, err)
	}
}

func TestSealedNodeKnowsNoToken(t *testing.T) {
	w := newWorld(t)
	raw, claims := w.issue(t, request())
	if _, err := w.service.Verify(raw, certificate); err != nil {
		t.Fatal(err)
	}
	w.holder.Clear()
	if err := w.service.Reload(t.Context()); !errors.Is(err, keyring.ErrSealed) || !errors.Is(w.service.Problem(), keyring.ErrSealed) {
		t.Errorf("load: %v, problem: %v; want %v", err, w.service.Problem(), keyring.ErrSealed)
	}
	_, _, issueErr := w.service.Issue(request())
	_, verifyErr := w.service.Verify(raw, certificate)
	_, keysErr := w.service.JWKS()
	for _, err := range []error{issueErr, verifyErr, keysErr, w.service.Live(claims)} {
		if !errors.Is(err, keyring.ErrSealed) {
			t.Errorf("sealed: %v; want %v", err, keyring.ErrSealed)
		}
	}
}

// TestNodesFollow: what one node revokes or rotates, another that runs refuses or knows.
func TestNodesFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.serve(t, "cluster-a", 0)
		var running sync.WaitGroup
		defer running.Wait()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		running.Go(func() { _ = other.Run(ctx) })
		synctest.Wait()
		raw, claims := w.issue(t, request())
		if _, err := other.Verify(raw, certificate); err != nil {
			t.Fatal(err)
		}
		if err := w.service.Revoke(t.Context(), operator, claims.ID, claims.ExpiresAt()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := other.Verify(raw, certificate); !errors.Is(err, token.ErrRevoked) {
			t.Errorf("revoked at another node: %v; want %v", err, token.ErrRevoked)
		}
		if err := w.service.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.now = noon.Add(4 * time.Minute)
		fresh, _ := w.issue(t, request())
		synctest.Wait()
		if _, err := other.Verify(fresh, certificate); err != nil {
			t.Errorf("by another node's new key: %v", err)
		}
	})
}
