package policy_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"warder/daemon/identity"
	"warder/daemon/policy"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

func start(t *testing.T, db *kv.DB, log *slog.Logger) *policy.Store {
	t.Helper()
	s := policy.New(db, log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	return s
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestStore(t *testing.T) {
	db, _ := keystoretest.Open(t)
	here, there := start(t, db, nil), start(t, db, nil)
	ctx, trading := t.Context(), name(t, "trading")
	bot := sign(t, "trading/bot", "trading/binance", nil)
	if here.Decide(bot).Allow {
		t.Error("allowed before anything was stored")
	}
	put := doc(t, "trading/bots", `permit (principal, action == Action::"credential.sign", resource);`)
	stored, err := here.Put(ctx, put, nil)
	if err != nil || stored.Document != put || stored.Revision == 0 || stored.Updated.IsZero() {
		t.Fatalf("put: %+v, %v", stored, err)
	}
	if !here.Decide(bot).Allow {
		t.Error("Put returned, and Current does not show it")
	}
	eventually(t, "the watching store sees it", func() bool { return there.Decide(bot).Allow })

	if _, err := here.Put(ctx, doc(t, "trading/bots", `permit (principal, action, resource) when { resource.nam == "x" };`), nil); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("invalid put: %v", err)
	}
	got, err := here.Get(ctx, trading, put.ID)
	if err != nil || got != stored {
		t.Errorf("a refused put changed it: %+v, %v", got, err)
	}
	if _, err := here.Put(ctx, policy.Document{Text: put.Text}, nil); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("without a name: %v", err)
	}
	list, err := here.List(ctx, trading)
	if err != nil || len(list) != 1 || list[0] != stored {
		t.Errorf("list: %+v, %v", list, err)
	}
	if list, err := here.List(ctx, name(t, "tradin")); err != nil || len(list) != 0 {
		t.Errorf("list of another namespace: %+v, %v", list, err)
	}
	if err := here.Delete(ctx, trading, put.ID, nil); err != nil {
		t.Fatal(err)
	}
	if here.Decide(bot).Allow {
		t.Error("Delete returned, and Current still allows")
	}
	if err := here.Delete(ctx, trading, put.ID, nil); !errors.Is(err, policy.ErrNotFound) {
		t.Errorf("second delete: %v", err)
	}
	if _, err := here.Get(ctx, trading, put.ID); !errors.Is(err, policy.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
}

// A stored policy that does not compile denies all, loudly, until it is repaired.
func TestBadStoredPolicyDeniesAll(t *testing.T) {
	db, _ := keystoretest.Open(t)
	var log lockedBuffer
	s := start(t, db, slog.New(slog.NewTextHandler(&log, nil)))
	ctx := t.Context()
	bot := sign(t, "trading/bot", "trading/binance", nil)
	if _, err := s.Put(ctx, doc(t, "system/all", `permit (principal, action, resource);`), nil); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`{"text":"permit (principal"}`, `not JSON`, `{"text":"permit (principal, action, resource is Nothing);"}`} {
		write := func(tx *kv.Tx) error { tx.Put(kv.K("policy", "other", "bad"), []byte(bad)); return nil }
		if err := db.Update(ctx, write); err != nil {
			t.Fatal(err)
		}
		eventually(t, "everything is denied", func() bool { return s.Current().Err() != nil })
		if d := s.Decide(bot); d.Allow || len(d.Errors) != 1 {
			t.Errorf("%s: %+v", bad, d)
		}
		eventually(t, "it is logged", func() bool { return log.contains("every request is denied") })
		if err := s.Delete(ctx, name(t, "other"), name(t, "bad"), nil); err != nil {
			t.Fatal(err)
		}
		if !s.Decide(bot).Allow {
			t.Errorf("%s: repaired, and still denied", bad)
		}
	}
}

func TestSealedDeniesAll(t *testing.T) {
	db, log := keystoretest.Open(t)
	holder := log.Keys()
	ring, err := holder.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, db, nil)
	bot := sign(t, "trading/bot", "trading/binance", nil)
	if _, err := s.Put(t.Context(), doc(t, "system/all", `permit (principal, action, resource);`), nil); err != nil {
		t.Fatal(err)
	}
	holder.Clear()
	db.Wake()
	eventually(t, "sealed: denied", func() bool { return !s.Decide(bot).Allow })
	holder.Set(ring)
	db.Wake()
	eventually(t, "unsealed: allowed", func() bool { return s.Decide(bot).Allow })
}

// A log that fails both ways: an error is given either way, and Current shows what is
// stored, not what was asked.
func TestFaults(t *testing.T) {
	db, log := keystoretest.Open(t)
	s := start(t, db, nil)
	bot := sign(t, "trading/bot", "trading/binance", nil)
	all := doc(t, "system/all", `permit (principal, action, resource);`)
	log.Next(keystoretest.NotDone)
	if _, err := s.Put(t.Context(), all, nil); !errors.Is(err, keystoretest.ErrNotDone) || s.Decide(bot).Allow {
		t.Errorf("not done: %v", err)
	}
	log.Next(keystoretest.DoneButFailed)
	if _, err := s.Put(t.Context(), all, nil); !errors.Is(err, keystoretest.ErrUnknown) || !s.Decide(bot).Allow {
		t.Errorf("done, but said failed: %v", err)
	}
	log.Next(keystoretest.DoneButFailed)
	if err := s.Delete(t.Context(), all.Namespace, all.ID, nil); !errors.Is(err, keystoretest.ErrUnknown) || s.Decide(bot).Allow {
		t.Errorf("done, but said failed: %v", err)
	}
	if err := s.Delete(t.Context(), all.Namespace, all.ID, nil); !errors.Is(err, policy.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

// With an expected revision, who comes second is refused.
func TestExpectedRevision(t *testing.T) {
	db, _ := keystoretest.Open(t)
	s := start(t, db, nil)
	ctx := t.Context()
	all := doc(t, "system/all", `permit (principal, action, resource);`)
	none, wrong := uint64(0), uint64(99)
	first, err := s.Put(ctx, all, &none)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, all, &none); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("created twice: %v", err)
	}
	second, err := s.Put(ctx, all, &first.Revision)
	if err != nil || second.Revision == first.Revision {
		t.Errorf("expected: %+v %v", second, err)
	}
	if err := s.Delete(ctx, all.Namespace, all.ID, &wrong); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("delete of another revision: %v", err)
	}
	if err := s.Delete(ctx, all.Namespace, all.ID, &second.Revision); err != nil {
		t.Error(err)
	}
}

// Found's policy is the one that Put would store.
func TestFound(t *testing.T) {
	db, _ := keystoretest.Open(t)
	if err := db.Update(t.Context(), func(tx *kv.Tx) error { return policy.Found(tx, time.Now()) }); err != nil {
		t.Fatal(err)
	}
	s := start(t, db, nil)
	eventually(t, "it is loaded", func() bool { return s.Current().Err() == nil && s.Current().Len() == 2 })
}

func TestBootstrapStores(t *testing.T) {
	db, _ := keystoretest.Open(t)
	s := start(t, db, nil)
	text := policy.Document{ID: name(t, "bootstrap"), Namespace: identity.MustName(policy.System), Text: policy.Bootstrap()}
	if _, err := s.Put(t.Context(), text, nil); err != nil {
		t.Fatal(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) contains(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.b.Bytes(), []byte(s))
}
