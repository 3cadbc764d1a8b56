package seal

import (
	"context"
	"errors"
	"time"

	"warder/keystore/kv"
)

// Owed says that the data keys must be rotated because a node that knew them was evicted.
type Owed struct {
	Evicted string    `json:"evicted"`
	Since   time.Time `json:"since"`
}

// Evict forgets a member, or says ErrNoMember: its entry leaves the sealing, and its certificate is refused from then
// on. The same batch records that the data keys are to be rotated, also those of a rotation that is under way, which
// the node may have opened: the leader's keeper starts that as soon as no other rotation runs.
func (k *Keeper) Evict(ctx context.Context, node string) error {
	return k.onNewest(ctx, func(tx *kv.Tx) error {
		ring, err := k.cfg.Holder.Keyring()
		if err != nil {
			return err
		}
		var member Member
		if known, err := get(tx, memberKey(node), &member); err != nil || !known {
			return errors.Join(err, ErrNoMember)
		}
		forget(tx, node)
		if err := put(tx, owedKey(), Owed{Evicted: node, Since: k.cfg.Clock().UTC()}); err != nil {
			return err
		}
		_, err = k.sealAnew(tx, ring, bothRoots)
		return err
	})
}

// forget deletes all that the seal knows of a node.
func forget(tx *kv.Tx, node string) {
	tx.Delete(memberKey(node))
	tx.Delete(confirmationKey(node))
	tx.Delete(shareKey(node))
}

// payOwed starts the data rotation that an eviction made necessary.
func (k *Keeper) payOwed(ctx context.Context) error {
	owes := false
	err := k.cfg.DB.View(ctx, func(tx *kv.Tx) (err error) {
		var owed Owed
		owes, err = get(tx, owedKey(), &owed)
		return err
	})
	if err != nil || !owes {
		return err
	}
	if _, err := k.Start(ctx, RotateData, ""); !errors.Is(err, ErrRotating) {
		return err
	}
	return nil // somebody was faster
}
