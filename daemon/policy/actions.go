package policy

import (
	"iter"
	"slices"

	"warder/daemon/identity"
)

// Action names one thing that can be done. The closed set is [Actions].
type Action string

// The actions. Their rows, with resource types, principals and context, are in the
// table below.
const (
	SystemStatus             Action = "system.status"
	SystemSeal               Action = "system.seal"
	ClusterRead              Action = "cluster.read"
	ClusterJoinToken         Action = "cluster.join-token"
	ClusterRemove            Action = "cluster.remove"
	ClusterStepDown          Action = "cluster.step-down"
	ClusterRotateRoot        Action = "cluster.rotate-root"
	ClusterRotateData        Action = "cluster.rotate-data"
	IdentityCreate           Action = "identity.create"
	IdentityRead             Action = "identity.read"
	IdentityUpdate           Action = "identity.update"
	IdentityRevoke           Action = "identity.revoke"
	IdentityIssueCertificate Action = "identity.issue-certificate"
	PolicyWrite              Action = "policy.write"
	PolicyRead               Action = "policy.read"
	PolicyTest               Action = "policy.test"
	CredentialWrite          Action = "credential.write"
	CredentialRead           Action = "credential.read"
	CredentialReveal         Action = "credential.reveal"
	CredentialRotate         Action = "credential.rotate"
	CredentialSign           Action = "credential.sign"
	CredentialDelete         Action = "credential.delete"
	KeyCreate                Action = "key.create"
	KeyRead                  Action = "key.read"
	KeyRotate                Action = "key.rotate"
	KeySign                  Action = "key.sign"
	KeyDestroy               Action = "key.destroy"
	DeviceEnrolmentToken     Action = "device.enrolment-token"
	DeviceRenew              Action = "device.renew"
	TokenIssue               Action = "token.issue"
	TokenInspect             Action = "token.inspect"
	TokenRevoke              Action = "token.revoke"
	AuditRead                Action = "audit.read"
)

// ContextType is the type of one context attribute.
type ContextType uint8

// The types a context attribute can have, with the Go type in [Request.Context].
const (
	TypeString ContextType = iota + 1 // string
	TypeLong                          // int64
	TypeBool                          // bool
)

// String names the type as Cedar does.
func (t ContextType) String() string {
	switch t {
	case TypeString:
		return "String"
	case TypeLong:
		return "Long"
	case TypeBool:
		return "Bool"
	}
	return "unknown"
}

// ContextAttribute is one attribute of an action's context. A request must carry
// every attribute that is not Optional, and none that is not declared.
type ContextAttribute struct {
	Name     string
	Type     ContextType
	Optional bool
	Doc      string
}

// ActionSpec is one row of the table: what an action is asked on, who can ever be
// allowed it, and what its context carries.
type ActionSpec struct {
	Name Action
	// Resources are the types of resource the action applies to. The first is the
	// action's own; Namespace beside it stands for listing a whole namespace.
	Resources []ResourceType
	// Principals are the kinds that can ever be allowed the action. A policy for
	// another kind is refused when stored, and a request by one is denied.
	Principals []identity.Kind
	Context    []ContextAttribute
	Doc        string
}

// Lookup returns the row of an action; ok is false for an action that is not in
// the table.
func Lookup(a Action) (spec ActionSpec, ok bool) {
	i := slices.IndexFunc(actionTable(), func(s ActionSpec) bool { return s.Name == a })
	if i < 0 {
		return ActionSpec{}, false
	}
	return actionTable()[i], true
}

// Actions yields every row of the table, in its order.
func Actions() iter.Seq[ActionSpec] { return slices.Values(actionTable()) }

func operators() []identity.Kind { return []identity.Kind{identity.Operator} }

func services() []identity.Kind { return []identity.Kind{identity.Operator, identity.Workload} }

func callers() []identity.Kind {
	return []identity.Kind{identity.Operator, identity.Workload, identity.Device}
}

func everyone() []identity.Kind {
	return []identity.Kind{identity.Operator, identity.Workload, identity.Device, identity.Node}
}

func on(types ...ResourceType) []ResourceType { return types }

func identityKind() []ContextAttribute {
	return []ContextAttribute{{Name: "kind", Type: TypeString, Doc: "operator, workload, device or node"}}
}

func keyUse() []ContextAttribute {
	return []ContextAttribute{
		{Name: "purpose", Type: TypeString, Doc: "what the key is for, as given when it was made"},
		{Name: "custody", Type: TypeString, Doc: "hsm or sealed"},
		{Name: "algorithm", Type: TypeString, Doc: "such as ecdsa-p256-sha256"},
	}
}

func signContext() []ContextAttribute {
	return []ContextAttribute{
		{Name: "broker", Type: TypeString, Doc: "the profile's name"},
		{Name: "class", Type: TypeString, Doc: "read, trade, cancel, transfer, withdraw, keymgmt or token"},
		{Name: "host", Type: TypeString, Doc: "the host the request goes to"},
		{Name: "method", Type: TypeString, Doc: "the HTTP method"},
		{Name: "symbol", Type: TypeString, Optional: true, Doc: "the traded symbol, as the broker writes it"},
		{Name: "side", Type: TypeString, Optional: true, Doc: "buy or sell, lower case"},
		{Name: "qty", Type: TypeLong, Optional: true, Doc: "base quantity in hundred-millionths"},
		{Name: "price", Type: TypeLong, Optional: true, Doc: "price in hundred-millionths"},
		{Name: "quote_qty", Type: TypeLong, Optional: true, Doc: "quote quantity in hundred-millionths"},
	}
}

func tokenContext() []ContextAttribute {
	return []ContextAttribute{
		{Name: "bound", Type: TypeBool, Doc: "whether the token is bound to the caller's key"},
		{Name: "ttl", Type: TypeLong, Doc: "lifetime asked for, in seconds"},
	}
}

// actionTable is the closed table. It is a function so that nobody can change it.
func actionTable() []ActionSpec {
	return []ActionSpec{
		{SystemStatus, on(Cluster), everyone(), nil, "read the daemon's status"},
		{SystemSeal, on(Cluster), operators(), nil, "drop the data keys from memory"},
		{ClusterRead, on(Cluster), []identity.Kind{identity.Operator, identity.Node}, nil, "read the members"},
		{ClusterJoinToken, on(Cluster), operators(), nil, "let a node join, once"},
		{ClusterRemove, on(Cluster), operators(), nil, "remove a node"},
		{ClusterStepDown, on(Cluster), operators(), nil, "move leadership"},
		{ClusterRotateRoot, on(Cluster), operators(), nil, "rotate a node's root key"},
		{ClusterRotateData, on(Cluster), operators(), nil, "rotate the data key"},
		{IdentityCreate, on(Identity), operators(), identityKind(), "register an identity"},
		{IdentityRead, on(Identity, Namespace), services(), nil, "read or list identities"},
		{IdentityUpdate, on(Identity), operators(), identityKind(), "change groups, keys or state"},
		{IdentityRevoke, on(Identity), operators(), identityKind(), "end all that an identity holds"},
		{IdentityIssueCertificate, on(Identity), services(), identityKind(), "issue a certificate"},
		{PolicyWrite, on(Policy), operators(), nil, "store or delete a policy"},
		{PolicyRead, on(Policy, Namespace), operators(), nil, "read or list policies"},
		{PolicyTest, on(Policy, Namespace), operators(), nil, "ask what a policy set would decide"},
		{CredentialWrite, on(Credential), operators(), nil, "store a credential"},
		{CredentialRead, on(Credential, Namespace), services(), nil, "read or list metadata, never the secret"},
		{CredentialReveal, on(Credential), services(), nil, "read the secret"},
		{CredentialRotate, on(Credential), operators(), nil, "add a version"},
		{CredentialSign, on(Credential), services(), signContext(), "have a broker request signed"},
		{CredentialDelete, on(Credential), operators(), nil, "destroy a credential"},
		{KeyCreate, on(Key), operators(), keyUse(), "create a key"},
		{KeyRead, on(Key, Namespace), callers(), nil, "read or list public parts"},
		{KeyRotate, on(Key), operators(), keyUse(), "add a version"},
		{KeySign, on(Key), callers(), keyUse(), "have a digest signed"},
		{KeyDestroy, on(Key), operators(), nil, "destroy a key"},
		{DeviceEnrolmentToken, on(Device), operators(), nil, "let a device enrol, once"},
		{DeviceRenew, on(Device), []identity.Kind{identity.Device}, nil, "renew a device's certificate"},
		{TokenIssue, on(Token), callers(), tokenContext(), "issue a token to oneself"},
		{TokenInspect, on(Token), everyone(), nil, "read a token's claims and state"},
		{TokenRevoke, on(Token), callers(), nil, "revoke a token"},
		{AuditRead, on(Audit), operators(), nil, "read the audit log"},
	}
}
