package reason

import (
	"iter"

	"connectrpc.com/connect"

	warderv1 "warder/api/warder/v1"
)

// Retry says what another attempt at the same request can do.
type Retry uint8

const (
	// Never: the same request will be refused again.
	Never Retry = iota
	// Elsewhere: this node cannot, another may, and nothing was done here.
	Elsewhere
	// Later: nothing was done, and it will pass; the same or another node.
	Later
	// IfIdempotent: it may have been done, so only what can be done twice may be
	// asked again.
	IfIdempotent
)

// String names the retry rule as docs/reasons.md does.
func (r Retry) String() string {
	return [...]string{"no", "another node", "after a wait", "if idempotent"}[r]
}

// Row is what the table holds of one reason.
type Row struct {
	Reason  warderv1.Reason
	Code    connect.Code
	Retry   Retry
	Meaning string
	// Next is what a person can do; the default hint.
	Next string
}

// Lookup returns the reason's row; an unknown reason has the row of INTERNAL.
func Lookup(r warderv1.Reason) Row {
	row, known := find(r)
	if !known {
		row, _ = find(warderv1.Reason_REASON_INTERNAL)
	}
	return row
}

// Known tells whether the table has a row for the reason.
func Known(r warderv1.Reason) bool {
	_, known := find(r)
	return known
}

// Rows yields every row in the order of the enum.
func Rows() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for number := range lastReason + 1 {
			row, known := find(number)
			if known && !yield(row) {
				return
			}
		}
	}
}

const lastReason = warderv1.Reason_REASON_INTERNAL

// find is the table. A switch rather than a map: nothing can change it.
func find(r warderv1.Reason) (Row, bool) {
	row := func(code connect.Code, retry Retry, meaning, next string) (Row, bool) {
		return Row{Reason: r, Code: code, Retry: retry, Meaning: meaning, Next: next}, true
	}
	switch r {
	case warderv1.Reason_REASON_UNAUTHENTICATED:
		return row(connect.CodeUnauthenticated, Never, "No certificate, or nothing else that says who calls.", "present a client certificate that this cluster issued")
	case warderv1.Reason_REASON_CERTIFICATE_EXPIRED:
		return row(connect.CodeUnauthenticated, Never, "The client certificate is past its end.", "ask an operator for a new certificate: warder identity issue")
	case warderv1.Reason_REASON_CERTIFICATE_NOT_YET_VALID:
		return row(connect.CodeUnauthenticated, Never, "The client certificate begins later than the server's clock.", "compare the clocks of caller and server")
	case warderv1.Reason_REASON_CERTIFICATE_UNKNOWN:
		return row(connect.CodeUnauthenticated, Never, "The client certificate is not from this cluster, or names an identity that it does not know.", "check that the certificate and the endpoint belong to the same cluster")
	case warderv1.Reason_REASON_CERTIFICATE_WRONG_KEY:
		return row(connect.CodeUnauthenticated, Never, "The certificate's key is not bound to the identity that it names.", "use the identity's own key, or have an operator issue a certificate for this one")
	case warderv1.Reason_REASON_IDENTITY_DISABLED:
		return row(connect.CodeUnauthenticated, Never, "The identity is disabled.", "ask an operator: warder identity enable")
	case warderv1.Reason_REASON_TOKEN_INVALID:
		return row(connect.CodeUnauthenticated, Never, "The token does not parse, or this cluster did not sign it.", "issue a new token: warder token issue")
	case warderv1.Reason_REASON_TOKEN_EXPIRED:
		return row(connect.CodeUnauthenticated, Never, "The token is past its end, or not valid yet.", "issue a new token; where this repeats, compare the clocks")
	case warderv1.Reason_REASON_TOKEN_NOT_BOUND:
		return row(connect.CodeUnauthenticated, Never, "The token is bound to another certificate than the one presented.", "use the token with the certificate that it was issued to")
	case warderv1.Reason_REASON_TOKEN_REVOKED:
		return row(connect.CodeUnauthenticated, Never, "The token, or the identity's epoch that it was issued in, was revoked.", "ask an operator why; then issue a new token")
	case warderv1.Reason_REASON_TOKEN_SCOPE:
		return row(connect.CodePermissionDenied, Never, "The token's grants do not cover this action on this resource.", "issue a token whose grants name this action and this resource")
	case warderv1.Reason_REASON_TOKEN_USED_UP:
		return row(connect.CodePermissionDenied, Never, "The token's uses are used up.", "issue a new token")
	case warderv1.Reason_REASON_PERMISSION_DENIED:
		return row(connect.CodePermissionDenied, Never, "No policy permits the action.", "ask an operator; warder policy test tells which policies decide")
	case warderv1.Reason_REASON_NAMESPACE_FOREIGN:
		return row(connect.CodePermissionDenied, Never, "The resource is in a namespace that is not the caller's.", "name a resource of your own namespace")
	}
	return findRequest(r, row)
}

type rowFunc func(connect.Code, Retry, string, string) (Row, bool)

// findRequest holds the reasons that lie in the request or its object.
func findRequest(r warderv1.Reason, row rowFunc) (Row, bool) {
	switch r {
	case warderv1.Reason_REASON_NOT_FOUND:
		return row(connect.CodeNotFound, Never, "There is no such object, or the caller may not know whether there is.", "check namespace and name against the list")
	case warderv1.Reason_REASON_ALREADY_EXISTS:
		return row(connect.CodeAlreadyExists, Never, "An object of that name exists.", "choose another name, or change the one that exists")
	case warderv1.Reason_REASON_CONFLICT:
		return row(connect.CodeAborted, Never, "Somebody else changed the object first.", "read it again, then decide whether to repeat the change")
	case warderv1.Reason_REASON_INVALID_ARGUMENT:
		return row(connect.CodeInvalidArgument, Never, "The request does not parse, or a field breaks its rule.", "correct the field that the error names")
	case warderv1.Reason_REASON_TOO_LARGE:
		return row(connect.CodeResourceExhausted, Never, "The request, or a field of it, is larger than its bound.", "send less")
	case warderv1.Reason_REASON_UNKNOWN_FIELD:
		return row(connect.CodeInvalidArgument, Never, "The request has a field that this server does not know.", "correct the field's name, or use a server of the same version")
	case warderv1.Reason_REASON_LIMIT_REACHED:
		return row(connect.CodeResourceExhausted, Never, "A bound of the cluster (objects, versions, counters) is reached.", "delete what is no longer needed, or raise the bound")
	case warderv1.Reason_REASON_KEY_DESTROYED:
		return row(connect.CodeFailedPrecondition, Never, "The material of that version is destroyed.", "use the active version; what is destroyed does not come back")
	case warderv1.Reason_REASON_CUSTODY_UNSUPPORTED:
		return row(connect.CodeFailedPrecondition, Never, "The hardware of this cluster cannot keep such a key.", "ask for custody sealed, or use hardware that can wrap keys")
	case warderv1.Reason_REASON_ENDPOINT_UNKNOWN:
		return row(connect.CodeFailedPrecondition, Never, "The broker's profile has no class for that endpoint, so it is not signed.", "check host, method and path against the profile's endpoints")
	case warderv1.Reason_REASON_ILLEGAL_STATE:
		return row(connect.CodeFailedPrecondition, Never, "The object's state does not allow the change.", "look at its state first")
	case warderv1.Reason_REASON_METHOD_UNKNOWN:
		return row(connect.CodeUnimplemented, Never, "There is no such method here.", "compare the versions of caller and server; some methods are served on the local socket only")
	}
	return findNode(r, row)
}

// findNode holds the reasons that lie in the node or the cluster.
func findNode(r warderv1.Reason, row rowFunc) (Row, bool) {
	switch r {
	case warderv1.Reason_REASON_SEALED:
		return row(connect.CodeUnavailable, Elsewhere, "The node is sealed.", "unseal it on its own machine: warder operator unseal")
	case warderv1.Reason_REASON_UNINITIALISED:
		return row(connect.CodeFailedPrecondition, Elsewhere, "The node belongs to no cluster yet.", "warder operator init for the first node, warder operator join for others")
	case warderv1.Reason_REASON_ALREADY_INITIALISED:
		return row(connect.CodeFailedPrecondition, Never, "The node belongs to a cluster already.", "use it as it is; a new cluster needs an empty data directory")
	case warderv1.Reason_REASON_STALE:
		return row(connect.CodeUnavailable, Elsewhere, "The node is not up to date: it has not heard from a leader for too long, or has not read yet what it decides by.", "use another node; where it lasts, check this one's network and log")
	case warderv1.Reason_REASON_NO_LEADER:
		return row(connect.CodeUnavailable, Later, "There is no leader now; nothing was done.", "try again; where it lasts, bring a majority of the members up")
	case warderv1.Reason_REASON_OUTCOME_UNKNOWN:
		return row(connect.CodeUnavailable, IfIdempotent, "The change was sent and no answer came: it may have been done.", "look whether it was done before repeating it")
	case warderv1.Reason_REASON_OVERLOADED:
		return row(connect.CodeUnavailable, Later, "The node has too much to do; nothing was done.", "try again after a wait")
	case warderv1.Reason_REASON_RATE_LIMITED:
		return row(connect.CodeResourceExhausted, Later, "The caller asks too often; nothing was done.", "wait for the time that the error names")
	case warderv1.Reason_REASON_HSM_UNAVAILABLE:
		return row(connect.CodeUnavailable, Elsewhere, "The node's hardware security module does not answer.", "use another node; check this one's module and token: warder status")
	case warderv1.Reason_REASON_STORAGE_FULL:
		return row(connect.CodeUnavailable, Elsewhere, "A disk is full.", "make room on the node's data directory")
	case warderv1.Reason_REASON_AUDIT_UNAVAILABLE:
		return row(connect.CodeUnavailable, Elsewhere, "The audit log cannot be written, so nothing is answered.", "make the node's audit directory writable and restart the node")
	case warderv1.Reason_REASON_SHUTTING_DOWN:
		return row(connect.CodeUnavailable, Elsewhere, "The node is stopping; nothing was done.", "use another node")
	case warderv1.Reason_REASON_DEADLINE_EXCEEDED:
		return row(connect.CodeDeadlineExceeded, IfIdempotent, "The request's time ran out.", "look whether it was done before repeating it; allow more time")
	case warderv1.Reason_REASON_CANCELED:
		return row(connect.CodeCanceled, Never, "The caller went away.", "ask again")
	case warderv1.Reason_REASON_INTERNAL:
		return row(connect.CodeInternal, Never, "A fault of the server; its log has the incident.", "look for the incident in the server's log, and report it")
	}
	return Row{}, false
}
