package token_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/daemon/token"
	"warder/keystore/keyring"
	"warder/keystore/kv"
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

func TestRotation(t *testing.T) {
	w := newWorld(t)
	old, _ := w.issue(t, request())
	if err := w.service.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys := func() int {
		t.Helper()
		published, err := w.service.JWKS()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(published), `"kid"`)
	}
	if n := keys(); n != 2 {
		t.Fatalf("%d keys are published; want the next one beside the first", n)
	}
	header := func(raw string) string { text, _, _ := strings.Cut(raw, "."); return text }
	if raw, _ := w.issue(t, request()); header(raw) != header(old) {
		t.Error("the new key signs before every node can have seen it")
	}
	w.now = noon.Add(3 * time.Minute)
	fresh, _ := w.issue(t, request())
	if header(fresh) == header(old) {
		t.Error("the old key signs still")
	}
	for name, raw := range map[string]string{"old": old, "new": fresh} {
		if _, err := w.service.Verify(raw, certificate); err != nil {
			t.Errorf("the %s key's token: %v", name, err)
		}
	}
	w.now = noon.Add(2 * time.Hour)
	w.service.Sweep(t.Context())
	if err := w.service.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := keys(); n != 1 {
		t.Errorf("%d keys are published when the old one's tokens have ended; want 1", n)
	}
	if _, err := w.service.Parse(old); !errors.Is(err, token.ErrInvalid) {
		t.Errorf("a token of a key that is no more: %v; want %v", err, token.ErrInvalid)
	}
	for range token.MaxKeys - 1 {
		if err := w.service.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.service.Rotate(t.Context()); !errors.Is(err, token.ErrTooManyKeys) {
		t.Errorf("rotating without end: %v; want %v", err, token.ErrTooManyKeys)
	}
}

func TestKeysAreRotatedByAge(t *testing.T) {
	w := newWorld(t)
	before, _ := w.service.JWKS()
	w.now = noon.Add(31 * 24 * time.Hour)
	for range 3 { // as by three nodes
		w.service.Sweep(t.Context())
	}
	if err := w.service.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := w.service.JWKS()
	if err != nil || strings.Count(string(after), `"kid"`) != 2 || len(after) <= len(before) {
		t.Errorf("after 31 days the keys are %s, %v; want one more", after, err)
	}
}

func TestUsesAreCounted(t *testing.T) {
	w := newWorld(t)
	asked := request()
	asked.MaxUses = 5
	_, claims := w.issue(t, asked)
	var spent, refused atomic.Int64
	var running sync.WaitGroup
	for range 40 {
		running.Go(func() {
			switch err := w.service.Spend(t.Context(), claims); {
			case err == nil:
				spent.Add(1)
			case errors.Is(err, token.ErrUsedUp):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	running.Wait()
	if spent.Load() != 5 || refused.Load() != 35 {
		t.Errorf("%d uses were taken and %d refused; want 5 and 35", spent.Load(), refused.Load())
	}
	_, unlimited := w.issue(t, request())
	for range 10 {
		if err := w.service.Spend(t.Context(), unlimited); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExpiredRecordsAreSwept(t *testing.T) {
	w := newWorld(t)
	asked := request()
	asked.MaxUses = 1
	raw, claims := w.issue(t, asked)
	if err := w.service.Spend(t.Context(), claims); err != nil {
		t.Fatal(err)
	}
	// A revocation asks for a year; no token lives that long.
	if err := w.service.Revoke(t.Context(), operator, claims.ID, noon.AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		t.Helper()
		err := w.db.View(t.Context(), func(tx *kv.Tx) error {
			for _, prefix := range []string{"token-revoked", "token-counted"} {
				for _, err := range tx.Scan(kv.K(prefix)) {
					if err != nil {
						return err
					}
					n++
				}
			}
			uses, err := tx.Counter(kv.K("token-uses", claims.ID))
			n += int(uses)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	w.service.Sweep(t.Context())
	if n := count(); n != 3 {
		t.Errorf("%d records before the end; want the revocation, the counter and its end", n)
	}
	if _, err := w.service.Verify(raw, certificate); !errors.Is(err, token.ErrRevoked) {
		t.Errorf("after a sweep before its end: %v; want %v", err, token.ErrRevoked)
	}
	w.now = noon.Add(2 * time.Hour)
	w.service.Sweep(t.Context())
	if n := count(); n != 0 {
		t.Errorf("%d records remain long after the end", n)
	}
	for _, id := range []string{"", "x", strings.Repeat("A", 32), claims.ID + "0", strings.Repeat("z", 32)} {
		if err := w.service.Revoke(t.Context(), operator, id, noon); !errors.Is(err, token.ErrBadRequest) {
			t.Errorf("Revoke(%q) = %v; want %v", id, err, token.ErrBadRequest)
		}
	}
}

func TestSealedNodeKnowsNoToken(t *testing.T) {
	w := newWorld(t)
	raw, claims := w.issue(t, request())
	if _, err := w.service.Verify(raw, certificate); err != nil {
		t.Fatal(err)
	}
	w.holder.Clear()
	if err := w.service.Reload(t.Context()); !errors.Is(err, keyring.ErrSealed) || !errors.Is(w.service.Problem(), keyring.ErrSealed) {
		t.Errorf("load: %v, problem: %v; want %v", err, w.service.Problem(), keyring.ErrSealed)
	}
	_, _, issueErr := w.service.Issue(request())
	_, verifyErr := w.service.Verify(raw, certificate)
	_, keysErr := w.service.JWKS()
	for _, err := range []error{issueErr, verifyErr, keysErr, w.service.Live(claims)} {
		if !errors.Is(err, keyring.ErrSealed) {
			t.Errorf("sealed: %v; want %v", err, keyring.ErrSealed)
		}
	}
}

// TestARevocationReachesAsFarAsItsCaller revokes the id of one token as several principals.
func TestARevocationReachesAsFarAsItsCaller(t *testing.T) {
	name := identity.MustName
	subject := bot.Principal
	colleague, stranger := subject, operator
	colleague.Name, stranger.Namespace = name("colleague"), name("elsewhere")
	local := identity.Principal{Kind: identity.Operator, Namespace: subject.Namespace, Name: name("local")}
	for by, want := range map[identity.Principal]error{subject: token.ErrRevoked, local: token.ErrRevoked, operator: token.ErrRevoked, colleague: nil, stranger: nil} {
		w := newWorld(t)
		raw, claims := w.issue(t, request())
		if err := w.service.Revoke(t.Context(), by, claims.ID, claims.ExpiresAt()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.service.Verify(raw, certificate); !errors.Is(err, want) {
			t.Errorf("revoked by %s: %v; want %v", by, err, want)
		}
	}
}

// TestACallerWhoGivesUpHarmsNobody: a change whose caller goes away while it is read back leaves the keys in force.
func TestACallerWhoGivesUpHarmsNobody(t *testing.T) {
	w := newWorld(t)
	raw, _ := w.issue(t, request())
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := w.service.Reload(gone); err == nil {
		t.Fatal("a reload went on without its caller")
	}
	if _, err := w.service.Verify(raw, certificate); err != nil || w.service.Problem() != nil {
		t.Errorf("after a reload that was given up: %v, %v", err, w.service.Problem())
	}
}

// TestNodesFollow: what one node revokes or rotates, another that runs refuses or knows.
func TestNodesFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.serve(t, "cluster-a", 0)
		var running sync.WaitGroup
		defer running.Wait()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		running.Go(func() { _ = other.Run(ctx) })
		synctest.Wait()
		raw, claims := w.issue(t, request())
		if _, err := other.Verify(raw, certificate); err != nil {
			t.Fatal(err)
		}
		if err := w.service.Revoke(t.Context(), operator, claims.ID, claims.ExpiresAt()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := other.Verify(raw, certificate); !errors.Is(err, token.ErrRevoked) {
			t.Errorf("revoked at another node: %v; want %v", err, token.ErrRevoked)
		}
		if err := w.service.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.now = noon.Add(4 * time.Minute)
		fresh, _ := w.issue(t, request())
		synctest.Wait()
		if _, err := other.Verify(fresh, certificate); err != nil {
			t.Errorf("by another node's new key: %v", err)
		}
	})
}
