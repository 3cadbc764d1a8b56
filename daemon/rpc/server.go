package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"warder/api/codec"
	"warder/api/warder/v1/warderv1connect"
	"warder/cluster"
	"warder/daemon/audit"
	"warder/daemon/authn/mtls"
	"warder/daemon/broker"
	"warder/daemon/credential"
	"warder/daemon/device"
	"warder/daemon/identity/registry"
	"warder/daemon/pki"
	"warder/daemon/policy"
	"warder/daemon/ratelimit"
	"warder/daemon/seal"
	"warder/daemon/token"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// MaxMessage bounds a request, in bytes: the largest is a broker request with a body of 256 KiB.
const MaxMessage = 512 << 10

// Cluster is what the handlers ask of the consensus layer.
type Cluster interface {
	Members(ctx context.Context) ([]cluster.Member, error)
	Leader() (id, address string)
	IsLeader() bool
	Staleness() time.Duration
	Clock() error
	Admit(ctx context.Context, id, address string) error
	Remove(ctx context.Context, id string) error
	StepDown(ctx context.Context) error
}

// Config is what the handlers work with. Every field is required.
type Config struct {
	Home          seal.Home
	Version       string
	Dev           bool
	DB            *kv.DB
	Store         *kv.Store
	Cluster       Cluster
	Keeper        *seal.Keeper
	Holder        *keyring.Holder
	Authenticator *mtls.Authenticator
	Registry      *registry.Registry
	Policies      *policy.Store
	Tokens        *token.Service
	Authority     *pki.Authority
	Profiles      *broker.Registry
	Credentials   *credential.Store
	Keys          *device.Keys
	Enrolment     *device.Enrolment
	Audit         *audit.Log
	Anchors       *audit.AnchorStore
	Limiter       *ratelimit.Limiter
	Lanes         *ratelimit.Lanes
	// StalenessBound is how long ago the node may last have known itself up to date, for it to answer.
	StalenessBound time.Duration
	Started        time.Time
	// Observe hears once of every request of an RPC: its method, the reason of its refusal, and its time.
	Observe func(procedure, reason string, took time.Duration)
	// Problems says why the node is not ready; empty when it is.
	Problems func() []string
	Clock    func() time.Time
	Logger   *slog.Logger
}

// Server is the road and the handlers at its end.
type Server struct {
	Config
	table   map[string]method
	current atomic.Int64           // when what decisions are made by was last known to be up to date, since Started
	actions map[policy.Action]bool // every one that a grant can name
	checker *codec.Checker
}

// New checks that the table of RPCs is total.
func New(cfg Config) (*Server, error) {
	table := methods()
	if err := checkTotal(table); err != nil {
		return nil, err
	}
	checker, err := codec.NewChecker()
	if err != nil {
		return nil, fmt.Errorf("the rules of requests: %w", err)
	}
	actions := map[policy.Action]bool{}
	for row := range policy.Actions() {
		actions[row.Name] = true
	}
	return &Server{Config: cfg, table: table, actions: actions, checker: checker}, nil
}

// Handler serves every RPC of warder.v1 over Connect, gRPC and gRPC-Web. It must stand behind Edge.
func (s *Server) Handler() http.Handler {
	options := append(codec.HandlerOptions(MaxMessage), connect.WithInterceptors(interceptor{s}))
	mux := http.NewServeMux()
	handle := func(path string, handler http.Handler) http.Handler {
		mux.Handle(path, handler)
		return handler
	}
	handle(warderv1connect.NewSystemServiceHandler(systemService{s}, options...))
	handle(warderv1connect.NewClusterServiceHandler(clusterService{s}, options...))
	handle(warderv1connect.NewIdentityServiceHandler(identityService{s}, options...))
	handle(warderv1connect.NewPolicyServiceHandler(policyService{s}, options...))
	credentials := handle(warderv1connect.NewCredentialServiceHandler(credentialService{s}, options...))
	keys := handle(warderv1connect.NewKeyServiceHandler(keyService{s}, options...))
	handle(warderv1connect.NewDeviceServiceHandler(deviceService{s}, options...))
	tokens := handle(warderv1connect.NewTokenServiceHandler(tokenService{s}, options...))
	handle(warderv1connect.NewAuditServiceHandler(auditService{s}, options...))
	s.serveDirect(mux, credentials, keys, tokens)
	mux.HandleFunc("GET /.well-known/jwks.json", s.serveKeys)
	return mux
}

// serveKeys publishes the keys that verify tokens (RFC 7517, section 5). They are public.
func (s *Server) serveKeys(w http.ResponseWriter, _ *http.Request) {
	keys, err := s.Tokens.JWKS()
	if err != nil {
		http.Error(w, "the node is sealed", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "max-age=60")
	_, _ = w.Write(keys) // the caller went away: there is nobody left to tell
}

// ring gives the unsealed keyring.
func (s *Server) ring() (*keyring.Keyring, error) { return s.Holder.Keyring() }

// TailProcedure is the one method that lasts: the audit log's stream.
const TailProcedure = warderv1connect.AuditServiceTailAuditProcedure
