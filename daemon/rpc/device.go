package rpc

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/device"
	"warder/daemon/identity"
	"warder/daemon/pki"
	"warder/daemon/seal"
	"warder/keystore/kv"
)

// deviceService answers warder.v1.DeviceService.
type deviceService struct{ *Server }

func (s deviceService) CreateEnrolmentToken(ctx context.Context, request *warderv1.CreateEnrolmentTokenRequest) (*warderv1.CreateEnrolmentTokenResponse, error) {
	at := resource(ctx)
	groups, err := toNames(request.GetGroups())
	if err != nil {
		return nil, err
	}
	text, expires, err := s.Enrolment.CreateToken(ctx, at.Namespace, at.Name, groups, request.GetTtl().AsDuration())
	if err != nil {
		return nil, err
	}
	return &warderv1.CreateEnrolmentTokenResponse{Token: text, ExpiresAt: timestamp(expires)}, nil
}

// EnrolDevice certifies the device's key, and then, in one batch, uses the token up, registers the device and binds the
// key: what can fail has been done by then.
func (s deviceService) EnrolDevice(ctx context.Context, request *warderv1.EnrolDeviceRequest) (*warderv1.EnrolDeviceResponse, error) {
	key, err := pki.KeyOf(request.GetCsr())
	if err != nil {
		return nil, err
	}
	certificate, err := s.Authority.Issue(ctx, request.GetCsr(), callOf(ctx).Principal, pki.DefaultTTL)
	if err != nil {
		return nil, err
	}
	message, err := s.fromCertificate(ctx, certificate)
	if err != nil {
		return nil, err
	}
	admission, err := s.Enrolment.Redeem(ctx, request.GetToken(), func(tx *kv.Tx, admitted device.Admission) error {
		if admitted.Device != callOf(ctx).Principal {
			return device.ErrEnrolmentRefused
		}
		_, err := s.Registry.CreateTx(tx, admitted.Device, admitted.Groups, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	_ = s.Registry.Reload(ctx) // so that the device is known at once; what fails here is read again by itself
	return &warderv1.EnrolDeviceResponse{Certificate: message, Principal: fromPrincipal(admission.Device)}, nil
}

// RenewDevice certifies a key of the device again: the caller's certificate and registered state stand for it.
func (s deviceService) RenewDevice(ctx context.Context, request *warderv1.RenewDeviceRequest) (*warderv1.RenewDeviceResponse, error) {
	caller := callOf(ctx).Peer.Identity
	certificate, err := s.Authority.Issue(ctx, request.GetCsr(), caller.Principal, pki.DefaultTTL)
	if err != nil {
		return nil, err
	}
	message, err := s.fromCertificate(ctx, certificate)
	if err != nil {
		return nil, err
	}
	if _, err := s.Registry.BindInEpoch(ctx, caller.Principal, caller.Epoch, certificate.Key); err != nil {
		return nil, err
	}
	return &warderv1.RenewDeviceResponse{Certificate: message}, nil
}

// admit finds the caller of a method that an admission token stands for. A token that this node does not know may have been
// made a moment ago, or since the others removed it: it is refused only once this node knows all that they do.
func (s *Server) admit(ctx context.Context, call *Call, message proto.Message) error {
	refused := s.lookAdmission(ctx, call, message)
	if !errors.Is(refused, device.ErrEnrolmentRefused) && !errors.Is(refused, seal.ErrJoinRefused) {
		return refused
	}
	if err := s.DB.Barrier(ctx); err != nil {
		return err
	}
	return s.lookAdmission(ctx, call, message)
}

func (s *Server) lookAdmission(ctx context.Context, call *Call, message proto.Message) error {
	switch request := message.(type) {
	case *warderv1.EnrolDeviceRequest:
		admission, err := s.Enrolment.Look(ctx, request.GetToken())
		if err != nil {
			return err
		}
		call.Principal = admission.Device
		return nil
	case *warderv1.JoinClusterRequest:
		node, err := s.Keeper.LookJoinToken(ctx, request.GetToken())
		if err != nil {
			return err
		}
		name, err := identity.ParseName(node)
		call.Principal = identity.Principal{Kind: identity.Node, Namespace: systemNamespace(), Name: name}
		return err
	}
	return errMethodUnknown
}
