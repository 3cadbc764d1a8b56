package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
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

// Identity is a registered principal.
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

// view is everything that is registered, at one revision of the registry.
type view map[identity.Principal]Identity

// Registry is the registered identities. It is safe for concurrent use.
type Registry struct {
	db    *kv.DB
	clock func() time.Time

	loading sync.Mutex // one load at a time, so that an older one never overwrites a newer
	current atomic.Pointer[view]
}

// New gives the registry stored in db. It knows nobody until Run, or a change, has loaded it.
func New(db *kv.DB, clock func() time.Time) *Registry {
	r := &Registry{db: db, clock: clock}
	r.current.Store(&view{})
	return r
}

func prefix() kv.Key { return kv.K("identity") }

func key(p identity.Principal) kv.Key {
	return kv.K("identity", p.Namespace.String(), p.Kind.String(), p.Name.String())
}

// Run follows the replicated records until ctx ends. While the node is sealed the registry knows nobody.
func (r *Registry) Run(ctx context.Context) error {
	watcher := r.db.Watch(prefix())
	defer watcher.Close()
	for {
		if err := r.load(ctx); err != nil {
			r.current.Store(&view{})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.C():
		}
	}
}

func (r *Registry) load(ctx context.Context) error {
	r.loading.Lock()
	defer r.loading.Unlock()
	next := view{}
	err := r.db.View(ctx, func(tx *kv.Tx) error {
		for item, err := range tx.Scan(prefix()) {
			if err != nil {
				return err
			}
			found, err := decode(item.Value, item.Rev)
			if err != nil {
				return err
			}
			next[found.Principal] = found
		}
		return nil
	})
	if err == nil {
		r.current.Store(&next)
	}
	return err
}

// Lookup finds an identity in memory.
func (r *Registry) Lookup(p identity.Principal) (Identity, bool) {
	found, ok := (*r.current.Load())[p]
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

// List gives the identities of a namespace, and of one kind unless that is 0.
func (r *Registry) List(namespace identity.Name, kind identity.Kind) []Identity {
	return slices.Collect(func(yield func(Identity) bool) {
		for found := range maps.Values(*r.current.Load()) {
			if found.Principal.Namespace == namespace && (kind == 0 || found.Principal.Kind == kind) && !yield(found) {
				return
			}
		}
	})
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
	created := Identity{Principal: p, Groups: groups, Keys: keys, Epoch: 1, State: Enabled, Created: r.clock().UTC()}
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

// SetState enables or disables an identity.
func (r *Registry) SetState(ctx context.Context, p identity.Principal, state State) (Identity, error) {
	return r.change(ctx, p, func(i *Identity) { i.State = state })
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
	if err == nil {
		err = r.load(ctx)
	}
	if err != nil {
		return Identity{}, err
	}
	return r.Get(p)
}

func changeTx(tx *kv.Tx, p identity.Principal, change func(*Identity)) error {
	text, revision, err := tx.Get(key(p))
	if errors.Is(err, kv.ErrNotFound) {
		return fmt.Errorf("%w: %s", ErrNotFound, p)
	}
	if err != nil {
		return err
	}
	found, err := decode(text, revision)
	if err != nil {
		return err
	}
	change(&found)
	return put(tx, found)
}

func put(tx *kv.Tx, i Identity) error {
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

func decode(text []byte, revision uint64) (Identity, error) {
	var found Identity
	if err := json.Unmarshal(text, &found); err != nil {
		return Identity{}, fmt.Errorf("decode a registered identity: %w", err)
	}
	found.Revision = revision
	return found, nil
}
