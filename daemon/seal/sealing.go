package seal

import (
	"context"
	"errors"
	"fmt"

	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// rootsOf chooses which of a member's root keys a sealing is for.
type rootsOf func(Member) []RootKey

func currentRoots(m Member) []RootKey { return []RootKey{m.Root} }

func bothRoots(m Member) []RootKey {
	if m.Next == nil {
		return []RootKey{m.Root}
	}
	return []RootKey{m.Root, *m.Next}
}

// reseal writes a new sealing of ring for the members' chosen keys, and the rotation that awaits its confirmation.
// The sealing before it must still be the one that this node has open, so that no keyring is overtaken.
func (k *Keeper) reseal(tx *kv.Tx, ring *keyring.Keyring, roots rootsOf, rotation *Rotation) error {
	epoch, err := k.sealAnew(tx, ring, roots)
	if err != nil {
		return err
	}
	rotation.Epoch = epoch
	return put(tx, rotationKey(), *rotation)
}

func (k *Keeper) sealAnew(tx *kv.Tx, ring *keyring.Keyring, roots rootsOf) (uint64, error) {
	previous, _, err := tx.Keyring()
	if err != nil {
		return 0, err
	}
	header, err := keyring.Inspect(previous)
	if err != nil {
		return 0, err
	}
	if open := k.Epoch(); header.Epoch != open {
		return 0, fmt.Errorf("%w: sealing %d is not open here yet", ErrBehind, header.Epoch)
	}
	members, err := Members(tx)
	if err != nil {
		return 0, err
	}
	var keys []RootKey
	for _, member := range members {
		keys = append(keys, roots(member)...)
	}
	return header.Epoch + 1, sealKeyring(tx, ring, k.cfg.Home.ClusterID, header.Epoch+1, keys)
}

// maxBehind bounds how often a change of the sealing opens a newer one first.
const maxBehind = 8

// onNewest runs a change that writes a sealing, on the newest one: this node opens that first where it has not yet.
func (k *Keeper) onNewest(ctx context.Context, change func(*kv.Tx) error) error {
	err := ErrBehind
	for range maxBehind {
		if err := k.open(ctx); err != nil {
			return err
		}
		if err = k.cfg.DB.Update(ctx, change); !errors.Is(err, ErrBehind) {
			return err
		}
	}
	return err
}

// ErrBehind says that this node has not opened the newest sealing, so that it cannot write the next.
var ErrBehind = errors.New("this node is behind the newest sealing: try again in a moment")

func sealKeyring(tx *kv.Tx, ring *keyring.Keyring, clusterID string, epoch uint64, keys []RootKey) error {
	recipients, err := recipientsOf(keys)
	if err != nil {
		return err
	}
	sealed, err := ring.SealTo(clusterID, epoch, recipients)
	if err != nil {
		return fmt.Errorf("seal the keyring: %w", err)
	}
	tx.PutKeyring(sealed)
	return nil
}
