package seal

import (
	"context"
	"errors"
	"time"

	"warder/keystore/kv"
)

// Kind says which keys a rotation replaces.
type Kind string

// The rotations.
const (
	RotateRoot Kind = "root"
	RotateData Kind = "data"
)

// Phase is how far a rotation is. Each waits until every voter has confirmed the one before it.
type Phase string

// The phases, in order; root goes collect, verify, drop, done, and data goes distribute, activate, reseal, drop, done.
const (
	PhaseCollect    Phase = "collect"    // every member makes a new root key in its HSM and shows its public half
	PhaseVerify     Phase = "verify"     // sealed to old and new; every member opens it with its new key
	PhaseDistribute Phase = "distribute" // the new data key is in the keyring, and seals nothing
	PhaseActivate   Phase = "activate"   // the new data key seals; the old one still opens
	PhaseReseal     Phase = "reseal"     // every record is sealed anew
	PhaseDrop       Phase = "drop"       // the old key is gone from the sealing
	PhaseDone       Phase = "done"
)

// resealBatch is how many records are sealed anew between two looks at the rest of the seal's work.
const resealBatch = 256

// ErrRotating says that a rotation is under way, so that no other may start and no member may come.
var ErrRotating = errors.New("a rotation is under way: see `warder operator status`, and try again when it is done")

// Rotation is the record of the newest rotation.
type Rotation struct {
	ID       uint64    `json:"id"`
	Kind     Kind      `json:"kind"`
	Phase    Phase     `json:"phase"`
	Epoch    uint64    `json:"epoch"` // the sealing that voters must confirm before the next phase
	OldKeys  []uint32  `json:"old_keys,omitempty"`
	NewKey   uint32    `json:"new_key,omitempty"`
	Resealed int       `json:"resealed,omitempty"`
	Records  int       `json:"records,omitempty"` // that were sealed under old keys when resealing began
	Node     string    `json:"node,omitempty"`    // the one node whose root key is rotated; empty for every node's
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
}

// Running says whether the rotation still has work to do.
func (r Rotation) Running() bool { return r.ID != 0 && r.Phase != PhaseDone }

// ErrNoRotation says that there has been no rotation yet.
var ErrNoRotation = errors.New("there has been no rotation yet")

// concerns says whether a root rotation replaces that node's key.
func (r Rotation) concerns(node string) bool { return r.Node == "" || r.Node == node }

// made says whether a root key is one that this rotation had made.
func (r Rotation) made(key RootKey) bool { return r.Kind == RotateRoot && key.Rotation == r.ID }

// Status is how far the newest rotation is.
type Status struct {
	Rotation
	Waiting     []string // the voters that have not done its phase
	Done, Total int      // nodes of a root rotation, records of a data rotation
}

// Status gives the newest rotation, or ErrNoRotation.
func (k *Keeper) Status(ctx context.Context) (Status, error) {
	rotation, waiting, members, err := k.progress(ctx)
	if err != nil {
		return Status{}, err
	}
	if rotation.ID == 0 {
		return Status{}, ErrNoRotation
	}
	status := Status{Rotation: rotation, Waiting: waiting, Done: rotation.Resealed, Total: max(rotation.Records, rotation.Resealed)}
	switch {
	case rotation.Kind == RotateRoot:
		status.Done, status.Total = len(members)-len(waiting), len(members)
	case rotation.Phase == PhaseDrop || rotation.Phase == PhaseDone: // what others wrote in the meantime needed no resealing
		status.Done = status.Total
	}
	return status, nil
}

// Start begins a rotation, which the leader's keeper then carries through. A root rotation may be of one node.
func (k *Keeper) Start(ctx context.Context, kind Kind, node string) (Rotation, error) {
	var started Rotation
	err := k.onNewest(ctx, func(tx *kv.Tx) error {
		var member Member
		if node != "" {
			if known, err := get(tx, memberKey(node), &member); err != nil || !known {
				return errors.Join(err, ErrNoMember)
			}
		}
		var last Rotation
		if _, err := get(tx, rotationKey(), &last); err != nil {
			return err
		}
		if last.Running() {
			return ErrRotating
		}
		started = Rotation{ID: last.ID + 1, Kind: kind, Node: node, Started: k.cfg.Clock().UTC()}
		if kind == RotateRoot {
			started.Phase = PhaseCollect
			return put(tx, rotationKey(), started)
		}
		return k.startData(tx, &started)
	})
	return started, err
}

// startData puts a new data key, pending, into the keyring.
func (k *Keeper) startData(tx *kv.Tx, rotation *Rotation) error {
	ring, err := k.cfg.Holder.Keyring()
	if err != nil {
		return err
	}
	for _, key := range ring.DataKeys() {
		rotation.OldKeys = append(rotation.OldKeys, key.ID)
	}
	grown, id, err := ring.AddDataKey()
	if err != nil {
		return err
	}
	tx.Delete(owedKey()) // no evicted node is among those that this key is sealed to
	rotation.Phase, rotation.NewKey = PhaseDistribute, id
	return k.reseal(tx, grown, currentRoots, rotation)
}
