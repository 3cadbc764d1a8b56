package seal

import (
	"context"
	"errors"
	"fmt"

	"warder/keystore/kv"
)

// coordinate moves the rotation one phase on, where every voter has confirmed the phase that it is in.
func (k *Keeper) coordinate(ctx context.Context) error {
	rotation, waiting, _, err := k.progress(ctx)
	if err == nil && !rotation.Running() {
		return k.payOwed(ctx)
	}
	if err != nil || len(waiting) > 0 {
		return err
	}
	if rotation.Phase == PhaseReseal {
		return k.resealRecords(ctx, rotation)
	}
	records, err := k.toReseal(ctx, rotation)
	if err != nil {
		return err
	}
	return k.advance(ctx, rotation, func(tx *kv.Tx, now *Rotation) error {
		now.Records = records
		return k.nextPhase(tx, now)
	})
}

// toReseal counts the records under old keys when resealing is about to begin, for showing how far it is.
func (k *Keeper) toReseal(ctx context.Context, rotation Rotation) (int, error) {
	if rotation.Phase != PhaseActivate {
		return rotation.Records, nil
	}
	used, err := k.cfg.DB.KeysInUse(ctx)
	records := 0
	for _, old := range rotation.OldKeys {
		records += used[old]
	}
	return records, err
}

// advance runs change against the rotation if it is still the one that was looked at.
func (k *Keeper) advance(ctx context.Context, seen Rotation, change func(*kv.Tx, *Rotation) error) error {
	err := k.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		var now Rotation
		if _, err := get(tx, rotationKey(), &now); err != nil {
			return err
		}
		if now.ID != seen.ID || now.Phase != seen.Phase || now.Epoch != seen.Epoch {
			return nil
		}
		return change(tx, &now)
	})
	if errors.Is(err, ErrBehind) {
		return nil
	}
	return err
}

func (k *Keeper) nextPhase(tx *kv.Tx, rotation *Rotation) error {
	ring, err := k.cfg.Holder.Keyring()
	if err != nil {
		return err
	}
	switch rotation.Phase {
	case PhaseCollect:
		rotation.Phase = PhaseVerify
		return k.reseal(tx, ring, bothRoots, rotation)
	case PhaseVerify:
		if err := adoptNextRoots(tx); err != nil {
			return err
		}
		rotation.Phase = PhaseDrop
		return k.reseal(tx, ring, currentRoots, rotation)
	case PhaseDistribute:
		active, err := ring.Activate(rotation.NewKey)
		if err != nil {
			return err
		}
		rotation.Phase = PhaseActivate
		return k.reseal(tx, active, currentRoots, rotation)
	case PhaseActivate:
		// Every voter seals with the new key by now. What one of them sealed with an old key and proposed late is
		// refused from here on, and its proposer seals it anew: so that when no record is under an old key, none will be.
		tx.SetKeyFloor(rotation.NewKey)
		rotation.Phase = PhaseReseal
		return put(tx, rotationKey(), *rotation)
	case PhaseDrop:
		rotation.Phase, rotation.Finished = PhaseDone, k.cfg.Clock().UTC()
		return put(tx, rotationKey(), *rotation)
	case PhaseReseal, PhaseDone:
		return nil
	default:
		return fmt.Errorf("rotation %d is in the unknown phase %q: is a newer version running on another node?", rotation.ID, rotation.Phase)
	}
}

// adoptNextRoots makes each member's new root key its own; the old one is remembered until its node has destroyed it.
func adoptNextRoots(tx *kv.Tx) error {
	members, err := Members(tx)
	if err != nil {
		return err
	}
	for _, member := range members {
		if member.Next == nil {
			continue
		}
		old := member.Root
		member.Root, member.Previous, member.Next = *member.Next, &old, nil
		if err := put(tx, memberKey(member.Node), member); err != nil {
			return err
		}
	}
	return nil
}

// resealRecords seals a bounded number of records anew, and drops the old data keys when none is in use.
func (k *Keeper) resealRecords(ctx context.Context, rotation Rotation) error {
	done, n, err := k.cfg.DB.Reseal(ctx, resealBatch)
	if err != nil {
		return fmt.Errorf("seal records under the new data key: %w", err)
	}
	if !done {
		return k.advance(ctx, rotation, func(tx *kv.Tx, now *Rotation) error {
			now.Resealed += n
			return put(tx, rotationKey(), *now)
		})
	}
	if err := k.cfg.DB.Barrier(ctx); err != nil {
		return err
	}
	used, err := k.cfg.DB.KeysInUse(ctx)
	if err != nil {
		return err
	}
	for _, old := range rotation.OldKeys {
		if used[old] > 0 {
			return nil
		}
	}
	return k.advance(ctx, rotation, func(tx *kv.Tx, now *Rotation) error {
		ring, err := k.cfg.Holder.Keyring()
		if err != nil {
			return err
		}
		for _, old := range now.OldKeys {
			if ring, err = ring.DropDataKey(old); err != nil {
				return err
			}
		}
		now.Phase = PhaseDrop
		now.Resealed += n
		return k.reseal(tx, ring, currentRoots, now)
	})
}
