package rpc

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/device"
	"warder/daemon/identity"
	"warder/daemon/policy"
	"warder/hsm"
	"warder/keystore"
)

// ErrField says that a field's value is none that is known here.
var ErrField = errors.New("a field's value is not one that this server knows")

// defaultPage and maxPage bound a page of a list, in items.
const (
	defaultPage = 100
	maxPage     = 1000
)

// page cuts the items after the token from a list that it sorts by name, and gives the token of what follows.
func page[T any](items []T, size uint32, token string, name func(T) string) (some []T, next string, err error) {
	slices.SortFunc(items, func(a, b T) int { return strings.Compare(name(a), name(b)) })
	if token != "" {
		after, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return nil, "", fmt.Errorf("%w: page_token is not one that a list gave", ErrField)
		}
		from, found := slices.BinarySearchFunc(items, string(after), func(item T, after string) int { return strings.Compare(name(item), after) })
		if found {
			from++
		}
		items = items[from:]
	}
	count := int(size)
	if count == 0 || count > maxPage {
		count = defaultPage
	}
	if len(items) > count {
		next = base64.RawURLEncoding.EncodeToString([]byte(name(items[count-1])))
		items = items[:count]
	}
	return items, next, nil
}

func kinds() []pair[warderv1.PrincipalKind, identity.Kind] {
	return []pair[warderv1.PrincipalKind, identity.Kind]{
		{warderv1.PrincipalKind_PRINCIPAL_KIND_OPERATOR, identity.Operator},
		{warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, identity.Workload},
		{warderv1.PrincipalKind_PRINCIPAL_KIND_DEVICE, identity.Device},
		{warderv1.PrincipalKind_PRINCIPAL_KIND_NODE, identity.Node},
	}
}

func toPrincipal(message *warderv1.Principal) (identity.Principal, error) {
	kind, err := toDomain(kinds(), message.GetKind())
	if err != nil || kind == identity.Node {
		return identity.Principal{}, fmt.Errorf("%w: principal.kind", ErrField)
	}
	namespace, err := identity.ParseName(message.GetNamespace())
	if err != nil {
		return identity.Principal{}, err
	}
	name, err := identity.ParseName(message.GetName())
	return identity.Principal{Kind: kind, Namespace: namespace, Name: name}, err
}

func fromPrincipal(p identity.Principal) *warderv1.Principal {
	return &warderv1.Principal{Kind: toWire(kinds(), p.Kind), Namespace: p.Namespace.String(), Name: p.Name.String()}
}

// toResource reads a resource whose type is written as in the API ("credential") or as in a policy ("Credential").
func toResource(message *warderv1.Resource) (policy.Resource, error) {
	types := []policy.ResourceType{
		policy.Cluster, policy.Identity, policy.Policy, policy.Credential, policy.Key, policy.Device, policy.Token,
		policy.Audit, policy.Namespace,
	}
	at := slices.IndexFunc(types, func(t policy.ResourceType) bool { return strings.ToLower(string(t)) == message.GetType() })
	if at < 0 {
		return policy.Resource{}, fmt.Errorf("%w: resource.type %q", ErrField, message.GetType())
	}
	found := policy.Resource{Type: types[at]}
	var err error
	if text := message.GetNamespace(); text != "" {
		if found.Namespace, err = identity.ParseName(text); err != nil {
			return policy.Resource{}, err
		}
	} else {
		found.Namespace = systemNamespace()
	}
	if text := message.GetName(); text != "" {
		found.Name, err = identity.ParseName(text)
	}
	return found, err
}

func states() []pair[warderv1.VersionState, keystore.State] {
	return []pair[warderv1.VersionState, keystore.State]{
		{warderv1.VersionState_VERSION_STATE_PENDING, keystore.Pending},
		{warderv1.VersionState_VERSION_STATE_ACTIVE, keystore.Active},
		{warderv1.VersionState_VERSION_STATE_RETIRED, keystore.Retired},
		{warderv1.VersionState_VERSION_STATE_DESTROYED, keystore.Destroyed},
	}
}

// pair is one value of a wire enum and what it stands for here.
type pair[W, D comparable] struct {
	wire   W
	domain D
}

func toDomain[W, D comparable](pairs []pair[W, D], wire W) (D, error) {
	for _, p := range pairs {
		if p.wire == wire {
			return p.domain, nil
		}
	}
	var none D
	return none, fmt.Errorf("%w: %v", ErrField, wire)
}

func toWire[W, D comparable](pairs []pair[W, D], domain D) W {
	for _, p := range pairs {
		if p.domain == domain {
			return p.wire
		}
	}
	var none W
	return none
}

func algorithms() []pair[warderv1.KeyAlgorithm, hsm.Algorithm] {
	return []pair[warderv1.KeyAlgorithm, hsm.Algorithm]{
		{warderv1.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256, hsm.ECDSAP256SHA256},
		{warderv1.KeyAlgorithm_KEY_ALGORITHM_ED25519, hsm.Ed25519},
	}
}

func custodies() []pair[warderv1.KeyCustody, device.Custody] {
	return []pair[warderv1.KeyCustody, device.Custody]{
		{warderv1.KeyCustody_KEY_CUSTODY_HSM, device.CustodyHSM},
		{warderv1.KeyCustody_KEY_CUSTODY_SEALED, device.CustodySealed},
	}
}

func purposes() []pair[warderv1.KeyPurpose, device.Purpose] {
	return []pair[warderv1.KeyPurpose, device.Purpose]{
		{warderv1.KeyPurpose_KEY_PURPOSE_TELEMETRY, device.PurposeTelemetry},
		{warderv1.KeyPurpose_KEY_PURPOSE_FIRMWARE, device.PurposeFirmware},
		{warderv1.KeyPurpose_KEY_PURPOSE_ORDER, device.PurposeOrder},
	}
}

func toSpec(request *warderv1.CreateKeyRequest, owner identity.Principal) (device.Spec, error) {
	algorithm, err := toDomain(algorithms(), request.GetAlgorithm())
	if err != nil {
		return device.Spec{}, err
	}
	custody, err := toDomain(custodies(), request.GetCustody())
	if err != nil {
		return device.Spec{}, err
	}
	purpose, err := toDomain(purposes(), request.GetPurpose())
	return device.Spec{Algorithm: algorithm, Custody: custody, Purpose: purpose, Owner: owner}, err
}
