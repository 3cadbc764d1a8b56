package audit_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"warder/api/verify"
	"warder/daemon/audit"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// localLog applies each entry at once to one store.
type localLog struct {
	mu    sync.Mutex
	store *kv.Store
}

func (l *localLog) Propose(_ context.Context, entry []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	results, err := l.store.Apply(l.store.Applied()+1, [][]byte{entry})
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

func (l *localLog) Barrier(context.Context) error { return nil }

type keys struct{ ring *keyring.Keyring }

func (k keys) Keyring() (*keyring.Keyring, error) { return k.ring, nil }

func openDB(t *testing.T) *kv.DB {
	t.Helper()
	store, err := kv.OpenStore(kv.StoreConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	ring, err := keyring.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return kv.New(store, &localLog{store: store}, keys{ring})
}

func TestAnchorsAreKeptThinned(t *testing.T) {
	store := audit.NewAnchorStore(openDB(t))
	origin := verify.Origin{Node: "n1", Log: [8]byte{7}}
	for i := range audit.KeptAnchors + 200 {
		a := verify.Anchor{Origin: origin, Size: uint64(3 * (i + 1)), Root: verify.Hash{byte(i), byte(i >> 8)}, Time: time.Unix(int64(i), 0), Note: []byte("note")}
		if err := store.Put(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	other := verify.Anchor{Origin: verify.Origin{Node: "n2"}, Size: 5, Time: time.Unix(0, 0)}
	if err := store.Put(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	anchors, err := store.List(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	// 200 lie before the newest 1,000; of those the first at or beyond each of 2, 4, 8 … 512 stay.
	if len(anchors) != audit.KeptAnchors+9 || anchors[0].Size != 3 || anchors[len(anchors)-1].Size != 3600 {
		t.Fatalf("%d anchors kept, from %d to %d", len(anchors), anchors[0].Size, anchors[len(anchors)-1].Size)
	}
	for i := 1; i < len(anchors); i++ {
		if anchors[i].Size <= anchors[i-1].Size {
			t.Fatal("anchors are not in order")
		}
	}
	if all, err := store.List(t.Context(), ""); err != nil || len(all) != len(anchors)+1 {
		t.Errorf("of all nodes: %d, %v", len(all), err)
	}
	contradiction := anchors[5]
	contradiction.Root[0] ^= 1
	if err := audit.NewAnchorStore(openDB(t)).Put(t.Context(), contradiction); err != nil {
		t.Errorf("in an empty store: %v", err)
	}
	if err := store.Put(t.Context(), contradiction); !errors.Is(err, verify.ErrRewritten) {
		t.Errorf("another root at a kept size: %v", err)
	}
}

// TestAnchorsTellOfARewrittenLog runs the anchoring, replaces the log by one with another past but the same id, and
// checks that the next start notices.
func TestAnchorsTellOfARewrittenLog(t *testing.T) {
	db, dir, image := openDB(t), t.TempDir(), t.TempDir()
	store := audit.NewAnchorStore(db)
	closeLog(t, open(t, testConfig(dir)))
	copyDir(t, dir, image) // the empty log: the same id

	l := open(t, testConfig(dir))
	fill(t, l, 10)
	if _, err := l.SignNow(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	watch := db.Watch(kv.K("audit-anchor"))
	defer watch.Close()
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx, l, time.Millisecond, slog.New(slog.DiscardHandler)) }()
	<-watch.C()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	anchors, err := store.List(t.Context(), "n1")
	if err != nil || len(anchors) != 1 || anchors[0].Size != 10 {
		t.Fatalf("anchors: %+v, %v", anchors, err)
	}
	closeLog(t, l)
	if report, err := audit.VerifyDir(dir, verifierKeys(t), anchors); err != nil || report.Anchors != 1 {
		t.Fatalf("verify: %+v, %v", report, err)
	}

	forged := open(t, testConfig(image))
	for i := range 12 {
		if _, err := forged.Append(t.Context(), testRecord(100+i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Run(t.Context(), forged, time.Hour, slog.New(slog.DiscardHandler)); !errors.Is(err, verify.ErrRewritten) {
		t.Errorf("run over a rewritten log: %v", err)
	}
	if err := forged.Healthy(); !errors.Is(err, verify.ErrRewritten) {
		t.Errorf("healthy: %v", err)
	}
	forged.Close()
}
