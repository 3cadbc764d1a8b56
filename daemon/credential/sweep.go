package credential

import (
	"context"
	"errors"
	"time"

	"warder/daemon/identity"
	"warder/keystore"
	"warder/keystore/kv"
)

// Sweep destroys the retired versions, of every namespace, whose grace has passed,
// and says how many. One node of a cluster need do it; that several do is
// harmless.
func (s *Store) Sweep(ctx context.Context, now time.Time) (destroyed int, err error) {
	ended, err := s.ended(ctx, now)
	for _, e := range ended {
		_, failed := s.Destroy(ctx, e.handle, e.version, now)
		if failed == nil {
			destroyed++
		}
		if !errors.Is(failed, ErrNotFound) { // deleted meanwhile: nothing is left to destroy
			err = errors.Join(err, failed)
		}
	}
	return destroyed, err
}

// retired is one version whose grace has passed.
type retired struct {
	handle  Handle
	version uint32
}

// ended finds them in every namespace.
func (s *Store) ended(ctx context.Context, now time.Time) ([]retired, error) {
	var out []retired
	err := s.db.View(ctx, func(tx *kv.Tx) error {
		out = nil
		for ref, err := range keystore.WithRetired(tx, Kind) {
			if err != nil {
				return err
			}
			found, err := endedIn(tx, ref, now)
			if err != nil {
				return err
			}
			out = append(out, found...)
		}
		return nil
	})
	return out, err
}

func endedIn(tx *kv.Tx, ref keystore.Ref, now time.Time) ([]retired, error) {
	namespace, err1 := identity.ParseName(ref.Namespace)
	name, err2 := identity.ParseName(ref.Name)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	h := At(namespace, name)
	entry, err := keystore.Get(tx, ref)
	if err != nil {
		return nil, err
	}
	c, err := show(h, entry)
	if err != nil {
		return nil, err
	}
	var out []retired
	for _, v := range c.Versions {
		if v.State == keystore.Retired && !v.Ends.After(now) {
			out = append(out, retired{h, v.Number})
		}
	}
	return out, nil
}
