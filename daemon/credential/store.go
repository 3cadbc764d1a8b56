package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"warder/daemon/broker"
	"warder/daemon/identity"
	"warder/keystore"
	"warder/keystore/kv"
)

// Store is the credentials of every namespace. It is safe for concurrent use.
type Store struct {
	db       *kv.DB
	profiles *broker.Registry

	mu    sync.RWMutex
	cache map[Handle]parsedFields // guarded by mu
}

// New makes a store. [Store.Run] it, so that what it caches is dropped in time.
func New(db *kv.DB, profiles *broker.Registry) *Store {
	return &Store{db: db, profiles: profiles, cache: map[Handle]parsedFields{}}
}

// Create stores a new credential, its first version active. The error is [ErrExists],
// [ErrInvalid], [broker.ErrUnknownProfile], [broker.ErrField], or the log's.
func (s *Store) Create(ctx context.Context, h Handle, spec Spec, now time.Time) (Credential, error) {
	if err := checkDescription(spec.Description); err != nil {
		return Credential{}, err
	}
	head, err := json.Marshal(entryInfo{Profile: spec.Profile, Description: spec.Description})
	if err != nil {
		return Credential{}, err
	}
	return s.change(ctx, h, func(tx *kv.Tx, ref keystore.Ref) (keystore.Entry, error) {
		material, info, err := s.version(spec.Profile, spec.Values, 0)
		if err != nil {
			return keystore.Entry{}, err
		}
		defer material.Wipe()
		return keystore.Create(tx, ref, head, material, info, now)
	})
}

// Rotate adds a version and makes it active. The version before it is retired, and
// destroyed when grace has passed (see [Store.Sweep]); 0 destroys it at the next sweep.
func (s *Store) Rotate(ctx context.Context, h Handle, values Values, grace time.Duration, now time.Time) (Credential, error) {
	return s.addVersion(ctx, h, values, keystore.Active, grace, now)
}

// Stage adds a version that waits for [Store.Activate]. The grace is that of the
// version which will then be retired.
func (s *Store) Stage(ctx context.Context, h Handle, values Values, grace time.Duration, now time.Time) (Credential, error) {
	return s.addVersion(ctx, h, values, keystore.Pending, grace, now)
}

func (s *Store) addVersion(ctx context.Context, h Handle, values Values, state keystore.State, grace time.Duration, now time.Time) (Credential, error) {
	if grace < 0 || grace > MaxGrace {
		return Credential{}, fmt.Errorf("%w: grace is 0 to %s", ErrInvalid, MaxGrace)
	}
	return s.change(ctx, h, func(tx *kv.Tx, ref keystore.Ref) (keystore.Entry, error) {
		entry, err := keystore.Get(tx, ref)
		if err != nil {
			return keystore.Entry{}, err
		}
		var head entryInfo
		if err := json.Unmarshal(entry.Info, &head); err != nil {
			return keystore.Entry{}, fmt.Errorf("%w: its record does not decode", ErrInvalid)
		}
		material, info, err := s.version(head.Profile, values, grace)
		if err != nil {
			return keystore.Entry{}, err
		}
		defer material.Wipe()
		return keystore.AddVersion(tx, ref, material, info, state, now)
	})
}

// Activate makes a pending or a retired version active: a rotation taken back.
func (s *Store) Activate(ctx context.Context, h Handle, version uint32, now time.Time) (Credential, error) {
	return s.change(ctx, h, func(tx *kv.Tx, ref keystore.Ref) (keystore.Entry, error) {
		return keystore.SetState(tx, ref, version, keystore.Active, now)
	})
}

// Destroy shreds one version.
func (s *Store) Destroy(ctx context.Context, h Handle, version uint32, now time.Time) (Credential, error) {
	return s.change(ctx, h, func(tx *kv.Tx, ref keystore.Ref) (keystore.Entry, error) {
		return keystore.Destroy(tx, ref, version, now)
	})
}

// Delete shreds every version and forgets the credential.
func (s *Store) Delete(ctx context.Context, h Handle) error {
	ref, err := h.ref()
	if err != nil {
		return err
	}
	err = s.db.Update(ctx, func(tx *kv.Tx) error { return keystore.Delete(tx, ref) })
	s.drop(h)
	return h.wrap(err)
}

// version checks a version's fields against the profile and encodes them.
func (s *Store) version(profile string, values Values, grace time.Duration) (keystore.Secret, []byte, error) {
	if _, err := s.parse(profile, values); err != nil {
		return keystore.Secret{}, nil, err
	}
	info, err := json.Marshal(versionInfo{Fields: slices.Sorted(maps.Keys(values)), Grace: grace})
	if err != nil {
		return keystore.Secret{}, nil, err
	}
	material, err := encode(values)
	return material, info, err
}

func (s *Store) parse(profile string, values Values) (*broker.Fields, error) {
	p, err := s.profiles.Get(profile)
	if err != nil {
		return nil, err
	}
	plain := make(map[string][]byte, len(values))
	for name, v := range values {
		plain[name] = v.Reveal()
	}
	return p.Fields(plain)
}

// change runs one change of a credential.
func (s *Store) change(ctx context.Context, h Handle, fn func(*kv.Tx, keystore.Ref) (keystore.Entry, error)) (Credential, error) {
	ref, err := h.ref()
	if err != nil {
		return Credential{}, err
	}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		_, err := fn(tx, ref)
		return err
	})
	s.drop(h)
	if err != nil {
		return Credential{}, h.wrap(err)
	}
	changed, err := s.Get(ctx, h)
	return changed, kv.AfterChange(err)
}

// wrap gives the keystore's errors this package's names.
func (h Handle) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keystore.ErrNotFound):
		return fmt.Errorf("%w: %s", ErrNotFound, h)
	case errors.Is(err, keystore.ErrExists):
		return fmt.Errorf("%w: %s; rotate it to change its fields", ErrExists, h)
	case errors.Is(err, kv.ErrConflict):
		return fmt.Errorf("%w: %s; try again", ErrBusy, h)
	}
	return fmt.Errorf("credential %s: %w", h, err)
}

// Get reads what may be shown of a credential.
func (s *Store) Get(ctx context.Context, h Handle) (Credential, error) {
	ref, err := h.ref()
	if err != nil {
		return Credential{}, err
	}
	var c Credential
	err = s.db.View(ctx, func(tx *kv.Tx) error {
		entry, err := keystore.Get(tx, ref)
		if err != nil {
			return err
		}
		c, err = show(h, entry)
		return err
	})
	if err != nil {
		return Credential{}, h.wrap(err)
	}
	return c, nil
}

// List reads what may be shown of a namespace's credentials, by name.
func (s *Store) List(ctx context.Context, namespace identity.Name) ([]Credential, error) {
	var out []Credential
	err := s.db.View(ctx, func(tx *kv.Tx) error {
		out = nil
		for entry, err := range keystore.List(tx, Kind, namespace.String()) {
			if err != nil {
				return err
			}
			name, err := identity.ParseName(entry.Ref.Name)
			if err != nil {
				return err
			}
			c, err := show(At(namespace, name), entry)
			if err != nil {
				return err
			}
			out = append(out, c)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Credential) int { return strings.Compare(a.Handle.String(), b.Handle.String()) })
	return out, err
}

func show(h Handle, entry keystore.Entry) (Credential, error) {
	var head entryInfo
	if err := json.Unmarshal(entry.Info, &head); err != nil {
		return Credential{}, fmt.Errorf("%w: its record does not decode", ErrInvalid)
	}
	c := Credential{Handle: h, Profile: head.Profile, Description: head.Description, Revision: entry.Revision}
	graces := map[uint32]time.Duration{}
	for _, v := range entry.Versions {
		var info versionInfo
		if err := json.Unmarshal(v.Info, &info); err != nil {
			return Credential{}, fmt.Errorf("%w: its record of version %d does not decode", ErrInvalid, v.Number)
		}
		graces[v.Number] = info.Grace
		c.Versions = append(c.Versions, Version{Number: v.Number, State: v.State, Created: v.Created, Retired: v.Retired, Fields: info.Fields})
	}
	c.setEnds(graces)
	return c, nil
}

// setEnds derives when retired versions end: their retirement and the grace that
// came with the version after them; their own, when the rotation was taken back.
func (c *Credential) setEnds(graces map[uint32]time.Duration) {
	active := c.Active()
	for i := range c.Versions {
		v := &c.Versions[i]
		if v.State != keystore.Retired {
			continue
		}
		grace := time.Duration(0)
		if active != 0 && active < v.Number {
			grace = graces[v.Number]
		}
		for _, later := range c.Versions[i+1:] {
			grace = max(grace, graces[later.Number])
		}
		v.Ends = v.Retired.Add(grace)
	}
}

func checkDescription(d string) error {
	if len(d) > MaxDescription || strings.ContainsFunc(d, unicode.IsControl) {
		return fmt.Errorf("%w: the description is one line of at most %d bytes", ErrInvalid, MaxDescription)
	}
	return nil
}
