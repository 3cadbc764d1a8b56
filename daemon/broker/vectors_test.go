package broker_test

import (
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"warder/daemon/broker"
)

func registry(t testing.TB) *broker.Registry {
	t.Helper()
	r, err := broker.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func vectors(t testing.TB) []broker.Vector {
	t.Helper()
	text, err := os.ReadFile("testdata/resign.json")
	if err != nil {
		t.Fatal(err)
	}
	list, err := broker.ParseVectors(text)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestResignVectors(t *testing.T) {
	for _, r := range registry(t).Check(vectors(t)) {
		if r.Err != nil {
			t.Errorf("%d %s (%s): %v", r.Index, r.Broker, r.Variant, r.Err)
		}
	}
}

// Every profile that signs is proven by vectors, and every vector has a profile.
func TestEveryProfileIsProven(t *testing.T) {
	r := registry(t)
	proven := map[string]int{}
	for _, result := range r.Check(vectors(t)) {
		proven[result.Profile]++
	}
	for _, name := range r.Names() {
		p, err := r.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		if p.Status != broker.Generic && proven[name] == 0 {
			t.Errorf("%s has no vector", name)
		}
	}
	if len(proven) < 21 || proven[""] > 0 {
		t.Errorf("proven: %v", proven)
	}
}

// A request that was changed after the lease signed it is refused: in its signature,
// its key, its query and its body, byte by byte.
func TestResignRefusesTampering(t *testing.T) {
	list := vectors(t)
	names := map[string]map[string]string{
		"binance":         {"api_key": "apiKey", "secret": "secret"},
		"binance#ed25519": {"api_key": "apiKey", "ed25519_key": "secret"},
	}
	profile, flips := binance(t), 0
	for _, v := range list {
		fields, ok := names[v.Broker]
		if !ok {
			continue
		}
		lease, credential := vectorFields(t, v.Lease, fields), vectorFields(t, v.Credential, fields)
		now := broker.Moment{Now: time.UnixMilli(v.NowMS)}
		resign := func(r broker.Request) error {
			call, err := profile.Parse(r)
			if err != nil {
				return err
			}
			_, err = call.Resign(lease, credential, now)
			return err
		}
		in := inbound(v)
		if err := resign(in); err != nil {
			t.Fatalf("untouched: %v", err)
		}
		query := strings.IndexByte(in.URL, '?') + 1
		for i := range in.Body {
			changed := in
			changed.Body = slices.Clone(in.Body)
			changed.Body[i] ^= 1
			flips++
			if resign(changed) == nil {
				t.Fatalf("%s: body byte %d", v.Broker, i)
			}
		}
		for i := query; query > 0 && i < len(in.URL); i++ {
			changed := in
			changed.URL = in.URL[:i] + string(in.URL[i]^1) + in.URL[i+1:]
			flips++
			if in.URL[i] < 0x80 && resign(changed) == nil {
				t.Fatalf("%s: URL byte %d", v.Broker, i)
			}
		}
		other := in
		other.Header = in.Header.Clone()
		other.Header.Set("X-MBX-APIKEY", "LEASE-other")
		if err := resign(other); !errors.Is(err, broker.ErrLease) {
			t.Errorf("another lease's key: %v", err)
		}
		lease, credential = credential, lease
		if err := resign(in); !errors.Is(err, broker.ErrLease) {
			t.Errorf("another lease: %v", err)
		}
	}
	if flips < 1000 {
		t.Errorf("only %d flips", flips)
	}
}

func vectorFields(t *testing.T, given, names map[string]string) *broker.Fields {
	t.Helper()
	m := map[string]string{}
	for field, name := range names {
		m[field] = given[name]
	}
	return binanceFields(t, m)
}

func inbound(v broker.Vector) broker.Request {
	r := broker.Request{Method: v.Inbound.Method, URL: v.Inbound.URL, Header: http.Header{}}
	for name, value := range v.Inbound.Headers {
		r.Header.Set(name, value)
	}
	if v.Inbound.Body != nil {
		r.Body = []byte(*v.Inbound.Body)
	}
	return r
}

// A vector that is wrong is found, and what differs is named without its value.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	list := vectors(t)
	wrong := list[0]
	wrong.Outbound.Headers = map[string]string{"X-MBX-APIKEY": "canary", "Content-Type": wrong.Outbound.Headers["Content-Type"]}
	unknown := list[0]
	unknown.Broker = "nobody"
	es256 := list[slices.IndexFunc(list, func(v broker.Vector) bool { return v.Broker == "coinbase#es256" })]
	es256.Outbound.URL += "x"
	for _, r := range registry(t).Check([]broker.Vector{wrong, unknown, es256}) {
		if r.Err == nil || strings.Contains(r.Err.Error(), "canary") {
			t.Errorf("%d: %v", r.Index, r.Err)
		}
	}
	if _, err := broker.ParseVectors([]byte("{}")); err == nil {
		t.Error("an object was taken for vectors")
	}
}
