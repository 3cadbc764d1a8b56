package daemon_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

const (
	reveal      = "/warder.v1.CredentialService/RevealCredential"
	issueReveal = `{"grants":[{"actions":["credential.reveal"],"resource":{"type":"credential","namespace":"default","name":"one"}}],"ttl":"60s"%s}`
	askOne      = `{"namespace":"default","name":"one"}`
)

// prepared is a node with a credential that a bot may read, with a token.
func prepared(t *testing.T) (*testNode, caller) {
	t.Helper()
	n := startNode(t)
	bot := n.workload(t, "default", "bot")
	_, err := n.client.Policies.PutPolicy(t.Context(), &warderv1.PutPolicyRequest{Namespace: "default", Name: "bots", Text: `
permit (principal == Workload::"default/bot", action in [Action::"credential.reveal", Action::"token.issue"], resource);`})
	if err != nil {
		t.Fatal(err)
	}
	n.putSecret(t, "default", "one")
	return n, bot
}

func (n *testNode) putSecret(t *testing.T, namespace, name string) {
	t.Helper()
	_, err := n.client.Credentials.PutCredential(t.Context(), &warderv1.PutCredentialRequest{
		Namespace: namespace, Name: name, Profile: "static", Fields: []*warderv1.SecretField{{Name: "secret", Value: []byte("of " + name)}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (n *testNode) want(t *testing.T, what string, who caller, procedure, body, reason string) {
	t.Helper()
	if got := n.post(t, who, procedure, body); got.reason != reason || reason == "" && got.status != http.StatusOK {
		t.Errorf("%s: status %d, reason %q; want %q\n%s", what, got.status, got.reason, reason, got.body)
	}
}

// TestBadInputHasItsReason sends what is not a good request, and wants each time the one stable reason.
func TestBadInputHasItsReason(t *testing.T) {
	n, _ := prepared(t)
	n.want(t, "a good request", n.operator, reveal, askOne, "")
	n.want(t, "an unknown field", n.operator, reveal, `{"namespace":"default","name":"one","nonsense":1}`, "UNKNOWN_FIELD")
	n.want(t, "a wrong type", n.operator, reveal, `{"namespace":7}`, "INVALID_ARGUMENT")
	n.want(t, "a broken body", n.operator, reveal, `{"namespace":"default"`, "INVALID_ARGUMENT")
	n.want(t, "another spelling", n.operator, reveal, `{"namespace":"default","name":"One"}`, "INVALID_ARGUMENT")
	n.want(t, "a body over the limit", n.operator, reveal, `{"name":"`+strings.Repeat("x", 600<<10)+`"}`, "TOO_LARGE")
	n.want(t, "a credential that is not there", n.operator, reveal, `{"namespace":"default","name":"two"}`, "NOT_FOUND")
	got := n.send(t, n.operator, reveal, "application/proto", []byte{0x0a, 7, 'd', 'e', 'f', 'a', 'u', 'l', 't', 0x12, 3, 'o', 'n', 'e', 0x98, 0x06, 1})
	if got.reason != "UNKNOWN_FIELD" {
		t.Errorf("an unknown field in protobuf: %q", got.reason)
	}
}

// TestCertificatesOfOthersAreRefused presents certificates that are not the identity's own.
func TestCertificatesOfOthersAreRefused(t *testing.T) {
	n, bot := prepared(t)
	forged := n.caller(t, forgery(t, &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/ns/system/operator/admin"}))
	n.want(t, "a certificate of another authority", forged, reveal, askOne, "CERTIFICATE_UNKNOWN")
	reading := n.withToken(t, bot, fmt.Sprintf(issueReveal, ""))
	n.want(t, "the bot with its token", reading, reveal, askOne, "")
	_, err := n.client.Identities.RevokeIdentity(t.Context(), &warderv1.RevokeIdentityRequest{
		Principal: &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, Namespace: "default", Name: "bot"},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.want(t, "a revoked identity, on its open connection", reading, reveal, askOne, "CERTIFICATE_WRONG_KEY")
}

// forgery is a certificate that its maker signed for a name of this cluster.
func forgery(t *testing.T, uri *url.URL) *tls.Certificate {
	t.Helper()
	key, _ := newRequest(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestTokensHoldForWhatTheySay uses tokens for what they are not for, after their end, and with another's certificate.
func TestTokensHoldForWhatTheySay(t *testing.T) {
	n, bot := prepared(t)
	n.putSecret(t, "default", "two")
	n.want(t, "no token", bot, reveal, askOne, "TOKEN_SCOPE")
	reading := n.withToken(t, bot, fmt.Sprintf(issueReveal, ""))
	n.want(t, "the token", reading, reveal, askOne, "")
	n.want(t, "another object than the token's", reading, reveal, `{"namespace":"default","name":"two"}`, "TOKEN_SCOPE")
	n.want(t, "another action than the token's", reading, "/warder.v1.CredentialService/GetCredential", askOne, "TOKEN_SCOPE")
	n.want(t, "a token for a token", reading, "/warder.v1.TokenService/IssueToken", fmt.Sprintf(issueReveal, ""), "TOKEN_SCOPE")

	thief := n.workload(t, "default", "thief")
	thief.token = reading.token
	n.want(t, "a stolen token", thief, reveal, askOne, "TOKEN_NOT_BOUND")
	broken := reading
	broken.token = reading.token[:len(reading.token)-4] + "AAAA"
	n.want(t, "a changed token", broken, reveal, askOne, "TOKEN_INVALID")

	counted := n.withToken(t, bot, fmt.Sprintf(issueReveal, `,"maxUses":3`))
	var allowed atomic.Int32
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			if got := n.post(t, counted, reveal, askOne); got.status == http.StatusOK {
				allowed.Add(1)
			}
		})
	}
	asking.Wait()
	if allowed.Load() != 3 {
		t.Errorf("a token of 3 uses was used %d times in parallel", allowed.Load())
	}
	n.want(t, "a token that is used up", counted, reveal, askOne, "TOKEN_USED_UP")

	id := regexp.MustCompile(`"jti":"([0-9a-f]+)"`).FindStringSubmatch(claimsOf(t, reading.token))
	if _, err := n.client.Tokens.RevokeToken(t.Context(), &warderv1.RevokeTokenRequest{Id: id[1]}); err != nil {
		t.Fatal(err)
	}
	n.want(t, "a revoked token", reading, reveal, askOne, "TOKEN_REVOKED")
}

func claimsOf(t *testing.T, token string) string {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestNamespacesAreWalls lets a workload with every right in its own namespace ask for another's.
func TestNamespacesAreWalls(t *testing.T) {
	n, _ := prepared(t)
	eve := n.workload(t, "other", "eve")
	_, err := n.client.Policies.PutPolicy(t.Context(), &warderv1.PutPolicyRequest{Namespace: "other", Name: "all", Text: `permit (principal, action, resource);`})
	if err != nil {
		t.Fatal(err)
	}
	n.putSecret(t, "other", "mine")
	own := n.withToken(t, eve, `{"grants":[{"actions":["credential.reveal"],"resource":{"type":"credential","namespace":"other","name":"mine"}},{"actions":["credential.reveal"],"resource":{"type":"credential","namespace":"default","name":"one"}}],"ttl":"60s"}`)
	n.want(t, "its own", own, reveal, `{"namespace":"other","name":"mine"}`, "")
	n.want(t, "another's", own, reveal, askOne, "NAMESPACE_FOREIGN")
	n.want(t, "another's, not there", own, reveal, `{"namespace":"default","name":"nothing"}`, "NAMESPACE_FOREIGN")
}

// TestNobodyLearnsWhatExists compares, byte for byte, what a workload without rights is told of what is there and of
// what is not.
func TestNobodyLearnsWhatExists(t *testing.T) {
	n, _ := prepared(t)
	mallory := n.workload(t, "default", "mallory")
	_, err := n.client.Policies.PutPolicy(t.Context(), &warderv1.PutPolicyRequest{Namespace: "default", Name: "tokens", Text: `permit (principal, action == Action::"token.issue", resource);`})
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, name := range []string{"one", "not-there"} {
		with := n.withToken(t, mallory, strings.ReplaceAll(`{"grants":[{"actions":["credential.sign"],"resource":{"type":"credential","namespace":"default","name":"NAME"}}],"ttl":"60s"}`, "NAME", name))
		got := n.post(t, with, "/warder.v1.CredentialService/SignWithCredential", fmt.Sprintf(`{"namespace":"default","name":%q,"request":{"method":"HTTP_METHOD_GET","url":"https://api.binance.com/api/v3/account"}}`, name))
		incident := regexp.MustCompile(`"(value|incidentId)":"[^"]*"`)
		told[name] = incident.ReplaceAllString(string(got.body), "")
	}
	if told["one"] != told["not-there"] || !strings.Contains(told["one"], "PERMISSION_DENIED") {
		t.Errorf("what is there:     %s\nwhat is not there: %s", told["one"], told["not-there"])
	}
}

// TestAnEnrolmentTokenHasOneWinner redeems one token 200 times in parallel.
func TestAnEnrolmentTokenHasOneWinner(t *testing.T) {
	n := startNode(t)
	made, err := n.client.Devices.CreateEnrolmentToken(t.Context(), enrolmentRequest())
	if err != nil {
		t.Fatal(err)
	}
	_, csr := newRequest(t)
	stranger := n.caller(t, nil)
	body := fmt.Sprintf(`{"token":%q,"csr":%q}`, made.GetToken(), base64.StdEncoding.EncodeToString(csr))
	var winners atomic.Int32
	var racing sync.WaitGroup
	for range 200 {
		racing.Go(func() {
			got := n.post(t, stranger, "/warder.v1.DeviceService/EnrolDevice", body)
			switch {
			case got.status == http.StatusOK:
				winners.Add(1)
			case strings.Contains(string(got.body), "CERTIFICATE-----"):
				t.Errorf("a refusal holds a certificate: %s", got.body)
			}
		})
	}
	racing.Wait()
	if winners.Load() != 1 {
		t.Errorf("%d of 200 redemptions won; want 1", winners.Load())
	}
}

// TestReadsCanBeLinearizable asks for an answer that shows everything acknowledged before, and for what there is not.
func TestReadsCanBeLinearizable(t *testing.T) {
	n, bot := prepared(t)
	reading := n.withToken(t, bot, fmt.Sprintf(issueReveal, ""))
	for value, reason := range map[string]string{"linearizable": "", "": "INVALID_ARGUMENT", "eventual": "INVALID_ARGUMENT"} {
		request := n.request(t.Context(), reading, reveal, []byte(askOne))
		request.Header.Set("Warder-Consistency", value)
		before := n.records(t)
		got := reading.ask(t, request)
		if got.reason != reason || reason == "" && got.status != http.StatusOK || n.records(t) != before+1 {
			t.Errorf("%q: %d %s; want %q and one record", value, got.status, got.body, reason)
		}
	}
	if _, err := n.client.Policies.ListPolicies(client.Linearizable(t.Context()), &warderv1.ListPoliciesRequest{Namespace: "default"}); err != nil {
		t.Errorf("by the client: %v", err)
	}
}

// TestASealedNodeSaysSo seals the node, asks it for everything, and unseals it.
func TestASealedNodeSaysSo(t *testing.T) {
	n, _ := prepared(t)
	local := n.socketClient(t)
	if _, err := local.System.Seal(t.Context(), &warderv1.SealRequest{}); err != nil {
		t.Fatal(err)
	}
	n.want(t, "a sealed node", n.operator, reveal, askOne, "SEALED")
	status, err := local.System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
	if err != nil || !status.GetSealed() || len(status.GetProblems()) == 0 {
		t.Errorf("the status of a sealed node: %v, %v", status, err)
	}
	if _, err := local.System.Unseal(t.Context(), &warderv1.UnsealRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.Credentials.RevealCredential(t.Context(), &warderv1.RevealCredentialRequest{Namespace: "default", Name: "one"}); err != nil {
		t.Errorf("after unsealing: %v", err)
	}
	for range 20 {
		if _, err := local.System.Seal(t.Context(), &warderv1.SealRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := local.System.Unseal(t.Context(), &warderv1.UnsealRequest{}); err != nil {
			t.Fatal(err)
		}
		n.want(t, "as soon as it says that it is unsealed", n.operator, reveal, askOne, "")
	}
	_, err = local.System.InitCluster(t.Context(), &warderv1.InitClusterRequest{
		ClusterName: "again", TrustDomain: trustDomain, OperatorNamespace: "system", OperatorName: "again", OperatorCsr: make([]byte, 64),
	})
	if client.Reason(err) != warderv1.Reason_REASON_ALREADY_INITIALISED {
		t.Errorf("a second init: %v", err)
	}
}
