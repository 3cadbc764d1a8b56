package rpc

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/identity"
	"warder/daemon/policy"
)

// policyService answers warder.v1.PolicyService.
type policyService struct{ *Server }

func (s policyService) PutPolicy(ctx context.Context, request *warderv1.PutPolicyRequest) (*warderv1.PutPolicyResponse, error) {
	at := resource(ctx)
	document := policy.Document{ID: at.Name, Namespace: at.Namespace, Text: request.GetText()}
	stored, err := s.Policies.Put(ctx, document, request.ExpectedRevision)
	if err != nil {
		return nil, err
	}
	return &warderv1.PutPolicyResponse{Policy: fromPolicy(stored)}, nil
}

func (s policyService) GetPolicy(ctx context.Context, _ *warderv1.GetPolicyRequest) (*warderv1.GetPolicyResponse, error) {
	at := resource(ctx)
	stored, err := s.Policies.Get(ctx, at.Namespace, at.Name)
	if err != nil {
		return nil, err
	}
	return &warderv1.GetPolicyResponse{Policy: fromPolicy(stored)}, nil
}

func (s policyService) ListPolicies(ctx context.Context, request *warderv1.ListPoliciesRequest) (*warderv1.ListPoliciesResponse, error) {
	all, err := s.Policies.List(ctx, resource(ctx).Namespace)
	if err != nil {
		return nil, err
	}
	some, next, err := page(all, request.GetPageSize(), request.GetPageToken(), func(p policy.Stored) string { return p.ID.String() })
	if err != nil {
		return nil, err
	}
	answer := &warderv1.ListPoliciesResponse{NextPageToken: next}
	for _, stored := range some {
		listed := fromPolicy(stored)
		listed.Text = ""
		answer.Policies = append(answer.Policies, listed)
	}
	return answer, nil
}

func (s policyService) DeletePolicy(ctx context.Context, request *warderv1.DeletePolicyRequest) (*warderv1.DeletePolicyResponse, error) {
	at := resource(ctx)
	if err := s.Policies.Delete(ctx, at.Namespace, at.Name, request.ExpectedRevision); err != nil {
		return nil, err
	}
	return &warderv1.DeletePolicyResponse{}, nil
}

func (s policyService) TestPolicy(_ context.Context, request *warderv1.TestPolicyRequest) (*warderv1.TestPolicyResponse, error) {
	principal, err := toPrincipal(request.GetPrincipal())
	if err != nil {
		return nil, err
	}
	wanted, err := toResource(request.GetResource())
	if err != nil {
		return nil, err
	}
	var groups []identity.Name
	if known, ok := s.Registry.Lookup(principal); ok {
		groups = known.Groups
	}
	facts := map[string]any{}
	for _, attribute := range request.GetContext() {
		facts[attribute.GetName()] = fromAttribute(attribute)
	}
	verdict := s.Policies.Current().Decide(policy.Request{
		Principal: principal, Groups: groups, Action: policy.Action(request.GetAction()), Resource: wanted, Context: facts,
	})
	answer := &warderv1.TestPolicyResponse{
		Decision: warderv1.Decision_DECISION_DENY, Policies: verdict.Policies, Errors: verdict.Errors,
	}
	if verdict.Allow {
		answer.Decision = warderv1.Decision_DECISION_ALLOW
	}
	return answer, nil
}

func fromAttribute(attribute *warderv1.ContextAttribute) any {
	switch value := attribute.GetValue().(type) {
	case *warderv1.ContextAttribute_StringValue:
		return value.StringValue
	case *warderv1.ContextAttribute_IntValue:
		return value.IntValue
	case *warderv1.ContextAttribute_BoolValue:
		return value.BoolValue
	}
	return nil
}

func fromPolicy(stored policy.Stored) *warderv1.Policy {
	return &warderv1.Policy{
		Namespace: stored.Namespace.String(), Name: stored.ID.String(), Text: stored.Text,
		Revision: stored.Revision, UpdatedAt: timestamp(stored.Updated),
	}
}

// timestamp gives nil for no time.
func timestamp(at time.Time) *timestamppb.Timestamp {
	if at.IsZero() {
		return nil
	}
	return timestamppb.New(at)
}
