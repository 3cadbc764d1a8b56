package seal_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"warder/daemon/seal"
	"warder/hsm"
	"warder/hsm/softtoken"
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

// citizen is one member.
type citizen struct {
	town   *town
	name   string
	token  hsm.Token
	home   seal.Home
	holder *keyring.Holder
	db     *kv.DB
	keeper *seal.Keeper
	opened atomic.Int32 // how often the token was asked for
	refuse atomic.Pointer[error]
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
	token, err := softtoken.Open("")
	if err != nil {
		t.Fatal(err)
	}
	c := &citizen{town: w, name: name, token: token, holder: &keyring.Holder{}}
	c.home = seal.Home{ClusterID: clusterID, Node: name, AuditSeed: make([]byte, ed25519.SeedSize)}
	c.db = kv.New(w.store, w.log, c.holder)
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
type unclosed struct{ hsm.Token }

func (unclosed) Close() error { return nil }

func (c *citizen) run(t *testing.T) {
	t.Helper()
	c.keeper = seal.NewKeeper(seal.Config{
		Home: c.home, Store: c.town.store, DB: c.db, Holder: c.holder, Cluster: c,
		OpenToken: func(context.Context) (hsm.Token, error) {
			c.opened.Add(1)
			if refused := c.refuse.Load(); refused != nil {
				return nil, *refused
			}
			return unclosed{c.token}, nil
		},
	})
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
	eventually(t, name+" opens the keyring", func() error {
		if c.keeper.Sealed() {
			return errors.New("sealed")
		}
		return nil
	})
	return c
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

func TestRotationsReplaceEveryKey(t *testing.T) {
	w, n1 := newTown(t)
	n2 := w.join(t, n1, "n2")
	for i := range 40 {
		n1.put(t, fmt.Sprint(i), fmt.Sprint("value ", i))
	}
	for _, kind := range []seal.Kind{seal.RotateRoot, seal.RotateData, seal.RotateRoot} {
		before := map[string]string{"n1": n1.keeper.Root(), "n2": n2.keeper.Root()}
		if _, err := n2.keeper.Start(t.Context(), kind, ""); err != nil {
			t.Fatal(err)
		}
		finished(t, n1)
		for _, c := range []*citizen{n1, n2} {
			eventually(t, c.name+" destroys what was replaced", func() error { return c.settled(t, kind, before[c.name]) })
			for i := range 40 {
				c.holds(t, fmt.Sprint(i), fmt.Sprint("value ", i))
			}
		}
	}
	used, err := n1.db.KeysInUse(t.Context())
	if err != nil || len(used) != 1 || used[2] == 0 {
		t.Errorf("data keys in use: %v, %v; want the second alone", used, err)
	}
}

// settled says whether a member is through with a rotation: it has a new root key and not the old one, or one data key.
func (c *citizen) settled(t *testing.T, kind seal.Kind, before string) error {
	if kind == seal.RotateData {
		ring, err := c.holder.Keyring()
		if err == nil && len(ring.DataKeys()) != 1 {
			err = fmt.Errorf("it holds the data keys %v", ring.DataKeys())
		}
		return err
	}
	if c.keeper.Root() == before {
		return errors.New("its root key is the old one")
	}
	old, err := hsm.ParseFingerprint(before)
	if err != nil {
		return err
	}
	if _, err := c.token.RootKey(t.Context(), old); !errors.Is(err, hsm.ErrKeyNotFound) {
		return fmt.Errorf("the old root key is still there: %w", err)
	}
	return nil
}

func TestARotationWaitsForEveryVoter(t *testing.T) {
	w, n1 := newTown(t)
	n2 := w.join(t, n1, "n2")
	for kind, phase := range map[seal.Kind]seal.Phase{seal.RotateRoot: seal.PhaseCollect, seal.RotateData: seal.PhaseDistribute} {
		n2.halt()
		if _, err := n1.keeper.Start(t.Context(), kind, ""); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the others have done their part", func() error {
			status, err := n1.keeper.Status(t.Context())
			if err == nil && !slices.Equal(status.Waiting, []string{"n2"}) {
				err = fmt.Errorf("in phase %s waiting for %v", status.Phase, status.Waiting)
			}
			return err
		})
		for i := range 20 { // each change wakes the leader's keeper
			n1.put(t, "wake", fmt.Sprint(i))
		}
		if status, err := n1.keeper.Status(t.Context()); err != nil || status.Phase != phase {
			t.Errorf("without a voter the %s rotation is in phase %s: %v; want %s", kind, status.Phase, err, phase)
		}
		if _, err := n1.keeper.Start(t.Context(), seal.RotateData, ""); !errors.Is(err, seal.ErrRotating) {
			t.Errorf("a second rotation: %v; want %v", err, seal.ErrRotating)
		}
		n2.run(t)
		finished(t, n1)
		eventually(t, "n2 opens the last sealing", func() error {
			if n2.keeper.Epoch() != n1.keeper.Epoch() {
				return fmt.Errorf("it has %d, n1 has %d", n2.keeper.Epoch(), n1.keeper.Epoch())
			}
			return nil
		})
	}
}

func TestARemovedVoterHoldsNothingUp(t *testing.T) {
	w, n1 := newTown(t)
	n2 := w.join(t, n1, "n2")
	n2.halt()
	if _, err := n1.keeper.Start(t.Context(), seal.RotateData, ""); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.voters = []string{"n1"}
	w.mu.Unlock()
	if err := n1.keeper.Evict(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	finished(t, n1)
	n2.run(t)
	eventually(t, "the evicted node finds no entry of its own", func() error {
		if err := n2.keeper.Unseal(t.Context()); !errors.Is(err, keyring.ErrNotRecipient) {
			return fmt.Errorf("unseal: %w", err)
		}
		return nil
	})
}

func TestAJoinTokenAdmitsOneNodeOnce(t *testing.T) {
	w, n1 := newTown(t)
	c := w.settle(t, "n2")
	request := c.request(t, "")
	token, _, err := n1.keeper.CreateJoinToken(t.Context(), "n2", request.Fingerprint(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	other := w.settle(t, "n2") // another HSM
	if _, err := n1.keeper.Admit(t.Context(), other.request(t, token)); !errors.Is(err, seal.ErrJoinRefused) {
		t.Errorf("another HSM with the token: %v", err)
	}
	changed := c.request(t, token)
	changed.Address = "127.0.0.1:666"
	if _, err := n1.keeper.Admit(t.Context(), changed); !errors.Is(err, seal.ErrJoinRefused) {
		t.Errorf("a changed request: %v", err)
	}
	good := c.request(t, token)
	var won atomic.Int32
	var racing sync.WaitGroup
	for range 50 {
		racing.Go(func() {
			if _, err := n1.keeper.Admit(context.Background(), good); err == nil {
				won.Add(1)
			} else if !errors.Is(err, seal.ErrJoinRefused) && !errors.Is(err, kv.ErrConflict) && !errors.Is(err, seal.ErrBehind) {
				t.Errorf("a lost race: %v", err)
			}
		})
	}
	racing.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 50 requests with one token were admitted", won.Load())
	}
	if _, _, err := n1.keeper.CreateJoinToken(t.Context(), "n2", request.Fingerprint(), time.Minute); !errors.Is(err, seal.ErrMemberExists) {
		t.Errorf("a token for a member: %v", err)
	}
}

// TestAForgedKeyringIsRefused writes a keyring of a forger's own, sealed to the node's public key: all that somebody
// with the disk alone can do.
func TestAForgedKeyringIsRefused(t *testing.T) {
	_, n1 := newTown(t)
	eventually(t, "n1 opens the keyring", func() error {
		if n1.keeper.Sealed() {
			return errors.New("sealed")
		}
		return nil
	})
	forged, err := keyring.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	before := n1.keeper.Epoch()
	err = n1.db.Update(t.Context(), func(tx *kv.Tx) error {
		members, err := seal.Members(tx)
		if err != nil {
			return err
		}
		return seal.Found(tx, forged, clusterID, members[0], nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n1.keeper.Unseal(t.Context()); !errors.Is(err, seal.ErrForeignKeyring) {
		t.Errorf("a forged keyring: %v; want %v", err, seal.ErrForeignKeyring)
	}
	if ring, err := n1.holder.Keyring(); err == nil && ring.Commitment() == forged.Commitment() || n1.keeper.Epoch() > before {
		t.Error("the node took the forged keyring for its own")
	}
}

func TestARefusedPINIsTriedOnce(t *testing.T) {
	w, n1 := newTown(t)
	n2 := w.settle(t, "n2")
	refused := fmt.Errorf("%w: test", hsm.ErrPINRefused)
	n2.refuse.Store(&refused)
	n2.home.Commitment = n1.home.Commitment
	n2.pin(t)
	n2.run(t)
	eventually(t, "the first attempt", func() error {
		if n2.opened.Load() == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	for i := range 20 { // each change wakes the keeper
		n1.put(t, "wake", fmt.Sprint(i))
	}
	n2.db.Wake()
	if got := n2.opened.Load(); got != 1 {
		t.Errorf("the token was opened %d times with a refused PIN", got)
	}
	if err := n2.keeper.Unseal(t.Context()); !errors.Is(err, hsm.ErrPINRefused) || n2.opened.Load() != 2 {
		t.Errorf("an operator's word: %v after %d attempts; want one more", err, n2.opened.Load())
	}
}

func TestAChangedHomeIsNamed(t *testing.T) {
	dir := t.TempDir()
	home := seal.Home{ClusterID: clusterID, Node: "n1", Commitment: make([]byte, 32), PrivateKey: []byte("private")}
	if err := home.Save(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "node.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range good {
		bad := slices.Clone(good)
		bad[at] ^= 0x04
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := seal.LoadHome(dir); err == nil && got.Node+string(got.PrivateKey) != home.Node+string(home.PrivateKey) {
			t.Fatalf("a flip at %d gives another home", at)
		}
	}
	if err := os.WriteFile(path, good, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.LoadHome(dir); err == nil {
		t.Error("a home that others can read was taken")
	}
}
