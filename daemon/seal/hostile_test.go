package seal_test

import (
	"context"
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
	"warder/hsm/hsmtest"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// waiting says that the rotation is in phase and waits for exactly these voters.
func (c *citizen) waiting(t *testing.T, phase seal.Phase, voters ...string) {
	t.Helper()
	eventually(t, "the others do their part", func() error {
		status, err := c.keeper.Status(t.Context())
		if err == nil && (status.Phase != phase || !slices.Equal(status.Waiting, voters)) {
			err = fmt.Errorf("in phase %s waiting for %v", status.Phase, status.Waiting)
		}
		return err
	})
}

// TestAnEvictionDuringARotationIsFollowedByAnother: the new key of a rotation under way is one that the evicted node
// has opened, so that the cluster must not stay with it.
func TestAnEvictionDuringARotationIsFollowedByAnother(t *testing.T) {
	for _, kind := range []seal.Kind{seal.RotateData, seal.RotateRoot} {
		w, n1 := newTown(t)
		evicted, slow := w.join(t, n1, "n2"), w.join(t, n1, "n3")
		slow.halt()
		if _, err := n1.keeper.Start(t.Context(), kind, ""); err != nil {
			t.Fatal(err)
		}
		phase := map[seal.Kind]seal.Phase{seal.RotateData: seal.PhaseDistribute, seal.RotateRoot: seal.PhaseCollect}[kind]
		n1.waiting(t, phase, "n3")
		ring, err := evicted.holder.Keyring()
		if err != nil {
			t.Fatal(err)
		}
		w.leave("n2")
		if err := n1.keeper.Evict(t.Context(), "n2"); err != nil {
			t.Fatal(err)
		}
		if _, err := n1.keeper.Start(t.Context(), seal.RotateData, ""); !errors.Is(err, seal.ErrRotating) {
			t.Fatalf("a rotation beside the other: %v", err)
		}
		slow.run(t)
		eventually(t, "the keyring holds no key that the evicted node knows", func() error {
			return shares(n1, ring)
		})
		finished(t, n1)
		if err := evicted.keeper.Unseal(t.Context()); !errors.Is(err, keyring.ErrNotRecipient) {
			t.Errorf("the evicted node opens what follows: %v", err)
		}
	}
}

// shares says which data key a member still holds of an evicted node's keyring.
func shares(c *citizen, known *keyring.Keyring) error {
	ring, err := c.holder.Keyring()
	if err != nil {
		return err
	}
	for _, key := range ring.DataKeys() {
		if slices.ContainsFunc(known.DataKeys(), func(k keyring.DataKey) bool { return k.ID == key.ID }) {
			return fmt.Errorf("data key %d is known to it", key.ID)
		}
	}
	return nil
}

func TestEvictingAStrangerSaysSo(t *testing.T) {
	_, n1 := newTown(t)
	n1.opens(t)
	before := n1.keeper.Epoch()
	if err := n1.keeper.Evict(t.Context(), "n9"); !errors.Is(err, seal.ErrNoMember) {
		t.Errorf("evict a stranger: %v; want %v", err, seal.ErrNoMember)
	}
	if n1.keeper.Epoch() != before {
		t.Error("the keyring was sealed anew")
	}
}

// TestARootKeyThatCannotBeShownIsMadeOnce: a node that cannot reach the leader does not fill its HSM.
func TestARootKeyThatCannotBeShownIsMadeOnce(t *testing.T) {
	w, n1 := newTown(t)
	n2 := w.join(t, n1, "n2")
	before := n2.token.Calls("CreateRootKey")
	n2.line.cut.Store(true)
	refused := n2.line.refused.Load()
	if _, err := n1.keeper.Start(t.Context(), seal.RotateRoot, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "n2 tries three times", func() error {
		n2.db.Wake()
		if n2.line.refused.Load() < refused+3 {
			return errors.New("not yet")
		}
		return nil
	})
	n2.line.cut.Store(false)
	finished(t, n1)
	if made := n2.token.Calls("CreateRootKey") - before; made != 1 {
		t.Errorf("n2 made %d root keys for one rotation", made)
	}
}

// TestAReplacedRootKeyIsNeverForgotten: a key that could not be destroyed holds the next rotation up.
func TestAReplacedRootKeyIsNeverForgotten(t *testing.T) {
	w, n1 := newTown(t)
	n2 := w.join(t, n1, "n2")
	first := n2.keeper.Root()
	n2.token.Fail("DestroyKey", hsmtest.Fault{Err: hsm.ErrUnavailable})
	rotateRoot(t, n1)
	second := n2.keeper.Root()
	if _, err := n1.keeper.Start(t.Context(), seal.RotateRoot, ""); err != nil {
		t.Fatal(err)
	}
	n1.waiting(t, seal.PhaseCollect, "n2")
	n2.token.Mend()
	finished(t, n1)
	for _, old := range []string{first, second} {
		eventually(t, "the replaced keys are destroyed", func() error { return n2.settled(t, seal.RotateRoot, old) })
	}
}

func rotateRoot(t *testing.T, c *citizen) {
	t.Helper()
	if _, err := c.keeper.Start(t.Context(), seal.RotateRoot, ""); err != nil {
		t.Fatal(err)
	}
	finished(t, c)
}

// TestALostAnswerDoesNotShutTheNodeOut: the node was admitted and never heard of it.
func TestALostAnswerDoesNotShutTheNodeOut(t *testing.T) {
	w, n1 := newTown(t)
	c := w.settle(t, "n2")
	admit := func(c *citizen) (seal.JoinRequest, error) {
		fingerprint := c.request(t, "").Fingerprint()
		token, _, err := n1.keeper.CreateJoinToken(t.Context(), "n2", fingerprint, time.Minute)
		if err != nil {
			return seal.JoinRequest{}, err
		}
		request := c.request(t, token)
		_, err = n1.keeper.Admit(t.Context(), request)
		return request, err
	}
	lost, err := admit(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n1.keeper.Admit(t.Context(), lost); !errors.Is(err, seal.ErrJoinRefused) {
		t.Errorf("the token a second time: %v", err)
	}
	other := w.settle(t, "n2")
	if _, err := admit(other); !errors.Is(err, seal.ErrMemberExists) {
		t.Errorf("another HSM in its place: %v", err)
	}
	again, err := admit(c)
	if err != nil {
		t.Fatalf("the node asks again, with a new token: %v", err)
	}
	n1.sealedTo(t, again.Root, true)
	n1.sealedTo(t, lost.Root, false)
	c.home.Commitment = n1.home.Commitment
	c.pin(t)
	c.run(t)
	eventually(t, "the node opens the keyring and says so", func() error {
		if _, err := admit(c); !errors.Is(err, seal.ErrMemberExists) {
			return fmt.Errorf("a third admission: %w", err)
		}
		return nil
	})
}

func (c *citizen) sealedTo(t *testing.T, root seal.RootKey, want bool) {
	t.Helper()
	sealed, _, err := c.town.store.SealedKeyring()
	if err != nil {
		t.Fatal(err)
	}
	header, err := keyring.Inspect(sealed)
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("rsa-oaep:%s:%x", root.Hash, hsmFingerprint(root))
	if slices.Contains(header.Recipients, id) != want {
		t.Errorf("the keyring is sealed to %v; %s among them: want %t", header.Recipients, id, want)
	}
}

// TestOneLoginAtATime: an operator's unseal beside the keeper's own attempt opens the token once.
func TestOneLoginAtATime(t *testing.T) {
	w, n1 := newTown(t)
	n2 := w.join(t, n1, "n2")
	n2.halt()
	n2.opened.Store(0)
	n2.slow = make(chan struct{})
	n2.run(t)
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			if err := n2.keeper.Unseal(context.Background()); err != nil {
				t.Errorf("unseal: %v", err)
			}
		})
	}
	eventually(t, "somebody logs in", func() error {
		if n2.opened.Load() == 0 {
			return errors.New("nobody yet")
		}
		return nil
	})
	close(n2.slow)
	asking.Wait()
	if got := n2.opened.Load(); got != 1 {
		t.Errorf("the token was opened %d times", got)
	}
}

func hsmFingerprint(root seal.RootKey) []byte {
	fingerprint := seal.JoinRequest{NodeKey: root.Public}.Fingerprint()
	return fingerprint[:]
}

// TestOpeningsDoNotOvertakeEachOther: an operator's unseal that met a sealing just before the next one is no forgery.
func TestOpeningsDoNotOvertakeEachOther(t *testing.T) {
	w, n1 := newTown(t)
	n2 := w.join(t, n1, "n2")
	n2.halt()
	n2.gate = &gate{reached: make(chan struct{}), open: make(chan struct{})}
	n2.hire()
	first := make(chan error, 1)
	go func() { first <- n2.keeper.Unseal(context.Background()) }()
	<-n2.gate.reached
	n2.gate.only.Store(true) // who decrypts from now on is not held up
	w.join(t, n1, "n3")
	second := make(chan error, 1)
	go func() { second <- n2.keeper.Unseal(context.Background()) }()
	done := false
	select {
	case err := <-second:
		done = true
		if err != nil {
			t.Errorf("the second opening: %v", err)
		}
	case <-time.After(200 * time.Millisecond): // it waits for the first
	}
	close(n2.gate.open)
	if err := <-first; err != nil {
		t.Errorf("the first opening: %v", err)
	}
	if !done {
		if err := <-second; err != nil {
			t.Errorf("the second opening: %v", err)
		}
	}
}

// TestAHomeIsWrittenForItsOwnerOnly: whatever lies in its way.
func TestAHomeIsWrittenForItsOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "node.json.new")
	if err := os.WriteFile(left, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(left, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (seal.Home{Node: "n1"}).Save(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.LoadHome(dir); err != nil {
		t.Errorf("the home that was just written: %v", err)
	}
}

// TestOneRotationOfMany: operators who begin at once, on different nodes, begin one.
func TestOneRotationOfMany(t *testing.T) {
	w, n1 := newTown(t)
	n2 := w.join(t, n1, "n2")
	w.join(t, n1, "n3").halt() // so that none ends
	var began atomic.Int32
	var asking sync.WaitGroup
	for i := range 40 {
		c, kind := []*citizen{n1, n2}[i%2], []seal.Kind{seal.RotateRoot, seal.RotateData}[i/2%2]
		asking.Go(func() {
			_, err := c.keeper.Start(context.Background(), kind, "")
			switch {
			case err == nil:
				began.Add(1)
			case !errors.Is(err, seal.ErrRotating) && !errors.Is(err, seal.ErrBehind) && !errors.Is(err, kv.ErrConflict):
				t.Errorf("a lost race: %v", err)
			}
		})
	}
	asking.Wait()
	if began.Load() != 1 {
		t.Errorf("%d rotations began", began.Load())
	}
}

// TestAnOlderSealingIsRefused: it is whole and of this cluster, and was overtaken: an evicted node may be in it.
func TestAnOlderSealingIsRefused(t *testing.T) {
	w, n1 := newTown(t)
	w.join(t, n1, "n2").halt()
	older, _, err := w.store.SealedKeyring()
	if err != nil {
		t.Fatal(err)
	}
	if err := n1.keeper.Evict(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	w.leave("n2")
	finished(t, n1)
	n1.opens(t)
	before, ring := n1.keeper.Epoch(), n1.active(t)
	if err := n1.db.Update(t.Context(), func(tx *kv.Tx) error { tx.PutKeyring(older); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := n1.keeper.Unseal(t.Context()); !errors.Is(err, seal.ErrForeignKeyring) {
		t.Errorf("an older sealing: %v; want %v", err, seal.ErrForeignKeyring)
	}
	if n1.keeper.Epoch() < before || n1.active(t) < ring {
		t.Error("the node went back to it")
	}
}

func (c *citizen) active(t *testing.T) uint32 {
	t.Helper()
	ring, err := c.holder.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	return ring.Active()
}
