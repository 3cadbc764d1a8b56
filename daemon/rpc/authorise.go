package rpc

import (
	"context"
	"maps"
	"net/http"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/policy"
	"warder/daemon/token"
)

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
	if _, known := lookup(err); !known {
		s.logFault(call, err) // the caller will not hear of it
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
