package daemon_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	warderv1 "warder/api/warder/v1"
)

// The benchmarks ask a whole node over mutual TLS with JSON, as a caller does: node and callers share the process, so
// that a figure is of both. Audit is durable before each answer.

// benchNode is a node with what the benchmarks ask for.
func benchNode(b testing.TB) (*testNode, caller) {
	b.Helper()
	n := startNode(b)
	seed := base64.StdEncoding.EncodeToString([]byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIIJEYWtGBrhACmb9Dvy+qa8WEf0lQOl1s4CLIAB9m89u\n-----END PRIVATE KEY-----\n"))
	text := base64.StdEncoding.EncodeToString([]byte("a secret of some length"))
	for name, body := range map[string]string{
		"static": fmt.Sprintf(`"profile":"static","fields":[{"name":"secret","value":%q}]`, text),
		"hmac":   fmt.Sprintf(`"profile":"binance","fields":[{"name":"api_key","value":%q},{"name":"secret","value":%q}]`, text, text),
		"eddsa":  fmt.Sprintf(`"profile":"binance","fields":[{"name":"api_key","value":%q},{"name":"ed25519_key","value":%q}]`, text, seed),
	} {
		n.must(b, n.operator, "/warder.v1.CredentialService/PutCredential", fmt.Sprintf(`{"namespace":"default","name":%q,%s}`, name, body))
	}
	for _, custody := range []string{"HSM", "SEALED"} {
		n.must(b, n.operator, "/warder.v1.KeyService/CreateKey", fmt.Sprintf(
			`{"namespace":"default","name":"key-%d","algorithm":"KEY_ALGORITHM_ECDSA_P256_SHA256","custody":"KEY_CUSTODY_%s","purpose":"KEY_PURPOSE_TELEMETRY","owner":{"kind":"PRINCIPAL_KIND_DEVICE","namespace":"default","name":"x"}}`,
			len(custody), custody))
	}
	bot := n.workload(b, "default", "bot")
	_, err := n.client.Policies.PutPolicy(b.Context(), &warderv1.PutPolicyRequest{Namespace: "default", Name: "all", Text: `permit (principal, action, resource);`})
	if err != nil {
		b.Fatal(err)
	}
	bot.http.Transport.(*http.Transport).MaxIdleConnsPerHost = 1024
	return n, n.withToken(b, bot, `{"grants":[
		{"actions":["credential.reveal"],"resource":{"type":"credential","namespace":"default","name":"static"}},
		{"actions":["credential.sign"],"resource":{"type":"credential","namespace":"default","name":"hmac"}},
		{"actions":["credential.sign"],"resource":{"type":"credential","namespace":"default","name":"eddsa"}},
		{"actions":["key.sign"],"resource":{"type":"key","namespace":"default","name":"key-3"}},
		{"actions":["key.sign"],"resource":{"type":"key","namespace":"default","name":"key-6"}}],"ttl":"3600s"}`)
}

func (n *testNode) must(t testing.TB, who caller, procedure, body string) {
	t.Helper()
	if got := n.post(t, who, procedure, body); got.status != http.StatusOK {
		t.Fatalf("%s: %d %s", procedure, got.status, got.body)
	}
}

// hotRequest is one request that is made again and again.
type hotRequest struct {
	name, procedure, body string
	alone                 bool // by certificate, without a token
}

func hotRequests() []hotRequest {
	digest := base64.StdEncoding.EncodeToString(make([]byte, 32))
	order := `{"namespace":"default","name":%q,"request":{"method":"HTTP_METHOD_POST","url":"https://api.binance.com/api/v3/order?symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1"}}`
	sign := `{"namespace":"default","name":%q,"algorithm":"KEY_ALGORITHM_ECDSA_P256_SHA256","digest":%q}`
	return []hotRequest{
		{"secret-read", reveal, `{"namespace":"default","name":"static"}`, false},
		{"token-issue", "/warder.v1.TokenService/IssueToken", `{"grants":[{"actions":["credential.reveal"],"resource":{"type":"credential","namespace":"default","name":"static"}}],"ttl":"60s"}`, true},
		{"broker-sign-hmac", "/warder.v1.CredentialService/SignWithCredential", fmt.Sprintf(order, "hmac"), false},
		{"broker-sign-ed25519", "/warder.v1.CredentialService/SignWithCredential", fmt.Sprintf(order, "eddsa"), false},
		{"device-sign-sealed", "/warder.v1.KeyService/SignWithKey", fmt.Sprintf(sign, "key-6", digest), false},
		{"device-sign-custody", "/warder.v1.KeyService/SignWithKey", fmt.Sprintf(sign, "key-3", digest), false},
	}
}

func BenchmarkRequest(b *testing.B) {
	n, bot := benchNode(b)
	for _, one := range hotRequests() {
		who := bot
		if one.alone {
			who.token = ""
		}
		b.Run(one.name, func(b *testing.B) {
			b.SetParallelism(8)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if got := n.post(b, who, one.procedure, one.body); got.status != http.StatusOK {
						b.Errorf("%d %s", got.status, got.body)
						return
					}
				}
			})
		})
	}
}

// BenchmarkDurableWrite stores credentials from so many callers at once.
func BenchmarkDurableWrite(b *testing.B) {
	n, _ := benchNode(b)
	n.operator.http.Transport.(*http.Transport).MaxIdleConnsPerHost = 1024
	text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 256)))
	var made atomic.Int64
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(min(writers, runtime.NumCPU())))
			b.SetParallelism(max(1, writers/runtime.GOMAXPROCS(0)))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					body := fmt.Sprintf(`{"namespace":"default","name":"w-%d","profile":"static","fields":[{"name":"secret","value":%q}]}`, made.Add(1), text)
					if got := n.post(b, n.operator, "/warder.v1.CredentialService/PutCredential", body); got.status != http.StatusOK {
						b.Errorf("%d %s", got.status, got.body)
						return
					}
				}
			})
		})
	}
}
