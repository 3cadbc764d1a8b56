package rpc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"warder/api/reason"
	"warder/api/verify"
	warderv1 "warder/api/warder/v1"
	"warder/daemon/audit"
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

// charge counts a caller who did not prove who it is against its address, so that nobody guesses at speed.
func (s *Server) charge(call *Call, refused error) error {
	if err := s.Limiter.AllowAddress(call.Remote.Addr(), ratelimit.Unauthenticated); err != nil && !call.Socket {
		return err
	}
	return refused
}

// maxFact bounds a fact of a request that policies see, in bytes: what the audit log can hold.
const maxFact = 128

// recordable refuses facts that the audit log has no room for, before anything is decided on them.
func recordable(facts map[string]any) error {
	for name, value := range facts {
		text, ok := value.(string)
		if !ok {
			continue
		}
		odd := strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
		if odd || len(text) > maxFact {
			return fmt.Errorf("%w: the request's %s must be at most %d printable ASCII characters", ErrField, name, maxFact)
		}
	}
	return nil
}

// authenticate finds who calls, by what the row takes.
func (s *Server) authenticate(ctx context.Context, call *Call, row method, header http.Header, message proto.Message) (*token.Claims, error) {
	switch {
	case call.Socket && (row.caller == bySocket || row.caller == bySocketOrCertificate):
		call.Authentication = "socket"
		call.Principal = identity.Principal{Kind: identity.Operator, Namespace: systemNamespace(), Name: identity.MustName("local-socket")}
		return nil, nil
	case call.Socket || row.caller == bySocket:
		return nil, errSocketOnly
	case row.caller == byAdmission:
		call.Authentication = "admission"
		// Before it is looked at: who guesses in parallel is held to the same bound.
		if err := s.charge(call, nil); err != nil {
			return nil, err
		}
		return nil, s.admit(ctx, call, message)
	}
	return s.authenticatePeer(ctx, call, row, header)
}

func (s *Server) authenticatePeer(ctx context.Context, call *Call, row method, header http.Header) (*token.Claims, error) {
	state := peerOf(ctx)
	if state == nil {
		return nil, errUnauthenticated
	}
	now := s.Clock()
	peer, err := state.authenticate(s.Authenticator, now)
	if err != nil {
		return nil, err
	}
	call.Peer, call.Principal, call.Groups, call.Authentication = peer, peer.Principal, peer.Identity.Groups, "mtls"
	raw, presented, err := bearer(header)
	if err != nil {
		return nil, err
	}
	if !presented {
		if row.token && peer.Principal.Kind != identity.Operator {
			return nil, errTokenNeeded
		}
		return nil, nil
	}
	claims, err := s.Tokens.Verify(raw, peer.CertSHA256)
	if err != nil {
		return nil, err
	}
	if claims.Subject != peer.Principal {
		return nil, fmt.Errorf("%w: it is another caller's", token.ErrNotBound)
	}
	call.TokenID, call.Authentication = claims.ID, "token"
	return &claims, nil
}

// bearer finds the request's token (RFC 6750, section 2.1). What is not exactly one is refused and not passed over: a
// token that its caller sent to be held to must not be lost on the way. The scheme has no case (RFC 9110, section 11.1).
func bearer(header http.Header) (raw string, presented bool, err error) {
	values := header.Values("Authorization")
	if len(values) == 0 {
		return "", false, nil
	}
	scheme, raw, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return "", false, fmt.Errorf("%w: send one Authorization header, of the scheme Bearer", token.ErrInvalid)
	}
	return raw, true, nil
}

// authorise asks the token's scope and then the policies. What the socket or an admission token stands for is its own
// authority: the first is root on the node, the second names the one thing it is for.
func (s *Server) authorise(call *Call, row method, claims *token.Claims) (policy.Decision, error) {
	if call.Authentication == "socket" || row.caller == byAdmission {
		return policy.Decision{Allow: true}, nil
	}
	wanted := call.target.resource
	if err := within(call, row, claims, wanted); err != nil {
		return policy.Decision{}, err
	}
	verdict := s.Policies.Current().Decide(policy.Request{
		Principal: call.Principal, Groups: call.Groups, Action: row.action, Resource: wanted, Context: call.target.context,
	})
	if !verdict.Allow {
		for _, text := range verdict.Errors {
			s.Logger.Warn("a decision met an error and denied", "request", call.ID, "error", text)
		}
		return verdict, errDenied
	}
	return verdict, nil
}

// within holds the caller to its namespace and its token's grants. It looks at the resource's name alone, so that it says
// the same of what is there and of what is not.
func within(call *Call, row method, claims *token.Claims, wanted policy.Resource) error {
	if wanted.Namespace != call.Principal.Namespace && call.Principal.Namespace != systemNamespace() && wanted.Namespace != systemNamespace() {
		return errForeign
	}
	if claims != nil && !claims.Allows(string(row.action), scopeResource(wanted)) {
		return errTokenScope
	}
	return nil
}

// still takes the caller of a stream down the road again, before each message that it is sent: its certificate, token,
// identity and policies may have changed since it began. It leaves no record and spends no use.
func (s *Server) still(ctx context.Context, header http.Header) error {
	call := callOf(ctx)
	row := s.table[call.Procedure]
	if err := s.serving(ctx, row); err != nil {
		return err
	}
	claims, err := s.authenticatePeer(ctx, call, row, header)
	if err != nil {
		return err
	}
	_, err = s.authorise(call, row, claims)
	return err
}

// hide turns what resolving an object has found into "no policy permits it" for a caller who may neither read the object
// nor use it, so that nobody learns what exists, or of what kind it is, by asking for it.
func (s *Server) hide(call *Call, row method, claims *token.Claims, found target, err error) error {
	wanted := found.resource
	if wanted == (policy.Resource{}) || row.caller == byAdmission || call.Authentication == "socket" {
		return err // nothing was looked up yet: it is the request's own fault
	}
	if ofTheNode(err) {
		return err // it tells nothing of the object
	}
	if refused := within(call, row, claims, wanted); refused != nil {
		return refused
	}
	reads := map[policy.ResourceType]policy.Action{policy.Key: policy.KeyRead, policy.Credential: policy.CredentialRead}
	ask := policy.Request{Principal: call.Principal, Groups: call.Groups, Action: reads[wanted.Type], Resource: wanted}
	if s.Policies.Current().Decide(ask).Allow {
		return err
	}
	if row.action == policy.CredentialSign && !isNotFound(err) && s.maySignSomething(ask, found.context) {
		return err
	}
	return errDenied
}

// ofTheNode says whether an error is for what the node is in, and would be the same of every object.
func ofTheNode(err error) bool {
	switch reasonOf(err) {
	case warderv1.Reason_REASON_SEALED, warderv1.Reason_REASON_SHUTTING_DOWN, warderv1.Reason_REASON_STALE,
		warderv1.Reason_REASON_NO_LEADER, warderv1.Reason_REASON_DEADLINE_EXCEEDED, warderv1.Reason_REASON_CANCELED:
		return true
	}
	return false
}

// maySignSomething says whether a request of some class would be allowed.
func (s *Server) maySignSomething(ask policy.Request, known map[string]any) bool {
	ask.Action = policy.CredentialSign
	for _, class := range classes() {
		ask.Context = map[string]any{
			"class": string(class.domain), "host": "", "method": "", "symbol": "", "side": "", "qty": int64(0), "price": int64(0), "quote_qty": int64(0),
		}
		maps.Copy(ask.Context, known)
		if s.Policies.Current().Decide(ask).Allow {
			return true
		}
	}
	return false
}

// record writes the decision before its effect. No record, no answer.
func (s *Server) record(ctx context.Context, call *Call, action policy.Action, verdict policy.Decision, refused error) error {
	entry := audit.Record{
		Time: s.Clock(), RequestID: call.ID, Principal: principalText(call.Principal), Authn: call.Authentication,
		TokenID: call.TokenID, Method: strings.TrimPrefix(call.Procedure, "/"), Action: string(action),
		Decision: verify.Allow, Policies: recordedPolicies(verdict.Policies), Certificate: call.Peer.CertSHA256, Remote: call.Remote,
	}
	if wanted := call.target.resource; wanted != (policy.Resource{}) {
		entry.Resource = verify.Resource{Type: string(wanted.Type), Namespace: wanted.Namespace.String(), Name: wanted.Name.String()}
	}
	if refused != nil {
		entry.Decision, entry.Reason = verify.Deny, reasonText(reasonOf(refused))
	}
	inputs, err := verify.Inputs(call.target.context)
	if err == nil {
		entry.Inputs = inputs
		_, err = s.Audit.Append(context.WithoutCancel(ctx), entry) // who hangs up is recorded, and once
	}
	if err != nil {
		s.Logger.Error("the audit log refuses a record", "request", call.ID, "error", err)
		return errors.Join(errAudit, err)
	}
	call.recorded = true
	return nil
}

// maxRecorded bounds the policies that a record names.
const maxRecorded = 32

// recordedPolicies names the policies that decided, ascending; of too many the last place says how many are not named.
func recordedPolicies(decided []string) []string {
	if len(decided) <= maxRecorded {
		return decided
	}
	named := append(slices.Clone(decided[:maxRecorded-1]), fmt.Sprintf("and-%d-more", len(decided)-maxRecorded+1))
	slices.Sort(named)
	return named
}

// reasonText is a reason's stable name in the audit log: "permission_denied".
func reasonText(why warderv1.Reason) string { return reasonTexts[why] }

const reasonPrefix = "REASON_"

// reasonTexts has the text of every reason: each request asks for one.
var reasonTexts = func() map[warderv1.Reason]string {
	texts := map[warderv1.Reason]string{}
	for why, name := range warderv1.Reason_name {
		texts[warderv1.Reason(why)] = strings.ToLower(strings.TrimPrefix(name, reasonPrefix))
	}
	return texts
}()

// parseReason is the inverse of reasonText.
func parseReason(text string) warderv1.Reason {
	return warderv1.Reason(warderv1.Reason_value[reasonPrefix+strings.ToUpper(text)])
}

func principalText(p identity.Principal) string {
	if p == (identity.Principal{}) {
		return ""
	}
	return p.String()
}

// observe tells how a request went, at its end.
func (s *Server) observe(ctx context.Context, began time.Time) {
	call := callOf(ctx)
	s.leave(call)
	s.Observe(call.Procedure, reasonText(call.reason), time.Since(began))
}

// interceptor puts the road before every handler, unary and streaming.
type interceptor struct{ server *Server }

func (i interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		return travelled(ctx, i.server, request.Spec().Procedure, request.Header(), request.Any(), func() (connect.AnyResponse, error) {
			return next(ctx, request)
		})
	}
}

// travelled takes a request down the road and gives the answer of the handler at its end, or the refusal that crosses
// the wire. Every request of one message and one answer comes through here.
func travelled[A any](ctx context.Context, s *Server, procedure string, header http.Header, request any, handler func() (A, error)) (answer A, err error) {
	defer s.observe(ctx, time.Now())
	message, ok := request.(proto.Message)
	if !ok {
		return answer, s.refuse(ctx, errMethodUnknown)
	}
	if err := s.travel(ctx, procedure, header, message); err != nil {
		return answer, s.refuse(ctx, err)
	}
	if answer, err = handler(); err != nil {
		var none A
		return none, s.refuse(ctx, err)
	}
	return answer, nil
}

func (i interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler lets the stream's first message travel the road before the handler sees it.
func (i interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		defer i.server.observe(ctx, time.Now())
		guarded := &guardedConn{StreamingHandlerConn: conn, ctx: ctx, server: i.server}
		if err := next(ctx, guarded); err != nil {
			return i.server.refuse(ctx, err)
		}
		return nil
	}
}

type guardedConn struct {
	connect.StreamingHandlerConn
	ctx    context.Context //nolint:containedctx // it is the stream's own, and lives as long
	server *Server
	passed bool
}

func (c *guardedConn) Receive(message any) error {
	err := c.StreamingHandlerConn.Receive(message)
	if err != nil && !c.passed && callOf(c.ctx).turnedAway == nil {
		return reason.New(warderv1.Reason_REASON_INVALID_ARGUMENT, "the stream does not begin with one whole request")
	}
	if err != nil || c.passed {
		return err
	}
	err = c.server.travel(c.ctx, c.Spec().Procedure, c.RequestHeader(), message.(proto.Message))
	c.server.leave(callOf(c.ctx)) // a stream lasts: it keeps no place from others
	if err != nil {
		return err
	}
	c.passed = true
	return nil
}

func (c *guardedConn) Send(message any) error {
	if !c.passed {
		return errMethodUnknown
	}
	if err := c.server.still(c.ctx, c.RequestHeader()); err != nil {
		return err
	}
	return c.StreamingHandlerConn.Send(message)
}
