package rpc

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/broker"
	"warder/daemon/credential"
	"warder/daemon/policy"
	"warder/keystore"
)

// defaultGrace is how long a rotated credential's old version stays where the request names no time.
const defaultGrace = time.Hour

// credentialService answers warder.v1.CredentialService.
type credentialService struct{ *Server }

// handle is the authorised credential.
func handle(ctx context.Context) credential.Handle {
	at := resource(ctx)
	return credential.At(at.Namespace, at.Name)
}

func (s credentialService) PutCredential(ctx context.Context, request *warderv1.PutCredentialRequest) (*warderv1.PutCredentialResponse, error) {
	values, err := toValues(request.GetFields())
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	stored, err := s.Credentials.Create(ctx, handle(ctx), credential.Spec{Profile: request.GetProfile(), Values: values}, s.Clock())
	if err != nil {
		return nil, err
	}
	return &warderv1.PutCredentialResponse{Credential: fromCredential(stored)}, nil
}

func (s credentialService) ListCredentials(ctx context.Context, request *warderv1.ListCredentialsRequest) (*warderv1.ListCredentialsResponse, error) {
	all, err := s.Credentials.List(ctx, resource(ctx).Namespace)
	if err != nil {
		return nil, err
	}
	some, next, err := page(all, request.GetPageSize(), request.GetPageToken(), func(c credential.Credential) string { return c.Handle.Name().String() })
	if err != nil {
		return nil, err
	}
	answer := &warderv1.ListCredentialsResponse{NextPageToken: next}
	for _, stored := range some {
		answer.Credentials = append(answer.Credentials, fromCredential(stored))
	}
	return answer, nil
}

func (s credentialService) GetCredential(ctx context.Context, _ *warderv1.GetCredentialRequest) (*warderv1.GetCredentialResponse, error) {
	stored, err := s.Credentials.Get(ctx, handle(ctx))
	if err != nil {
		return nil, err
	}
	return &warderv1.GetCredentialResponse{Credential: fromCredential(stored)}, nil
}

func (s credentialService) RevealCredential(ctx context.Context, request *warderv1.RevealCredentialRequest) (*warderv1.RevealCredentialResponse, error) {
	values, version, err := s.Credentials.Reveal(ctx, handle(ctx), request.GetVersion())
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	answer := &warderv1.RevealCredentialResponse{Version: version, State: warderv1.VersionState_VERSION_STATE_ACTIVE}
	if request.GetVersion() != 0 {
		if answer.State, err = s.stateOf(ctx, version); err != nil {
			return nil, err
		}
	}
	answer.Fields = make([]*warderv1.SecretField, 0, len(values))
	for name, value := range values {
		answer.Fields = append(answer.Fields, &warderv1.SecretField{Name: name, Value: bytes.Clone(value.Reveal())})
	}
	slices.SortFunc(answer.Fields, func(a, b *warderv1.SecretField) int { return strings.Compare(a.Name, b.Name) })
	return answer, nil
}

// stateOf gives the state of one version, which need not be the active one.
func (s credentialService) stateOf(ctx context.Context, number uint32) (warderv1.VersionState, error) {
	stored, err := s.Credentials.Get(ctx, handle(ctx))
	if err != nil {
		return 0, err
	}
	at := slices.IndexFunc(stored.Versions, func(v credential.Version) bool { return v.Number == number })
	if at < 0 {
		return 0, keystore.ErrNoVersion
	}
	return toWire(states(), stored.Versions[at].State), nil
}

func (s credentialService) RotateCredential(ctx context.Context, request *warderv1.RotateCredentialRequest) (*warderv1.RotateCredentialResponse, error) {
	values, err := toValues(request.GetFields())
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	grace := defaultGrace
	if asked := request.GetGrace(); asked != nil {
		grace = asked.AsDuration()
	}
	stored, err := s.Credentials.Rotate(ctx, handle(ctx), values, grace, s.Clock())
	if err != nil {
		return nil, err
	}
	return &warderv1.RotateCredentialResponse{Credential: fromCredential(stored)}, nil
}

// SignWithCredential signs the request that the authoriser saw: it was parsed and classed before it was allowed.
func (s credentialService) SignWithCredential(ctx context.Context, _ *warderv1.SignWithCredentialRequest) (*warderv1.SignWithCredentialResponse, error) {
	call := object[*broker.Call](ctx)
	signed, err := s.Credentials.Sign(ctx, handle(ctx), call, broker.Moment{Now: s.Clock()})
	if err != nil {
		return nil, err
	}
	request, err := fromRequest(signed.Request)
	if err != nil {
		return nil, err
	}
	return &warderv1.SignWithCredentialResponse{
		Request: request, EndpointClass: toWire(classes(), call.Class()), Version: signed.Version,
	}, nil
}

func (s credentialService) DeleteCredential(ctx context.Context, _ *warderv1.DeleteCredentialRequest) (*warderv1.DeleteCredentialResponse, error) {
	if err := s.Credentials.Delete(ctx, handle(ctx)); err != nil {
		return nil, err
	}
	return &warderv1.DeleteCredentialResponse{}, nil
}

// brokerRequest parses and classes the request by the credential's profile, because policies see what it would do.
func brokerRequest(ctx context.Context, s *Server, _ *Call, message proto.Message) (target, error) {
	request := message.(*warderv1.SignWithCredentialRequest)
	wanted, err := namedResource(policy.Credential, request)
	if err != nil {
		return target{}, err
	}
	found := target{resource: wanted}
	name, err := s.Credentials.Profile(ctx, credential.At(wanted.Namespace, wanted.Name))
	if err != nil {
		return found, err
	}
	found.context = map[string]any{"broker": name}
	profile, err := s.Profiles.Get(name)
	if err != nil {
		return found, err
	}
	unsigned, err := toRequest(request.GetRequest())
	if err != nil {
		return found, err
	}
	call, err := profile.Parse(unsigned)
	if err != nil {
		return found, err
	}
	found.object, found.context = call, call.Context()
	return found, nil
}

func toValues(fields []*warderv1.SecretField) (credential.Values, error) {
	values := credential.Values{}
	for _, field := range fields {
		if _, twice := values[field.GetName()]; twice {
			return nil, fmt.Errorf("%w: the field %q is given twice", ErrField, field.GetName())
		}
		values[field.GetName()] = keystore.NewSecret(field.GetValue())
	}
	return values, nil
}

func fromCredential(stored credential.Credential) *warderv1.Credential {
	message := &warderv1.Credential{
		Namespace: stored.Handle.Namespace().String(), Name: stored.Handle.Name().String(), Profile: stored.Profile,
		ActiveVersion: stored.Active(), Revision: stored.Revision,
	}
	for i, version := range stored.Versions {
		if i == 0 {
			message.CreatedAt = timestamp(version.Created)
		}
		message.Versions = append(message.Versions, &warderv1.CredentialVersion{
			Number: version.Number, State: toWire(states(), version.State), CreatedAt: timestamp(version.Created),
			RetiredAt: timestamp(version.Retired), DestroyAt: timestamp(version.Ends), FieldNames: version.Fields,
		})
	}
	return message
}

func classes() []pair[warderv1.EndpointClass, broker.Class] {
	return []pair[warderv1.EndpointClass, broker.Class]{
		{warderv1.EndpointClass_ENDPOINT_CLASS_READ, broker.Read},
		{warderv1.EndpointClass_ENDPOINT_CLASS_TRADE, broker.Trade},
		{warderv1.EndpointClass_ENDPOINT_CLASS_CANCEL, broker.Cancel},
		{warderv1.EndpointClass_ENDPOINT_CLASS_TRANSFER, broker.Transfer},
		{warderv1.EndpointClass_ENDPOINT_CLASS_WITHDRAW, broker.Withdraw},
		{warderv1.EndpointClass_ENDPOINT_CLASS_KEY_MANAGEMENT, broker.KeyMgmt},
		{warderv1.EndpointClass_ENDPOINT_CLASS_TOKEN, broker.Token},
	}
}

func verbs() []pair[warderv1.HttpMethod, string] {
	return []pair[warderv1.HttpMethod, string]{
		{warderv1.HttpMethod_HTTP_METHOD_GET, http.MethodGet}, {warderv1.HttpMethod_HTTP_METHOD_POST, http.MethodPost},
		{warderv1.HttpMethod_HTTP_METHOD_PUT, http.MethodPut}, {warderv1.HttpMethod_HTTP_METHOD_PATCH, http.MethodPatch},
		{warderv1.HttpMethod_HTTP_METHOD_DELETE, http.MethodDelete},
	}
}

func toRequest(message *warderv1.HttpRequest) (broker.Request, error) {
	verb, err := toDomain(verbs(), message.GetMethod())
	if err != nil {
		return broker.Request{}, err
	}
	request := broker.Request{Method: verb, URL: message.GetUrl(), Header: http.Header{}, Body: message.GetBody()}
	for _, header := range message.GetHeaders() {
		request.Header.Add(header.GetName(), header.GetValue())
	}
	return request, nil
}

func fromRequest(signed broker.Signed) (*warderv1.HttpRequest, error) {
	verb, err := toDomain(flip(verbs()), signed.Method)
	if err != nil {
		return nil, err
	}
	message := &warderv1.HttpRequest{Method: verb, Url: signed.URL, Body: signed.Body}
	for _, name := range slices.Sorted(maps.Keys(signed.Header)) {
		for _, value := range signed.Header[name] {
			message.Headers = append(message.Headers, &warderv1.HttpHeader{Name: name, Value: value})
		}
	}
	return message, nil
}

func flip[W, D comparable](pairs []pair[W, D]) []pair[D, W] {
	turned := make([]pair[D, W], len(pairs))
	for i, p := range pairs {
		turned[i] = pair[D, W]{p.domain, p.wire}
	}
	return turned
}
