//go:build battery

package speed_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/wire"
)

// namespace holds all that is asked for; the bulk of the records is in another.
const (
	namespace = "trading"
	bulk      = "bulk"
)

// settings are the lines of a configuration for many callers of one machine.
const settings = "limits:\n  connections: 12000\n  connections_per_address: 4000\n"

// bot is the workload that asks.
type bot struct {
	certificate *tls.Certificate
	token       string
}

// kind is one kind of request that is measured.
type kind struct {
	name, path, body string
	alone            bool // by certificate, without a token
}

func (k kind) request(b *bot) []byte {
	if k.alone {
		return wire.Post(k.path, "", k.body)
	}
	return wire.Post(k.path, b.token, k.body)
}

const (
	reveal   = "/warder.v1.CredentialService/RevealCredential"
	sign     = "/warder.v1.CredentialService/SignWithCredential"
	signKey  = "/warder.v1.KeyService/SignWithKey"
	issue    = "/warder.v1.TokenService/IssueToken"
	put      = "/warder.v1.CredentialService/PutCredential"
	readBody = `{"namespace":"` + namespace + `","name":"static"}`
	issued   = `{"grants":[{"actions":["credential.reveal"],"resource":{"type":"credential","namespace":"` + namespace + `","name":"static"}}],"ttl":"60s"}`
	order    = `{"namespace":"` + namespace + `","name":%q,"request":{"method":"HTTP_METHOD_POST","url":"https://api.binance.com/api/v3/order?symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1"}}`
	digest   = `{"namespace":"` + namespace + `","name":%q,"algorithm":"KEY_ALGORITHM_ECDSA_P256_SHA256","digest":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`
)

func kinds() []kind {
	return []kind{
		{"secret read", reveal, readBody, false},
		{"token issue", issue, issued, true},
		{"broker sign, HMAC-SHA256", sign, fmt.Sprintf(order, "hmac"), false},
		{"broker sign, Ed25519", sign, fmt.Sprintf(order, "eddsa"), false},
		{"device sign, custody `sealed`", signKey, fmt.Sprintf(digest, "sealed"), false},
		{"device sign, custody `hsm`", signKey, fmt.Sprintf(digest, "hsm"), false},
	}
}

// furnish stores what is asked for, and hires the bot.
func furnish(t testing.TB, at *town.Town) *bot {
	t.Helper()
	ctx := client.Linearizable(t.Context())
	seed := []byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIIJEYWtGBrhACmb9Dvy+qa8WEf0lQOl1s4CLIAB9m89u\n-----END PRIVATE KEY-----\n")
	text := []byte("a secret of some length")
	for name, fields := range map[string][]*warderv1.SecretField{
		"static": {{Name: "secret", Value: text}},
		"hmac":   {{Name: "api_key", Value: text}, {Name: "secret", Value: text}},
		"eddsa":  {{Name: "api_key", Value: text}, {Name: "ed25519_key", Value: seed}},
	} {
		profile := "binance"
		if name == "static" {
			profile = "static"
		}
		_, err := at.Client.Credentials.PutCredential(ctx, &warderv1.PutCredentialRequest{Namespace: namespace, Name: name, Profile: profile, Fields: fields})
		expect(t, err)
	}
	for name, custody := range map[string]warderv1.KeyCustody{"hsm": warderv1.KeyCustody_KEY_CUSTODY_HSM, "sealed": warderv1.KeyCustody_KEY_CUSTODY_SEALED} {
		_, err := at.Client.Keys.CreateKey(ctx, &warderv1.CreateKeyRequest{
			Namespace: namespace, Name: name, Algorithm: warderv1.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256, Custody: custody,
			Purpose: warderv1.KeyPurpose_KEY_PURPOSE_TELEMETRY,
			Owner:   &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_DEVICE, Namespace: namespace, Name: "meter"},
		})
		expect(t, err)
	}
	_, err := at.Client.Policies.PutPolicy(ctx, &warderv1.PutPolicyRequest{Namespace: namespace, Name: "bot", Text: `permit (principal == Workload::"` + namespace + `/bot", action, resource);`})
	expect(t, err)
	return hire(t, at)
}

func expect(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func hire(t testing.TB, at *town.Town) *bot {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	expect(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	expect(t, err)
	made, err := at.Client.Identities.CreateIdentity(client.Linearizable(t.Context()), &warderv1.CreateIdentityRequest{
		Principal: &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, Namespace: namespace, Name: "bot"}, Csr: csr, Ttl: durationpb.New(24 * time.Hour),
	})
	expect(t, err)
	b := &bot{certificate: &tls.Certificate{PrivateKey: key}}
	for block, rest := pem.Decode([]byte(made.GetCertificate().GetChainPem())); block != nil; block, rest = pem.Decode(rest) {
		b.certificate.Certificate = append(b.certificate.Certificate, block.Bytes)
	}
	own := at.DialAs(t, b.certificate, at.Nodes...)
	grant := func(action, kind, name string) *warderv1.Grant {
		return &warderv1.Grant{Actions: []string{action}, Resource: &warderv1.Resource{Type: kind, Namespace: namespace, Name: name}}
	}
	answer, err := own.Tokens.IssueToken(client.Linearizable(t.Context()), &warderv1.IssueTokenRequest{Ttl: durationpb.New(time.Hour), Grants: []*warderv1.Grant{
		grant("credential.reveal", "credential", "static"), grant("credential.sign", "credential", "hmac"), grant("credential.sign", "credential", "eddsa"),
		grant("key.sign", "key", "hsm"), grant("key.sign", "key", "sealed"),
	}})
	expect(t, err)
	b.token = answer.GetToken()
	return b
}

// addPolicies stores policies of other workloads.
func addPolicies(t testing.TB, at *town.Town, count int) {
	t.Helper()
	for i := range count {
		time.Sleep(5 * time.Millisecond) // administration is limited to 200 a second
		_, err := at.Client.Policies.PutPolicy(t.Context(), &warderv1.PutPolicyRequest{Namespace: namespace, Name: fmt.Sprintf("other-%d", i),
			Text: fmt.Sprintf(`permit (principal == Workload::"%s/other-%d", action == Action::"credential.reveal", resource == Credential::"%s/other-%d");`, namespace, i, namespace, i)})
		expect(t, err)
	}
}

// writer makes requests that each store one credential more.
type writer struct{ made atomic.Int64 }

func (w *writer) request(int64) []byte {
	return wire.Post(put, "", fmt.Sprintf(`{"namespace":%q,"name":"c-%d","profile":"static","fields":[{"name":"secret","value":%q}]}`, bulk, w.made.Add(1), secretText))
}

// secretText is 100 bytes, about what an API credential has, as JSON has them.
var secretText = base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 100)))

// grow stores credentials until there are that many, over connections of the operator.
func (w *writer) grow(t testing.TB, pipes []*wire.Pipe, until int) {
	t.Helper()
	last := int64(until)
	many(t, pipes, func(p *wire.Pipe) (bool, error) {
		if w.made.Load() >= last {
			return false, nil
		}
		p.Request = w.request(0)
		got, err := p.Ask()
		if err == nil && got.Status != 200 {
			err = fmt.Errorf("a write was answered %s", got.Why())
		}
		return true, err
	})
}
