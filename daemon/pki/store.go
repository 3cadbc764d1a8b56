package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"warder/daemon/identity"
	"warder/keystore/kv"
)

// Authority is the cluster's CA as its record has it. It is read anew when the record changes.
type Authority struct {
	db          *kv.DB
	trustDomain string
	clock       func() time.Time

	mu       sync.Mutex
	ca       *CA // guarded by mu, and below
	revision uint64
}

// record is the authority's stored form: the newest certificate in DER and its key in PKCS #8.
type record struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
}

func recordKey() kv.Key { return kv.K("pki", "authority") }

// Store writes a new cluster's CA.
func (c *CA) Store(tx *kv.Tx) error {
	key, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		return fmt.Errorf("encode the authority's key: %w", err)
	}
	text, err := json.Marshal(record{Certificate: c.certificate.Raw, Key: key})
	if err != nil {
		return fmt.Errorf("encode the authority: %w", err)
	}
	tx.MustNotExist(recordKey())
	tx.Put(recordKey(), text)
	return nil
}

// NewAuthority gives the CA stored in db.
func NewAuthority(db *kv.DB, trustDomain string, clock func() time.Time) *Authority {
	return &Authority{db: db, trustDomain: trustDomain, clock: clock}
}

// CA gives the authority as it is now.
func (a *Authority) CA(ctx context.Context) (*CA, error) {
	var found record
	var revision uint64
	err := a.db.View(ctx, func(tx *kv.Tx) error {
		text, at, err := tx.Get(recordKey())
		if err != nil {
			return fmt.Errorf("read the authority: %w", err)
		}
		revision = at
		return json.Unmarshal(text, &found)
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ca != nil && a.revision == revision {
		return a.ca, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(found.Key)
	if err != nil {
		return nil, errors.New("the authority's key does not parse")
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the authority's key cannot sign")
	}
	if a.ca, err = openCA(found.Certificate, key, a.trustDomain); err != nil {
		return nil, err
	}
	a.revision = revision
	return a.ca, nil
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
