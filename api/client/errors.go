package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
)

// ReasonError is a reason as an error, to compare with by errors.Is:
//
//	errors.Is(err, client.ReasonError(warderv1.Reason_REASON_CONFLICT))
type ReasonError warderv1.Reason

// Error names the reason.
func (r ReasonError) Error() string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(warderv1.Reason(r).String(), "REASON_"), "_", " "))
}

// The reasons that programs ask for most.
const (
	ErrUnauthenticated  = ReasonError(warderv1.Reason_REASON_UNAUTHENTICATED)
	ErrTokenExpired     = ReasonError(warderv1.Reason_REASON_TOKEN_EXPIRED)
	ErrPermissionDenied = ReasonError(warderv1.Reason_REASON_PERMISSION_DENIED)
	ErrNotFound         = ReasonError(warderv1.Reason_REASON_NOT_FOUND)
	ErrAlreadyExists    = ReasonError(warderv1.Reason_REASON_ALREADY_EXISTS)
	ErrConflict         = ReasonError(warderv1.Reason_REASON_CONFLICT)
	ErrInvalidArgument  = ReasonError(warderv1.Reason_REASON_INVALID_ARGUMENT)
	ErrSealed           = ReasonError(warderv1.Reason_REASON_SEALED)
	ErrNoLeader         = ReasonError(warderv1.Reason_REASON_NO_LEADER)
	ErrRateLimited      = ReasonError(warderv1.Reason_REASON_RATE_LIMITED)
	ErrOutcomeUnknown   = ReasonError(warderv1.Reason_REASON_OUTCOME_UNKNOWN)
)

// ErrUnreachable is the error of a call that reached no endpoint.
var ErrUnreachable = errors.New("no endpoint reached")

// Error is what went wrong with a call.
type Error struct {
	// Reason is the server's; UNSPECIFIED when no server gave one.
	Reason warderv1.Reason
	// Message says what happened; it holds no secret.
	Message string
	// Method is the RPC, Endpoint the last endpoint that was asked.
	Method, Endpoint string
	// Incident finds the request in the server's logs.
	Incident string
	// Hint says what to do next.
	Hint string
	// RetryAfter is how long to wait before another attempt; 0 when not said.
	RetryAfter time.Duration
	// Policies decided; told to operators only.
	Policies []string
	// Field is the one at fault; empty where none is.
	Field string
	// Attempts is how often the call was tried.
	Attempts int

	sent  bool // the request left this machine
	cause error
}

// Error says what happened, to what, and what to do next.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s at %s: %s", e.Method, e.Endpoint, e.Message)
	if e.Incident != "" {
		text += fmt.Sprintf(" (incident %s)", e.Incident)
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Is compares by reason; ErrUnreachable is a call without an answer that was not sent.
func (e *Error) Is(target error) bool {
	if wanted, ok := target.(ReasonError); ok {
		return e.Reason == warderv1.Reason(wanted)
	}
	return target == ErrUnreachable && !e.sent && e.local()
}

// local tells whether no server had a word in it.
func (e *Error) local() bool {
	return e.Reason == 0 || e.Reason == warderv1.Reason_REASON_DEADLINE_EXCEEDED
}

// Unwrap returns the transport's error.
func (e *Error) Unwrap() error { return e.cause }

// Reason returns the reason of an error, or REASON_UNSPECIFIED when it has none.
func Reason(err error) warderv1.Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return reason.Of(err)
}

// newError reads what an attempt came to.
func newError(err error, method string, a *attempt) *Error {
	e := &Error{Message: message(err), Method: method, Endpoint: a.endpoint.text, sent: a.sent.Load(), cause: err}
	info, ok := reason.Info(err)
	if !ok {
		e.Reason = reasonByCode(err)
		e.Hint = e.ownHint()
		return e
	}
	e.Reason, e.Incident, e.Hint = info.GetReason(), info.GetIncidentId(), info.GetHint()
	e.RetryAfter, e.Policies, e.Field = info.GetRetryAfter().AsDuration(), info.GetPolicies(), info.GetField()
	return e
}

// ownHint is what to do about an error that the server gave no hint for.
func (e *Error) ownHint() string {
	switch {
	case !e.sent && e.local():
		return "check that the node runs and that the endpoint is right"
	case e.Reason != 0:
		return reason.Lookup(e.Reason).Next
	}
	return ""
}

func message(err error) string {
	var remote *connect.Error
	if errors.As(err, &remote) {
		return remote.Message()
	}
	return err.Error()
}

// reasonByCode reads an answer that carries no detail, as Connect itself gives
// for what it refuses before the server's own code runs.
func reasonByCode(err error) warderv1.Reason {
	if !connect.IsWireError(err) {
		return localReason(err)
	}
	switch connect.CodeOf(err) {
	case connect.CodeResourceExhausted:
		return warderv1.Reason_REASON_TOO_LARGE
	case connect.CodeUnimplemented:
		return warderv1.Reason_REASON_METHOD_UNKNOWN
	case connect.CodeDeadlineExceeded:
		return warderv1.Reason_REASON_DEADLINE_EXCEEDED
	case connect.CodeCanceled:
		return warderv1.Reason_REASON_CANCELED
	}
	return warderv1.Reason_REASON_UNSPECIFIED
}

func localReason(err error) warderv1.Reason {
	if alert := alertReason(err); alert != 0 {
		return alert
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), connect.CodeOf(err) == connect.CodeDeadlineExceeded:
		return warderv1.Reason_REASON_DEADLINE_EXCEEDED
	case errors.Is(err, context.Canceled):
		return warderv1.Reason_REASON_CANCELED
	}
	return warderv1.Reason_REASON_UNSPECIFIED
}

// retry tells what another attempt can do.
func (e *Error) retry() reason.Retry {
	switch {
	case distrusted(e.cause):
		return reason.Never
	case e.Reason != 0 && e.Reason != warderv1.Reason_REASON_DEADLINE_EXCEEDED:
		return reason.Lookup(e.Reason).Retry
	case !e.sent:
		return reason.Later // no connection: nothing was done
	}
	return reason.IfIdempotent
}

// lost makes the error of a change that was sent and has no answer.
func (e *Error) lost() *Error {
	if e.Reason == warderv1.Reason_REASON_OUTCOME_UNKNOWN {
		return e // the server says so itself
	}
	row := reason.Lookup(warderv1.Reason_REASON_OUTCOME_UNKNOWN)
	e.Reason, e.Hint = row.Reason, row.Next
	e.Message = "the request was sent and no answer came: " + e.Message
	return e
}
