package token_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"warder/daemon/token"
)

func FuzzPayload(f *testing.F) {
	f.Add(`{"iss":"a","sub":"workload:default/bot","aud":"a","iat":1,"nbf":1,"exp":9,"jti":"x","cnf":{"x5t#S256":"y"},"epoch":3,` +
		`"authorization_details":[{"type":"warder","actions":["a","b"],"resource":{"type":"t","namespace":"n","name":"m"}}],"max_uses":5}`)
	f.Fuzz(func(t *testing.T, text string) {
		claims, ok := token.ParsePayload(text)
		if !ok {
			return
		}
		if again := token.Payload(claims); again != text {
			t.Errorf("%q is written as %q", text, again)
		}
		var asJSON token.Claims
		if err := json.Unmarshal([]byte(text), &asJSON); err != nil || !reflect.DeepEqual(asJSON, claims) {
			t.Errorf("%q: JSON says %+v, %v; the codec %+v", text, asJSON, err, claims)
		}
	})
}

func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	good, _ := w.issue(f, request())
	f.Add(good)
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := w.service.Verify(raw, certificate); err == nil && raw != good {
			t.Errorf("%q verifies", raw)
		}
	})
}

func BenchmarkIssue(b *testing.B) {
	w := newWorld(b)
	asked := request()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := w.service.Issue(asked); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyFirst(b *testing.B) {
	w := newWorld(b)
	raw, _ := w.issue(b, request())
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := w.service.VerifySignature(raw); !ok {
			b.Fatal("it does not verify")
		}
	}
}

func BenchmarkVerifyAgain(b *testing.B) {
	w := newWorld(b)
	raw, _ := w.issue(b, request())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.service.Verify(raw, certificate); err != nil {
			b.Fatal(err)
		}
	}
}
