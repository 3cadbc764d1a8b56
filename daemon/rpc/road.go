package rpc

import (
	"context"
	"errors"
	"net/http"
	"net/netip"

	"google.golang.org/protobuf/proto"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/authn/mtls"
	"warder/daemon/identity"
	"warder/daemon/policy"
	"warder/daemon/ratelimit"
	"warder/daemon/token"
)

// Errors of the road itself.
var (
	errMethodUnknown   = errors.New("there is no such method")
	errUnauthenticated = errors.New("nothing says who calls: present a client certificate of this cluster")
	errSocketOnly      = errors.New("this method is served on the node's local socket only")
	errDenied          = errors.New("no policy permits it")
	errForeign         = errors.New("the resource is in another namespace than the caller")
	errSealed          = errors.New("the node is sealed: it holds no keys, and answers nothing else")
	errStale           = errors.New("this node has not heard from a leader for too long to answer")
	errClock           = errors.New("this node's clock is not right, or not confirmed by a majority yet: it cannot tell what has expired")
	errUnread          = errors.New("this node has not read yet, or cannot read, the identities, policies and token keys that it decides by")
	errTokenNeeded     = errors.New("a workload or device needs a token for this: ask TokenService.IssueToken for one")
	errTokenScope      = errors.New("the token's grants do not cover this action on this resource")
	errChained         = errors.New("a token is not issued to a token: present the certificate alone")
	errAction          = errors.New("a grant names an action that is not known")
	errAddress         = errors.New("a node is reached at host:port by the other nodes, and at https://host:port by callers")
	errAudit           = errors.New("the audit log cannot be written, so nothing is answered")
)

// Call is what the road has learned of one request. The edge makes it, the road fills it in, the handler reads it.
type Call struct {
	ID        string
	Procedure string
	Remote    netip.AddrPort
	// Socket is true on the local unix socket, whose peer the kernel named.
	Socket bool

	Principal      identity.Principal
	Groups         []identity.Name
	Authentication string // "mtls", "token", "socket", "admission" or "none"
	Peer           mtls.Authenticated
	TokenID        string

	from     peer // its connection; zero on the socket
	target   target
	lane     ratelimit.Lane // in which it is worked on; 0 in none
	recorded bool
	observed bool
	// turnedAway is why its message was not taken in; nil when it was.
	turnedAway error
	// reason is why the request was refused; unspecified when it was not.
	reason warderv1.Reason
}

type callKey struct{}

// callOf gives the call that the edge made. Without an edge there is no road, so its absence is a fault of ours.
func callOf(ctx context.Context) *Call {
	call, ok := ctx.Value(callKey{}).(*Call)
	if !ok {
		panic("rpc: a handler runs without the road")
	}
	return call
}

// resource is the authorised object's name.
func resource(ctx context.Context) policy.Resource { return callOf(ctx).target.resource }

// object is what resolve looked at, and the authoriser allowed.
func object[T any](ctx context.Context) T { return callOf(ctx).target.object.(T) }

// travel takes one request down the road: it returns nil when the handler may run, and by then the decision is
// durable in the audit log. A refusal is recorded too before it is returned.
func (s *Server) travel(ctx context.Context, procedure string, header http.Header, message proto.Message) error {
	call := callOf(ctx)
	row, known := s.table[procedure]
	if known {
		call.Procedure = procedure
	}
	var verdict policy.Decision
	err := errMethodUnknown
	if known {
		err = s.enter(ctx, call, row, header)
	}
	if err == nil {
		verdict, err = s.decide(ctx, call, row, header, message)
		err = s.founded(row, err)
	}
	if recordErr := s.record(ctx, call, row.action, verdict, err); recordErr != nil {
		return recordErr
	}
	if err != nil {
		return &refusal{cause: err, policies: verdict.Policies}
	}
	return nil
}

// decide runs the steps in their order; the first that refuses ends the road.
func (s *Server) decide(ctx context.Context, call *Call, row method, header http.Header, message proto.Message) (policy.Decision, error) {
	if err := s.serving(ctx, row); err != nil {
		return policy.Decision{}, err
	}
	claims, err := s.authenticate(ctx, call, row, header, message)
	if err != nil && row.caller != byAdmission {
		err = s.charge(call, err)
	}
	if err != nil {
		return policy.Decision{}, err
	}
	if err := s.Limiter.Allow(call.Principal, row.limit); err != nil {
		return policy.Decision{}, err
	}
	if err := s.checker.Check(message); err != nil {
		return policy.Decision{}, err
	}
	claims, err = s.upToDate(ctx, call, row, claims, header)
	if err != nil {
		return policy.Decision{}, err
	}
	found, err := row.resolve(ctx, s, call, message)
	if err == nil {
		err = recordable(found.context)
	}
	call.target = found
	if err != nil {
		call.target.context = nil // what was refused is no fact, and the audit log may have no room for it
		return policy.Decision{}, s.hide(call, row, claims, found, err)
	}
	verdict, err := s.authorise(call, row, claims)
	if err == nil && claims != nil {
		err = s.Tokens.Spend(ctx, *claims)
	}
	return verdict, err
}

// founded gives what this node can stand by of what it decided. A refusal made while it lost what it decides by, because it
// is being sealed or stopped, or its disk failed, is for no fault of the caller's; and a clock that was set meanwhile may have
// decided either way.
func (s *Server) founded(row method, refused error) error {
	switch {
	case row.sealed || errors.Is(refused, errSealed):
		return refused
	case s.Cluster.Clock() != nil:
		return errClock
	case refused != nil && s.Unread() != nil:
		return errUnread
	}
	return refused
}

// serving refuses what the node cannot decide on now, at once, before anything of the caller is looked at.
func (s *Server) serving(ctx context.Context, row method) error {
	switch {
	case row.sealed:
		return nil
	case s.Keeper.Sealed():
		return errSealed
	case s.Unread() != nil:
		return errUnread
	case s.Cluster.Clock() != nil:
		return errClock // without the figure: the caller is not known yet
	}
	return s.catchUp(ctx)
}

// upToDate refuses on a node that does not know itself up to date, and lets a caller who asks for it wait until it is.
// What was revoked before that is heeded: such a caller is looked at again.
func (s *Server) upToDate(ctx context.Context, call *Call, row method, claims *token.Claims, header http.Header) (*token.Claims, error) {
	waited, err := s.fresh(ctx, header)
	if err != nil {
		return nil, err
	}
	if waited && call.Peer.Principal != (identity.Principal{}) {
		return s.authenticatePeer(ctx, call, row, header)
	}
	if row.caller == byCertificate && s.Cluster.Staleness() > s.StalenessBound {
		return nil, errStale
	}
	return claims, nil
}
