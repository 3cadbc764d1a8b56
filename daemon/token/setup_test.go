package token_test

import (
	"sync"
	"testing"
	"time"

	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/daemon/token"
	"warder/keystore/keyring"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

// people are the registered identities.
type people struct {
	mu  sync.Mutex
	all map[identity.Principal]registry.Identity
}

func (p *people) Lookup(who identity.Principal) (registry.Identity, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, ok := p.all[who]
	return found, ok
}

func (p *people) put(i registry.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[i.Principal] = i
}

// world is a cluster of one node, founded at noon.
type world struct {
	db      *kv.DB
	holder  *keyring.Holder
	people  *people
	now     time.Time
	service *token.Service
}

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	bot  = registry.Identity{
		Principal: identity.Principal{Kind: identity.Workload, Namespace: identity.MustName("default"), Name: identity.MustName("bot")},
		Epoch:     3, State: registry.Enabled,
	}
	certificate = [32]byte{1, 2, 3}
	binance     = token.Resource{Type: "credential", Namespace: "default", Name: "binance"}
)

func newWorld(t testing.TB) *world {
	t.Helper()
	db, log := keystoretest.Open(t)
	w := &world{db: db, holder: log.Keys(), people: &people{all: map[identity.Principal]registry.Identity{bot.Principal: bot}}, now: noon}
	if err := db.Update(t.Context(), func(tx *kv.Tx) error { return token.Found(tx, noon) }); err != nil {
		t.Fatal(err)
	}
	w.service = w.serve(t, "cluster-a", 0)
	return w
}

// serve gives a further service on the same records.
func (w *world) serve(t testing.TB, issuer string, leeway time.Duration) *token.Service {
	t.Helper()
	service, err := token.New(token.Config{
		DB: w.db, Identities: w.people, Issuer: issuer, Leeway: leeway, Clock: func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	return service
}

func request() token.Request {
	return token.Request{
		Subject: bot, Certificate: certificate, NotAfter: noon.Add(24 * time.Hour), TTL: 5 * time.Minute,
		Grants: []token.Grant{{Actions: []string{"credential.sign"}, Resource: binance}},
	}
}

func (w *world) issue(t testing.TB, asked token.Request) (string, token.Claims) {
	t.Helper()
	raw, claims, err := w.service.Issue(asked)
	if err != nil {
		t.Fatal(err)
	}
	return raw, claims
}

// operator is one of the namespace that is over all.
var operator = identity.Principal{Kind: identity.Operator, Namespace: identity.MustName("system"), Name: identity.MustName("admin")}
