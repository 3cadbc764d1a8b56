package daemon_test

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
)

func pemKey(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// The canaries go through every RPC that takes bytes or names.
const (
	canarySecret = "canary-secret-7f3a9c51e8d24b60"
	canaryName   = "canary-name-5d1e"
)

// requests gives a well-formed JSON body for every RPC: the test fails where one is missing. Names are in namespace.
func requests(t testing.TB, namespace string) map[string]string {
	t.Helper()
	_, csr := newRequest(t)
	request := base64.StdEncoding.EncodeToString(csr)
	secret := base64.StdEncoding.EncodeToString([]byte(canarySecret))
	object := fmt.Sprintf(`"namespace":%q,"name":%q`, namespace, canaryName)
	someone := fmt.Sprintf(`"principal":{"kind":"PRINCIPAL_KIND_WORKLOAD",%s}`, object)
	fields := fmt.Sprintf(`"fields":[{"name":"secret","value":%q}]`, secret)
	key32 := base64.StdEncoding.EncodeToString(make([]byte, 32))
	token := "wet1.AAAAAAAAAAAAAAAAAAAAAAAAAA." + base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	return map[string]string{
		"SystemService/InitCluster": fmt.Sprintf(`{"clusterName":"x","trustDomain":"x.y","operatorNamespace":"system","operatorName":"x","operatorCsr":%q}`, request),
		"SystemService/JoinCluster": fmt.Sprintf(`{"token":"0123456789abcdef","endpoints":["https://127.0.0.1:1"],"caCertificatePem":%q}`, secret+secret),
		"SystemService/Unseal":      `{}`, "SystemService/GetStatus": `{}`, "ClusterService/ListMembers": `{}`,
		"ClusterService/CreateJoinToken": fmt.Sprintf(`{"nodeId":%q,"hsmFingerprint":"sha256:%064d","ttl":"60s"}`, canaryName, 0),
		"ClusterService/JoinCluster": fmt.Sprintf(`{"token":%q,"nodeId":%q,"clusterAddress":"127.0.0.1:1","csr":%q,"rootKey":%q,"rootKeyHash":"OAEP_HASH_SHA256","nodeKey":%q,"auditPublicKey":%q,"apiAddress":"https://127.0.0.1:2","signature":%q}`,
			token, canaryName, request, key32, key32, key32, key32),
		"ClusterService/RemoveMember": fmt.Sprintf(`{"nodeId":%q}`, canaryName), "ClusterService/StepDown": `{}`,
		"ClusterService/RotateRoot": fmt.Sprintf(`{"nodeId":%q}`, canaryName), "ClusterService/RotateData": `{}`, "ClusterService/GetRotation": `{}`,
		"IdentityService/CreateIdentity":    fmt.Sprintf(`{%s,"csr":%q}`, someone, request),
		"IdentityService/GetIdentity":       fmt.Sprintf(`{%s}`, someone),
		"IdentityService/ListIdentities":    fmt.Sprintf(`{"namespace":%q}`, namespace),
		"IdentityService/SetIdentityGroups": fmt.Sprintf(`{%s,"groups":[%q]}`, someone, canaryName),
		"IdentityService/IssueCertificate":  fmt.Sprintf(`{%s,"csr":%q}`, someone, request),
		"IdentityService/DisableIdentity":   fmt.Sprintf(`{%s}`, someone), "IdentityService/EnableIdentity": fmt.Sprintf(`{%s}`, someone),
		"IdentityService/RevokeIdentity": fmt.Sprintf(`{%s}`, someone),
		"PolicyService/PutPolicy": fmt.Sprintf(`{%s,"text":%q}`, object,
			fmt.Sprintf("permit (principal == Workload::%q, action == Action::\"key.read\", resource is Key);", namespace+"/nobody")),
		"PolicyService/GetPolicy": fmt.Sprintf(`{%s}`, object), "PolicyService/ListPolicies": fmt.Sprintf(`{"namespace":%q}`, namespace),
		"PolicyService/TestPolicy":   fmt.Sprintf(`{%s,"action":"key.read","resource":{"type":"key",%s}}`, someone, object),
		"PolicyService/DeletePolicy": fmt.Sprintf(`{%s}`, object),

		"CredentialService/PutCredential":      fmt.Sprintf(`{%s,"profile":"static",%s}`, object, fields),
		"CredentialService/ListCredentials":    fmt.Sprintf(`{"namespace":%q}`, namespace),
		"CredentialService/GetCredential":      fmt.Sprintf(`{%s}`, object),
		"CredentialService/RevealCredential":   fmt.Sprintf(`{%s}`, object),
		"CredentialService/RotateCredential":   fmt.Sprintf(`{%s,%s}`, object, fields),
		"CredentialService/SignWithCredential": fmt.Sprintf(`{%s,"request":{"method":"HTTP_METHOD_POST","url":"https://api.binance.com/api/v3/order?x=%s","body":%q}}`, object, canarySecret, secret),
		"CredentialService/DeleteCredential":   fmt.Sprintf(`{%s}`, object),

		"KeyService/CreateKey": fmt.Sprintf(`{%s,"algorithm":"KEY_ALGORITHM_ED25519","custody":"KEY_CUSTODY_SEALED","purpose":"KEY_PURPOSE_TELEMETRY","owner":{"kind":"PRINCIPAL_KIND_DEVICE",%s}}`, object, object),
		"KeyService/ListKeys":  fmt.Sprintf(`{"namespace":%q}`, namespace), "KeyService/GetKey": fmt.Sprintf(`{%s}`, object),
		"KeyService/RotateKey":         fmt.Sprintf(`{%s}`, object),
		"KeyService/SignWithKey":       fmt.Sprintf(`{%s,"algorithm":"KEY_ALGORITHM_ED25519","message":%q}`, object, secret),
		"KeyService/DestroyKeyVersion": fmt.Sprintf(`{%s,"version":1}`, object),

		"DeviceService/CreateEnrolmentToken": fmt.Sprintf(`{%s,"ttl":"60s"}`, object),
		"DeviceService/EnrolDevice":          fmt.Sprintf(`{"token":%q,"csr":%q}`, token, request),
		"DeviceService/RenewDevice":          fmt.Sprintf(`{"csr":%q}`, request),

		"TokenService/IssueToken":   fmt.Sprintf(`{"grants":[{"actions":["credential.reveal"],"resource":{"type":"credential",%s}}],"ttl":"60s"}`, object),
		"TokenService/InspectToken": fmt.Sprintf(`{"token":%q}`, canarySecret),
		"TokenService/RevokeToken":  `{"id":"0123456789abcdef0123456789abcdef"}`,

		"AuditService/TailAudit": `{"limit":"1"}`, "AuditService/GetAuditCheckpoint": `{}`, "AuditService/ListAuditEntries": `{}`,
		"AuditService/ListAuditAnchors": `{}`,
		// The last: it takes the node's keys away.
		"SystemService/Seal": `{}`,
	}
}

// procedures gives every RPC of warder.v1 in an order in which objects are made before they are used, and the sealing
// comes last. It fails where a request is missing or of no RPC.
func procedures(t testing.TB, bodies map[string]string) []string {
	t.Helper()
	first := []string{"IdentityService/CreateIdentity", "PolicyService/PutPolicy", "CredentialService/PutCredential", "KeyService/CreateKey"}
	last := []string{
		"PolicyService/DeletePolicy", "CredentialService/DeleteCredential", "KeyService/DestroyKeyVersion", "ClusterService/StepDown", "SystemService/Seal",
	}
	served := map[string]bool{}
	var middle []string
	for _, file := range []protoreflect.FileDescriptor{
		warderv1.File_warder_v1_system_proto, warderv1.File_warder_v1_cluster_proto, warderv1.File_warder_v1_identity_proto,
		warderv1.File_warder_v1_policy_proto, warderv1.File_warder_v1_credential_proto, warderv1.File_warder_v1_key_proto,
		warderv1.File_warder_v1_device_proto, warderv1.File_warder_v1_token_proto, warderv1.File_warder_v1_audit_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				name := string(service.Name()) + "/" + string(service.Methods().Get(j).Name())
				served[name] = true
				if _, ok := bodies[name]; !ok {
					t.Fatalf("no request for %s: add one", name)
				}
				if !slices.Contains(first, name) && !slices.Contains(last, name) {
					middle = append(middle, name)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		if !served[name] {
			t.Fatalf("%s is no RPC", name)
		}
	}
	return slices.Concat(first, middle, last)
}

func enrolmentRequest() *warderv1.CreateEnrolmentTokenRequest {
	return &warderv1.CreateEnrolmentTokenRequest{Namespace: "default", Name: "meter", Ttl: durationpb.New(time.Minute)}
}
