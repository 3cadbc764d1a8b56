package seal_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"warder/daemon/seal"
	"warder/hsm"
	"warder/hsm/hsmtest"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

const clusterID = "0123456789abcdef0123456789abcdef"

// town is a cluster as the seal sees it: one replicated state, and members with a token, a home and a keeper each.
type town struct {
	store *kv.Store
	log   *sharedLog

	mu     sync.Mutex
	leader string   // guarded by mu, and below
	voters []string // in the order of their joining
}

// sharedLog applies every proposal to the one store: consensus among members that share it.
type sharedLog struct {
	mu    sync.Mutex
	store *kv.Store
	index uint64
}

func (l *sharedLog) Propose(_ context.Context, entry []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	results, err := l.store.Apply(l.index, [][]byte{entry})
	if err != nil {
		return nil, err
	}
	return results[0], nil
}

func (l *sharedLog) Barrier(context.Context) error { return nil }

// line is one member's way to the log, which can be cut: the member then still sees what the others do.
type line struct {
	*sharedLog
	cut     atomic.Bool
	refused atomic.Int32
}

var errCut = errors.New("the line is cut")

func (l *line) Propose(ctx context.Context, entry []byte) ([]byte, error) {
	if l.cut.Load() {
		l.refused.Add(1)
		return nil, errCut
	}
	return l.sharedLog.Propose(ctx, entry)
}

// citizen is one member.
type citizen struct {
	town   *town
	name   string
	token  *hsmtest.Fake
	line   *line
	home   seal.Home
	holder *keyring.Holder
	db     *kv.DB
	keeper *seal.Keeper
	opened atomic.Int32 // how often the token was asked for
	refuse atomic.Pointer[error]
	gate   *gate         // where not nil, decryptions pass through it
	slow   chan struct{} // where not nil, the token opens when it is closed
	stop   context.CancelFunc
	ended  chan error
}

func (c *citizen) IsLeader() bool {
	c.town.mu.Lock()
	defer c.town.mu.Unlock()
	return c.town.leader == c.name
}

func (c *citizen) Voters(context.Context) ([]string, error) {
	c.town.mu.Lock()
	defer c.town.mu.Unlock()
	return slices.Clone(c.town.voters), nil
}

func newTown(t *testing.T) (*town, *citizen) {
	t.Helper()
	store, err := kv.OpenStore(kv.StoreConfig{Dir: filepath.Join(t.TempDir(), "state")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() }) // the test is over: nothing depends on it
	w := &town{store: store, log: &sharedLog{store: store}, leader: "n1", voters: []string{"n1"}}
	first := w.settle(t, "n1")
	ring, err := keyring.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	commitment := ring.Commitment()
	first.home.Commitment = commitment[:]
	first.pin(t)
	first.holder.Set(ring)
	custody, err := seal.NewCustody(t.Context(), first.token)
	if err != nil {
		t.Fatal(err)
	}
	request := first.request(t, "")
	err = first.db.Update(t.Context(), func(tx *kv.Tx) error {
		return seal.Found(tx, ring, clusterID, seal.Member{Node: "n1", NodeKey: request.NodeKey, TransportKey: request.TransportKey, Root: request.Root}, custody)
	})
	if err != nil {
		t.Fatal(err)
	}
	first.run(t)
	return w, first
}

// settle makes a member-to-be with a token of its own.
func (w *town) settle(t *testing.T, name string) *citizen {
	t.Helper()
	c := &citizen{town: w, name: name, token: hsmtest.NewFake(t), line: &line{sharedLog: w.log}, holder: &keyring.Holder{}}
	c.home = seal.Home{ClusterID: clusterID, Node: name, AuditSeed: make([]byte, ed25519.SeedSize)}
	c.db = kv.New(w.store, c.line, c.holder)
	return c
}

func (c *citizen) pin(t *testing.T) {
	t.Helper()
	key, err := c.token.NodeKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.home.SignPin(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

// unclosed keeps a token open over a keeper's end, so that a citizen can be started again.
type unclosed struct {
	hsm.Token
	gate *gate
}

func (unclosed) Close() error { return nil }

// gate holds decryptions up; only those that came before, once that is set.
type gate struct {
	reached, open chan struct{}
	once          sync.Once
	only          atomic.Bool
}

func (u unclosed) RootKey(ctx context.Context, fp hsm.Fingerprint) (hsm.RootKey, error) {
	key, err := u.Token.RootKey(ctx, fp)
	if err != nil || u.gate == nil {
		return key, err
	}
	return gated{key, u.gate}, nil
}

type gated struct {
	hsm.RootKey
	gate *gate
}

func (g gated) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	if !g.gate.only.Load() {
		g.gate.once.Do(func() { close(g.gate.reached) })
		<-g.gate.open
	}
	return g.RootKey.Decrypt(ctx, ciphertext)
}

// hire gives the citizen a keeper that does nothing unasked.
func (c *citizen) hire() {
	c.keeper = seal.NewKeeper(seal.Config{
		Home: c.home, Store: c.town.store, DB: c.db, Holder: c.holder, Cluster: c,
		OpenToken: func(context.Context) (hsm.Token, error) {
			c.opened.Add(1)
			if c.slow != nil {
				<-c.slow
			}
			if refused := c.refuse.Load(); refused != nil {
				return nil, *refused
			}
			return unclosed{c.token, c.gate}, nil
		},
	})
}

func (c *citizen) run(t *testing.T) {
	t.Helper()
	c.hire()
	ctx, stop := context.WithCancel(context.Background())
	c.stop, c.ended = stop, make(chan error, 1)
	keeper, ended := c.keeper, c.ended
	go func() { ended <- keeper.Run(ctx) }()
	t.Cleanup(c.halt)
}

func (c *citizen) halt() {
	c.stop()
	err := <-c.ended
	c.ended <- err
}

// request is what the citizen shows to join, signed by its token.
func (c *citizen) request(t *testing.T, token string) seal.JoinRequest {
	t.Helper()
	node, err := c.token.NodeKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(node.Public())
	if err != nil {
		t.Fatal(err)
	}
	transport, err := c.token.TransportKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	transportSPKI, err := x509.MarshalPKIXPublicKey(transport)
	if err != nil {
		t.Fatal(err)
	}
	root, err := seal.NewRootKey(t.Context(), c.token, 0)
	if err != nil {
		t.Fatal(err)
	}
	request := seal.JoinRequest{
		Token: token, Node: c.name, Address: "127.0.0.1:1", Endpoint: "https://127.0.0.1:2", CSR: []byte("csr"), Root: root,
		NodeKey: spki, TransportKey: transportSPKI, AuditKey: make([]byte, ed25519.PublicKeySize),
	}
	if request.Signature, err = node.Sign(t.Context(), request.Transcript()); err != nil {
		t.Fatal(err)
	}
	return request
}

// join admits another member, through the first.
func (w *town) join(t *testing.T, through *citizen, name string) *citizen {
	t.Helper()
	c := w.settle(t, name)
	request := c.request(t, "")
	token, _, err := through.keeper.CreateJoinToken(t.Context(), name, request.Fingerprint(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	request = c.request(t, token)
	if _, err := through.keeper.Admit(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	c.home.Commitment = through.home.Commitment
	c.pin(t)
	w.mu.Lock()
	w.voters = append(w.voters, name)
	w.mu.Unlock()
	c.run(t)
	c.opens(t)
	return c
}

func (c *citizen) opens(t *testing.T) {
	t.Helper()
	eventually(t, c.name+" opens the keyring", func() error {
		if c.keeper.Epoch() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
}

// leave takes a member's vote.
func (w *town) leave(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.voters = slices.DeleteFunc(w.voters, func(one string) bool { return one == name })
}

func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

func (c *citizen) put(t *testing.T, name, value string) {
	t.Helper()
	if err := c.db.Update(t.Context(), func(tx *kv.Tx) error { tx.Put(kv.K("test", name), []byte(value)); return nil }); err != nil {
		t.Fatal(err)
	}
}

func (c *citizen) holds(t *testing.T, name, value string) {
	t.Helper()
	err := c.db.View(t.Context(), func(tx *kv.Tx) error {
		got, _, err := tx.Get(kv.K("test", name))
		if err == nil && string(got) != value {
			err = fmt.Errorf("%q", got)
		}
		return err
	})
	if err != nil {
		t.Errorf("%s reads %s: %v; want %q", c.name, name, err, value)
	}
}

func finished(t *testing.T, c *citizen) {
	t.Helper()
	eventually(t, "the rotation ends", func() error {
		status, err := c.keeper.Status(t.Context())
		if err == nil && status.Running() {
			err = fmt.Errorf("it is in phase %s, waiting for %v", status.Phase, status.Waiting)
		}
		return err
	})
}
