package broker_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"warder/daemon/broker"
)

func binance(t testing.TB) *broker.Profile {
	t.Helper()
	p, err := registry(t).Get("binance")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func binanceFields(t testing.TB, values map[string]string) *broker.Fields {
	t.Helper()
	m := map[string][]byte{}
	for name, v := range values {
		m[name] = []byte(v)
	}
	f, err := binance(t).Fields(m)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const (
	apiKey     = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
	secret     = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
	ed25519Key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIIJEYWtGBrhACmb9Dvy+qa8WEf0lQOl1s4CLIAB9m89u\n-----END PRIVATE KEY-----\n"
	order      = "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559"
	orderSig   = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71" // Binance's own example
)

func at() broker.Moment { return broker.Moment{Now: time.UnixMilli(1499827319559)} }

func hmacFields(t testing.TB) *broker.Fields {
	return binanceFields(t, map[string]string{"api_key": apiKey, "secret": secret})
}

func orderRequest() broker.Request {
	return broker.Request{Method: "POST", URL: "https://api.binance.com/api/v3/order", Body: []byte(order),
		Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}}
}

// An unsigned order, as Binance's documentation has it, comes out signed as it has it.
func TestSignPublishedOrder(t *testing.T) {
	call, err := binance(t).Parse(orderRequest())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"broker": "binance", "class": "trade", "host": "api.binance.com", "method": "POST",
		"symbol": "LTCBTC", "side": "buy", "qty": int64(100000000), "price": int64(10000000)}
	got := call.Context()
	if len(got) != len(want) {
		t.Errorf("context: %v", got)
	}
	for name, v := range want {
		if got[name] != v {
			t.Errorf("context %s: %v, want %v", name, got[name], v)
		}
	}
	signed, err := call.Sign(hmacFields(t), at())
	if err != nil {
		t.Fatal(err)
	}
	if string(signed.Body) != order+"&signature="+orderSig || signed.Header.Get("X-Mbx-Apikey") != apiKey || signed.URL != orderRequest().URL {
		t.Errorf("signed: %s %v", signed.Body, signed.Header)
	}
	again, err := call.Sign(hmacFields(t), at())
	if err != nil || string(again.Body) != string(signed.Body) {
		t.Errorf("a call is not reusable: %v", err)
	}
}

// The same in the query, and the timestamp put in where the bot left it out.
func TestSignQuery(t *testing.T) {
	r := broker.Request{Method: "POST", URL: "https://api.binance.com/api/v3/order?" + order}
	signed, class, _, err := binance(t).Sign(r, hmacFields(t), at())
	if err != nil || class != broker.Trade || signed.URL != r.URL+"&signature="+orderSig {
		t.Errorf("%s %v", signed.URL, err)
	}
	r = broker.Request{Method: "GET", URL: "https://api.binance.com/api/v3/account"}
	signed, class, _, err = binance(t).Sign(r, hmacFields(t), at())
	if err != nil || class != broker.Read || !strings.HasPrefix(signed.URL, r.URL+"?timestamp=1499827319559&signature=") {
		t.Errorf("%s %v", signed.URL, err)
	}
}

func TestSignEd25519(t *testing.T) {
	fields := binanceFields(t, map[string]string{"api_key": apiKey, "ed25519_key": ed25519Key})
	signed, _, _, err := binance(t).Sign(orderRequest(), fields, at())
	if err != nil {
		t.Fatal(err)
	}
	body, encoded, _ := strings.Cut(string(signed.Body), "&signature=")
	unescaped, err := url.QueryUnescape(encoded)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(unescaped)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := base64.StdEncoding.DecodeString("gkRha0YGuEAKZv0O/L6prxYR/SVA6XWzgIsgAH2bz24=")
	if err != nil {
		t.Fatal(err)
	}
	public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	if body != order || !ed25519.Verify(public, []byte(order), sig) {
		t.Errorf("the signature does not verify: %s", signed.Body)
	}
}

// What a bot put where the profile places its own is dropped, never sent.
func TestSignDropsTheBotsOwn(t *testing.T) {
	r := orderRequest()
	r.Body = []byte(order + "&signature=canary")
	r.Header.Set("X-MBX-APIKEY", "canary")
	r.Header.Set("Origin", "canary")
	signed, _, _, err := binance(t).Sign(r, hmacFields(t), at())
	if err != nil || string(signed.Body) != order+"&signature="+orderSig || signed.Header.Get("Origin") != "" || signed.Header.Get("X-MBX-APIKEY") != apiKey {
		t.Errorf("%s %v %v", signed.Body, signed.Header, err)
	}
}

func TestRefused(t *testing.T) {
	with := func(change func(*broker.Request)) broker.Request {
		r := orderRequest()
		change(&r)
		return r
	}
	to := func(u string) broker.Request { return with(func(r *broker.Request) { r.URL = u }) }
	body := func(b string) broker.Request { return with(func(r *broker.Request) { r.Body = []byte(b) }) }
	header := func(name, v string) broker.Request {
		return with(func(r *broker.Request) { r.Header[name] = []string{v} })
	}
	const base = "https://api.binance.com"
	cases := []struct {
		name    string
		request broker.Request
		want    error
	}{
		{"foreign host", to("https://api.binance.com.evil.example/api/v3/order"), broker.ErrHost},
		{"another broker", to("https://api.kraken.com/0/private/AddOrder"), broker.ErrHost},
		{"loopback", to("https://127.0.0.1/api/v3/order"), broker.ErrHost},
		{"user", to("https://api.binance.com@evil.example/api/v3/order"), broker.ErrMalformed},
		{"port", to("https://api.binance.com:443/api/v3/order"), broker.ErrMalformed},
		{"capitals", to("https://API.binance.com/api/v3/order"), broker.ErrMalformed},
		{"trailing dot", to("https://api.binance.com./api/v3/order"), broker.ErrMalformed},
		{"http", to("http://api.binance.com/api/v3/order"), broker.ErrMalformed},
		{"wss without WS", to("wss://ws-api.binance.com/ws-api/v3"), broker.ErrMalformed},
		{"fragment", to(base + "/api/v3/order#x"), broker.ErrMalformed},
		{"no path", to(base), broker.ErrMalformed},
		{"dots", to(base + "/api/v3/account/../order"), broker.ErrMalformed},
		{"escaped dots", to(base + "/api/v3/%2e%2e/order"), broker.ErrMalformed},
		{"escaped slash", to(base + "/api/v3%2Forder"), broker.ErrMalformed},
		{"escaped letter", to(base + "/api/v3/%6Frder"), broker.ErrMalformed},
		{"lower-case escape", to(base + "/api/v3/order%c3"), broker.ErrMalformed},
		{"broken escape", to(base + "/api/v3/order%4"), broker.ErrMalformed},
		{"path parameter", to(base + "/api/v3/order;x=1"), broker.ErrMalformed},
		{"double slash", to(base + "/api//v3/order"), broker.ErrMalformed},
		{"backslash", to(base + `/api\v3\order`), broker.ErrMalformed},
		{"new line", to(base + "/api/v3/order?a=\r\nb"), broker.ErrMalformed},
		{"bad escape in the query", to(base + "/api/v3/order?a=%zz"), broker.ErrMalformed},
		{"long URL", to(base + "/api/v3/order?a=" + strings.Repeat("x", broker.MaxURL)), broker.ErrMalformed},
		{"unclassed", to(base + "/sapi/v1/mining/payment/list"), broker.ErrUnclassified},
		{"unclassed method", with(func(r *broker.Request) { r.Method = "PUT" }), broker.ErrUnclassified},
		{"trailing slash", to(base + "/api/v3/order/"), broker.ErrUnclassified},
		{"capital path", to(base + "/api/V3/order"), broker.ErrUnclassified},
		{"method", with(func(r *broker.Request) { r.Method = "post" }), broker.ErrMalformed},
		{"CONNECT", with(func(r *broker.Request) { r.Method = "CONNECT" }), broker.ErrMalformed},
		{"symbol twice", body(order + "&symbol=BTCUSDT"), broker.ErrMalformed},
		{"symbol twice, escaped", body(order + "&%73ymbol=BTCUSDT"), broker.ErrMalformed},
		{"symbol in query and body", to(base + "/api/v3/order?symbol=BTCUSDT"), broker.ErrMalformed},
		{"control character in the form", body(order + "&a=\n"), broker.ErrMalformed},
		{"not UTF-8", body(order + "&a=\xff"), broker.ErrMalformed},
		{"quantity that cannot be weighed", body("symbol=X&side=BUY&quantity=1e9"), broker.ErrMalformed},
		{"quantity too fine", body("symbol=X&side=BUY&quantity=0.123456789"), broker.ErrMalformed},
		{"negative quantity", body("symbol=X&side=BUY&quantity=-1"), broker.ErrMalformed},
		{"large body", body("a=" + strings.Repeat("x", broker.MaxBody)), broker.ErrMalformed},
		{"no content type", with(func(r *broker.Request) { r.Header = nil }), broker.ErrMalformed},
		{"multipart", header("Content-Type", "multipart/form-data; boundary=x"), broker.ErrMalformed},
		{"charset", header("Content-Type", "application/x-www-form-urlencoded; charset=utf-7"), broker.ErrMalformed},
		{"method override", header("X-HTTP-Method-Override", "DELETE"), broker.ErrMalformed},
		{"compressed", header("Content-Encoding", "gzip"), broker.ErrMalformed},
		{"header with a new line", header("X-A", "a\r\nb"), broker.ErrMalformed},
		{"header name", header("X A", "a"), broker.ErrMalformed},
		{"header twice", with(func(r *broker.Request) { r.Header["X-A"] = []string{"1", "2"} }), broker.ErrMalformed},
		{"header in two spellings", with(func(r *broker.Request) { r.Header["X-A"], r.Header["x-a"] = []string{"1"}, []string{"2"} }), broker.ErrMalformed},
	}
	profile := binance(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if call, err := profile.Parse(c.request); !errors.Is(err, c.want) || call != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRefusedWhenSigning(t *testing.T) {
	cases := []struct {
		name string
		body string
		now  broker.Moment
		want error
	}{
		{"two signatures", order + "&signature=a&signature=b", at(), broker.ErrMalformed},
		{"two timestamps", order + "&timestamp=1", at(), broker.ErrMalformed},
		{"timestamp is no number", "symbol=X&timestamp=x", at(), broker.ErrMalformed},
		{"stale", order, broker.Moment{Now: at().Now.Add(2 * time.Minute)}, broker.ErrClock},
		{"for later", order, broker.Moment{Now: at().Now.Add(-2 * time.Minute)}, broker.ErrClock},
		{"edge", order, broker.Moment{Now: at().Now.Add(time.Minute)}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := orderRequest()
			r.Body = []byte(c.body)
			signed, _, _, err := binance(t).Sign(r, hmacFields(t), c.now)
			if !errors.Is(err, c.want) || err != nil && signed.URL != "" {
				t.Errorf("got %v", err)
			}
		})
	}
	kraken, err := registry(t).Get("kraken")
	if err != nil {
		t.Fatal(err)
	}
	f, err := kraken.Fields(map[string][]byte{"api_key": []byte("k"), "secret": []byte("AAAA")})
	if err != nil {
		t.Fatal(err)
	}
	call, err := binance(t).Parse(orderRequest())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := call.Sign(f, at()); !errors.Is(err, broker.ErrField) {
		t.Errorf("a credential of another broker: %v", err)
	}
	if _, err := call.Sign(nil, at()); !errors.Is(err, broker.ErrField) {
		t.Errorf("no credential: %v", err)
	}
	r := broker.Request{Method: "POST", URL: "https://api.kraken.com/0/private/AddOrder", Body: []byte("pair=XBTUSD"),
		Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}}
	if _, _, _, err := kraken.Sign(r, f, at()); !errors.Is(err, broker.ErrNonce) {
		t.Errorf("no nonce: %v", err)
	}
	if _, _, _, err := kraken.Sign(r, f, broker.Moment{Now: at().Now, Nonce: "7"}); err != nil {
		t.Errorf("with a nonce: %v", err)
	}
}

// A listen key takes the key alone; it is of the class token, as what shows or makes
// keys is of the class keymgmt, whatever the method.
func TestTokensAndKeys(t *testing.T) {
	p := binance(t)
	signed, class, _, err := p.Sign(broker.Request{Method: "POST", URL: "https://api.binance.com/api/v3/userDataStream"}, hmacFields(t), at())
	if err != nil || class != broker.Token || signed.URL != "https://api.binance.com/api/v3/userDataStream" || signed.Header.Get("X-MBX-APIKEY") != apiKey {
		t.Errorf("%s %s %v", class, signed.URL, err)
	}
	for target, want := range map[string]broker.Class{
		"GET /sapi/v1/account/apiRestrictions":                 broker.Read,
		"GET /sapi/v1/account/apiRestrictions/ipRestriction":   broker.KeyMgmt,
		"GET /sapi/v2/sub-account/subAccountApi/ipRestriction": broker.KeyMgmt,
		"GET /sapi/v1/margin/apiKey":                           broker.KeyMgmt,
		"POST /sapi/v1/capital/withdraw/apply":                 broker.Withdraw,
		"GET /sapi/v1/capital/withdraw/history":                broker.Read,
		"POST /sapi/v1/asset/transfer":                         broker.Transfer,
		"DELETE /api/v3/openOrders":                            broker.Cancel,
		"GET /api/v3/openOrders":                               broker.Read,
		"POST /api/v3/sor/order":                               broker.Trade,
		"PUT /api/v3/order/amend/keepPriority":                 broker.Trade,
		"POST /sapi/v1/userListenToken":                        broker.Token,
	} {
		method, path, _ := strings.Cut(target, " ")
		call, err := p.Parse(broker.Request{Method: method, URL: "https://api.binance.com" + path})
		if err != nil || call.Class() != want {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// A quantity that the broker would not act on does not reach policy: a small one
// beside a batch would hide what the batch does.
func TestDecoyQuantity(t *testing.T) {
	for _, target := range []string{"fapi.binance.com/fapi/v1/batchOrders", "api.binance.com/api/v3/orderList/oto", "api.binance.com/sapi/v1/convert/getQuote"} {
		call, err := binance(t).Parse(broker.Request{Method: "POST", URL: "https://" + target + "?quantity=0.001&price=1&workingQuantity=1"})
		if err != nil {
			t.Fatal(err)
		}
		if _, has := call.Context()["qty"]; has || call.Class() != broker.Trade {
			t.Errorf("%s: %v", target, call.Context())
		}
	}
}

// A JSON body that two parsers could read as two is refused.
func TestAmbiguousJSON(t *testing.T) {
	bybit, err := registry(t).Get("bybit")
	if err != nil {
		t.Fatal(err)
	}
	for body, ok := range map[string]bool{
		`{"symbol":"A","qty":"1"}`:                                  true,
		`{"symbol":"A","qty":"1","qty":"9"}`:                        false,
		`{"symbol":"A","qty":"1","\u0071ty":"9"}`:                   false,
		`{"symbol":"A","qty":"1"}{"qty":"9"}`:                       false,
		`{"symbol":"A","qty":"1",}`:                                 false,
		`{"symbol":"A","qty":"1"` + "\x00" + `}`:                    false,
		"\xef\xbb\xbf" + `{"symbol":"A","qty":"1"}`:                 false,
		strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20): false,
		`[` + strings.Repeat("1,", 5000) + `1]`:                     false,
	} {
		_, err := bybit.Parse(broker.Request{Method: "POST", URL: "https://api.bybit.com/v5/order/create", Body: []byte(body),
			Header: http.Header{"Content-Type": {"application/json"}}})
		if (err == nil) != ok || err != nil && !errors.Is(err, broker.ErrMalformed) {
			t.Errorf("%.60q: %v", body, err)
		}
	}
}

// Without a lease nobody verified what the bot put in: a JWT of its own says nothing
// about the one that is made, not even when it begins.
func TestSignReadsNothingThatWasStripped(t *testing.T) {
	list := vectors(t)
	v := list[slices.IndexFunc(list, func(v broker.Vector) bool { return v.Broker == "coinbase#eddsa" })]
	coinbase, err := registry(t).Get("coinbase")
	if err != nil {
		t.Fatal(err)
	}
	fields, err := coinbase.Fields(map[string][]byte{"api_key": []byte("k"), "ed25519_seed": []byte(v.Credential["secret"])})
	if err != nil {
		t.Fatal(err)
	}
	later := broker.Moment{Now: time.UnixMilli(v.NowMS).Add(time.Minute)}
	signed, _, _, err := coinbase.Sign(inbound(v), fields, later)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(strings.TrimPrefix(signed.Header.Get("Authorization"), "Bearer "), ".")
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !strings.Contains(string(claims), `"nbf":1700000060,"exp":1700000180`) {
		t.Errorf("claims: %s %v", claims, err)
	}
}

func BenchmarkSignHMAC(b *testing.B) { benchmarkSign(b, hmacFields(b)) }

func BenchmarkSignEd25519(b *testing.B) {
	benchmarkSign(b, binanceFields(b, map[string]string{"api_key": apiKey, "ed25519_key": ed25519Key}))
}

func benchmarkSign(b *testing.B, f *broker.Fields) {
	p := binance(b)
	r := orderRequest()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, err := p.Sign(r, f, at()); err != nil {
			b.Fatal(err)
		}
	}
}
