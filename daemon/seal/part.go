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
		return !rotation.concerns(member.Node) || member.Next != nil && member.Next.Rotation == rotation.ID
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
	token, err := k.Token()
	if err != nil {
		return err
	}
	next, err := NewRootKey(ctx, token, rotation.ID)
	if err != nil {
		return fmt.Errorf("make a new root key: %w", err)
	}
	return k.advance(ctx, rotation, func(tx *kv.Tx, _ *Rotation) error {
		return k.changeSelf(tx, func(m *Member) { m.Next = &next })
	})
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

// dropPreviousRoot destroys the key that a finished rotation replaced, in this node's HSM.
func (k *Keeper) dropPreviousRoot(ctx context.Context) error {
	rotation, _, members, err := k.progress(ctx)
	if err != nil || rotation.Running() {
		return err
	}
	at := slices.IndexFunc(members, func(m Member) bool { return m.Node == k.cfg.Home.Node })
	if at < 0 || members[at].Previous == nil {
		return nil
	}
	token, err := k.Token()
	if err != nil {
		return err
	}
	old := fingerprintOf(members[at].Previous.Public)
	if err := token.DestroyKey(ctx, old); err != nil && !errors.Is(err, hsm.ErrKeyNotFound) {
		return fmt.Errorf("destroy the replaced root key %s: %w", old, err)
	}
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
