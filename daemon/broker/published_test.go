package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"warder/daemon/broker"
)

// published is a row of testdata/published.json.
type published struct {
	Broker   string          `json:"broker"`
	Scheme   string          `json:"scheme"`
	Inputs   map[string]any  `json:"inputs"`
	Expected json.RawMessage `json:"expected"`
}

func publishedVectors(t testing.TB) []published {
	t.Helper()
	text, err := os.ReadFile("testdata/published.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []published
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func (p published) in(t testing.TB, name string) string {
	t.Helper()
	s, ok := p.Inputs[name].(string)
	if !ok {
		t.Fatalf("%s has no input %s", p.Broker, name)
	}
	return s
}

// message puts bytes into a request where an expression can read them whole.
func message(s string) broker.Request {
	quoted, err := json.Marshal(map[string]string{"m": s})
	if err != nil {
		panic(err)
	}
	return broker.Request{Method: "POST", URL: "https://broker.example/x", Body: quoted,
		Header: http.Header{"Content-Type": {"application/json"}}}
}

func form(path, body string) broker.Request {
	return broker.Request{Method: "POST", URL: "https://broker.example" + path, Body: []byte(body),
		Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}}
}

func get(target string) broker.Request {
	return broker.Request{Method: "GET", URL: "https://broker.example" + target}
}

// TestPublishedVectors gives each published vector to the engine as the expression
// that the broker's scheme would be. Where the vector has a request, the expression
// reads the request; where it has only the message, that.
func TestPublishedVectors(t *testing.T) {
	plain := map[string]string{"s": "utf8"}
	key := func(v string) map[string][]byte { return map[string][]byte{"s": []byte(v)} }
	p := publishedVectors(t)
	cases := []struct {
		row     int
		expr    string
		request broker.Request
		types   map[string]string
		values  map[string][]byte
	}{
		{0, `hex(hmac('sha256', cred('s'), cat(query, body)))`, form("/api/v3/order", p[0].in(t, "canonical")), plain, key(p[0].in(t, "secret"))},
		{1, `hex(hmac('sha256', cred('s'), cat(query, body)))`, form("/api/v3/order", p[1].in(t, "canonical")), plain, key(p[1].in(t, "secret"))},
		{4, `b64(ed25519(cred('s'), join('\1', 'A', 'EXAMPLE', 'SPOT', '1', '20240627-11:17:25.223')))`, get("/"), map[string]string{"s": "pem ed25519"}, key(p[4].in(t, "private_key_pem"))},
		{6, `b64(hmac('sha512', cred('s'), bcat(path, sha256(cat(param('nonce'), body)))))`, form(p[6].in(t, "path"), p[6].in(t, "body")), map[string]string{"s": "b64"}, key(p[6].in(t, "secret"))},
		{7, `b64(hmac('sha256', cred('s'), cat(time('iso_ms'), method, path, body)))`, get("/api/v5/account/balance"), plain, key(p[7].in(t, "secret"))},
		{8, `hex(hmac('sha256', cred('s'), cat('1700000000000', 'test_api_key', '5000', query)))`, get("/v5?" + p[8].in(t, "payload")), plain, key(p[8].in(t, "secret"))},
		{9, `hex(hmac('sha256', cred('s'), json('/m')))`, message(p[9].in(t, "canonical")), plain, key(p[9].in(t, "secret"))},
		{10, `hex(hmac('sha256', cred('s'), cat(method, path, '1700000000000')))`, get("/realtime"), plain, key(p[10].in(t, "secret"))},
		{11, `hex(hmac('sha256', cred('s'), cat(method, path, '?', query, '1429631577690')))`, get("/api/v1/instrument?filter=%7B%22symbol%22%3A+%22XBTM15%22%7D"), plain, key(p[11].in(t, "secret"))},
		{12, `hex(hmac('sha256', cred('s'), json('/m')))`, message(p[12].in(t, "canonical")), plain, key(p[12].in(t, "secret"))},
		{13, `hex(hmac('sha256', cred('s'), json('/m')))`, message(p[13].in(t, "canonical")), plain, key(p[13].in(t, "secret"))},
		{14, `hex(hmac('sha256', cred('s'), json('/m')))`, message(p[14].in(t, "canonical")), plain, key(p[14].in(t, "secret"))},
		{15, `hex(hmac('sha256', cred('s'), json('/m')))`, message(p[15].in(t, "canonical")), plain, key(p[15].in(t, "secret"))},
		{16, `b64(hmac('sha256', cred('s'), json('/m')))`, message(p[16].in(t, "canonical")), plain, key(p[16].in(t, "secret"))},
		{17, `hex(hmac('sha512', cred('s'), join('\n', method, path, query_decoded, hex(sha512(body)), '1541993715')))`, get("/api/v4/futures/orders?contract=BTC_USD&status=finished&limit=50"), plain, key("secret")},
		{18, `hex(hmac('sha512', cred('s'), json('/m')))`, message(p[18].in(t, "canonical")), plain, key("secret")},
		{19, `hex(hmac('sha256', cred('s'), cat('1576074319000', '\n', '1iqt2wls', '\n', '')))`, get("/"), plain, key("AMANDASECRECT")},
		{20, `hex(hmac('sha384', cred('s'), json('/m')))`, message(p[20].in(t, "payload_b64")), plain, key("1234abcd")},
		{21, `hex(hmac('sha256', cred('s'), json('/m')))`, message(p[21].in(t, "canonical")), plain, key("bitvavo")},
		{24, `b64(hmac('sha1', cred('s'), cat(method, '&', pctenc('http://photos.example.net/photos'), '&', pctenc(query))))`,
			get("/?" + unescape(t, p[24].in(t, "canonical"))), plain, key(p[24].in(t, "consumer_secret") + "&" + p[24].in(t, "token_secret"))},
		{25, `b64(hmac('sha1', cred('s'), json('/m')))`, message(p[25].in(t, "canonical")), plain, key(p[25].in(t, "consumer_secret") + "&" + p[25].in(t, "token_secret"))},
		{26, `b64url(sha256(json('/m')))`, message(p[26].in(t, "verifier")), plain, nil},
		{28, `b64(hmac('sha512', cred('s'), sha256(json('/m'))))`, message(p[28].in(t, "canonical") + p[28].in(t, "nonce(5025)")), map[string]string{"s": "b64"}, key(p[28].in(t, "secret"))},
		{29, `b64(sha256(cat(json('/m'), cred('s'))))`, message(p[29].in(t, "96")), plain, key("AMANDASECRECT")},
		{30, `b64(hmac('sha256', cred('s'), json('/m')))`, message(p[30].in(t, "canonical")), plain, key("SECRET")},
	}
	at := broker.Moment{Now: time.Date(2020, 12, 8, 9, 8, 57, 715e6, time.UTC)}
	for _, c := range cases {
		t.Run(p[c.row].Broker+" "+p[c.row].Scheme, func(t *testing.T) {
			got, err := broker.Eval(c.expr, c.request, c.types, c.values, at)
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Trim(string(p[c.row].Expected), `"`); string(got) != want {
				t.Errorf("row %d: got %s, want %s", c.row, got, want)
			}
		})
	}
}

// unescape takes the parameters out of an OAuth 1.0a base string (RFC 5849 section 3.4.1).
func unescape(t *testing.T, base string) string {
	t.Helper()
	parts := strings.Split(base, "&")
	return strings.NewReplacer("%26", "&", "%3D", "=").Replace(parts[2])
}

// The WebSocket vectors go through the Binance profile: sorted, not encoded.
func TestPublishedWebSocket(t *testing.T) {
	profile := binance(t)
	for _, row := range []int{2, 3} {
		p := publishedVectors(t)[row]
		params := map[string]any{}
		for pair := range strings.SplitSeq(p.in(t, "canonical"), "&") {
			name, v, _ := strings.Cut(pair, "=")
			if params[name] = any(v); name == "timestamp" || name == "recvWindow" {
				params[name] = json.RawMessage(v)
			}
		}
		delete(params, "apiKey") // the profile puts it in
		body, err := json.Marshal(map[string]any{"id": "1", "method": "order.place", "params": params})
		if err != nil {
			t.Fatal(err)
		}
		fields := binanceFields(t, map[string]string{"api_key": p.in(t, "api_key"), "secret": p.in(t, "secret")})
		signed, class, extract, err := profile.Sign(broker.Request{Method: "WS", URL: "wss://ws-api.binance.com/ws-api/v3", Body: body},
			fields, broker.Moment{Now: time.UnixMilli(1645423376532)})
		if err != nil || class != broker.Trade || extract.Side == "" {
			t.Fatalf("row %d: %v, %s, %+v", row, err, class, extract)
		}
		var got struct {
			Params struct{ Signature string }
		}
		if err := json.Unmarshal(signed.Body, &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.Trim(string(p.Expected), `"`); got.Params.Signature != want {
			t.Errorf("row %d: got %s, want %s", row, got.Params.Signature, want)
		}
	}
}

func TestTOTP(t *testing.T) {
	p := publishedVectors(t)[27]
	if got := broker.TOTP([]byte(p.in(t, "secret_ascii")), 59, 8); got != strings.Trim(string(p.Expected), `"`) {
		t.Errorf("got %s", got)
	}
	got, err := broker.Eval(`totp(cred('s'))`, get("/"), map[string]string{"s": "hex"},
		map[string][]byte{"s": []byte(hex.EncodeToString([]byte("12345678901234567890")))}, broker.Moment{Now: time.Unix(59, 0)})
	if err != nil || string(got) != "287082" { // RFC 6238 appendix B, six digits
		t.Errorf("got %s, %v", got, err)
	}
}

// RFC 8037 A.4: EdDSA over a JWS signing input; a JWT of the engine verifies the same way.
func TestEd25519OverJWSInput(t *testing.T) {
	p := publishedVectors(t)[22]
	seed, err := base64.RawURLEncoding.DecodeString(p.in(t, "d_b64url"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := broker.Eval(`b64url(ed25519(cred('s'), json('/m')))`, message(p.in(t, "signing_input")), map[string]string{"s": "seed"},
		map[string][]byte{"s": []byte(base64.StdEncoding.EncodeToString(seed))}, broker.Moment{})
	if want := strings.Trim(string(p.Expected), `"`); err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
}

// RFC 6979 A.2.5: deterministic ECDSA on P-256 with SHA-256.
func TestP256IsDeterministic(t *testing.T) {
	p := publishedVectors(t)[23]
	d, err := hex.DecodeString(p.in(t, "d_hex"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), new(big.Int).SetBytes(d).FillBytes(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	got, err := broker.Eval(`upper(hex(ecdsa_p256(cred('s'), json('/m'))))`, message(p.in(t, "message")), map[string]string{"s": "pem p256"},
		map[string][]byte{"s": block}, broker.Moment{})
	if want := strings.Trim(string(p.Expected), `"`); err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
}

// Every operation that no published vector covers, with a known answer.
func TestOperations(t *testing.T) {
	form := form("/a/b?b=2&a=%2F1", "y=2&x=%41")
	object := broker.Request{Method: "POST", URL: "https://broker.example/x", Body: []byte(`{"b":{"z":[1,"q"],"a":"v"},"a":true}`),
		Header: http.Header{"Content-Type": {"application/json"}, "X-Id": {"7"}}}
	cases := []struct {
		expr    string
		request broker.Request
		want    string
	}{
		{`lower('AbC')`, form, "abc"}, {`upper('abC')`, form, "ABC"},
		{`pctenc('a b/é~*')`, form, "a%20b%2F%C3%A9~%2A"}, {`pctdec('a%20b%2F')`, form, "a b/"},
		{`hexdec('6869')`, form, "hi"}, {`b64dec('aGk=')`, form, "hi"}, {`b64urldec('aGk')`, form, "hi"}, {`jsonstr('a"b')`, form, `"a\"b"`},
		{`hex(md5(''))`, form, "d41d8cd98f00b204e9800998ecf8427e"}, {`hex(sha1(''))`, form, "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
		{`hex(sha384(''))`, form, "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b"},
		{`cat(method, host, path)`, form, "POSTbroker.example/a/b"}, {`path_strip('/a')`, form, "/b"},
		{`query`, form, "b=2&a=%2F1"}, {`query_sorted`, form, "a=%2F1&b=2"}, {`query_decoded`, form, "b=2&a=/1"},
		{`body`, form, "y=2&x=%41"}, {`body_sorted`, form, "x=%41&y=2"}, {`param('a')`, form, "/1"}, {`param('x')`, form, "A"},
		{`json('/b/z/1')`, object, "q"}, {`json('/a')`, object, "true"}, {`json_flat('')`, object, "atruebavz1q"},
		{`json_query('/b', '/b/z')`, object, "a=v"}, {`json_of('{"k":5}', '/k')`, object, "5"}, {`header('x-id')`, object, "7"},
		{`part('a:b:c', ':', '2')`, form, "c"}, {`plus('40', '2')`, form, "42"},
		{`if(eq(method, 'POST'), 'yes', 'no')`, form, "yes"}, {`if(not(empty(query)), 'yes', 'no')`, object, "no"},
		{`opt(header('X-None'))`, form, ""}, {`opt(stripped('header:X'))`, form, ""}, {`opt(json('/x'))`, form, ""},
		{`ts`, form, "1000"}, {`nonce`, form, "1000"}, {`time('ns')`, form, "1000000000"}, {`time('us')`, form, "1000000"},
		{`time('s')`, form, "1"}, {`time('iso_s')`, form, "1970-01-01T00:00:01"}, {`time('iso_ms')`, form, "1970-01-01T00:00:01.000Z"},
	}
	covered := map[string]bool{"cred": true, "hmac": true, "totp": true, "ed25519": true, "ecdsa_p256": true, "bcat": true, "join": true,
		"sha256": true, "sha512": true, "b64": true, "b64url": true,
		"rsa_pkcs1": true, "jwt": true, "uuid": true, "rand": true} // by the re-signing vectors, or random
	for _, c := range cases {
		got, err := broker.Eval(c.expr, c.request, nil, nil, broker.Moment{Now: time.Unix(1, 0)})
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.expr, got, err, c.want)
		}
		for _, name := range broker.Operations() {
			if c.expr == name || strings.Contains(c.expr, name+"(") || strings.Contains(c.expr, name+",") {
				covered[name] = true
			}
		}
	}
	for _, name := range broker.Operations() {
		if !covered[name] && !slices.Contains([]string{"host", "path"}, name) {
			t.Errorf("no case covers %s", name)
		}
	}
	for expr, length := range map[string]int{"uuid": 36, "rand": 32} {
		if got, err := broker.Eval(expr, form, nil, nil, broker.Moment{}); err != nil || len(got) != length {
			t.Errorf("%s: %q, %v", expr, got, err)
		}
	}
}
