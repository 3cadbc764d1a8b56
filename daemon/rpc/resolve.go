package rpc

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/device"
	"warder/daemon/identity"
	"warder/daemon/policy"
	"warder/daemon/token"
)

// resolver finds a request's target.
type resolver = func(ctx context.Context, s *Server, call *Call, message proto.Message) (target, error)

// namespaced and namedMessage are what the generated messages of one shape have in common.
type namespaced interface{ GetNamespace() string }

type namedMessage interface {
	namespaced
	GetName() string
}

type withPrincipal interface{ GetPrincipal() *warderv1.Principal }

func wholeCluster(context.Context, *Server, *Call, proto.Message) (target, error) {
	return target{resource: policy.Resource{Type: policy.Cluster, Namespace: systemNamespace()}}, nil
}

func auditLog(context.Context, *Server, *Call, proto.Message) (target, error) {
	return target{resource: policy.Resource{Type: policy.Audit, Namespace: systemNamespace()}}, nil
}

func namespace(_ context.Context, _ *Server, _ *Call, message proto.Message) (target, error) {
	name, err := identity.ParseName(message.(namespaced).GetNamespace())
	return target{resource: policy.Resource{Type: policy.Namespace, Namespace: name}}, err
}

func named(kind policy.ResourceType) resolver {
	return func(_ context.Context, _ *Server, _ *Call, message proto.Message) (target, error) {
		resource, err := namedResource(kind, message.(namedMessage))
		return target{resource: resource}, err
	}
}

func namedResource(kind policy.ResourceType, message namedMessage) (policy.Resource, error) {
	namespace, err := identity.ParseName(message.GetNamespace())
	if err != nil {
		return policy.Resource{}, err
	}
	name, err := identity.ParseName(message.GetName())
	return policy.Resource{Type: kind, Namespace: namespace, Name: name}, err
}

// self is the resource of that type that has the caller's own name.
func self(kind policy.ResourceType) resolver {
	return func(_ context.Context, _ *Server, call *Call, _ proto.Message) (target, error) {
		return target{resource: policy.Resource{Type: kind, Namespace: call.Principal.Namespace, Name: call.Principal.Name}}, nil
	}
}

func identityOnly(_ context.Context, _ *Server, _ *Call, message proto.Message) (target, error) {
	principal, err := toPrincipal(message.(withPrincipal).GetPrincipal())
	resource := policy.Resource{Type: policy.Identity, Namespace: principal.Namespace, Name: principal.Name}
	return target{resource: resource, object: principal}, err
}

func identityWithKind(ctx context.Context, s *Server, call *Call, message proto.Message) (target, error) {
	found, err := identityOnly(ctx, s, call, message)
	if err != nil {
		return target{}, err
	}
	found.context = map[string]any{"kind": found.object.(identity.Principal).Kind.String()}
	return found, nil
}

// testedNamespace is the namespace whose policies a test asks about. Whom it asks about is of the caller's own namespace:
// the answer tells of a principal's groups.
func testedNamespace(_ context.Context, _ *Server, call *Call, message proto.Message) (target, error) {
	request := message.(*warderv1.TestPolicyRequest)
	about, err := toPrincipal(request.GetPrincipal())
	if err != nil {
		return target{}, err
	}
	if about.Namespace != call.Principal.Namespace && call.Principal.Namespace != systemNamespace() {
		return target{}, errForeign
	}
	text := request.GetResource().GetNamespace()
	if text == "" {
		text = policy.System
	}
	name, err := identity.ParseName(text)
	return target{resource: policy.Resource{Type: policy.Namespace, Namespace: name}}, err
}

func newToken(ctx context.Context, s *Server, call *Call, message proto.Message) (target, error) {
	found, err := self(policy.Token)(ctx, s, call, message)
	if call.Authentication != "mtls" {
		return found, errChained
	}
	request := message.(*warderv1.IssueTokenRequest)
	found.context = map[string]any{"bound": true, "ttl": request.GetTtl().GetSeconds()}
	return found, err
}

// shownToken is the token that the caller shows: its own, or one of a principal that it is an operator over.
func shownToken(ctx context.Context, s *Server, call *Call, message proto.Message) (target, error) {
	found, err := self(policy.Token)(ctx, s, call, message)
	claims, invalid := s.Tokens.Parse(message.(*warderv1.InspectTokenRequest).GetToken())
	if caller := call.Principal; invalid == nil && caller != claims.Subject && !operatorOver(caller, claims.Subject.Namespace) {
		err = errDenied
	}
	found.object = shown{claims, invalid} // what is wrong with it is told to who may inspect
	return found, err
}

type shown struct {
	claims  token.Claims
	invalid error
}

// operatorOver says whether the caller is an operator of that namespace, or of the one that is over all.
func operatorOver(caller identity.Principal, namespace identity.Name) bool {
	return caller.Kind == identity.Operator && (caller.Namespace == namespace || caller.Namespace == systemNamespace())
}

func newKey(_ context.Context, _ *Server, _ *Call, message proto.Message) (target, error) {
	request := message.(*warderv1.CreateKeyRequest)
	resource, err := namedResource(policy.Key, request)
	if err != nil {
		return target{}, err
	}
	owner, err := toPrincipal(request.GetOwner())
	if err != nil {
		return target{}, err
	}
	spec, err := toSpec(request, owner)
	return target{resource: resource, object: spec, context: keyContext(spec)}, err
}

func keyContext(spec device.Spec) map[string]any {
	return map[string]any{"purpose": string(spec.Purpose), "custody": string(spec.Custody), "algorithm": string(spec.Algorithm)}
}

// storedKey looks the key up, because policies see its purpose, custody and algorithm.
func storedKey(ctx context.Context, s *Server, _ *Call, message proto.Message) (target, error) {
	resource, err := namedResource(policy.Key, message.(namedMessage))
	if err != nil {
		return target{}, err
	}
	key, err := s.Keys.Get(ctx, resource.Namespace, resource.Name)
	if err != nil {
		return target{resource: resource}, fmt.Errorf("key %s/%s: %w", resource.Namespace, resource.Name, err)
	}
	return target{resource: resource, object: key, context: keyContext(key.Spec)}, nil
}
