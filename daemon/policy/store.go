package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"warder/daemon/identity"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// Stored is a policy as it is kept.
type Stored struct {
	Document
	Revision uint64
	Updated  time.Time
}

// record is the stored form: JSON, under the key policy/<namespace>/<name>.
type record struct {
	Text    string    `json:"text"`
	Updated time.Time `json:"updated"`
}

const keyPrefix = "policy"

// Store keeps the policies, and a compiled [Set] of them in memory. Create it with
// [New], and [Store.Run] it: until the first load Current denies everything.
type Store struct {
	db      *kv.DB
	log     *slog.Logger
	current atomic.Pointer[Set]
	watcher *kv.Watcher

	mu   sync.Mutex // held by a reload, so that sets follow each other in order
	good *Set       // the last that compiled, reused by the next; guarded by mu
}

// New makes a store over db. A nil logger discards.
func New(db *kv.DB, log *slog.Logger) *Store {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{db: db, log: log, watcher: db.Watch(kv.K(keyPrefix))}
	s.current.Store(Broken(errors.New("no policies were loaded yet")))
	return s
}

// Run keeps Current up to date until ctx ends; its error is ctx's.
func (s *Store) Run(ctx context.Context) error {
	defer s.watcher.Close()
	for {
		if err := s.Reload(ctx); err != nil {
			s.report(ctx, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.watcher.C():
		}
	}
}

// report says loudly why nothing is allowed; a sealed node is no surprise.
func (s *Store) report(ctx context.Context, err error) {
	if ctx.Err() != nil || errors.Is(err, keyring.ErrSealed) {
		return
	}
	s.log.ErrorContext(ctx, "the stored policies cannot be used: every request is denied until they are repaired", "error", err)
}

// Current is the compiled set. It is never nil; when the node is sealed, or a stored
// policy cannot be read or compiled, it denies everything and [Set.Err] says why.
func (s *Store) Current() *Set { return s.current.Load() }

// Decide is Current().Decide.
func (s *Store) Decide(r Request) Decision { return s.Current().Decide(r) }

// Reload compiles what is stored now. On an error the set that denies everything is
// in force, unless ctx ended: then nothing changed.
func (s *Store) Reload(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	applied := s.watcher.Changes()
	stored, err := s.scan(ctx, kv.K(keyPrefix))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	set := (*Set)(nil)
	if err == nil {
		set, err = compile(s.good, documents(stored))
	}
	if err != nil {
		s.current.Store(Broken(err))
		return err
	}
	s.good = set
	s.current.Store(set)
	s.watcher.Shown(applied)
	return nil
}

// Behind says whether a policy changed on this node that Current does not hold yet.
func (s *Store) Behind() bool { return s.watcher.Behind() }

func documents(stored []Stored) []Document {
	docs := make([]Document, len(stored))
	for i, one := range stored {
		docs[i] = one.Document
	}
	return docs
}

// Put validates a policy and stores it, replacing one of the same name. When it
// returns, Current on this node shows it. Where expected is not nil the policy must
// be at that revision, 0 for none yet. The error is an [InvalidError], [ErrTooMany],
// [kv.ErrConflict], or what the log gave.
func (s *Store) Put(ctx context.Context, doc Document, expected *uint64) (Stored, error) {
	if err := s.validate(doc); err != nil {
		return Stored{}, err
	}
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		if expected != nil {
			tx.Expect(doc.key(), *expected)
		}
		return doc.put(tx, time.Now())
	})
	s.follow(ctx)
	if err != nil {
		return Stored{}, fmt.Errorf("store policy %s: %w", doc.path(), err)
	}
	return s.Get(ctx, doc.Namespace, doc.ID)
}

// validate says whether a policy could be stored.
func (s *Store) validate(doc Document) error {
	if doc.ID.IsZero() || doc.Namespace.IsZero() {
		return fmt.Errorf("%w: it needs a name and a namespace", ErrInvalid)
	}
	set := s.Current()
	if len(set.documents) >= MaxDocuments && set.documents[documentKey{doc.Namespace, doc.ID}] == nil {
		return fmt.Errorf("%w: %d are the most; delete some, or join them", ErrTooMany, MaxDocuments)
	}
	_, err := compile(set, []Document{doc})
	return err
}

// Found stores the [Bootstrap] policy of a new cluster.
func Found(tx *kv.Tx, now time.Time) error {
	system := identity.MustName(System)
	return Document{ID: identity.MustName("bootstrap"), Namespace: system, Text: Bootstrap()}.put(tx, now)
}

func (d Document) put(tx *kv.Tx, now time.Time) error {
	value, err := json.Marshal(record{Text: d.Text, Updated: now.UTC().Truncate(time.Millisecond)})
	if err != nil {
		return fmt.Errorf("encode policy %s: %w", d.path(), err)
	}
	tx.Put(d.key(), value)
	return nil
}

func (d Document) key() kv.Key { return kv.K(keyPrefix, d.Namespace.String(), d.ID.String()) }

// Get reads one policy, or [ErrNotFound].
func (s *Store) Get(ctx context.Context, namespace, name identity.Name) (Stored, error) {
	var out Stored
	doc := Document{ID: name, Namespace: namespace}
	err := s.db.View(ctx, func(tx *kv.Tx) error {
		value, revision, err := tx.Get(doc.key())
		if err != nil {
			return err
		}
		out, err = decode(kv.Item{Key: doc.key(), Value: value, Rev: revision})
		return err
	})
	if errors.Is(err, kv.ErrNotFound) {
		return Stored{}, fmt.Errorf("%w: %s", ErrNotFound, doc.path())
	}
	return out, err
}

// List reads the policies of a namespace, by name.
func (s *Store) List(ctx context.Context, namespace identity.Name) ([]Stored, error) {
	return s.scan(ctx, kv.K(keyPrefix, namespace.String()))
}

// Delete deletes a policy, or returns [ErrNotFound]. When it returns, Current on this
// node no longer has it. Where expected is not nil the policy must be at that revision,
// else the error is [kv.ErrConflict].
func (s *Store) Delete(ctx context.Context, namespace, name identity.Name, expected *uint64) error {
	doc := Document{ID: name, Namespace: namespace}
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		if expected != nil {
			tx.Expect(doc.key(), *expected)
		}
		if _, _, err := tx.Get(doc.key()); err != nil {
			return err
		}
		tx.Delete(doc.key())
		return nil
	})
	s.follow(ctx)
	if errors.Is(err, kv.ErrNotFound) {
		return fmt.Errorf("%w: %s", ErrNotFound, doc.path())
	}
	if err != nil {
		return fmt.Errorf("delete policy %s: %w", doc.path(), err)
	}
	return nil
}

// follow loads what is stored now, after a change that was made, or may have been.
func (s *Store) follow(ctx context.Context) {
	if err := s.Reload(ctx); err != nil {
		s.report(ctx, err)
	}
}

func (s *Store) scan(ctx context.Context, prefix kv.Key) ([]Stored, error) {
	var out []Stored
	err := s.db.View(ctx, func(tx *kv.Tx) error {
		out = nil
		for item, err := range tx.Scan(prefix) {
			if err != nil {
				return err
			}
			one, err := decode(item)
			if err != nil {
				return err
			}
			out = append(out, one)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Stored) int { return strings.Compare(a.path(), b.path()) })
	return out, err
}

func decode(item kv.Item) (Stored, error) {
	parts := item.Key.Parts()
	if len(parts) != 3 {
		return Stored{}, fmt.Errorf("%w: a record of policies has a key of %d parts", ErrInvalid, len(parts))
	}
	namespace, err1 := identity.ParseName(parts[1])
	name, err2 := identity.ParseName(parts[2])
	var r record
	if err := errors.Join(err1, err2, json.Unmarshal(item.Value, &r)); err != nil {
		return Stored{}, fmt.Errorf("%w: record of policy %s/%s: %w", ErrInvalid, parts[1], parts[2], err)
	}
	return Stored{Document: Document{ID: name, Namespace: namespace, Text: r.Text}, Revision: item.Rev, Updated: r.Updated}, nil
}
