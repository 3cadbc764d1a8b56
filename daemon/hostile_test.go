package daemon_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	warderv1 "warder/api/warder/v1"
)

func (n *testNode) permit(t *testing.T, namespace, name, text string) {
	t.Helper()
	if _, err := n.client.Policies.PutPolicy(t.Context(), &warderv1.PutPolicyRequest{Namespace: namespace, Name: name, Text: text}); err != nil {
		t.Fatal(err)
	}
}

func (n *testNode) makeKey(t *testing.T, namespace, name string) {
	t.Helper()
	body := fmt.Sprintf(`{"namespace":%q,"name":%q,"algorithm":"KEY_ALGORITHM_ED25519","custody":"KEY_CUSTODY_SEALED","purpose":"KEY_PURPOSE_TELEMETRY","owner":{"kind":"PRINCIPAL_KIND_DEVICE","namespace":%q,"name":%q}}`, namespace, name, namespace, name)
	n.want(t, "make a key", n.operator, "/warder.v1.KeyService/CreateKey", body, "")
}

var incident = regexp.MustCompile(`"(value|incidentId)":"[^"]*"`)

func bare(a answer) string {
	return fmt.Sprint(a.status, incident.ReplaceAllString(string(a.body), ""))
}

// TestNamesTellNothing asks for what is there and what is not, in its own, another and the system's namespace, with no
// token, one of another scope and one of this scope: a workload without rights is told the same, byte for byte.
func TestNamesTellNothing(t *testing.T) {
	n, _ := prepared(t)
	mallory := n.workload(t, "default", "mallory")
	n.permit(t, "default", "tokens", `permit (principal == Workload::"default/mallory", action == Action::"token.issue", resource);`)
	for _, ns := range []string{"default", "system", "other"} {
		n.makeKey(t, ns, "there")
		n.putSecret(t, ns, "there")
	}
	own := n.withToken(t, mallory, fmt.Sprintf(issueReveal, ""))
	for _, ns := range []string{"default", "system", "other"} {
		scoped := n.withToken(t, mallory, strings.ReplaceAll(`{"grants":[{"actions":["key.sign"],"resource":{"type":"key","namespace":"NS","name":"there"}},{"actions":["key.sign"],"resource":{"type":"key","namespace":"NS","name":"gone"}},{"actions":["credential.sign"],"resource":{"type":"credential","namespace":"NS","name":"there"}},{"actions":["credential.sign"],"resource":{"type":"credential","namespace":"NS","name":"gone"}}],"ttl":"60s"}`, "NS", ns))
		for label, who := range map[string]caller{"no token": mallory, "narrow token": own, "scoped token": scoped} {
			for proc, body := range map[string]string{
				"KeyService/RotateKey":                 `{"namespace":%q,"name":%q}`,
				"KeyService/SignWithKey":               `{"namespace":%q,"name":%q,"algorithm":"KEY_ALGORITHM_ED25519","message":"AAAA"}`,
				"CredentialService/SignWithCredential": `{"namespace":%q,"name":%q,"request":{"method":"HTTP_METHOD_GET","url":"https://api.binance.com/api/v3/account"}}`,
				"KeyService/GetKey":                    `{"namespace":%q,"name":%q}`,
				"KeyService/DestroyKeyVersion":         `{"namespace":%q,"name":%q,"version":1}`,
				"CredentialService/DeleteCredential":   `{"namespace":%q,"name":%q}`,
			} {
				there := n.post(t, who, "/warder.v1."+proc, fmt.Sprintf(body, ns, "there"))
				gone := n.post(t, who, "/warder.v1."+proc, fmt.Sprintf(body, ns, "gone"))
				if bare(there) != bare(gone) {
					t.Errorf("%s, %s, %s: what is there is %s, and what is not is %s", proc, ns, label, there.reason, gone.reason)
				}
			}
		}
	}
}

// TestFactsThatNoRecordHoldsAreRefused signs requests whose facts the audit log has no room for.
func TestFactsThatNoRecordHoldsAreRefused(t *testing.T) {
	n := startNode(t)
	secret := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef"))
	put := fmt.Sprintf(`{"namespace":"default","name":"b","profile":"binance","fields":[{"name":"api_key","value":%q},{"name":"secret","value":%q}]}`, secret, secret)
	n.want(t, "a credential", n.operator, "/warder.v1.CredentialService/PutCredential", put, "")
	for _, symbol := range []string{strings.Repeat("X", 200), "%C3%A9", "%00"} {
		before := n.records(t)
		body := fmt.Sprintf(`{"namespace":"default","name":"b","request":{"method":"HTTP_METHOD_GET","url":"https://api.binance.com/api/v3/order?symbol=%s"}}`, symbol)
		n.want(t, symbol, n.operator, "/warder.v1.CredentialService/SignWithCredential", body, "INVALID_ARGUMENT")
		if left := n.records(t) - before; left != 1 {
			t.Errorf("%.10s: %d records; want 1", symbol, left)
		}
	}
}

// TestARevocationIsNotUndone renews a device's certificate without pause while it is revoked: afterwards no key is left.
func TestARevocationIsNotUndone(t *testing.T) {
	n := startNode(t)
	key, csr := newRequest(t)
	meter := &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_DEVICE, Namespace: "default", Name: "meter"}
	made, err := n.client.Identities.CreateIdentity(t.Context(), &warderv1.CreateIdentityRequest{Principal: meter, Csr: csr})
	if err != nil {
		t.Fatal(err)
	}
	device := n.caller(t, certificateOf(t, made.GetCertificate().GetChainPem(), key))
	body := fmt.Sprintf(`{"csr":%q}`, base64.StdEncoding.EncodeToString(csr))
	for range 3 {
		renewed := make(chan struct{}, 64)
		ctx, stop := context.WithCancel(t.Context())
		var renewing sync.WaitGroup
		for range 8 {
			renewing.Go(func() {
				for ctx.Err() == nil {
					if n.post(t, device, "/warder.v1.DeviceService/RenewDevice", body).status == http.StatusOK {
						select {
						case renewed <- struct{}{}:
						default:
						}
					}
				}
			})
		}
		for range 8 { // so that some are under way
			<-renewed
		}
		_, err := n.client.Identities.RevokeIdentity(t.Context(), &warderv1.RevokeIdentityRequest{Principal: meter})
		stop()
		renewing.Wait()
		if err != nil {
			t.Fatal(err)
		}
		got, err := n.client.Identities.GetIdentity(t.Context(), &warderv1.GetIdentityRequest{Principal: meter})
		if err != nil || len(got.GetIdentity().GetKeyFingerprints()) > 0 {
			t.Errorf("a revoked device has keys again: %v, %v", got.GetIdentity().GetKeyFingerprints(), err)
		}
		if _, err := n.client.Identities.IssueCertificate(t.Context(), &warderv1.IssueCertificateRequest{Principal: meter, Csr: csr}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestARevokedCallerHearsNoMore follows the audit log as an operator who is revoked meanwhile.
func TestARevokedCallerHearsNoMore(t *testing.T) {
	n := startNode(t)
	key, csr := newRequest(t)
	auditor := &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_OPERATOR, Namespace: "system", Name: "auditor"}
	made, err := n.client.Identities.CreateIdentity(t.Context(), &warderv1.CreateIdentityRequest{Principal: auditor, Groups: []string{"admins"}, Csr: csr})
	if err != nil {
		t.Fatal(err)
	}
	message := []byte(`{"follow":true}`)
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	who := n.caller(t, certificateOf(t, made.GetCertificate().GetChainPem(), key))
	request := n.request(t.Context(), who, "/warder.v1.AuditService/TailAudit", body)
	request.Header.Set("Content-Type", "application/connect+json")
	response, err := who.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := n.client.Identities.RevokeIdentity(t.Context(), &warderv1.RevokeIdentityRequest{Principal: auditor}); err != nil {
		t.Fatal(err)
	}
	n.putSecret(t, "default", "after-revocation")
	heard, err := io.ReadAll(response.Body)
	if err != nil || bytes.Contains(heard, []byte("after-revocation")) || !bytes.Contains(heard, []byte("REASON_CERTIFICATE_WRONG_KEY")) {
		t.Errorf("a revoked operator heard on: %v\n%s", err, heard)
	}
}

// TestThereIsNoWayRound tries the tricks of HTTP: none is served that the road has not allowed, and each leaves one record.
func TestThereIsNoWayRound(t *testing.T) {
	n, bot := prepared(t)
	none, reading := n.caller(t, nil), n.withToken(t, bot, fmt.Sprintf(issueReveal, ""))
	const (
		js, tail = "application/json", "/warder.v1.AuditService/TailAudit"
		get      = reveal + "?connect=v1&encoding=json&message=%7B%7D"
		framed   = "\x00\x00\x00\x00\x02{}"
	)
	good, bad := "Bearer "+reading.token, "Bearer x"
	for name, try := range map[string]struct {
		who               caller
		method, path      string
		contentType, body string
		header            http.Header
		status            int
		reason            string
		records           int
	}{
		"a double slash":          {n.operator, "POST", "/" + reveal, js, askOne, nil, 404, "", 1},
		"a trailing part":         {n.operator, "POST", reveal + "/x", js, askOne, nil, 404, "", 1},
		"dots":                    {n.operator, "POST", "/warder.v1.KeyService/.." + reveal, js, askOne, nil, 404, "", 1},
		"an encoded slash":        {n.operator, "POST", "/warder.v1.CredentialService%2FRevealCredential", js, askOne, nil, 404, "", 1},
		"another case":            {n.operator, "POST", strings.ToLower(reveal), js, askOne, nil, 404, "", 1},
		"GET":                     {n.operator, "GET", get, "", "", nil, 405, "", 1},
		"PUT":                     {n.operator, "PUT", reveal, js, askOne, nil, 405, "", 1},
		"a method override":       {none, "GET", reveal, js, askOne, http.Header{"X-Http-Method-Override": {"POST"}}, 405, "", 1},
		"plain text":              {n.operator, "POST", reveal, "text/plain", askOne, nil, 415, "", 1},
		"no content type":         {n.operator, "POST", reveal, "", askOne, nil, 415, "", 1},
		"compressed":              {n.operator, "POST", reveal, js, askOne, http.Header{"Content-Encoding": {"gzip"}}, 501, "", 1},
		"unary as a stream":       {none, "POST", reveal, "application/connect+json", framed, nil, 415, "", 1},
		"a stream as unary":       {none, "POST", tail, js, "{}", nil, 415, "", 1},
		"a stream of nothing":     {none, "POST", tail, "application/connect+json", "", nil, 200, "INVALID_ARGUMENT", 1},
		"gRPC":                    {none, "POST", reveal, "application/grpc+json", framed, nil, 200, "", 1},
		"gRPC-Web":                {none, "POST", reveal, "application/grpc-web+json", framed, nil, 200, "", 1},
		"a token alone":           {none, "POST", reveal, js, askOne, http.Header{"Authorization": {good}}, 401, "UNAUTHENTICATED", 1},
		"two tokens":              {bot, "POST", reveal, js, askOne, http.Header{"Authorization": {good, bad}}, 401, "TOKEN_INVALID", 1},
		"two tokens, turned":      {bot, "POST", reveal, js, askOne, http.Header{"Authorization": {bad, good}}, 401, "TOKEN_INVALID", 1},
		"another scheme":          {n.operator, "POST", reveal, js, askOne, http.Header{"Authorization": {"Basic eDp4"}}, 401, "TOKEN_INVALID", 1},
		"a bad token, small":      {n.operator, "POST", reveal, js, askOne, http.Header{"Authorization": {"bearer x"}}, 401, "TOKEN_INVALID", 1},
		"a method of the socket":  {n.operator, "POST", "/warder.v1.SystemService/Unseal", js, "{}", nil, 401, "UNAUTHENTICATED", 1},
		"a message without parts": {n.operator, "POST", "/warder.v1.IdentityService/GetIdentity", js, "{}", nil, 400, "INVALID_ARGUMENT", 1},
		"an empty name":           {n.operator, "POST", reveal, js, `{"namespace":"default","name":""}`, nil, 400, "INVALID_ARGUMENT", 1},
	} {
		before, counted := n.records(t), n.counted(t)
		request, err := http.NewRequestWithContext(t.Context(), try.method, "https://"+n.cfg.API.Advertise+try.path, strings.NewReader(try.body))
		if err != nil {
			t.Fatal(err)
		}
		if try.header != nil {
			request.Header = try.header
		}
		if try.contentType != "" {
			request.Header.Set("Content-Type", try.contentType)
		}
		// The transport itself is asked: it follows no redirects.
		response, err := try.who.http.Transport.RoundTrip(request)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := io.ReadAll(response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left := n.records(t) - before; response.StatusCode != try.status || reasonIn(text) != try.reason || left != try.records {
			t.Errorf("%s: status %d, reason %q, %d records; want %d, %q, %d\n%s", name, response.StatusCode, reasonIn(text), left, try.status, try.reason, try.records, text)
		}
		if now := n.counted(t) - counted; now != try.records {
			t.Errorf("%s: the metrics count %d requests; want %d", name, now, try.records)
		}
		if bytes.Contains(text, []byte(base64.StdEncoding.EncodeToString([]byte("of one")))) {
			t.Errorf("%s: the secret was served", name)
		}
	}
}
