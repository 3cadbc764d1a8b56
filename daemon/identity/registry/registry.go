package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"warder/daemon/identity"
	"warder/keystore/kv"
)

// Bounds of one identity.
const (
	MaxGroups = 64
	MaxKeys   = 64
)

// Errors of this package.
var (
	ErrNotFound = errors.New("no such identity")
	ErrExists   = errors.New("an identity of that name is registered")
	ErrState    = errors.New("an identity is either active or disabled")
	ErrEpoch    = errors.New("the identity was revoked or disabled meanwhile")
	ErrTooMany  = errors.New("an identity has at most 64 groups and 64 keys: revoke it to forget its keys")
)

// KeyHash is the SHA-256 of a key's DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7).
type KeyHash [sha256.Size]byte

// String gives "sha256:" and hex.
func (h KeyHash) String() string { return "sha256:" + hex.EncodeToString(h[:]) }

// MarshalText is for the stored record.
func (h KeyHash) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h[:])), nil }

// UnmarshalText is the inverse of MarshalText.
func (h *KeyHash) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(h) {
		return errors.New("a key's hash has 64 hexadecimal digits")
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// State says whether an identity may call.
type State string

// The states.
const (
	Enabled  State = "active"
	Disabled State = "disabled"
)

// Identity is a registered principal. What a Registry gives shares memory with its view: it must not be changed.
type Identity struct {
	Principal identity.Principal `json:"principal"`
	Groups    []identity.Name    `json:"groups,omitempty"`
	// Keys are the keys bound to the identity: no other authenticates it.
	Keys []KeyHash `json:"keys,omitempty"`
	// Epoch grows with each revocation: tokens of an earlier one are void.
	Epoch   uint64    `json:"epoch"`
	State   State     `json:"state"`
	Created time.Time `json:"created"`
	// Revision is the state machine's.
	Revision uint64 `json:"-"`
}

// Binds says whether the key is bound to the identity.
func (i Identity) Binds(key KeyHash) bool { return slices.Contains(i.Keys, key) }

// Registry is the registered identities. It is safe for concurrent use.
type Registry struct {
	db    *kv.DB
	clock func() time.Time
	view  loader
}

// New gives the registry stored in db. It knows nobody until Run, Reload or a change has loaded it.
func New(db *kv.DB, clock func() time.Time) *Registry {
	r := &Registry{db: db, clock: clock, view: loader{watcher: db.Watch(prefix())}}
	r.view.current.Store(&view{})
	unread := errors.New("no identities were loaded yet")
	r.view.fault.Store(&unread)
	return r
}

func prefix() kv.Key { return kv.K("identity") }

func key(p identity.Principal) kv.Key {
	return kv.K("identity", p.Namespace.String(), p.Kind.String(), p.Name.String())
}

// Lookup finds an identity in memory.
func (r *Registry) Lookup(p identity.Principal) (Identity, bool) {
	found, ok := (*r.view.current.Load())[p]
	return found, ok
}

// Get gives an identity, or ErrNotFound.
func (r *Registry) Get(p identity.Principal) (Identity, error) {
	found, ok := r.Lookup(p)
	if !ok {
		return Identity{}, fmt.Errorf("%w: %s", ErrNotFound, p)
	}
	return found, nil
}

// List gives the identities of a namespace, and of one kind unless that is 0, in the order of their principals' texts.
func (r *Registry) List(namespace identity.Name, kind identity.Kind) (found []Identity) {
	for p, one := range *r.view.current.Load() {
		if p.Namespace == namespace && (kind == 0 || p.Kind == kind) {
			found = append(found, one)
		}
	}
	slices.SortFunc(found, func(a, b Identity) int { return strings.Compare(a.Principal.String(), b.Principal.String()) })
	return found
}

// CreateTx registers a principal inside a transaction, or gives ErrExists.
func (r *Registry) CreateTx(tx *kv.Tx, p identity.Principal, groups []identity.Name, keys ...KeyHash) (Identity, error) {
	_, _, err := tx.Get(key(p))
	if err == nil {
		return Identity{}, fmt.Errorf("%w: %s", ErrExists, p)
	}
	if !errors.Is(err, kv.ErrNotFound) {
		return Identity{}, err
	}
	created := Identity{Principal: p, Groups: groups, Keys: slices.Compact(slices.Clone(keys)), Epoch: 1, State: Enabled, Created: r.clock().UTC()}
	return created, put(tx, created)
}

// Create registers a principal, with the keys that authenticate it.
func (r *Registry) Create(ctx context.Context, p identity.Principal, groups []identity.Name, keys ...KeyHash) (Identity, error) {
	err := r.db.Update(ctx, func(tx *kv.Tx) error {
		_, err := r.CreateTx(tx, p, groups, keys...)
		return err
	})
	return r.after(ctx, p, err)
}

// SetGroups replaces an identity's groups.
func (r *Registry) SetGroups(ctx context.Context, p identity.Principal, groups []identity.Name) (Identity, error) {
	return r.change(ctx, p, func(i *Identity) { i.Groups = groups })
}

// BindTx binds a further key to an identity inside a transaction.
func (r *Registry) BindTx(tx *kv.Tx, p identity.Principal, bound KeyHash) error {
	return changeTx(tx, p, func(i *Identity) {
		if !i.Binds(bound) {
			i.Keys = append(i.Keys, bound)
		}
	})
}

// Bind binds a further key to an identity.
func (r *Registry) Bind(ctx context.Context, p identity.Principal, bound KeyHash) (Identity, error) {
	err := r.db.Update(ctx, func(tx *kv.Tx) error { return r.BindTx(tx, p, bound) })
	return r.after(ctx, p, err)
}

// BindInEpoch binds a further key to an identity that is still in the epoch in which its caller, or its operator, was
// looked at, or gives ErrEpoch: a key that was being certified while its identity was revoked is not bound after all.
// A key that is bound already writes nothing, so that who renews without pause holds no revocation up.
func (r *Registry) BindInEpoch(ctx context.Context, p identity.Principal, epoch uint64, bound KeyHash) (Identity, error) {
	err := r.db.Update(ctx, func(tx *kv.Tx) error {
		found, err := readOne(tx, p)
		switch {
		case err != nil:
			return err
		case found.Epoch != epoch:
			return ErrEpoch
		case found.Binds(bound):
			return nil
		}
		found.Keys = append(found.Keys, bound)
		return put(tx, found)
	})
	return r.after(ctx, p, err)
}

// Unbind forgets one key of an identity: certificates for it are refused from then on, and so are the tokens that are
// bound to those.
func (r *Registry) Unbind(ctx context.Context, p identity.Principal, bound KeyHash) (Identity, error) {
	return r.change(ctx, p, func(i *Identity) {
		i.Keys = slices.DeleteFunc(i.Keys, func(k KeyHash) bool { return k == bound })
	})
}

// SetState enables or disables an identity. Disabling begins an epoch too: tokens from before do not come back to life
// when the identity is enabled again.
func (r *Registry) SetState(ctx context.Context, p identity.Principal, state State) (Identity, error) {
	if state != Enabled && state != Disabled {
		return Identity{}, ErrState
	}
	return r.change(ctx, p, func(i *Identity) {
		if state == Disabled && i.State != Disabled {
			i.Epoch++
		}
		i.State = state
	})
}

// BumpEpoch voids the identity's tokens, and leaves its keys.
func (r *Registry) BumpEpoch(ctx context.Context, p identity.Principal) (Identity, error) {
	return r.change(ctx, p, func(i *Identity) { i.Epoch++ })
}

// Revoke ends all that the identity holds: its tokens by a new epoch, its certificates by forgetting their keys.
func (r *Registry) Revoke(ctx context.Context, p identity.Principal) (Identity, error) {
	return r.change(ctx, p, func(i *Identity) { i.Epoch, i.Keys = i.Epoch+1, nil })
}

func (r *Registry) change(ctx context.Context, p identity.Principal, change func(*Identity)) (Identity, error) {
	err := r.db.Update(ctx, func(tx *kv.Tx) error { return changeTx(tx, p, change) })
	return r.after(ctx, p, err)
}

// after makes a change visible on this node before it is answered.
func (r *Registry) after(ctx context.Context, p identity.Principal, err error) (Identity, error) {
	if err != nil {
		return Identity{}, fmt.Errorf("change identity %s: %w", p, err)
	}
	if err := r.view.load(ctx, r.db); err != nil {
		return Identity{}, fmt.Errorf("read identity %s back: %w", p, kv.AfterChange(err))
	}
	return r.Get(p)
}

func changeTx(tx *kv.Tx, p identity.Principal, change func(*Identity)) error {
	found, err := readOne(tx, p)
	if err != nil {
		return err
	}
	change(&found)
	return put(tx, found)
}

func readOne(tx *kv.Tx, p identity.Principal) (Identity, error) {
	text, revision, err := tx.Get(key(p))
	if errors.Is(err, kv.ErrNotFound) {
		return Identity{}, fmt.Errorf("%w: %s", ErrNotFound, p)
	}
	if err != nil {
		return Identity{}, err
	}
	return decode(text, revision)
}

func put(tx *kv.Tx, i Identity) error {
	i.Groups = sorted(i.Groups)
	if len(i.Groups) > MaxGroups || len(i.Keys) > MaxKeys {
		return ErrTooMany
	}
	text, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("encode an identity: %w", err)
	}
	tx.Put(key(i.Principal), text)
	return nil
}

// sorted gives the groups as a set: in order, each once.
func sorted(groups []identity.Name) []identity.Name {
	all := slices.Clone(groups)
	slices.SortFunc(all, func(a, b identity.Name) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(all)
}

func decode(text []byte, revision uint64) (Identity, error) {
	var found Identity
	if err := json.Unmarshal(text, &found); err != nil {
		return Identity{}, errors.New("a registered identity's record does not parse")
	}
	found.Revision = revision
	return found, nil
}
