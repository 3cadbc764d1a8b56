package seal

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"warder/hsm"
	"warder/keystore/keyring"
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

// ErrRotating says that a rotation is under way, so that no other may start and no member may come or go.
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
	rotation.Phase, rotation.NewKey = PhaseDistribute, id
	return k.reseal(tx, grown, currentRoots, rotation)
}

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

// coordinate moves the rotation one phase on, where every voter has confirmed the phase that it is in.
func (k *Keeper) coordinate(ctx context.Context) error {
	rotation, waiting, _, err := k.progress(ctx)
	if err != nil || !rotation.Running() || len(waiting) > 0 {
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
