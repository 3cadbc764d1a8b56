package token_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/daemon/token"
)

func TestIssueAndVerify(t *testing.T) {
	w := newWorld(t)
	raw, issued := w.issue(t, request())
	for range 2 { // the second time, its signature is remembered
		claims, err := w.service.Verify(raw, certificate)
		if err != nil || !reflect.DeepEqual(claims, issued) {
			t.Fatalf("Verify = %+v, %v; want what was issued, %+v", claims, err, issued)
		}
		if !claims.Allows("credential.sign", binance) {
			t.Error("the token does not allow what it was issued for")
		}
		for _, other := range []token.Resource{{}, {Type: "credential", Namespace: "default"}, {Type: "credential", Namespace: "other", Name: "binance"}, {Type: "key", Namespace: "default", Name: "binance"}} {
			if claims.Allows("credential.sign", other) {
				t.Errorf("the token allows %+v too", other)
			}
		}
		if claims.Allows("credential.read", binance) || claims.Allows("", binance) {
			t.Error("the token allows another action")
		}
	}
}

// TestOthersCanVerify checks a token by the published keys and the standard library alone.
func TestOthersCanVerify(t *testing.T) {
	w := newWorld(t)
	raw, issued := w.issue(t, request())
	published, err := w.service.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Keys []struct{ Kty, Crv, Kid, X, Use, Alg string }
	}
	if err := json.Unmarshal(published, &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%s: %v", published, err)
	}
	key := set.Keys[0]
	if key.Kty != "OKP" || key.Crv != "Ed25519" || key.Use != "sig" || key.Alg != "EdDSA" {
		t.Errorf("the key is published as %+v", key)
	}
	public, err := base64.RawURLEncoding.DecodeString(key.X)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(raw, ".")
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !ed25519.Verify(public, []byte(parts[0]+"."+parts[1]), signature) {
		t.Errorf("the published key does not verify the token: %v", err)
	}
	var header map[string]string
	decodeJSON(t, parts[0], &header)
	if want := map[string]string{"alg": "EdDSA", "kid": key.Kid, "typ": "wt+jwt"}; !reflect.DeepEqual(header, want) {
		t.Errorf("header %v; want %v", header, want)
	}
	var claims token.Claims
	decodeJSON(t, parts[1], &claims)
	if !reflect.DeepEqual(claims, issued) {
		t.Errorf("as JSON the payload is %+v; want %+v", claims, issued)
	}
}

func decodeJSON(t *testing.T, part string, into any) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestEveryChangedByteIsRefused(t *testing.T) {
	w := newWorld(t)
	raw, _ := w.issue(t, request())
	for i := range len(raw) {
		for _, flip := range []byte{1, 2, 0x20, 0x80} {
			changed := []byte(raw)
			changed[i] ^= flip
			if _, err := w.service.Verify(string(changed), certificate); !errors.Is(err, token.ErrInvalid) {
				t.Fatalf("byte %d ^ %#x: %v; want %v", i, flip, err, token.ErrInvalid)
			}
		}
		for _, extra := range []string{"\n", "\r", "=", ".", "A", " "} {
			if _, err := w.service.Verify(raw[:i]+extra+raw[i:], certificate); !errors.Is(err, token.ErrInvalid) {
				t.Fatalf("%q inserted at %d: %v; want %v", extra, i, err, token.ErrInvalid)
			}
		}
		if _, err := w.service.Verify(raw[:i], certificate); !errors.Is(err, token.ErrInvalid) {
			t.Fatalf("cut to %d bytes: %v; want %v", i, err, token.ErrInvalid)
		}
	}
	for _, text := range []string{"\n", "=", ".", "A", strings.Repeat("A", 1<<20)} {
		if _, err := w.service.Verify(raw+text, certificate); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("with %d bytes more: %v; want %v", len(text), err, token.ErrInvalid)
		}
	}
}

func TestForeignHeaders(t *testing.T) {
	w := newWorld(t)
	raw, _ := w.issue(t, request())
	parts := strings.Split(raw, ".")
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	for from, to := range map[string]string{
		`"EdDSA"`: `"none"`, `{"alg"`: `{"crit":["x"],"alg"`, `"EdDSA",`: `"HS256",`, `"wt+jwt"`: `"JWT"`, `{`: `{ `, `}`: `,"jku":"https://example.org"}`,
	} {
		changed := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(header), from, to, 1)))
		for _, signature := range []string{parts[2], ""} {
			if _, err := w.service.Verify(changed+"."+parts[1]+"."+signature, certificate); !errors.Is(err, token.ErrInvalid) {
				t.Errorf("%s for %s: %v; want %v", to, from, err, token.ErrInvalid)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	raw, claims := w.issue(t, request())
	if _, err := w.service.Verify(raw, [32]byte{9}); !errors.Is(err, token.ErrNotBound) {
		t.Errorf("with another certificate: %v; want %v", err, token.ErrNotBound)
	}
	if _, err := w.serve(t, "cluster-b", 0).Verify(raw, certificate); !errors.Is(err, token.ErrInvalid) {
		t.Errorf("another issuer's: %v; want %v", err, token.ErrInvalid)
	}
	if _, err := newWorld(t).service.Verify(raw, certificate); !errors.Is(err, token.ErrInvalid) {
		t.Errorf("another cluster's key, same issuer: %v; want %v", err, token.ErrInvalid)
	}
	elsewhere, err := token.New(token.Config{DB: w.db, Identities: w.people, Issuer: "cluster-a", Audience: "other", Clock: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	if err := elsewhere.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := elsewhere.Verify(raw, certificate); !errors.Is(err, token.ErrInvalid) {
		t.Errorf("for another audience: %v; want %v", err, token.ErrInvalid)
	}
	for name, change := range map[string]func(*registry.Identity){
		"a newer epoch": func(i *registry.Identity) { i.Epoch++ }, "an older epoch": func(i *registry.Identity) { i.Epoch-- },
		"disabled": func(i *registry.Identity) { i.State = registry.Disabled }, "no state": func(i *registry.Identity) { i.State = "" },
	} {
		changed := bot
		change(&changed)
		w.people.put(changed)
		if _, err := w.service.Verify(raw, certificate); !errors.Is(err, token.ErrRevoked) {
			t.Errorf("%s: %v; want %v", name, err, token.ErrRevoked)
		}
	}
	w.people.put(bot)
	if err := w.service.Revoke(t.Context(), operator, claims.ID, claims.ExpiresAt()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Verify(raw, certificate); !errors.Is(err, token.ErrRevoked) {
		t.Errorf("revoked: %v; want %v", err, token.ErrRevoked)
	}
	if _, err := w.service.Verify(raw, certificate); err != nil && strings.Contains(err.Error(), raw[:20]) {
		t.Error("an error repeats the token")
	}
}

// TestTimesAreAbsolute: at any clock, with any leeway, a token holds from its issue to its end and at no other time.
func TestTimesAreAbsolute(t *testing.T) {
	w := newWorld(t)
	raw, claims := w.issue(t, request())
	services := map[time.Duration]*token.Service{}
	for _, leeway := range []time.Duration{0, time.Second, 30 * time.Second} {
		services[leeway] = w.serve(t, "cluster-a", leeway)
	}
	rapid.Check(t, func(t *rapid.T) {
		leeway := rapid.SampledFrom([]time.Duration{0, time.Second, 30 * time.Second}).Draw(t, "leeway")
		edge := rapid.SampledFrom([]time.Duration{0, -leeway, 5 * time.Minute, 5*time.Minute + leeway}).Draw(t, "edge")
		offset := edge + time.Duration(rapid.Int64Range(-2e9, 2e9).Draw(t, "ns"))
		w.now = noon.Add(offset)
		holds := offset >= -leeway && offset < 5*time.Minute+leeway
		_, err := services[leeway].Verify(raw, certificate)
		if holds != (err == nil) || !holds && !errors.Is(err, token.ErrExpired) {
			t.Fatalf("at %s with a leeway of %s: %v; want it to hold: %v", offset, leeway, err, holds)
		}
	})
	for leeway, service := range services {
		for offset, holds := range map[time.Duration]bool{
			-leeway: true, -leeway - 1: false, 5*time.Minute + leeway - 1: true, 5*time.Minute + leeway: false,
		} {
			w.now = noon.Add(offset)
			if _, err := service.Verify(raw, certificate); holds != (err == nil) {
				t.Errorf("at %s with a leeway of %s: %v; want it to hold: %v", offset, leeway, err, holds)
			}
		}
	}
	if claims.Expires != noon.Add(5*time.Minute).Unix() {
		t.Errorf("the token ends at %s", claims.ExpiresAt())
	}
	if _, err := token.New(token.Config{DB: w.db, Issuer: "a", Leeway: 31 * time.Second}); err == nil {
		t.Error("a leeway of 31 s is taken")
	}
}

func TestIssueRefuses(t *testing.T) {
	w := newWorld(t)
	many := make([]token.Grant, 17)
	for i := range many {
		many[i] = request().Grants[0]
	}
	long := make([]token.Grant, 16)
	for i := range long {
		long[i] = token.Grant{Actions: []string{strings.Repeat("a", 200)}, Resource: binance}
	}
	for name, change := range map[string]func(*token.Request){
		"too short":            func(r *token.Request) { r.TTL = time.Second },
		"too long":             func(r *token.Request) { r.TTL = time.Hour + 1 },
		"negative":             func(r *token.Request) { r.TTL = -time.Minute },
		"no grants":            func(r *token.Request) { r.Grants = nil },
		"too many grants":      func(r *token.Request) { r.Grants = many },
		"no actions":           func(r *token.Request) { r.Grants = []token.Grant{{Resource: binance}} },
		"too large":            func(r *token.Request) { r.Grants = long },
		"a quote in an action": func(r *token.Request) { r.Grants = []token.Grant{{Actions: []string{`a"],"x`}, Resource: binance}} },
		"not ASCII":            func(r *token.Request) { r.Grants = []token.Grant{{Actions: []string{"ä"}, Resource: binance}} },
		"a backslash": func(r *token.Request) {
			r.Grants = []token.Grant{{Actions: []string{"a"}, Resource: token.Resource{Name: `a\`}}}
		},
		"an ended certificate":     func(r *token.Request) { r.NotAfter = noon },
		"a disabled identity":      func(r *token.Request) { r.Subject.State = registry.Disabled },
		"nobody":                   func(r *token.Request) { r.Subject.Principal = identity.Principal{} },
		"an unregistered identity": func(r *token.Request) { r.Subject = registry.Identity{} },
	} {
		asked := request()
		change(&asked)
		if raw, claims, err := w.service.Issue(asked); !errors.Is(err, token.ErrBadRequest) || raw != "" || !reflect.DeepEqual(claims, token.Claims{}) {
			t.Errorf("%s: %q, %v; want %v and no token", name, raw, err, token.ErrBadRequest)
		}
	}
	asked := request()
	asked.NotAfter, asked.TTL = noon.Add(time.Minute), 0
	if _, claims := w.issue(t, asked); claims.Expires != noon.Add(time.Minute).Unix() {
		t.Errorf("a token outlives its certificate: it ends at %s", claims.ExpiresAt())
	}
}

// TestStrictPayload: even with the right signature, a payload has one spelling.
func TestStrictPayload(t *testing.T) {
	w := newWorld(t)
	asked := request()
	asked.MaxUses = 7
	_, claims := w.issue(t, asked)
	good := token.Payload(claims)
	if _, err := w.service.Verify(w.service.SignAnything(good), certificate); err != nil {
		t.Fatalf("the payload as issued: %v", err)
	}
	cases := map[string]string{"empty": "", "null": "null", "trailing": good + " ", "twice": good + good, "array": "[" + good + "]"}
	for from, to := range map[string]string{
		`{"iss":`: `{"iss":"x","iss":`, `"sub":"workload`: `"sub":"operator:default/root","sub":"workload`, `"epoch":3`: `"epoch":4,"epoch":3`,
		`"aud":`: `"AUD":`, `,"exp"`: `, "exp"`, `"epoch":`: `"epoch":0`, `"iat":`: `"iat":-`, `"nbf":`: `"nbf":1e`,
		`"max_uses":7`: `"max_uses":0`, `}]`: `}],"admin":true`, `"warder"`: `"other"`, `"credential.sign"`: `"credential.sign","x\u0041"`,
		`"name":"binance"`: `"name":""`, `["credential.sign"]`: `[]`, `"bot"`: `"Bot"`, `default/bot`: `default/b\u006ft`, `"type":"credential"`: `"type":"credential","type":"key"`,
		fmt.Sprint(`"exp":`, claims.Expires): fmt.Sprint(`"exp":`, claims.Expires+3600), fmt.Sprint(`"iat":`, claims.IssuedAt): fmt.Sprint(`"iat":`, claims.IssuedAt+1),
		fmt.Sprint(`"nbf":`, claims.NotUntil): fmt.Sprint(`"nbf":`, claims.Expires), claims.Binding.Certificate: claims.Binding.Certificate[1:], `"max_uses":7}`: `"max_uses":4294967296}`,
	} {
		cases[to] = strings.Replace(good, from, to, 1)
	}
	for name, payload := range cases {
		if payload == good {
			continue // the change changes nothing here
		}
		if found, err := w.service.Verify(w.service.SignAnything(payload), certificate); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("%s: %+v, %v; want %v", name, found, err, token.ErrInvalid)
		}
	}
}
