package policy_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"warder/daemon/identity"
	"warder/daemon/policy"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// directLog applies each entry at once: a cluster of one, without Raft.
type directLog struct {
	mu    sync.Mutex
	store *kv.Store
}

func (l *directLog) Propose(_ context.Context, entry []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	results, err := l.store.Apply(l.store.Applied()+1, [][]byte{entry})
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

func (l *directLog) Barrier(context.Context) error { return nil }

func openDB(t *testing.T) (*kv.DB, *keyring.Holder, *keyring.Keyring) {
	t.Helper()
	store, err := kv.OpenStore(kv.StoreConfig{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	ring, err := keyring.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	holder := &keyring.Holder{}
	holder.Set(ring)
	return kv.New(store, &directLog{store: store}, holder), holder, ring
}

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
	db, _, _ := openDB(t)
	here, there := start(t, db, nil), start(t, db, nil)
	ctx, trading := t.Context(), name(t, "trading")
	bot := sign(t, "trading/bot", "trading/binance", nil)
	if here.Decide(bot).Allow {
		t.Error("allowed before anything was stored")
	}
	put := doc(t, "trading/bots", `permit (principal, action == Action::"credential.sign", resource);`)
	stored, err := here.Put(ctx, put)
	if err != nil || stored.Document != put || stored.Revision == 0 || stored.Updated.IsZero() {
		t.Fatalf("put: %+v, %v", stored, err)
	}
	if !here.Decide(bot).Allow {
		t.Error("Put returned, and Current does not show it")
	}
	eventually(t, "the watching store sees it", func() bool { return there.Decide(bot).Allow })

	if _, err := here.Put(ctx, doc(t, "trading/bots", `permit (principal, action, resource) when { resource.nam == "x" };`)); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("invalid put: %v", err)
	}
	got, err := here.Get(ctx, trading, put.ID)
	if err != nil || got != stored {
		t.Errorf("a refused put changed it: %+v, %v", got, err)
	}
	if _, err := here.Put(ctx, policy.Document{Text: put.Text}); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("without a name: %v", err)
	}
	list, err := here.List(ctx, trading)
	if err != nil || len(list) != 1 || list[0] != stored {
		t.Errorf("list: %+v, %v", list, err)
	}
	if list, err := here.List(ctx, name(t, "tradin")); err != nil || len(list) != 0 {
		t.Errorf("list of another namespace: %+v, %v", list, err)
	}
	if err := here.Delete(ctx, trading, put.ID); err != nil {
		t.Fatal(err)
	}
	if here.Decide(bot).Allow {
		t.Error("Delete returned, and Current still allows")
	}
	if err := here.Delete(ctx, trading, put.ID); !errors.Is(err, policy.ErrNotFound) {
		t.Errorf("second delete: %v", err)
	}
	if _, err := here.Get(ctx, trading, put.ID); !errors.Is(err, policy.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
}

// A stored policy that does not compile denies all, loudly, until it is repaired.
func TestBadStoredPolicyDeniesAll(t *testing.T) {
	db, _, _ := openDB(t)
	var log lockedBuffer
	s := start(t, db, slog.New(slog.NewTextHandler(&log, nil)))
	ctx := t.Context()
	bot := sign(t, "trading/bot", "trading/binance", nil)
	if _, err := s.Put(ctx, doc(t, "system/all", `permit (principal, action, resource);`)); err != nil {
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
		if err := s.Delete(ctx, name(t, "other"), name(t, "bad")); err != nil {
			t.Fatal(err)
		}
		if !s.Decide(bot).Allow {
			t.Errorf("%s: repaired, and still denied", bad)
		}
	}
}

func TestSealedDeniesAll(t *testing.T) {
	db, holder, ring := openDB(t)
	s := start(t, db, nil)
	bot := sign(t, "trading/bot", "trading/binance", nil)
	if _, err := s.Put(t.Context(), doc(t, "system/all", `permit (principal, action, resource);`)); err != nil {
		t.Fatal(err)
	}
	holder.Clear()
	db.Wake()
	eventually(t, "sealed: denied", func() bool { return !s.Decide(bot).Allow })
	holder.Set(ring)
	db.Wake()
	eventually(t, "unsealed: allowed", func() bool { return s.Decide(bot).Allow })
}

func TestBootstrapStores(t *testing.T) {
	db, _, _ := openDB(t)
	s := start(t, db, nil)
	text := policy.Document{ID: name(t, "bootstrap"), Namespace: identity.MustName(policy.System), Text: policy.Bootstrap()}
	if _, err := s.Put(t.Context(), text); err != nil {
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
