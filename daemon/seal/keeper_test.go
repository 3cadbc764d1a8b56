package seal_test

import (
	"context"
	"crypto/rand"
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
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

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
	for range 200 {
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
		t.Errorf("%d of 200 requests with one token were admitted", won.Load())
	}
	if _, _, err := n1.keeper.CreateJoinToken(t.Context(), "n1", request.Fingerprint(), time.Minute); !errors.Is(err, seal.ErrMemberExists) {
		t.Errorf("a token for a member: %v", err)
	}
}

// TestAForgedKeyringIsRefused writes a keyring of a forger's own, sealed to the node's public key: all that somebody
// with the disk alone can do.
func TestAForgedKeyringIsRefused(t *testing.T) {
	_, n1 := newTown(t)
	n1.opens(t)
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
	if ring, err := n1.holder.Keyring(); err == nil && ring.Commitment() == forged.Commitment() || n1.keeper.Epoch() != before {
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
