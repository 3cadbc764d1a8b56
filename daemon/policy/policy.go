package policy

import (
	"errors"
	"fmt"
	"strings"

	"warder/daemon/identity"
)

// System is the namespace whose policies speak about every namespace.
const System = "system"

// Limits of what is stored. They are checked before anything is parsed.
const (
	MaxTextBytes  = 64 << 10 // one document
	MaxStatements = 256      // one document
	MaxDocuments  = 20_000   // the whole set
)

// Errors of this package.
var (
	// ErrInvalid is wrapped by every [InvalidError].
	ErrInvalid = errors.New("policy is not valid")
	// ErrNotFound says that no policy has the name.
	ErrNotFound = errors.New("no such policy")
	// ErrTooMany says that the set is full.
	ErrTooMany = errors.New("too many policies")
)

// ResourceType is the type of a resource; the closed set are the constants.
type ResourceType string

// The resource types.
const (
	Cluster    ResourceType = "Cluster"
	Identity   ResourceType = "Identity"
	Policy     ResourceType = "Policy"
	Credential ResourceType = "Credential"
	Key        ResourceType = "Key"
	Device     ResourceType = "Device"
	Token      ResourceType = "Token"
	Audit      ResourceType = "Audit"
	Namespace  ResourceType = "Namespace"
)

// Resource is what an action is asked on. Cluster, Audit and Namespace are one to
// a namespace and have no Name; Cluster and Audit are always of the namespace
// [System]. Every other type needs a Name. A resource that breaks this is denied.
type Resource struct {
	Type      ResourceType
	Namespace identity.Name
	Name      identity.Name
}

// String gives the entity as a policy would write it: Credential::"trading/binance".
func (r Resource) String() string {
	return string(r.Type) + `::"` + r.id() + `"`
}

func (r Resource) id() string {
	if r.Type.single() {
		return r.Namespace.String()
	}
	return r.Namespace.String() + "/" + r.Name.String()
}

// single says that a namespace has one resource of the type, without a name.
func (t ResourceType) single() bool { return t == Cluster || t == Audit || t == Namespace }

// Request is the whole input of a decision.
type Request struct {
	Principal identity.Principal
	Groups    []identity.Name // of the principal's own namespace
	Action    Action
	Resource  Resource
	Context   map[string]any // string, int64 or bool, as the action's row declares
}

// Decision is the answer to a request.
type Decision struct {
	Allow bool
	// Policies are the ids of those that decided, sorted: the forbids that applied,
	// or else the permits. An id is "namespace/policy/@id", or "namespace/policy#n"
	// for the nth statement (from 0) without an @id. It is empty when nothing
	// matched, which denies.
	Policies []string
	// Errors say why a request was denied without being weighed: a malformed
	// request, a policy that erred, a set that does not compile.
	Errors []string
}

// Document is one stored policy: any number of Cedar statements under one name.
type Document struct {
	ID        identity.Name
	Namespace identity.Name
	Text      string
}

func (d Document) path() string { return d.Namespace.String() + "/" + d.ID.String() }

// Problem is one reason why a document is refused.
type Problem struct {
	Line, Column int // from 1
	Message      string
	Hint         string // what to do, may be empty
}

// String is "line:column: message (hint)".
func (p Problem) String() string {
	s := fmt.Sprintf("%d:%d: %s", p.Line, p.Column, p.Message)
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// InvalidError says why a document was refused. It wraps [ErrInvalid].
type InvalidError struct {
	Policy   string // namespace/name
	Problems []Problem
}

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return fmt.Sprintf("policy %s is not valid: %s", e.Policy, strings.Join(lines, "; "))
}

// Unwrap makes errors.Is(err, ErrInvalid) true.
func (e *InvalidError) Unwrap() error { return ErrInvalid }
