package token

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

const (
	// sweepEvery is how often what has expired is swept from storage, and keys are looked at for their age.
	sweepEvery = time.Minute
	// retryAfter is how long after a failed load of keys and revocations the next one is tried.
	retryAfter = time.Second
)

// Identities finds registered identities in memory.
type Identities interface {
	Lookup(p identity.Principal) (registry.Identity, bool)
}

// Config is what a Service works with. Every field but Audience and Leeway is required.
type Config struct {
	DB         *kv.DB
	Identities Identities
	// Issuer names the cluster: a token of any other is refused (RFC 7519, section 4.1.1).
	Issuer string
	// Audience is who the tokens are for (RFC 7519, section 4.1.3). It defaults to the issuer.
	Audience string
	// Leeway is how far clocks may be apart, at most 30 s.
	Leeway time.Duration
	Clock  func() time.Time
}

// view is the keys and the revocation list, at one state of the cluster.
type view struct {
	signers []signer // ascending by from
	revoked map[revocation]struct{}
	parsed  *parsed // by these signers
}

// Service issues, verifies and revokes. It is safe for concurrent use.
type Service struct {
	cfg     Config
	watcher *kv.Watcher // of keys and revocations

	loading sync.Mutex // one load at a time, so that an older one never overwrites a newer
	current atomic.Pointer[view]
	fault   atomic.Pointer[error] // of the last load
}

// New gives a service that has no keys until Run, Reload or a change has loaded them.
func New(cfg Config) (*Service, error) {
	if cfg.Leeway < 0 || cfg.Leeway > maxLeeway {
		return nil, fmt.Errorf("the leeway of tokens must be 0 to %s", maxLeeway)
	}
	if cfg.Audience == "" {
		cfg.Audience = cfg.Issuer
	}
	if cfg.Issuer == "" || !plain(cfg.Issuer) || !plain(cfg.Audience) {
		return nil, fmt.Errorf("the issuer and the audience of tokens must be 1 to %d visible ASCII characters without quotes", maxText)
	}
	s := &Service{cfg: cfg, watcher: cfg.DB.Watch(keysPrefix(), revokedPrefix())}
	s.current.Store(&view{})
	unread := errors.New("no token keys were loaded yet")
	s.fault.Store(&unread)
	return s, nil
}

// Run follows keys and revocations until ctx ends, and sweeps what has expired. While they cannot be read, nothing is
// issued and nothing verifies; [Service.Problem] says why.
func (s *Service) Run(ctx context.Context) error {
	defer s.watcher.Close()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		var retry <-chan time.Time
		if err := s.Reload(ctx); err != nil && !errors.Is(err, keyring.ErrSealed) {
			retry = time.After(retryAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-retry:
		case <-s.watcher.C():
		case <-sweep.C:
			s.sweep(ctx)
		}
	}
}

// Problem says why there are no keys: the last load of keys and revocations failed, or there was none yet. It is nil when
// tokens can be issued and verified.
func (s *Service) Problem() error {
	if fault := s.fault.Load(); fault != nil {
		return *fault
	}
	return nil
}

// Reload reads keys and revocations anew. Where it fails there are none: no token is issued, and none verifies.
func (s *Service) Reload(ctx context.Context) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	applied := s.watcher.Changes()
	next, err := s.read(ctx)
	if err != nil {
		if ctx.Err() == nil { // else it is the caller who gave up, and what was read stands
			s.fault.Store(&err)
			s.current.Store(&view{})
		}
		return err
	}
	if last := s.current.Load(); slices.EqualFunc(last.signers, next.signers, func(a, b signer) bool { return a.id == b.id }) {
		next.parsed = last.parsed
	}
	if next.parsed == nil {
		next.parsed = newParsed()
	}
	s.fault.Store(nil)
	s.current.Store(next)
	s.watcher.Shown(applied)
	return nil
}

// Behind says whether a key or a revocation changed on this node that Verify does not heed yet.
func (s *Service) Behind() bool { return s.watcher.Behind() }

func (s *Service) read(ctx context.Context) (*view, error) {
	next := &view{revoked: map[revocation]struct{}{}}
	err := s.cfg.DB.View(ctx, func(tx *kv.Tx) error {
		keys, err := readKeys(tx)
		if err != nil {
			return err
		}
		for _, key := range keys {
			ready, err := newSigner(key)
			if err != nil {
				return err
			}
			next.signers = append(next.signers, ready)
		}
		for item, err := range tx.Scan(revokedPrefix()) {
			if err != nil {
				return err
			}
			parts := item.Key.Parts()
			if len(parts) != 3 {
				return fmt.Errorf("a stored revocation is of another form: %d parts", len(parts))
			}
			next.revoked[revocation{parts[1], parts[2]}] = struct{}{}
		}
		return nil
	})
	slices.SortFunc(next.signers, func(a, b signer) int { return a.from.Compare(b.from) })
	return next, err
}

func lastPart(k kv.Key) string {
	parts := k.Parts()
	return parts[len(parts)-1]
}
