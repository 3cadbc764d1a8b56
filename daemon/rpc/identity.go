package rpc

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/daemon/pki"
)

// identityService answers warder.v1.IdentityService.
type identityService struct{ *Server }

func (s identityService) CreateIdentity(ctx context.Context, request *warderv1.CreateIdentityRequest) (*warderv1.CreateIdentityResponse, error) {
	principal := object[identity.Principal](ctx)
	groups, err := toNames(request.GetGroups())
	if err != nil {
		return nil, err
	}
	answer := &warderv1.CreateIdentityResponse{}
	var keys []registry.KeyHash
	if csr := request.GetCsr(); len(csr) > 0 {
		certificate, err := s.Authority.Issue(ctx, csr, principal, lifetime(request.GetTtl()))
		if err != nil {
			return nil, err
		}
		keys = append(keys, certificate.Key)
		if answer.Certificate, err = s.fromCertificate(ctx, certificate); err != nil {
			return nil, err
		}
	}
	// The certificate leaves only once its identity is registered: until then it is nobody's.
	created, err := s.Registry.Create(ctx, principal, groups, keys...)
	if err != nil {
		return nil, err
	}
	answer.Identity = s.fromIdentity(created)
	return answer, nil
}

func (s identityService) GetIdentity(ctx context.Context, _ *warderv1.GetIdentityRequest) (*warderv1.GetIdentityResponse, error) {
	found, err := s.Registry.Get(object[identity.Principal](ctx))
	if err != nil {
		return nil, err
	}
	return &warderv1.GetIdentityResponse{Identity: s.fromIdentity(found)}, nil
}

func (s identityService) ListIdentities(ctx context.Context, request *warderv1.ListIdentitiesRequest) (*warderv1.ListIdentitiesResponse, error) {
	var kind identity.Kind
	if wire := request.GetKind(); wire != warderv1.PrincipalKind_PRINCIPAL_KIND_UNSPECIFIED {
		var err error
		if kind, err = toDomain(kinds(), wire); err != nil {
			return nil, err
		}
	}
	all := s.Registry.List(resource(ctx).Namespace, kind)
	some, next, err := page(all, request.GetPageSize(), request.GetPageToken(), func(i registry.Identity) string { return i.Principal.String() })
	if err != nil {
		return nil, err
	}
	answer := &warderv1.ListIdentitiesResponse{NextPageToken: next}
	for _, found := range some {
		answer.Identities = append(answer.Identities, s.fromIdentity(found))
	}
	return answer, nil
}

func (s identityService) SetIdentityGroups(ctx context.Context, request *warderv1.SetIdentityGroupsRequest) (*warderv1.SetIdentityGroupsResponse, error) {
	groups, err := toNames(request.GetGroups())
	if err != nil {
		return nil, err
	}
	changed, err := s.Registry.SetGroups(ctx, object[identity.Principal](ctx), groups)
	if err != nil {
		return nil, err
	}
	return &warderv1.SetIdentityGroupsResponse{Identity: s.fromIdentity(changed)}, nil
}

func (s identityService) IssueCertificate(ctx context.Context, request *warderv1.IssueCertificateRequest) (*warderv1.IssueCertificateResponse, error) {
	principal := object[identity.Principal](ctx)
	known, err := s.Registry.Get(principal)
	if err != nil {
		return nil, err
	}
	certificate, err := s.Authority.Issue(ctx, request.GetCsr(), principal, lifetime(request.GetTtl()))
	if err != nil {
		return nil, err
	}
	message, err := s.fromCertificate(ctx, certificate)
	if err != nil {
		return nil, err
	}
	if _, err := s.Registry.BindInEpoch(ctx, principal, known.Epoch, certificate.Key); err != nil {
		return nil, err
	}
	return &warderv1.IssueCertificateResponse{Certificate: message}, nil
}

func (s identityService) DisableIdentity(ctx context.Context, _ *warderv1.DisableIdentityRequest) (*warderv1.DisableIdentityResponse, error) {
	changed, err := s.Registry.SetState(ctx, object[identity.Principal](ctx), registry.Disabled)
	if err != nil {
		return nil, err
	}
	return &warderv1.DisableIdentityResponse{Identity: s.fromIdentity(changed)}, nil
}

func (s identityService) EnableIdentity(ctx context.Context, _ *warderv1.EnableIdentityRequest) (*warderv1.EnableIdentityResponse, error) {
	changed, err := s.Registry.SetState(ctx, object[identity.Principal](ctx), registry.Enabled)
	if err != nil {
		return nil, err
	}
	return &warderv1.EnableIdentityResponse{Identity: s.fromIdentity(changed)}, nil
}

func (s identityService) RevokeIdentity(ctx context.Context, _ *warderv1.RevokeIdentityRequest) (*warderv1.RevokeIdentityResponse, error) {
	changed, err := s.Registry.Revoke(ctx, object[identity.Principal](ctx))
	if err != nil {
		return nil, err
	}
	return &warderv1.RevokeIdentityResponse{Identity: s.fromIdentity(changed)}, nil
}

// lifetime is what was asked for, or the default.
func lifetime(asked *durationpb.Duration) time.Duration {
	if asked == nil {
		return pki.DefaultTTL
	}
	return asked.AsDuration()
}

func toNames(texts []string) ([]identity.Name, error) {
	names := make([]identity.Name, 0, len(texts))
	for _, text := range texts {
		name, err := identity.ParseName(text)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

func (s *Server) fromIdentity(found registry.Identity) *warderv1.Identity {
	message := &warderv1.Identity{
		Principal: fromPrincipal(found.Principal), State: warderv1.IdentityState_IDENTITY_STATE_ACTIVE, Epoch: found.Epoch,
		CreatedAt: timestamp(found.Created), Revision: found.Revision, SpiffeId: found.Principal.SPIFFE(s.Home.TrustDomain).String(),
	}
	if found.State != registry.Enabled {
		message.State = warderv1.IdentityState_IDENTITY_STATE_DISABLED
	}
	for _, group := range found.Groups {
		message.Groups = append(message.Groups, group.String())
	}
	for _, key := range found.Keys {
		message.KeyFingerprints = append(message.KeyFingerprints, key.String())
	}
	return message
}

func (s *Server) fromCertificate(ctx context.Context, certificate pki.Certificate) (*warderv1.Certificate, error) {
	roots, err := s.Authority.RootsPEM(ctx)
	if err != nil {
		return nil, err
	}
	return &warderv1.Certificate{
		ChainPem: string(certificate.PEM), CaCertificatePem: string(roots), NotBefore: timestamp(certificate.NotBefore),
		NotAfter: timestamp(certificate.NotAfter), Serial: certificate.Serial, SpiffeId: certificate.SPIFFE,
	}, nil
}
