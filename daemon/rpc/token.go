package rpc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/identity"
	"warder/daemon/policy"
	"warder/daemon/token"
)

// tokenService answers warder.v1.TokenService.
type tokenService struct{ *Server }

func (s tokenService) IssueToken(ctx context.Context, request *warderv1.IssueTokenRequest) (*warderv1.IssueTokenResponse, error) {
	call := callOf(ctx)
	asked := token.Request{
		Subject: call.Peer.Identity, Certificate: call.Peer.CertSHA256, NotAfter: call.Peer.NotAfter,
		TTL: request.GetTtl().AsDuration(), MaxUses: request.GetMaxUses(),
	}
	for _, grant := range request.GetGrants() {
		wanted, err := toResource(grant.GetResource())
		if err != nil {
			return nil, err
		}
		if err := s.knownActions(grant.GetActions()); err != nil {
			return nil, err
		}
		asked.Grants = append(asked.Grants, token.Grant{Actions: grant.GetActions(), Resource: scopeResource(wanted)})
	}
	text, claims, err := s.Tokens.Issue(asked)
	if err != nil {
		return nil, err
	}
	return &warderv1.IssueTokenResponse{Token: text, Id: claims.ID, ExpiresAt: timestamppb.New(claims.ExpiresAt())}, nil
}

// knownActions refuses an action that is in no table, so that a slip of the pen is told at once.
func (s *Server) knownActions(actions []string) error {
	for _, action := range actions {
		if !s.actions[policy.Action(action)] {
			return fmt.Errorf("%w: %q", errAction, action)
		}
	}
	return nil
}

func scopeResource(r policy.Resource) token.Resource {
	return token.Resource{Type: scopeType(r.Type), Namespace: r.Namespace.String(), Name: r.Name.String()}
}

// scopeType is how the API, and so a token, writes a type of resource: "credential".
func scopeType(t policy.ResourceType) string {
	switch t { // those that are asked for with each piece of work
	case policy.Credential:
		return "credential"
	case policy.Key:
		return "key"
	}
	return strings.ToLower(string(t))
}

// InspectToken tells a token's claims to the one that it was issued to, and to operators.
func (s tokenService) InspectToken(ctx context.Context, _ *warderv1.InspectTokenRequest) (*warderv1.InspectTokenResponse, error) {
	found := object[shown](ctx)
	if found.invalid != nil {
		return nil, found.invalid
	}
	claims := found.claims
	digest, err := claims.Binding.Digest()
	if err != nil {
		return nil, err
	}
	answer := &warderv1.InspectTokenResponse{
		Id: claims.ID, Principal: fromPrincipal(claims.Subject), IssuedAt: timestamppb.New(time.Unix(claims.IssuedAt, 0)),
		ExpiresAt: timestamppb.New(claims.ExpiresAt()), MaxUses: claims.MaxUses, Epoch: claims.Epoch,
		CertificateSha256: digest, Active: true,
	}
	for _, grant := range claims.Grants {
		answer.Grants = append(answer.Grants, &warderv1.Grant{Actions: grant.Actions, Resource: &warderv1.Resource{
			Type: grant.Resource.Type, Namespace: grant.Resource.Namespace, Name: grant.Resource.Name,
		}})
	}
	if err := s.Tokens.Live(claims); err != nil {
		answer.Active, answer.InactiveReason = false, reasonOf(err)
	}
	return answer, nil
}

// RevokeToken voids a token by its id, which tells nothing of whose it is: the revocation reaches as far as its caller
// does, and a token elsewhere that had that id would not heed it.
func (s tokenService) RevokeToken(ctx context.Context, request *warderv1.RevokeTokenRequest) (*warderv1.RevokeTokenResponse, error) {
	latest := s.Clock().Add(token.MaxTTL)
	ends := latest
	if at := request.GetExpiresAt(); at != nil && callOf(ctx).Principal.Kind == identity.Operator && at.AsTime().Before(latest) {
		ends = at.AsTime()
	}
	if err := s.Tokens.Revoke(ctx, callOf(ctx).Principal, request.GetId(), ends); err != nil {
		return nil, err
	}
	return &warderv1.RevokeTokenResponse{}, nil
}
