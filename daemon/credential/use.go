package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"warder/daemon/broker"
	"warder/keystore"
	"warder/keystore/kv"
)

// maxCached bounds the parsed credentials in memory.
const maxCached = 4096

// parsedFields are the active version's fields at one revision of the credential.
type parsedFields struct {
	revision uint64
	profile  string
	version  uint32
	fields   *broker.Fields
}

// Sign signs a call with the active version. The call carries what policy weighed;
// one of another broker than the credential's is refused ([broker.ErrField]).
func (s *Store) Sign(ctx context.Context, h Handle, call *broker.Call, at broker.Moment) (Signed, error) {
	p, err := s.active(ctx, h)
	if err != nil {
		return Signed{}, err
	}
	signed, err := call.Sign(p.fields, at)
	if err != nil {
		return Signed{}, h.wrap(err)
	}
	return Signed{Request: signed, Version: p.version}, nil
}

// active gives the parsed fields of the active version. It reads the credential's
// revision each time: a version that was retired never signs again.
func (s *Store) active(ctx context.Context, h Handle) (parsedFields, error) {
	ref, err := h.ref()
	if err != nil {
		return parsedFields{}, err
	}
	var p parsedFields
	err = s.db.View(ctx, func(tx *kv.Tx) error {
		entry, err := keystore.Get(tx, ref)
		if err != nil {
			return err
		}
		if cached, ok := s.cached(h); ok && cached.revision == entry.Revision {
			p = cached
			return nil
		}
		p, err = s.open(tx, entry)
		return err
	})
	if err != nil {
		s.drop(h)
		return parsedFields{}, h.wrap(err)
	}
	s.keep(h, p)
	return p, nil
}

// open reads and parses the active version's fields.
func (s *Store) open(tx *kv.Tx, entry keystore.Entry) (parsedFields, error) {
	profile, err := profileOf(entry)
	if err != nil {
		return parsedFields{}, err
	}
	material, version, err := keystore.Material(tx, entry.Ref, 0)
	if err != nil {
		return parsedFields{}, err
	}
	defer material.Wipe()
	values, err := decode(material)
	if err != nil {
		return parsedFields{}, err
	}
	fields, err := s.parse(profile, values)
	return parsedFields{revision: entry.Revision, profile: profile, version: version.Number, fields: fields}, err
}

// Profile names the broker whose calls the credential signs. Like Sign it reads the
// credential's revision each time, and spares only the decoding.
func (s *Store) Profile(ctx context.Context, h Handle) (string, error) {
	ref, err := h.ref()
	if err != nil {
		return "", err
	}
	var profile string
	err = s.db.View(ctx, func(tx *kv.Tx) error {
		entry, err := keystore.Get(tx, ref)
		if err != nil {
			return err
		}
		if cached, ok := s.cached(h); ok && cached.revision == entry.Revision {
			profile = cached.profile
			return nil
		}
		profile, err = profileOf(entry)
		return err
	})
	return profile, h.wrap(err)
}

func profileOf(entry keystore.Entry) (string, error) {
	var head entryInfo
	if err := json.Unmarshal(entry.Info, &head); err != nil {
		return "", fmt.Errorf("%w: its record does not decode", ErrInvalid)
	}
	return head.Profile, nil
}

func (s *Store) cached(h Handle) (parsedFields, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.cache[h]
	return p, ok
}

func (s *Store) keep(h Handle, p parsedFields) {
	if cached, ok := s.cached(h); ok && cached.revision >= p.revision {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cache) >= maxCached {
		for other := range s.cache { // any will do: it is parsed again when it is used
			delete(s.cache, other)
			break
		}
	}
	s.cache[h] = p
}

func (s *Store) drop(h Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cache, h)
}

// Reveal gives a version's fields, or the active version's where version is 0. It
// is what the action credential.reveal guards; the caller wipes the values.
func (s *Store) Reveal(ctx context.Context, h Handle, version uint32) (Values, uint32, error) {
	ref, err := h.ref()
	if err != nil {
		return nil, 0, err
	}
	var values Values
	var number uint32
	err = s.db.View(ctx, func(tx *kv.Tx) error {
		material, v, err := keystore.Material(tx, ref, version)
		if err != nil {
			return err
		}
		number = v.Number
		values, err = decode(material)
		return err
	})
	if err != nil {
		return nil, 0, h.wrap(err)
	}
	return values, number, nil
}

// Run drops what is cached of credentials that changed, went, or cannot be read any
// more because the node was sealed. Its error is ctx's.
func (s *Store) Run(ctx context.Context) error {
	w := s.db.Watch(keystore.Prefix(Kind))
	defer w.Close()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.C():
			s.prune(ctx)
		}
	}
}

// prune keeps what is cached at its present revision. Fields are left to the
// collector, not wiped: a signature may be under way with them.
func (s *Store) prune(ctx context.Context) {
	s.mu.RLock()
	held := make(map[Handle]uint64, len(s.cache))
	for h, p := range s.cache {
		held[h] = p.revision
	}
	s.mu.RUnlock()
	for h, revision := range held {
		if !s.present(ctx, h, revision) {
			s.drop(h)
		}
	}
}

func (s *Store) present(ctx context.Context, h Handle, revision uint64) bool {
	ref, err := h.ref()
	if err != nil {
		return false
	}
	err = s.db.View(ctx, func(tx *kv.Tx) error {
		entry, err := keystore.Get(tx, ref)
		if err == nil && entry.Revision != revision {
			err = errChanged
		}
		return err
	})
	return err == nil
}

var errChanged = errors.New("changed")

// Forget drops all that is cached: a node calls it when it seals.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.cache)
}

// Cached is the number of credentials whose fields are parsed and in memory.
func (s *Store) Cached() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.cache)
}
