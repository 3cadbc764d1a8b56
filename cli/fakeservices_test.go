package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
	"warder/api/warder/v1/warderv1connect"
)

func (f *fake) GetStatus(context.Context, *warderv1.GetStatusRequest) (*warderv1.GetStatusResponse, error) {
	var problems []string
	if f.behind.Add(-1) >= 0 {
		problems = []string{"the node is sealed"}
	}
	return &warderv1.GetStatusResponse{
		Problems: problems,
		NodeId:   "n1", ClusterId: "c-1", ClusterName: "test", TrustDomain: trustDomain, Version: "v9", Initialised: true,
		Role: warderv1.NodeRole_NODE_ROLE_LEADER, LeaderId: "n1", Members: 1, AppliedIndex: 41, Staleness: durationpb.New(3 * time.Millisecond),
		Hsm: &warderv1.HsmStatus{
			TokenLabel: "t", Serial: "1", Module: "soft\x1b[2Jhsm", Healthy: true,
			NodeKeyFingerprint: "sha256:" + strings.Repeat("ab", 32),
		},
		Keyring: &warderv1.KeyringStatus{Epoch: 1, ActiveDataKey: 1, DataKeys: 1, Recipients: 1}, AuditMode: warderv1.AuditMode_AUDIT_MODE_ENFORCED,
	}, nil
}

func (f *fake) InitCluster(_ context.Context, r *warderv1.InitClusterRequest) (*warderv1.InitClusterResponse, error) {
	c, err := f.fromCSR(r.GetOperatorCsr(), "/ns/"+r.GetOperatorNamespace()+"/operator/"+r.GetOperatorName())
	if err != nil {
		return nil, err
	}
	return &warderv1.InitClusterResponse{ClusterId: "c-1", CaCertificatePem: f.caPEM(), OperatorCertificatePem: c.GetChainPem(), Commitment: make([]byte, 32)}, nil
}

func (f *fake) JoinCluster(_ context.Context, r *warderv1.SystemServiceJoinClusterRequest) (*warderv1.SystemServiceJoinClusterResponse, error) {
	if r.GetToken() != "join-token-of-the-fake" || r.GetCaCertificatePem() != f.caPEM() {
		return nil, reason.New(warderv1.Reason_REASON_TOKEN_INVALID, "the join token is not valid")
	}
	f.behind.Store(2)
	return &warderv1.SystemServiceJoinClusterResponse{ClusterId: "c-1", Commitment: make([]byte, 32)}, nil
}

func (f *fake) Seal(context.Context, *warderv1.SealRequest) (*warderv1.SealResponse, error) {
	return &warderv1.SealResponse{Sealed: true}, nil
}

func (f *fake) Unseal(context.Context, *warderv1.UnsealRequest) (*warderv1.UnsealResponse, error) {
	return nil, reason.New(warderv1.Reason_REASON_HSM_UNAVAILABLE, "the token softhsm/t does not answer")
}

// fakeCluster is a type of its own, because both services have a JoinCluster.
type fakeCluster struct {
	warderv1connect.UnimplementedClusterServiceHandler
	fake *fake
}

func (f fakeCluster) ListMembers(context.Context, *warderv1.ListMembersRequest) (*warderv1.ListMembersResponse, error) {
	return &warderv1.ListMembersResponse{Members: []*warderv1.Member{{
		Id: "n1", Role: warderv1.NodeRole_NODE_ROLE_LEADER, Voter: true, ClusterAddress: "127.0.0.1:1", AuditPublicKey: f.fake.audit.public,
	}}}, nil
}

func (f fakeCluster) CreateJoinToken(context.Context, *warderv1.CreateJoinTokenRequest) (*warderv1.CreateJoinTokenResponse, error) {
	return &warderv1.CreateJoinTokenResponse{Token: "join-token-of-the-fake"}, nil
}

func (f fakeCluster) RotateData(context.Context, *warderv1.RotateDataRequest) (*warderv1.RotateDataResponse, error) {
	return &warderv1.RotateDataResponse{Rotation: f.fake.rotation()}, nil
}

func (f fakeCluster) GetRotation(context.Context, *warderv1.GetRotationRequest) (*warderv1.GetRotationResponse, error) {
	return &warderv1.GetRotationResponse{Rotation: f.fake.rotation()}, nil
}

// rotation goes a step further each time that it is looked at.
func (f *fake) rotation() *warderv1.RotationStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rotations++
	r := &warderv1.RotationStatus{Id: "r-1", Kind: warderv1.RotationKind_ROTATION_KIND_DATA, Phase: warderv1.RotationPhase_ROTATION_PHASE_REWRITING, Done: uint64(f.rotations), Total: 3}
	if f.rotations >= 3 {
		r.Phase = warderv1.RotationPhase_ROTATION_PHASE_DONE
	}
	return r
}

func principalPath(p *warderv1.Principal) string {
	kind := strings.ToLower(strings.TrimPrefix(p.GetKind().String(), "PRINCIPAL_KIND_"))
	return "/ns/" + p.GetNamespace() + "/" + kind + "/" + p.GetName()
}

func (f *fake) CreateIdentity(_ context.Context, r *warderv1.CreateIdentityRequest) (*warderv1.CreateIdentityResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := principalPath(r.GetPrincipal())
	if f.identities[path] != nil {
		return nil, reason.New(warderv1.Reason_REASON_ALREADY_EXISTS, "identity "+path+" exists")
	}
	id := &warderv1.Identity{Principal: r.GetPrincipal(), Groups: r.GetGroups(), State: warderv1.IdentityState_IDENTITY_STATE_ACTIVE, SpiffeId: "spiffe://" + trustDomain + path}
	f.identities[path] = id
	if len(r.GetCsr()) == 0 {
		return &warderv1.CreateIdentityResponse{Identity: id}, nil
	}
	c, err := f.fromCSR(r.GetCsr(), path)
	return &warderv1.CreateIdentityResponse{Identity: id, Certificate: c}, err
}

func (f *fake) ListIdentities(_ context.Context, r *warderv1.ListIdentitiesRequest) (*warderv1.ListIdentitiesResponse, error) {
	var found []*warderv1.Identity
	for i := range 3 { // in pages of one, to be joined
		if fmt.Sprint(i) == r.GetPageToken() || (i == 0 && r.GetPageToken() == "") {
			p := &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, Namespace: r.GetNamespace(), Name: fmt.Sprintf("bot-%d", i)}
			found = append(found, &warderv1.Identity{Principal: p})
			next := fmt.Sprint(i + 1)
			if i == 2 {
				next = ""
			}
			return &warderv1.ListIdentitiesResponse{Identities: found, NextPageToken: next}, nil
		}
	}
	return &warderv1.ListIdentitiesResponse{}, nil
}

func (f *fake) PutPolicy(_ context.Context, r *warderv1.PutPolicyRequest) (*warderv1.PutPolicyResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &warderv1.Policy{Namespace: r.GetNamespace(), Name: r.GetName(), Text: r.GetText(), Revision: 5, UpdatedAt: timestamppb.New(time.Unix(0, 0))}
	f.policies[r.GetNamespace()+"/"+r.GetName()] = p
	return &warderv1.PutPolicyResponse{Policy: p}, nil
}

func (f *fake) GetPolicy(_ context.Context, r *warderv1.GetPolicyRequest) (*warderv1.GetPolicyResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.policies[r.GetNamespace()+"/"+r.GetName()]
	if p == nil {
		return nil, notFound("policy " + r.GetNamespace() + "/" + r.GetName())
	}
	return &warderv1.GetPolicyResponse{Policy: p}, nil
}

func (f *fake) TestPolicy(_ context.Context, r *warderv1.TestPolicyRequest) (*warderv1.TestPolicyResponse, error) {
	if len(r.GetContext()) == 2 && r.GetContext()[1].GetIntValue() == 100 {
		return &warderv1.TestPolicyResponse{Decision: warderv1.Decision_DECISION_ALLOW, Policies: []string{"trade"}}, nil
	}
	return &warderv1.TestPolicyResponse{Decision: warderv1.Decision_DECISION_DENY}, nil
}

func (f *fake) PutCredential(_ context.Context, r *warderv1.PutCredentialRequest) (*warderv1.PutCredentialResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	version := &warderv1.CredentialVersion{Number: 1, State: warderv1.VersionState_VERSION_STATE_ACTIVE}
	for _, field := range r.GetFields() {
		version.FieldNames = append(version.FieldNames, field.GetName())
	}
	c := &warderv1.Credential{Namespace: r.GetNamespace(), Name: r.GetName(), Profile: r.GetProfile(), ActiveVersion: 1, Versions: []*warderv1.CredentialVersion{version}}
	f.credentials[r.GetNamespace()+"/"+r.GetName()] = &stored{c, r.GetFields()}
	return &warderv1.PutCredentialResponse{Credential: c}, nil
}

func (f *fake) credential(namespace, name string) (*stored, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.credentials[namespace+"/"+name]
	if c == nil {
		return nil, notFound("credential " + namespace + "/" + name)
	}
	return c, nil
}

func (f *fake) GetCredential(_ context.Context, r *warderv1.GetCredentialRequest) (*warderv1.GetCredentialResponse, error) {
	c, err := f.credential(r.GetNamespace(), r.GetName())
	if err != nil {
		return nil, err
	}
	return &warderv1.GetCredentialResponse{Credential: c.facts}, nil
}

func (f *fake) RevealCredential(ctx context.Context, r *warderv1.RevealCredentialRequest) (*warderv1.RevealCredentialResponse, error) {
	if err := needToken(ctx); err != nil {
		return nil, err
	}
	c, err := f.credential(r.GetNamespace(), r.GetName())
	if err != nil {
		return nil, err
	}
	return &warderv1.RevealCredentialResponse{Fields: c.fields, Version: 1, State: warderv1.VersionState_VERSION_STATE_ACTIVE}, nil
}

func (f *fake) SignWithCredential(ctx context.Context, r *warderv1.SignWithCredentialRequest) (*warderv1.SignWithCredentialResponse, error) {
	if err := needToken(ctx); err != nil {
		return nil, err
	}
	signed := r.GetRequest()
	signed.Url += "&signature=00ff"
	signed.Headers = append(signed.Headers, &warderv1.HttpHeader{Name: "X-MBX-APIKEY", Value: "it's"})
	return &warderv1.SignWithCredentialResponse{Request: signed, EndpointClass: warderv1.EndpointClass_ENDPOINT_CLASS_TRADE, Version: 1}, nil
}

func (f *fake) CreateKey(_ context.Context, r *warderv1.CreateKeyRequest) (*warderv1.CreateKeyResponse, error) {
	if r.GetCustody() == warderv1.KeyCustody_KEY_CUSTODY_HSM && r.GetAlgorithm() == warderv1.KeyAlgorithm_KEY_ALGORITHM_ED25519 {
		return nil, reason.New(warderv1.Reason_REASON_CUSTODY_UNSUPPORTED, "the token has no Ed25519")
	}
	f.mu.Lock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.keys[r.GetNamespace()+"/"+r.GetName()] = key
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	reply, err := f.GetKey(context.Background(), &warderv1.GetKeyRequest{Namespace: r.GetNamespace(), Name: r.GetName()})
	return &warderv1.CreateKeyResponse{Key: reply.GetKey()}, err
}

func (f *fake) GetKey(_ context.Context, r *warderv1.GetKeyRequest) (*warderv1.GetKeyResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := f.keys[r.GetNamespace()+"/"+r.GetName()]
	if key == nil {
		return nil, notFound("key " + r.GetNamespace() + "/" + r.GetName())
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	return &warderv1.GetKeyResponse{Key: &warderv1.Key{
		Namespace: r.GetNamespace(), Name: r.GetName(), ActiveVersion: 1, Algorithm: warderv1.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256,
		Custody:  warderv1.KeyCustody_KEY_CUSTODY_HSM,
		Versions: []*warderv1.KeyVersion{{Number: 1, State: warderv1.VersionState_VERSION_STATE_ACTIVE, PublicKey: der}},
	}}, err
}

func (f *fake) SignWithKey(ctx context.Context, r *warderv1.SignWithKeyRequest) (*warderv1.SignWithKeyResponse, error) {
	if err := needToken(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := f.keys[r.GetNamespace()+"/"+r.GetName()]
	if key == nil {
		return nil, notFound("key " + r.GetNamespace() + "/" + r.GetName())
	}
	signature, err := ecdsa.SignASN1(rand.Reader, key, r.GetDigest())
	return &warderv1.SignWithKeyResponse{Signature: signature, Algorithm: r.GetAlgorithm(), Version: 1, Custody: warderv1.KeyCustody_KEY_CUSTODY_HSM}, err
}

func (f *fake) CreateEnrolmentToken(context.Context, *warderv1.CreateEnrolmentTokenRequest) (*warderv1.CreateEnrolmentTokenResponse, error) {
	return &warderv1.CreateEnrolmentTokenResponse{Token: "enrolment-token-of-the-fake"}, nil
}

func (f *fake) EnrolDevice(_ context.Context, r *warderv1.EnrolDeviceRequest) (*warderv1.EnrolDeviceResponse, error) {
	if r.GetToken() != "enrolment-token-of-the-fake" {
		return nil, reason.New(warderv1.Reason_REASON_TOKEN_INVALID, "the enrolment token is not valid")
	}
	p := &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_DEVICE, Namespace: "plant", Name: "meter-7"}
	c, err := f.fromCSR(r.GetCsr(), principalPath(p))
	return &warderv1.EnrolDeviceResponse{Certificate: c, Principal: p}, err
}

func (f *fake) IssueToken(context.Context, *warderv1.IssueTokenRequest) (*warderv1.IssueTokenResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens++
	return &warderv1.IssueTokenResponse{Token: "token-of-the-fake", Id: "t-1", ExpiresAt: timestamppb.New(time.Now().Add(time.Minute))}, nil
}

// operatorContext writes an operator's certificate, key and context file.
func (f *fake) operatorContext() (files map[string]string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := f.certify(key.Public(), "/ns/system/operator/admin")
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	return map[string]string{
		"ca.pem":  f.caPEM(),
		"op.pem":  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"op.key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
		"op.yaml": fmt.Sprintf("endpoints: [%q]\ntrust_domain: %s\nca: ca.pem\ncertificate: op.pem\nkey: op.key\nnamespace: trading\n", f.server.URL, trustDomain),
	}, err
}
