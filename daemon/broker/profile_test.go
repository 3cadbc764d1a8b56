package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"warder/daemon/broker"
)

const small = `
name: small
title: Small
status: signing
hosts: [api.small.example]
secret_fields: {api_key: utf8, secret: b64, key: pem rsa optional}
clock: {unit: ms, window: 10s}
schemes:
  - name: only
    strip: ["header:X-Key"]
    let: [{name: m, is: "cat(method, path)"}]
    sign: hmac('sha256', cred('secret'), m)
    place: [{at: "header:X-Key", value: hex(signature)}]
extracts: {order: {symbol: param('s')}}
endpoints:
  - {methods: [GET], paths: [/a, /b/*, /c/**], class: read, extract: order}
`

func TestLoadRefuses(t *testing.T) {
	if _, err := broker.Load([]byte(small)); err != nil {
		t.Fatal(err)
	}
	cases := []struct{ name, old, replacement, says string }{
		{"unknown field", "title: Small", "titel: Small", "titel"},
		{"two documents", "name: small", "---\nname: a\n---\nname: small", ""},
		{"no name", "name: small", "name: Small One", "name"},
		{"unknown status", "status: signing", "status: fine", "status"},
		{"host with a port", "api.small.example", "api.small.example:443", "host"},
		{"bare host", "[api.small.example]", "[localhost]", "host"},
		{"field type", "api_key: utf8", "api_key: text", "field"},
		{"pem without algorithm", "pem rsa optional", "pem", "field"},
		{"clock unit", "unit: ms", "unit: minutes", "unit"},
		{"clock window", "window: 10s", "window: 10h", "window"},
		{"unknown operation", "hex(signature)", "rot13(signature)", "rot13"},
		{"user function", "hex(signature)", "m(signature)", "m"},
		{"bytes where text is wanted", "value: hex(signature)", "value: signature", "text"},
		{"bytes into cat", "cat(method, path)", "cat(method, cred('secret'))", "cat"},
		{"key where bytes are wanted", "cred('secret'), m", "cred('key'), m", "key"},
		{"unknown credential field", "cred('secret')", "cred('secrets')", "secrets"},
		{"computed credential field", "cred('secret')", "cred(m)", "cred"},
		{"unknown hash", "'sha256'", "'crc32'", "crc32"},
		{"computed hash", "'sha256'", "method", "literal"},
		{"too few arguments", "cred('secret'), m", "m", "arguments"},
		{"input called", "cat(method, path)", "cat(method(), path)", "method"},
		{"operation not called", "cat(method, path)", "cat", "cat"},
		{"let of a taken name", "name: m,", "name: path,", "taken"},
		{"let after its use", "hmac('sha256', cred('secret'), m)", "hmac('sha256', cred('secret'), n)", "n"},
		{"unclosed string", "cat(method, path)", "cat('x, path)", "string"},
		{"unclosed bracket", "cat(method, path)", "cat(method, path", "bracket"},
		{"nested too deep", "cat(method, path)", strings.Repeat("cat(", 20) + "path" + strings.Repeat(")", 20), "nests"},
		{"trailing text", "cat(method, path)", "cat(method, path) x", "unexpected"},
		{"branches of two kinds", "cat(method, path)", "if(empty(query), path, sha1(path))", "kind"},
		{"place", "header:X-Key\"]", "body:X\"]", "place"},
		{"forbidden header", `{at: "header:X-Key"`, `{at: "header:Transfer-Encoding"`, "place"},
		{"places nothing", `    place: [{at: "header:X-Key", value: hex(signature)}]`, "", "places nothing"},
		{"class", "class: read", "class: fine", "class"},
		{"no class", "class: read, ", "", "class"},
		{"no paths", "paths: [/a, /b/*, /c/**], ", "", "paths"},
		{"** inside", "/c/**", "/c/**/d", "path"},
		{"relative path", "/a,", "a,", "path"},
		{"method", "methods: [GET]", "methods: [get]", "method"},
		{"unknown extract", "extract: order}", "extract: orders}", "extract"},
		{"unknown extraction", "symbol: param", "colour: param", "colour"},
		{"secret in an extraction", "param('s')", "cred('api_key')", "cred"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(small, c.old) {
				t.Fatalf("the small profile has no %q", c.old)
			}
			p, err := broker.Load([]byte(strings.Replace(small, c.old, c.replacement, 1)))
			if !errors.Is(err, broker.ErrProfile) || p != nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := broker.Load([]byte("#" + strings.Repeat("x", 300<<10))); !errors.Is(err, broker.ErrProfile) {
		t.Errorf("long: %v", err)
	}
}

func TestPathPatterns(t *testing.T) {
	p, err := broker.Load([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	for path, fits := range map[string]bool{"/a": true, "/a/": false, "/ab": false, "/b": false, "/b/x": true, "/b/": false,
		"/b/x/y": false, "/c": false, "/c/": false, "/c/x": true, "/c/x/y": true, "/": false} {
		_, err := p.Parse(broker.Request{Method: "GET", URL: "https://api.small.example" + path})
		if (err == nil) != fits || err != nil && !errors.Is(err, broker.ErrUnclassified) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestRegistry(t *testing.T) {
	r := registry(t)
	if _, err := r.Get("nobody"); !errors.Is(err, broker.ErrUnknownProfile) || !strings.Contains(err.Error(), "binance") {
		t.Errorf("unknown: %v", err)
	}
	files, err := filepath.Glob("profiles/*.yaml")
	if err != nil || len(files) != len(r.Names()) {
		t.Errorf("%d files, %d profiles, %v", len(files), len(r.Names()), err)
	}
	if !slices.IsSorted(r.Names()) {
		t.Error("names are not sorted")
	}
	if _, err := broker.NewRegistry(binance(t), binance(t)); !errors.Is(err, broker.ErrProfile) {
		t.Errorf("two of one name: %v", err)
	}
}

func pemKey(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// A bad field is refused with a message that says what is wrong and holds none of it.
func TestFieldsRefuse(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	const canary = "cAnArYcAnArY"
	cases := []struct {
		name, profile string
		fields        map[string]string
		says          string
	}{
		{"missing key", "binance", map[string]string{"secret": canary}, "api_key is missing"},
		{"no secret", "binance", map[string]string{"api_key": canary}, "exactly one of"},
		{"two secrets", "binance", map[string]string{"api_key": "k", "secret": canary, "ed25519_key": ed25519Key}, "exactly one of"},
		{"unknown field", "binance", map[string]string{"api_key": "k", "secret": "s", "pasphrase": canary}, "pasphrase"},
		{"empty", "binance", map[string]string{"api_key": "", "secret": "s"}, "empty"},
		{"long", "binance", map[string]string{"api_key": "k", "secret": strings.Repeat(canary, 2000)}, "longer"},
		{"new line", "binance", map[string]string{"api_key": "k", "secret": canary + "\n"}, "one line"},
		{"not PEM", "binance", map[string]string{"api_key": "k", "ed25519_key": canary}, "PEM block"},
		{"PEM of rubbish", "binance", map[string]string{"api_key": "k", "ed25519_key": "-----BEGIN PRIVATE KEY-----\nY0FuQXJZ\n-----END PRIVATE KEY-----\n"}, "private key"},
		{"two PEM blocks", "binance", map[string]string{"api_key": "k", "ed25519_key": ed25519Key + ed25519Key}, "one PEM block"},
		{"EC for Ed25519", "binance", map[string]string{"api_key": "k", "ed25519_key": pemKey(t, ec)}, "another algorithm"},
		{"Ed25519 for RSA", "binance", map[string]string{"api_key": "k", "rsa_key": ed25519Key}, "another algorithm"},
		{"weak RSA", "binance", map[string]string{"api_key": "k", "rsa_key": pemKey(t, weak)}, "1024 bits"},
		{"not base64", "kraken", map[string]string{"api_key": "k", "secret": canary + "!"}, "base64"},
		{"not a seed", "coinbase", map[string]string{"api_key": "k", "ed25519_seed": "Y0FuQXJZ"}, "seed"},
		{"nothing", "static", nil, "at least one"},
		{"static name", "static", map[string]string{"Bad Name": canary}, "no field"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, err := registry(t).Get(c.profile)
			if err != nil {
				t.Fatal(err)
			}
			m := map[string][]byte{}
			for name, v := range c.fields {
				m[name] = []byte(v)
			}
			f, err := p.Fields(m)
			if !errors.Is(err, broker.ErrField) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), canary) || f != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestFieldsPrintNothing(t *testing.T) {
	f := hmacFields(t)
	text := fmt.Sprintf("%v %+v %#v %s", f, f, f, f.LogValue())
	if b, err := json.Marshal(f); err == nil {
		text += string(b)
	}
	if strings.Contains(text, secret) || strings.Contains(text, apiKey) {
		t.Error("fields print their values")
	}
	if !slices.Equal(f.Names(), []string{"api_key", "secret"}) {
		t.Errorf("names: %v", f.Names())
	}
}

func TestStaticTakesAnythingAndSignsNothing(t *testing.T) {
	p, err := registry(t).Get("static")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Fields(map[string][]byte{"database_password": []byte("x y z")}); err != nil {
		t.Error(err)
	}
	if _, err := p.Parse(orderRequest()); !errors.Is(err, broker.ErrHost) {
		t.Errorf("parse: %v", err)
	}
}

func TestUnits(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "1": 1e8, "0.1": 1e7, "0.00000001": 1, "1.50000000000": 15e7, "9999999999.99999999": 999999999999999999, "007": 7e8} {
		if got, ok := broker.Units(s); !ok || got != want {
			t.Errorf("%s: %d %v", s, got, ok)
		}
	}
	for _, s := range []string{"", ".", ".5", "5.", "1e3", "-1", "+1", "1,5", " 1", "0x1", "1.123456789", "10000000000", "1.2.3", "NaN", "٣"} {
		if got, ok := broker.Units(s); ok {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(small)
	for _, name := range []string{"binance", "kraken", "coinbase"} {
		text, err := os.ReadFile("profiles/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := broker.Load([]byte(text))
		if (p == nil) == (err == nil) {
			t.Fatal("a profile or an error, not both")
		}
	})
}

// What parses signs to a request that parses to the same call.
func FuzzParse(f *testing.F) {
	f.Add("POST", "https://api.binance.com/api/v3/order", "application/x-www-form-urlencoded", order)
	f.Add("GET", "https://api.binance.com/api/v3/order?symbol=A&note=a b+c=d&é~*&timestamp=1499827319559", "", "")
	f.Add("WS", "wss://ws-api.binance.com/ws-api/v3", "", `{"method":"order.place","params":{"symbol":"A","timestamp":1499827319559}}`)
	p := binance(f)
	fields := hmacFields(f)
	f.Fuzz(func(t *testing.T, method, url, contentType, body string) {
		r := broker.Request{Method: method, URL: url, Body: []byte(body), Header: map[string][]string{}}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		call, err := p.Parse(r)
		if (call == nil) == (err == nil) {
			t.Fatal("a call or an error, not both")
		}
		if err != nil {
			return
		}
		signed, err := call.Sign(fields, at())
		if err != nil {
			return
		}
		again, err := p.Parse(broker.Request(signed))
		if err != nil || again.Class() != call.Class() || again.Extract() != call.Extract() || again.Path() != call.Path() || again.Host() != call.Host() {
			t.Fatalf("signed, it is another request: %v", err)
		}
		if _, err := again.Resign(fields, fields, at()); err != nil {
			t.Fatalf("its own signature does not verify: %v", err)
		}
	})
}

// The scanner takes nothing that encoding/json does not.
func FuzzIndexJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,"x\u00e9",null,true],"b":{"c":{}}}`, `{"a":1,"a":2}`, ` 1 `, `"\ud800"`, `[1,]`, `01`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if broker.IndexJSON([]byte(text)) == nil && !json.Valid([]byte(text)) {
			t.Fatalf("taken, and no JSON: %q", text)
		}
	})
}
