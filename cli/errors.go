package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

// localError is something wrong on this machine: what happened, and what to do.
type localError struct {
	message, next string
	cause         error
}

func (e *localError) Error() string { return e.message }
func (e *localError) Unwrap() error { return e.cause }

func local(message, next string) error { return &localError{message: message, next: next} }

// localf is local with a message that may wrap an error by %w.
func localf(next, format string, args ...any) error {
	wrapped := fmt.Errorf(format, args...)
	return &localError{message: wrapped.Error(), next: next, cause: errors.Unwrap(wrapped)}
}

// report is an error as it is told.
type report struct {
	Command  string   `json:"command"`
	Message  string   `json:"message"`
	Reason   string   `json:"reason,omitempty"`
	Endpoint string   `json:"endpoint,omitempty"`
	Incident string   `json:"incident,omitempty"`
	Field    string   `json:"field,omitempty"`
	Policies []string `json:"policies,omitempty"`
	Next     string   `json:"next,omitempty"`
}

// fail tells the error and returns the exit code.
func (a *app) fail(command string, err error) int {
	r, code := describe(command, err)
	if a.flags.format == "json" {
		encoder := json.NewEncoder(a.env.Stderr)
		encoder.SetEscapeHTML(false)
		_ = encoder.Encode(map[string]report{"error": r})
		return code
	}
	a.tell("%s: %s", r.Command, r.Message)
	facts := []string{}
	for _, fact := range [][2]string{{"reason", r.Reason}, {"field", r.Field}, {"at", r.Endpoint}, {"incident", r.Incident}, {"policies", strings.Join(r.Policies, " ")}} {
		if fact[1] != "" {
			facts = append(facts, fact[0]+" "+fact[1])
		}
	}
	if len(facts) > 0 {
		a.tell("  %s", strings.Join(facts, ", "))
	}
	if r.Next != "" {
		a.tell("  next: %s", r.Next)
	}
	return code
}

func describe(command string, err error) (report, int) {
	r := report{Command: command, Message: err.Error()}
	var remote *client.Error
	if errors.As(err, &remote) {
		return describeRemote(r, err, remote)
	}
	var own *localError
	if errors.As(err, &own) {
		r.Next = own.next
		var refused *refusal
		if errors.As(err, &refused) {
			return r, exitRemote
		}
		return r, exitLocal
	}
	r.Next = "see " + command + " --help" // cobra's: arguments and flags
	return r, exitLocal
}

func describeRemote(r report, err error, remote *client.Error) (report, int) {
	r.Message = strings.Replace(err.Error(), remote.Error(), remote.Message, 1)
	r.Endpoint, r.Incident, r.Field = remote.Endpoint, remote.Incident, remote.Field
	r.Policies, r.Next = remote.Policies, remote.Hint
	if remote.Reason != warderv1.Reason_REASON_UNSPECIFIED {
		r.Reason = strings.TrimPrefix(remote.Reason.String(), "REASON_")
	}
	if errors.Is(remote, client.ErrUnreachable) {
		r.Reason = ""
		return r, exitLocal
	}
	return r, exitRemote
}
