package rpc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
	"warder/cluster"
	"warder/daemon/authn/mtls"
	"warder/daemon/broker"
	"warder/daemon/credential"
	"warder/daemon/device"
	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/daemon/pki"
	"warder/daemon/policy"
	"warder/daemon/ratelimit"
	"warder/daemon/seal"
	"warder/daemon/token"
	"warder/hsm"
	"warder/keystore"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// row is one line of the table of errors. Where tell is set, the error's own words go to the caller: they are about
// the request and were written to hold no secret. Elsewhere the reason's meaning does, and the words go to the log.
type row struct {
	match  error
	reason warderv1.Reason
	tell   bool
}

// errorTable is total: what it does not hold is INTERNAL. The first match counts.
func errorTable() []row {
	return []row{
		{kv.ErrChanged, warderv1.Reason_REASON_OUTCOME_UNKNOWN, false}, // first: the error in it says why it cannot be told
		// What comes in floods is found first, and told whole so that it leaves no line each in the log.
		{ratelimit.ErrLimited, warderv1.Reason_REASON_RATE_LIMITED, true},
		{ratelimit.ErrOverloaded, warderv1.Reason_REASON_OVERLOADED, true},

		{errMethodUnknown, warderv1.Reason_REASON_METHOD_UNKNOWN, true},
		{errUnauthenticated, warderv1.Reason_REASON_UNAUTHENTICATED, true},
		{errSocketOnly, warderv1.Reason_REASON_UNAUTHENTICATED, true},
		{errTokenNeeded, warderv1.Reason_REASON_TOKEN_SCOPE, true},
		{errTokenScope, warderv1.Reason_REASON_TOKEN_SCOPE, true},
		{errDenied, warderv1.Reason_REASON_PERMISSION_DENIED, true},
		{errForeign, warderv1.Reason_REASON_NAMESPACE_FOREIGN, true},
		{errSealed, warderv1.Reason_REASON_SEALED, true},
		{errUnread, warderv1.Reason_REASON_STALE, true},
		{errClock, warderv1.Reason_REASON_STALE, true},
		{errStale, warderv1.Reason_REASON_STALE, true},
		{errAudit, warderv1.Reason_REASON_AUDIT_UNAVAILABLE, false},
		{ErrField, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{errChained, warderv1.Reason_REASON_PERMISSION_DENIED, true},
		{errAction, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{errRemoveSelf, warderv1.Reason_REASON_ILLEGAL_STATE, true},
		{errAddress, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{ErrMember, warderv1.Reason_REASON_ALREADY_INITIALISED, true},

		{mtls.ErrNoCertificate, warderv1.Reason_REASON_UNAUTHENTICATED, false},
		{mtls.ErrExpired, warderv1.Reason_REASON_CERTIFICATE_EXPIRED, false},
		{mtls.ErrNotYetValid, warderv1.Reason_REASON_CERTIFICATE_NOT_YET_VALID, false},
		{mtls.ErrWrongKey, warderv1.Reason_REASON_CERTIFICATE_WRONG_KEY, false},
		{mtls.ErrUnknownAuthority, warderv1.Reason_REASON_CERTIFICATE_UNKNOWN, false},
		{mtls.ErrUnknownIdentity, warderv1.Reason_REASON_CERTIFICATE_UNKNOWN, false},
		{mtls.ErrMalformed, warderv1.Reason_REASON_CERTIFICATE_UNKNOWN, false},

		{token.ErrExpired, warderv1.Reason_REASON_TOKEN_EXPIRED, false},
		{token.ErrNotBound, warderv1.Reason_REASON_TOKEN_NOT_BOUND, false},
		{token.ErrRevoked, warderv1.Reason_REASON_TOKEN_REVOKED, false},
		{token.ErrUsedUp, warderv1.Reason_REASON_TOKEN_USED_UP, false},
		{token.ErrInvalid, warderv1.Reason_REASON_TOKEN_INVALID, false},
		{token.ErrBadRequest, warderv1.Reason_REASON_INVALID_ARGUMENT, true},

		{seal.ErrJoinRefused, warderv1.Reason_REASON_UNAUTHENTICATED, true},
		{device.ErrEnrolmentRefused, warderv1.Reason_REASON_UNAUTHENTICATED, true},
		{seal.ErrMemberExists, warderv1.Reason_REASON_ALREADY_EXISTS, true},
		{seal.ErrNoRotation, warderv1.Reason_REASON_NOT_FOUND, true},
		{seal.ErrNoMember, warderv1.Reason_REASON_NOT_FOUND, true},
		{seal.ErrRotating, warderv1.Reason_REASON_CONFLICT, true},
		{seal.ErrBehind, warderv1.Reason_REASON_CONFLICT, true},
		{seal.ErrSealedByOperator, warderv1.Reason_REASON_SEALED, true},
		{seal.ErrNoHome, warderv1.Reason_REASON_UNINITIALISED, true},
		{seal.ErrForeignKeyring, warderv1.Reason_REASON_SEALED, false},
		{seal.ErrNoCustody, warderv1.Reason_REASON_HSM_UNAVAILABLE, true},

		{policy.ErrInvalid, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{policy.ErrNotFound, warderv1.Reason_REASON_NOT_FOUND, true},
		{policy.ErrTooMany, warderv1.Reason_REASON_LIMIT_REACHED, true},

		{identity.ErrName, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{registry.ErrNotFound, warderv1.Reason_REASON_NOT_FOUND, true},
		{registry.ErrExists, warderv1.Reason_REASON_ALREADY_EXISTS, true},
		{registry.ErrState, warderv1.Reason_REASON_ILLEGAL_STATE, true},
		{registry.ErrEpoch, warderv1.Reason_REASON_CONFLICT, true},
		{registry.ErrTooMany, warderv1.Reason_REASON_LIMIT_REACHED, true},
		{identity.ErrPrincipal, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{identity.ErrTrustDomain, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{pki.ErrAuthority, warderv1.Reason_REASON_ILLEGAL_STATE, true},
		{pki.ErrNoRoot, warderv1.Reason_REASON_NOT_FOUND, true},
		{pki.ErrRootInUse, warderv1.Reason_REASON_ILLEGAL_STATE, true},
		{pki.ErrTooManyRoots, warderv1.Reason_REASON_LIMIT_REACHED, true},
		{token.ErrTooManyKeys, warderv1.Reason_REASON_LIMIT_REACHED, true},
		{pki.ErrRequest, warderv1.Reason_REASON_INVALID_ARGUMENT, true},

		{broker.ErrUnclassified, warderv1.Reason_REASON_ENDPOINT_UNKNOWN, true},
		{broker.ErrMalformed, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{broker.ErrHost, warderv1.Reason_REASON_ENDPOINT_UNKNOWN, true},
		{broker.ErrNoScheme, warderv1.Reason_REASON_ENDPOINT_UNKNOWN, true},
		{broker.ErrField, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{broker.ErrClock, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{broker.ErrNonce, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{broker.ErrUnknownProfile, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{credential.ErrInvalid, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{credential.ErrNotFound, warderv1.Reason_REASON_NOT_FOUND, true},
		{credential.ErrExists, warderv1.Reason_REASON_ALREADY_EXISTS, true},
		{credential.ErrBusy, warderv1.Reason_REASON_CONFLICT, true},

		{device.ErrAlgorithm, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{device.ErrInput, warderv1.Reason_REASON_INVALID_ARGUMENT, true},
		{device.ErrOwner, warderv1.Reason_REASON_NAMESPACE_FOREIGN, true},
		{device.ErrCustodyUnsupported, warderv1.Reason_REASON_CUSTODY_UNSUPPORTED, true},

		{keystore.ErrNotFound, warderv1.Reason_REASON_NOT_FOUND, true},
		{keystore.ErrExists, warderv1.Reason_REASON_ALREADY_EXISTS, true},
		{keystore.ErrDestroyed, warderv1.Reason_REASON_KEY_DESTROYED, true},
		{keystore.ErrNoVersion, warderv1.Reason_REASON_NOT_FOUND, true},
		{keystore.ErrNoActiveVersion, warderv1.Reason_REASON_ILLEGAL_STATE, true},
		{keystore.ErrTransition, warderv1.Reason_REASON_ILLEGAL_STATE, true},
		{keystore.ErrTooLarge, warderv1.Reason_REASON_TOO_LARGE, true},
		{keystore.ErrTooMany, warderv1.Reason_REASON_LIMIT_REACHED, true},

		{keyring.ErrSealed, warderv1.Reason_REASON_SEALED, false},
		// The entries of a rotation that this node slept through come a moment before it has opened the keyring that they bring. Where
		// it lasts, the seal's own health says so. A data key that no newer keyring will hold is a fault, and in no row.
		{keyring.ErrNewerKey, warderv1.Reason_REASON_STALE, false},
		{cluster.ErrNoLeader, warderv1.Reason_REASON_NO_LEADER, false},
		{cluster.ErrClock, warderv1.Reason_REASON_STALE, false},
		{cluster.ErrOutcomeUnknown, warderv1.Reason_REASON_OUTCOME_UNKNOWN, false},
		{cluster.ErrOverloaded, warderv1.Reason_REASON_OVERLOADED, false},
		{cluster.ErrClosed, warderv1.Reason_REASON_SHUTTING_DOWN, false},
		{cluster.ErrNotMember, warderv1.Reason_REASON_NOT_FOUND, true},
		{cluster.ErrLastVoter, warderv1.Reason_REASON_ILLEGAL_STATE, true},
		{cluster.ErrTooLarge, warderv1.Reason_REASON_TOO_LARGE, false},
		{kv.ErrLimit, warderv1.Reason_REASON_LIMIT_REACHED, false},
		{kv.ErrReplayed, warderv1.Reason_REASON_OUTCOME_UNKNOWN, false},
		{kv.ErrStaleKey, warderv1.Reason_REASON_OVERLOADED, false},
		{kv.ErrStopped, warderv1.Reason_REASON_SHUTTING_DOWN, false},
		{kv.ErrClosed, warderv1.Reason_REASON_SHUTTING_DOWN, false},
		{syscall.ENOSPC, warderv1.Reason_REASON_STORAGE_FULL, false},
		{kv.ErrConflict, warderv1.Reason_REASON_CONFLICT, false},
		{kv.ErrTooLarge, warderv1.Reason_REASON_TOO_LARGE, false},
		{kv.ErrNotFound, warderv1.Reason_REASON_NOT_FOUND, false},

		{hsm.ErrUnavailable, warderv1.Reason_REASON_HSM_UNAVAILABLE, false},
		{hsm.ErrTimeout, warderv1.Reason_REASON_HSM_UNAVAILABLE, false},
		{hsm.ErrPINRefused, warderv1.Reason_REASON_HSM_UNAVAILABLE, false},
		{hsm.ErrPINLocked, warderv1.Reason_REASON_HSM_UNAVAILABLE, false},
		{hsm.ErrPINSource, warderv1.Reason_REASON_HSM_UNAVAILABLE, false},
		{hsm.ErrBadInput, warderv1.Reason_REASON_INVALID_ARGUMENT, false},
		{hsm.ErrKeyNotFound, warderv1.Reason_REASON_HSM_UNAVAILABLE, false},
		{hsm.ErrModuleMissing, warderv1.Reason_REASON_HSM_UNAVAILABLE, false},
		{hsm.ErrTokenMissing, warderv1.Reason_REASON_HSM_UNAVAILABLE, false},
		{hsm.ErrTokenFull, warderv1.Reason_REASON_LIMIT_REACHED, false},
		{hsm.ErrMechanism, warderv1.Reason_REASON_CUSTODY_UNSUPPORTED, false},

		{context.DeadlineExceeded, warderv1.Reason_REASON_DEADLINE_EXCEEDED, false},
		{context.Canceled, warderv1.Reason_REASON_CANCELED, false},
	}
}

// isNotFound says whether the error is one of those for "there is no such object".
func isNotFound(err error) bool { return reasonOf(err) == warderv1.Reason_REASON_NOT_FOUND }

// refusal is a decision against a request, with the policies that made it.
type refusal struct {
	cause    error
	policies []string
}

func (r *refusal) Error() string { return r.cause.Error() }
func (r *refusal) Unwrap() error { return r.cause }

func lookup(err error) (row, bool) {
	for _, row := range errorTable() {
		if errors.Is(err, row.match) {
			return row, true
		}
	}
	return row{reason: warderv1.Reason_REASON_INTERNAL}, false
}

func reasonOf(err error) warderv1.Reason {
	if told := reason.Of(err); told != warderv1.Reason_REASON_UNSPECIFIED {
		return told
	}
	found, _ := lookup(err)
	return found.reason
}

// refuse gives the error that crosses the wire, with the request's id to find it by. What the caller is not told is
// logged here, once.
func (s *Server) refuse(ctx context.Context, err error) error {
	call := callOf(ctx)
	call.reason = reasonOf(err)
	if told, ok := reason.Info(err); ok {
		told.IncidentId = call.ID
		return reason.With(told, messageOf(err))
	}
	found, known := lookup(err)
	info := &warderv1.ErrorInfo{Reason: found.reason, IncidentId: call.ID}
	wait, limited := ratelimit.RetryAfter(err)
	if limited {
		info.RetryAfter = durationpb.New(wait)
	}
	var denied *refusal
	if errors.As(err, &denied) && call.Principal.Kind == identity.Operator {
		info.Policies = denied.policies
	}
	message := reason.Lookup(found.reason).Meaning
	var stays *sealedError
	switch {
	case errors.As(err, &stays):
		message = err.Error()
	case found.tell:
		message = err.Error()
	case !known:
		s.logFault(call, err)
		message = fmt.Sprintf("a fault of the server; its log has it as incident %s", call.ID)
	default:
		s.Logger.Info("a request was refused", "request", call.ID, "method", call.Procedure, "reason", found.reason.String(), "error", err)
	}
	refused := reason.With(info, message)
	if limited { // for those who read no details (RFC 9110, section 10.2.3)
		refused.Meta().Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	return refused
}

func (s *Server) logFault(call *Call, err error) {
	s.Logger.Error("a request met a fault", "request", call.ID, "method", call.Procedure, "error", err)
}

// messageOf gives the words of an error that carries its reason already.
func messageOf(err error) string {
	var made *connect.Error
	if errors.As(err, &made) {
		return made.Message()
	}
	return err.Error()
}
