package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"warder/daemon/identity"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

const (
	// maxRoots bounds the roots trusted at once.
	maxRoots = 8
	// retryAfter is how long after a failed load the next one is tried.
	retryAfter = time.Second
)

// Errors of changing the roots.
var (
	ErrNoRoot       = errors.New("the cluster has no such root certificate")
	ErrRootInUse    = errors.New("the root certificate issues: activate another before this one is removed")
	ErrTooManyRoots = errors.New("the cluster has 8 root certificates: remove one that is not in use")
)

// Authority is the cluster's roots as their record has them: all are trusted, the active one issues. A root is rotated
// in three steps with as much time between them as needed: AddRoot publishes a new one, Activate lets it issue, and
// RemoveRoot ends trust in the old one when what it issued has been renewed. It is safe for concurrent use.
type Authority struct {
	db          *kv.DB
	trustDomain string
	clock       func() time.Time

	loading sync.Mutex // one load at a time, so that an older one never overwrites a newer
	current atomic.Pointer[roots]
}

// roots is what one revision of the record says.
type roots struct {
	revision uint64
	all      []*CA
	active   *CA
	pool     *x509.CertPool
}

// record is the stored form.
type record struct {
	Active string       `json:"active"` // the id of the root that issues
	Roots  []rootRecord `json:"roots"`
}

// rootRecord is a root's certificate in DER, and its key in PKCS #8.
type rootRecord struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
}

func recordKey() kv.Key { return kv.K("pki", "authority") }

// ID names a root: the SHA-256 of its certificate's DER, in hexadecimal.
func (c *CA) ID() string { return rootID(c.certificate.Raw) }

func rootID(der []byte) string {
	digest := sha256.Sum256(der)
	return hex.EncodeToString(digest[:])
}

// Store writes a new cluster's CA.
func (c *CA) Store(tx *kv.Tx) error {
	first, err := c.record()
	if err != nil {
		return err
	}
	tx.MustNotExist(recordKey())
	return record{Active: c.ID(), Roots: []rootRecord{first}}.put(tx)
}

func (c *CA) record() (rootRecord, error) {
	key, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		return rootRecord{}, fmt.Errorf("encode the authority's key: %w", err)
	}
	return rootRecord{Certificate: c.certificate.Raw, Key: key}, nil
}

func (r record) put(tx *kv.Tx) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the authority: %w", err)
	}
	tx.Put(recordKey(), text)
	return nil
}

// Prefix is where the authority's record is, for watching.
func Prefix() kv.Key { return kv.K("pki") }

func readRecord(tx *kv.Tx) (found record, revision uint64, err error) {
	text, revision, err := tx.Get(recordKey())
	if err != nil {
		return record{}, 0, fmt.Errorf("read the authority: %w", err)
	}
	if err := json.Unmarshal(text, &found); err != nil {
		return record{}, 0, errors.New("the authority's record does not parse")
	}
	return found, revision, nil
}

// NewAuthority gives the CA stored in db.
func NewAuthority(db *kv.DB, trustDomain string, clock func() time.Time) *Authority {
	return &Authority{db: db, trustDomain: trustDomain, clock: clock}
}

// Run keeps Pool as the record has it until ctx ends. Roots that a sealed node knew it goes on trusting: they are public.
func (a *Authority) Run(ctx context.Context) error {
	watcher := a.db.Watch(Prefix())
	defer watcher.Close()
	for {
		var retry <-chan time.Time
		if _, err := a.load(ctx); err != nil && !errors.Is(err, keyring.ErrSealed) && !errors.Is(err, kv.ErrNotFound) {
			retry = time.After(retryAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-retry:
		case <-watcher.C():
		}
	}
}

func (a *Authority) load(ctx context.Context) (*roots, error) {
	a.loading.Lock()
	defer a.loading.Unlock()
	var found record
	var revision uint64
	err := a.db.View(ctx, func(tx *kv.Tx) (err error) {
		found, revision, err = readRecord(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if known := a.current.Load(); known != nil && known.revision == revision {
		return known, nil
	}
	next, err := a.open(found)
	if err != nil {
		return nil, err
	}
	next.revision = revision
	a.current.Store(next)
	return next, nil
}

func (a *Authority) open(found record) (*roots, error) {
	next := &roots{pool: x509.NewCertPool()}
	for _, one := range found.Roots {
		parsed, err := x509.ParsePKCS8PrivateKey(one.Key)
		if err != nil {
			return nil, errors.New("the authority's key does not parse")
		}
		key, ok := parsed.(crypto.Signer)
		if !ok {
			return nil, errors.New("the authority's key cannot sign")
		}
		ca, err := openCA(one.Certificate, key, a.trustDomain)
		if err != nil {
			return nil, err
		}
		next.all = append(next.all, ca)
		next.pool.AddCert(ca.certificate)
		if ca.ID() == found.Active {
			next.active = ca
		}
	}
	if next.active == nil {
		return nil, fmt.Errorf("%w: no root is active", ErrAuthority)
	}
	return next, nil
}

// CA gives the root that issues, as it is now.
func (a *Authority) CA(ctx context.Context) (*CA, error) {
	now, err := a.load(ctx)
	if err != nil {
		return nil, err
	}
	return now.active, nil
}

// Pool gives the trusted roots from memory: the same pool while they do not change, and nil until Run, or another
// method, has read them.
func (a *Authority) Pool() *x509.CertPool {
	if now := a.current.Load(); now != nil {
		return now.pool
	}
	return nil
}

// RootsPEM gives the certificates of all trusted roots, the one that issues first.
func (a *Authority) RootsPEM(ctx context.Context) ([]byte, error) {
	now, err := a.load(ctx)
	if err != nil {
		return nil, err
	}
	text := bytes.NewBuffer(now.active.PEM())
	for _, ca := range now.all {
		if ca != now.active {
			text.Write(ca.PEM())
		}
	}
	return text.Bytes(), nil
}

// AddRoot makes a further root, that is trusted and does not issue yet, and gives its id.
func (a *Authority) AddRoot(ctx context.Context, cluster string) (id string, err error) {
	ca, err := NewCA(a.trustDomain, cluster, a.clock())
	if err != nil {
		return "", err
	}
	added, err := ca.record()
	if err != nil {
		return "", err
	}
	return ca.ID(), a.change(ctx, func(r *record) error {
		if len(r.Roots) >= maxRoots {
			return ErrTooManyRoots
		}
		r.Roots = append(r.Roots, added)
		return nil
	})
}

// Activate lets a trusted root issue in place of the one that did.
func (a *Authority) Activate(ctx context.Context, id string) error {
	return a.change(ctx, func(r *record) error {
		if r.index(id) < 0 {
			return fmt.Errorf("%w: %s", ErrNoRoot, id)
		}
		r.Active = id
		return nil
	})
}

// RemoveRoot ends trust in a root that does not issue: what it issued is refused from then on, and its key is gone.
func (a *Authority) RemoveRoot(ctx context.Context, id string) error {
	return a.change(ctx, func(r *record) error {
		at := r.index(id)
		if at < 0 {
			return fmt.Errorf("%w: %s", ErrNoRoot, id)
		}
		if r.Active == id {
			return ErrRootInUse
		}
		r.Roots = slices.Delete(r.Roots, at, at+1)
		return nil
	})
}

func (r *record) index(id string) int {
	return slices.IndexFunc(r.Roots, func(one rootRecord) bool { return rootID(one.Certificate) == id })
}

// change is visible on this node when it returns.
func (a *Authority) change(ctx context.Context, change func(*record) error) error {
	err := a.db.Update(ctx, func(tx *kv.Tx) error {
		found, _, err := readRecord(tx)
		if err != nil {
			return err
		}
		if err := change(&found); err != nil {
			return err
		}
		return found.put(tx)
	})
	if err != nil {
		return fmt.Errorf("change the authority's roots: %w", err)
	}
	_, err = a.load(ctx)
	return err
}

// Issue certifies a caller's key.
func (a *Authority) Issue(ctx context.Context, request []byte, principal identity.Principal, ttl time.Duration) (Certificate, error) {
	ca, err := a.CA(ctx)
	if err != nil {
		return Certificate{}, err
	}
	return ca.Issue(request, principal, ttl, a.clock())
}

// IssueNode certifies a node's TLS key.
func (a *Authority) IssueNode(ctx context.Context, request []byte, node string, hosts []string, hsmFingerprint [32]byte) (Certificate, error) {
	ca, err := a.CA(ctx)
	if err != nil {
		return Certificate{}, err
	}
	return ca.IssueNode(request, node, hosts, hsmFingerprint, a.clock())
}
