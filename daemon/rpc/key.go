package rpc

import (
	"context"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/device"
)

// keyService answers warder.v1.KeyService.
type keyService struct{ *Server }

func (s keyService) CreateKey(ctx context.Context, _ *warderv1.CreateKeyRequest) (*warderv1.CreateKeyResponse, error) {
	at := resource(ctx)
	key, err := s.Keys.Create(ctx, at.Namespace, at.Name, object[device.Spec](ctx))
	if err != nil {
		return nil, err
	}
	return &warderv1.CreateKeyResponse{Key: fromKey(key)}, nil
}

func (s keyService) ListKeys(ctx context.Context, request *warderv1.ListKeysRequest) (*warderv1.ListKeysResponse, error) {
	all, err := s.Keys.List(ctx, resource(ctx).Namespace)
	if err != nil {
		return nil, err
	}
	some, next, err := page(all, request.GetPageSize(), request.GetPageToken(), func(k device.Key) string { return k.Name.String() })
	if err != nil {
		return nil, err
	}
	answer := &warderv1.ListKeysResponse{NextPageToken: next}
	for _, key := range some {
		answer.Keys = append(answer.Keys, fromKey(key))
	}
	return answer, nil
}

func (s keyService) GetKey(ctx context.Context, _ *warderv1.GetKeyRequest) (*warderv1.GetKeyResponse, error) {
	at := resource(ctx)
	key, err := s.Keys.Get(ctx, at.Namespace, at.Name)
	if err != nil {
		return nil, err
	}
	return &warderv1.GetKeyResponse{Key: fromKey(key)}, nil
}

func (s keyService) RotateKey(ctx context.Context, _ *warderv1.RotateKeyRequest) (*warderv1.RotateKeyResponse, error) {
	at := resource(ctx)
	key, err := s.Keys.Rotate(ctx, at.Namespace, at.Name)
	if err != nil {
		return nil, err
	}
	return &warderv1.RotateKeyResponse{Key: fromKey(key)}, nil
}

func (s keyService) SignWithKey(ctx context.Context, request *warderv1.SignWithKeyRequest) (*warderv1.SignWithKeyResponse, error) {
	algorithm, err := toDomain(algorithms(), request.GetAlgorithm())
	if err != nil {
		return nil, err
	}
	input := request.GetDigest()
	if input == nil {
		input = request.GetMessage()
	}
	signature, err := s.Keys.Sign(ctx, object[device.Key](ctx), algorithm, input)
	if err != nil {
		return nil, err
	}
	return &warderv1.SignWithKeyResponse{
		Signature: signature.Bytes, Algorithm: toWire(algorithms(), signature.Algorithm),
		Version: signature.Version, Custody: toWire(custodies(), signature.Custody),
	}, nil
}

func (s keyService) DestroyKeyVersion(ctx context.Context, request *warderv1.DestroyKeyVersionRequest) (*warderv1.DestroyKeyVersionResponse, error) {
	at := resource(ctx)
	key, err := s.Keys.Destroy(ctx, at.Namespace, at.Name, request.GetVersion())
	if err != nil {
		return nil, err
	}
	return &warderv1.DestroyKeyVersionResponse{Key: fromKey(key)}, nil
}

func fromKey(key device.Key) *warderv1.Key {
	message := &warderv1.Key{
		Namespace: key.Namespace.String(), Name: key.Name.String(), Revision: key.Revision,
		Algorithm: toWire(algorithms(), key.Spec.Algorithm), Custody: toWire(custodies(), key.Spec.Custody),
		Purpose: toWire(purposes(), key.Spec.Purpose), Owner: fromPrincipal(key.Spec.Owner),
	}
	if active, ok := key.Active(); ok {
		message.ActiveVersion = active.Number
	}
	for i, version := range key.Versions {
		if i == 0 {
			message.CreatedAt = timestamp(version.Created)
		}
		message.Versions = append(message.Versions, &warderv1.KeyVersion{
			Number: version.Number, State: toWire(states(), version.State), PublicKey: version.Public,
			CreatedAt: timestamp(version.Created), RetiredAt: timestamp(version.Retired),
		})
	}
	return message
}
