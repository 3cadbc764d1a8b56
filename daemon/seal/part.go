package seal

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"warder/hsm"
	"warder/keystore/kv"
)

// progress gives the rotation, the voters that have not done its phase, and the members.
func (k *Keeper) progress(ctx context.Context) (Rotation, []string, []Member, error) {
	var rotation Rotation
	var members []Member
	confirmed := map[string]Confirmation{}
	err := k.cfg.DB.View(ctx, func(tx *kv.Tx) (err error) {
		if _, err := get(tx, rotationKey(), &rotation); err != nil {
			return err
		}
		if members, err = Members(tx); err != nil {
			return err
		}
		for _, member := range members {
			var said Confirmation
			if _, err := get(tx, confirmationKey(member.Node), &said); err != nil {
				return err
			}
			confirmed[member.Node] = said
		}
		return nil
	})
	if err != nil || !rotation.Running() {
		return rotation, nil, members, err
	}
	voters, err := k.cfg.Cluster.Voters(ctx)
	if err != nil {
		return rotation, nil, members, err
	}
	var waiting []string
	for _, voter := range voters {
		at := slices.IndexFunc(members, func(m Member) bool { return m.Node == voter })
		if at < 0 || !done(rotation, members[at], confirmed[voter]) {
			waiting = append(waiting, voter)
		}
	}
	slices.Sort(waiting)
	return rotation, waiting, members, nil
}

// done says whether a member has done its part of the rotation's phase.
func done(rotation Rotation, member Member, said Confirmation) bool {
	switch rotation.Phase {
	case PhaseCollect:
		// A key that an earlier rotation replaced must be destroyed before this one replaces another: the record has room for one.
		return !rotation.concerns(member.Node) || member.Previous == nil && member.Next != nil && member.Next.Rotation == rotation.ID
	case PhaseVerify:
		return said.Epoch >= rotation.Epoch && (member.Next == nil || said.Root == fingerprintOf(member.Next.Public).String())
	default:
		return said.Epoch >= rotation.Epoch
	}
}

// offerRoot makes this node's new root key where a rotation collects them, and shows its public half.
func (k *Keeper) offerRoot(ctx context.Context) error {
	rotation, _, members, err := k.progress(ctx)
	if err != nil || rotation.Kind != RotateRoot || rotation.Phase != PhaseCollect || !rotation.concerns(k.cfg.Home.Node) {
		return err
	}
	at := slices.IndexFunc(members, func(m Member) bool { return m.Node == k.cfg.Home.Node })
	if at < 0 || members[at].Next != nil && members[at].Next.Rotation == rotation.ID {
		return nil
	}
	next, err := k.rootToOffer(ctx, rotation.ID)
	if err != nil {
		return fmt.Errorf("make a new root key: %w", err)
	}
	return k.advance(ctx, rotation, func(tx *kv.Tx, _ *Rotation) error {
		return k.changeSelf(tx, func(m *Member) { m.Next = &next })
	})
}

// rootToOffer makes a root key for a rotation once, however often showing it fails: each is a key in the HSM.
func (k *Keeper) rootToOffer(ctx context.Context, rotation uint64) (RootKey, error) {
	token, err := k.Token()
	if err != nil {
		return RootKey{}, err
	}
	k.mu.Lock()
	made := k.offer
	k.mu.Unlock()
	if made != nil && made.Rotation == rotation {
		return *made, nil
	}
	next, err := NewRootKey(ctx, token, rotation)
	if err != nil {
		return RootKey{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.offer = &next
	return next, nil
}

// dropUnshown destroys the root key that this node made for a rotation which went on without it.
func (k *Keeper) dropUnshown(ctx context.Context) error {
	k.mu.Lock()
	made := k.offer
	k.mu.Unlock()
	if made == nil {
		return nil
	}
	rotation, _, members, err := k.progress(ctx)
	if err != nil || rotation.ID == made.Rotation && rotation.Phase == PhaseCollect {
		return err // it may yet be shown
	}
	at := slices.IndexFunc(members, func(m Member) bool { return m.Node == k.cfg.Home.Node })
	if at < 0 || !members[at].has(*made) {
		token, err := k.Token()
		if err != nil {
			return err
		}
		if err := destroyRoot(ctx, token, *made); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.offer = nil
	return nil
}

// destroyRoot destroys a root key that is in no sealing. One that is gone already is no error.
func destroyRoot(ctx context.Context, token hsm.Token, root RootKey) error {
	name := fingerprintOf(root.Public)
	if err := token.DestroyKey(ctx, name); err != nil && !errors.Is(err, hsm.ErrKeyNotFound) {
		return fmt.Errorf("destroy the root key %s: %w", name, err)
	}
	return nil
}

// NewRootKey makes a root key in the token and gives its public half.
func NewRootKey(ctx context.Context, token hsm.Token, rotation uint64) (RootKey, error) {
	key, err := token.CreateRootKey(ctx, fmt.Sprintf("warder-root-%d-%s", rotation, rand.Text()[:8]))
	if err != nil {
		return RootKey{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return RootKey{}, fmt.Errorf("encode the root key's public half: %w", err)
	}
	return RootKey{Public: public, Hash: string(key.Hash()), Rotation: rotation}, nil
}

// dropPreviousRoot destroys the key that a finished rotation replaced, in this node's HSM. One that runs does not stop
// it, unless it is the one that made the node's present key: others may still have to open that sealing.
func (k *Keeper) dropPreviousRoot(ctx context.Context) error {
	rotation, _, members, err := k.progress(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(members, func(m Member) bool { return m.Node == k.cfg.Home.Node })
	if at < 0 || members[at].Previous == nil || rotation.Running() && rotation.made(members[at].Root) {
		return nil
	}
	token, err := k.Token()
	if err != nil {
		return err
	}
	if err := destroyRoot(ctx, token, *members[at].Previous); err != nil {
		return err
	}
	old := fingerprintOf(members[at].Previous.Public)
	k.cfg.Logger.Info("the replaced root key was destroyed", "root_key", old.String())
	return k.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		return k.changeSelf(tx, func(m *Member) {
			if m.Previous != nil && fingerprintOf(m.Previous.Public) == old {
				m.Previous = nil
			}
		})
	})
}

func (k *Keeper) changeSelf(tx *kv.Tx, change func(*Member)) error {
	var member Member
	found, err := get(tx, memberKey(k.cfg.Home.Node), &member)
	if err != nil || !found {
		return err
	}
	change(&member)
	return put(tx, memberKey(member.Node), member)
}
