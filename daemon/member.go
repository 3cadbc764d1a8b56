package daemon

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"warder/api/verify"
	"warder/cluster"
	"warder/daemon/audit"
	"warder/daemon/authn/mtls"
	"warder/daemon/broker"
	"warder/daemon/credential"
	"warder/daemon/device"
	"warder/daemon/gateway"
	"warder/daemon/identity/registry"
	"warder/daemon/pki"
	"warder/daemon/policy"
	"warder/daemon/ratelimit"
	"warder/daemon/rpc"
	"warder/daemon/seal"
	"warder/daemon/token"
	"warder/hsm"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// member is a node that belongs to a cluster: its parts, from the disk up. Whoever opens closes, in the order of close.
type member struct {
	node   *node
	homeMu sync.Mutex // one change of the home at a time
	home   atomic.Pointer[seal.Home]
	logger *slog.Logger

	store  *kv.Store
	holder *keyring.Holder
	log    *audit.Log
	raft   *cluster.Node
	db     *kv.DB
	keeper *seal.Keeper

	registry    *registry.Registry
	policies    *policy.Store
	tokens      *token.Service
	authority   *pki.Authority
	credentials *credential.Store
	keys        *device.Keys
	anchors     *audit.AnchorStore
	metrics     *metrics
	server      *rpc.Server

	certificate atomic.Pointer[tls.Certificate]
	roots       atomic.Pointer[x509.CertPool]
}

// machine is the state machine as the cluster sees it.
type machine struct{ *kv.Store }

// Snapshot adapts the one method whose result is an interface of each package's own.
func (m machine) Snapshot() (cluster.Snapshot, error) { return m.Store.Snapshot() }

// openMember opens a member's storage, its place in the cluster and its services; nothing runs yet. An open HSM may be
// handed over; without one the keeper opens it. bootstrap begins a new cluster.
func (n *node) openMember(home seal.Home, hardware hsm.Token, bootstrap bool) (*member, error) {
	m := &member{node: n, logger: n.logger, holder: &keyring.Holder{}, metrics: newMetrics()}
	if err := m.adoptHome(home); err != nil {
		return nil, err
	}
	if err := m.openStorage(bootstrap); err != nil {
		return nil, errors.Join(err, m.close())
	}
	var log kv.Log = m.raft
	if n.program.through != nil {
		log = n.program.through(log)
	}
	m.db = kv.New(m.store, log, m.holder)
	m.keeper = seal.NewKeeper(seal.Config{
		Home: home, Store: m.store, DB: m.db, Holder: m.holder, Cluster: voters{m.raft}, OpenToken: n.hardware.take,
		Clock: time.Now, Logger: m.logger,
	})
	if hardware != nil {
		m.keeper.Adopt(hardware)
	}
	if err := m.openServices(); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// adoptHome makes the home's certificate and roots those of new connections.
func (m *member) adoptHome(home seal.Home) error {
	certificate, err := tls.X509KeyPair(home.Certificate, home.PrivateKey)
	if err != nil {
		return fmt.Errorf("the node's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(home.Roots) {
		return errors.New("the cluster's CA certificate does not parse")
	}
	m.home.Store(&home)
	m.certificate.Store(&certificate)
	m.roots.Store(roots)
	return nil
}

func (m *member) openServices() error {
	home, clock := m.home.Load(), time.Now
	m.registry = registry.New(m.db, clock)
	m.policies = policy.New(m.db, m.logger)
	m.authority = pki.NewAuthority(m.db, home.TrustDomain, clock)
	m.anchors = audit.NewAnchorStore(m.db)
	m.keys = device.NewKeys(m.db, custody{m}, clock)
	profiles, err := broker.Builtin()
	if err != nil {
		return fmt.Errorf("the built-in broker profiles: %w", err)
	}
	m.credentials = credential.New(m.db, profiles)
	m.tokens, err = token.New(token.Config{
		DB: m.db, Identities: m.registry, Issuer: "https://" + home.TrustDomain, Leeway: m.node.cfg.ClockSkew, Clock: clock,
	})
	if err != nil {
		return err
	}
	m.server, err = rpc.New(rpc.Config{
		Home: *home, Version: m.node.program.Version, Dev: m.node.cfg.Dev, DB: m.db, Store: m.store, Cluster: m.raft, Keeper: m.keeper,
		Holder: m.holder, Registry: m.registry, Policies: m.policies, Tokens: m.tokens, Authority: m.authority,
		Authenticator: mtls.New(mtls.Config{TrustDomain: home.TrustDomain, Roots: m.roots.Load, Registry: m.registry}),
		Profiles:      profiles, Credentials: m.credentials, Keys: m.keys, Enrolment: device.NewEnrolment(m.db, clock), Audit: m.log, Anchors: m.anchors,
		Limiter: ratelimit.New(ratelimit.DefaultRates(), clock), Lanes: ratelimit.NewLanes(ratelimit.DefaultRooms()), StalenessBound: m.node.cfg.Staleness, Started: m.node.started,
		Problems: m.problems, Observe: m.metrics.observe, Clock: clock, Logger: m.logger,
	})
	return err
}

// serve gives the handler of the local socket.
func (m *member) serve() http.Handler { return m.server.Edge(m.server.Handler(), true) }

// run keeps the member going until ctx ends or a part of it fails: storage, consensus, the audit log or a listener.
// Everything stops with the first that fails: a node does not go on with a part missing.
func (m *member) run(ctx context.Context) error {
	door, err := gateway.Open(gateway.Config{
		Addresses: m.node.cfg.API.Listen, Handler: m.server.Edge(m.server.Handler(), false), ConnContext: rpc.ConnContext,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.certificate.Load(), nil },
		MinVersion:  minVersion(m.node.cfg.TLS.MinVersion), MetricsAddress: m.node.cfg.Metrics.Listen, MetricsHandler: m.metrics.handler(m),
		Live: m.log.Healthy, Ready: m.ready, Stream: isStream, Limits: m.node.limits(), Logger: m.logger,
	})
	if err != nil {
		return errors.Join(err, m.close())
	}
	// The services stop before the cluster does: they may still be proposing.
	group, inner := errgroup.WithContext(ctx)
	services := []func(context.Context) error{
		m.store.Run, m.registry.Run, m.policies.Run, m.tokens.Run, m.keys.Run, m.credentials.Run, m.keeper.Run, m.renew, m.rememberPeers, m.sweep, m.authority.Run, m.followRoots,
		func(ctx context.Context) error {
			return m.anchors.Run(ctx, m.log, m.node.cfg.Audit.AnchorInterval, m.logger)
		},
		door.Run,
	}
	for _, service := range services {
		group.Go(func() error { return ignoreEnd(ctx, service(inner)) })
	}
	raftCtx, stopRaft := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRaft()
	raftEnd := make(chan error, 1)
	go func() { raftEnd <- m.raft.Run(raftCtx) }()
	group.Go(func() error {
		select {
		case <-inner.Done():
			return nil
		case err := <-raftEnd:
			raftEnd <- err
			return fmt.Errorf("the cluster layer stopped: %w", err)
		}
	})
	m.logger.Info("the node runs", "cluster", m.home.Load().ClusterName, "api", fmt.Sprint(door.Addresses()), "peers", m.node.cfg.Cluster.Advertise)
	err = group.Wait()
	stopRaft()
	return errors.Join(err, <-raftEnd, m.closeStorage()) // the cluster layer has closed itself
}

// ignoreEnd drops the error of a service that ended because it was told to.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// close closes what was opened and did not run, in the opposite order of opening.
func (m *member) close() error {
	var err error
	if m.raft != nil {
		err = m.raft.Close()
	}
	return errors.Join(err, m.closeStorage())
}

// closeStorage closes what is below the cluster layer. The parts stay where they are: peers that connect, and the local
// socket, ask the member until the node has ended.
func (m *member) closeStorage() error {
	var errs []error
	if m.store != nil {
		errs = append(errs, m.store.Close())
	}
	if m.log != nil {
		errs = append(errs, m.log.Close())
	}
	m.holder.Clear()
	return errors.Join(errs...)
}

// problems says why the node is not ready; empty when it is.
func (m *member) problems() []string {
	var found []string
	if m.keeper.Sealed() {
		found = append(found, "the node is sealed")
	} else if err := m.server.Unread(); err != nil {
		found = append(found, "what the node decides by cannot be read: "+err.Error())
	}
	if err := m.keeper.Health(); err != nil {
		found = append(found, "the HSM does not answer: "+err.Error())
	}
	if err := m.log.Healthy(); err != nil {
		found = append(found, err.Error())
	}
	if err := m.raft.Clock(); err != nil {
		found = append(found, "the node's clock: "+err.Error())
	}
	if stale := m.raft.Staleness(); stale > m.node.cfg.Staleness {
		found = append(found, fmt.Sprintf("the node last knew itself up to date %s ago", stale.Round(time.Millisecond)))
	}
	return found
}

// ready is what /readyz tells anybody: no more than that the node does not serve.
func (m *member) ready() error {
	switch {
	case m.keeper.Sealed():
		return errors.New("sealed")
	case m.log.Healthy() != nil:
		return errors.New("audit log unavailable")
	case m.server.Unread() != nil:
		return errors.New("state unreadable")
	case m.raft.Clock() != nil:
		return errors.New("clock")
	case m.raft.Staleness() > m.node.cfg.Staleness:
		return errors.New("not up to date")
	}
	return nil
}

// voters asks the cluster layer for its voters' ids.
type voters struct{ *cluster.Node }

// Voters gives the ids of the members that vote.
func (v voters) Voters(ctx context.Context) ([]string, error) {
	members, err := v.Members(ctx)
	var ids []string
	for _, member := range members {
		if member.Voter {
			ids = append(ids, member.ID)
		}
	}
	return ids, err
}

// custody is where keys of custody "hsm" are: the node's token, and the cluster's key in it.
type custody struct{ *member }

func (c custody) Token() (hsm.Token, error) { return c.keeper.Token() }

func (c custody) CustodyID(ctx context.Context) (id hsm.KEKID, err error) {
	err = c.db.View(ctx, func(tx *kv.Tx) error {
		id, err = seal.CustodyID(tx)
		return err
	})
	return id, err
}

// auditInputs is the allow-list of the audit log: every context attribute that an action of the table declares.
func auditInputs() map[string]verify.Kind {
	kinds := map[policy.ContextType]verify.Kind{
		policy.TypeString: verify.Text, policy.TypeLong: verify.Number, policy.TypeBool: verify.Flag,
	}
	inputs := map[string]verify.Kind{}
	for action := range policy.Actions() {
		for _, attribute := range action.Context {
			inputs[attribute.Name] = kinds[attribute.Type]
		}
	}
	return inputs
}

func (m *member) openAudit() (*audit.Log, error) {
	mode, err := audit.ParseMode(m.node.cfg.Audit.Mode)
	if err != nil {
		return nil, err
	}
	home := m.home.Load()
	if len(home.AuditSeed) != ed25519.SeedSize {
		return nil, errors.New("the node's audit key has the wrong size")
	}
	return audit.Open(audit.Config{
		Dir: m.node.path("audit"), Node: home.Node, Key: ed25519.NewKeyFromSeed(home.AuditSeed), Inputs: auditInputs(), Mode: mode,
		Logger: m.logger,
	})
}

func minVersion(text string) uint16 {
	if text == "1.3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

func isStream(r *http.Request) bool { return r.URL.Path == rpc.TailProcedure }

func listen(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for the other nodes on %s: %w", address, err)
	}
	return listener, nil
}
