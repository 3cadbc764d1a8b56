package credential_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"warder/daemon/broker"
	"warder/daemon/credential"
	"warder/daemon/identity"
	"warder/keystore"
	"warder/keystore/keyring"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

type fixture struct {
	*credential.Store
	db      *kv.DB
	log     *keystoretest.FaultyLog
	profile *broker.Profile
}

func open(t testing.TB) *fixture {
	t.Helper()
	profiles, err := broker.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	profile, err := profiles.Get("binance")
	if err != nil {
		t.Fatal(err)
	}
	db, log := keystoretest.Open(t)
	return &fixture{Store: credential.New(db, profiles), db: db, log: log, profile: profile}
}

const (
	apiKey     = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
	secret     = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
	ed25519Key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIIJEYWtGBrhACmb9Dvy+qa8WEf0lQOl1s4CLIAB9m89u\n-----END PRIVATE KEY-----\n"
	order      = "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559"
	orderSig   = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71" // Binance's own example
)

func now() time.Time { return time.UnixMilli(1499827319559) }

func at() broker.Moment { return broker.Moment{Now: now()} }

func values(pairs ...string) credential.Values {
	v := credential.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v[pairs[i]] = keystore.NewSecret([]byte(pairs[i+1]))
	}
	return v
}

func handle(namespace, name string) credential.Handle {
	return credential.At(identity.MustName(namespace), identity.MustName(name))
}

func (f *fixture) create(t testing.TB, h credential.Handle) credential.Credential {
	t.Helper()
	c, err := f.Create(t.Context(), h, credential.Spec{Profile: "binance", Description: "main account",
		Values: values("api_key", apiKey, "secret", secret)}, now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (f *fixture) sign(t testing.TB, h credential.Handle) (credential.Signed, error) {
	t.Helper()
	call, err := f.profile.Parse(broker.Request{Method: "POST", URL: "https://api.binance.com/api/v3/order", Body: []byte(order),
		Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}})
	if err != nil {
		t.Fatal(err)
	}
	return f.Sign(t.Context(), h, call, at())
}

func TestCreateAndSign(t *testing.T) {
	f := open(t)
	h := handle("trading", "binance")
	c := f.create(t, h)
	if c.Handle != h || c.Profile != "binance" || c.Description != "main account" || c.Active() != 1 || c.Revision == 0 ||
		len(c.Versions) != 1 || !slices.Equal(c.Versions[0].Fields, []string{"api_key", "secret"}) {
		t.Errorf("created: %+v", c)
	}
	for range 2 { // parsed, then cached
		s, err := f.sign(t, h)
		if err != nil || s.Version != 1 || string(s.Request.Body) != order+"&signature="+orderSig {
			t.Errorf("signed: %s %v", s.Request.Body, err)
		}
	}
	if f.Cached() != 1 {
		t.Errorf("%d cached", f.Cached())
	}
	if _, err := f.Create(t.Context(), h, credential.Spec{Profile: "binance", Values: values("api_key", "a", "secret", "b")}, now()); !errors.Is(err, credential.ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	if text := fmt.Sprintf("%+v", c); strings.Contains(text, secret) || strings.Contains(text, apiKey) {
		t.Error("a credential shows its values")
	}
}

// Every operation, on the same name in another namespace: nothing is there.
func TestForeignNamespace(t *testing.T) {
	f := open(t)
	f.create(t, handle("trading", "binance"))
	ctx := t.Context()
	for _, h := range []credential.Handle{handle("other", "binance"), handle("trading", "other"), handle("binance", "trading"), {}} {
		operations := map[string]func() error{
			"get":      func() error { _, err := f.Get(ctx, h); return err },
			"sign":     func() error { _, err := f.sign(t, h); return err },
			"reveal":   func() error { _, _, err := f.Reveal(ctx, h, 0); return err },
			"reveal 1": func() error { _, _, err := f.Reveal(ctx, h, 1); return err },
			"rotate": func() error {
				_, err := f.Rotate(ctx, h, values("api_key", "a", "secret", "b"), 0, now())
				return err
			},
			"stage":    func() error { _, err := f.Stage(ctx, h, values("api_key", "a", "secret", "b"), 0, now()); return err },
			"activate": func() error { _, err := f.Activate(ctx, h, 1, now()); return err },
			"destroy":  func() error { _, err := f.Destroy(ctx, h, 1, now()); return err },
			"delete":   func() error { return f.Delete(ctx, h) },
		}
		for name, operation := range operations {
			if err := operation(); !errors.Is(err, credential.ErrNotFound) {
				t.Errorf("%s of %s: %v", name, h, err)
			}
		}
	}
	if list, err := f.List(ctx, identity.MustName("other")); err != nil || len(list) != 0 {
		t.Errorf("list: %v %v", list, err)
	}
	if _, err := f.sign(t, handle("trading", "binance")); err != nil {
		t.Errorf("the credential itself: %v", err)
	}
}

func TestRotate(t *testing.T) {
	f := open(t)
	ctx, h := t.Context(), handle("trading", "binance")
	f.create(t, h)
	if _, err := f.sign(t, h); err != nil {
		t.Fatal(err)
	}
	c, err := f.Rotate(ctx, h, values("api_key", "second", "ed25519_key", ed25519Key), time.Hour, now())
	if err != nil || c.Active() != 2 || c.Versions[0].State != keystore.Retired || !c.Versions[0].Ends.Equal(now().Add(time.Hour)) {
		t.Fatalf("rotated: %+v %v", c, err)
	}
	s, err := f.sign(t, h)
	if err != nil || s.Version != 2 || s.Request.Header.Get("X-MBX-APIKEY") != "second" || strings.Contains(string(s.Request.Body), orderSig) {
		t.Errorf("the new version does not sign: %+v %v", s, err)
	}
	old, number, err := f.Reveal(ctx, h, 1)
	if err != nil || number != 1 || string(old["secret"].Reveal()) != secret {
		t.Errorf("within its grace the old version is there: %v", err)
	}
	if n, err := f.Sweep(ctx, now().Add(59*time.Minute)); n != 0 || err != nil {
		t.Errorf("swept early: %d %v", n, err)
	}
	if n, err := f.Sweep(ctx, now().Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("swept: %d %v", n, err)
	}
	if n, err := f.Sweep(ctx, now().Add(time.Hour)); n != 0 || err != nil {
		t.Errorf("swept again: %d %v", n, err)
	}
	if _, _, err := f.Reveal(ctx, h, 1); !errors.Is(err, keystore.ErrDestroyed) {
		t.Errorf("destroyed version: %v", err)
	}
	if s, err := f.sign(t, h); err != nil || s.Version != 2 {
		t.Errorf("after the sweep: %v", err)
	}
	if _, err := f.Rotate(ctx, h, values("api_key", "a", "secret", "b"), -1, now()); !errors.Is(err, credential.ErrInvalid) {
		t.Errorf("negative grace: %v", err)
	}
}

func TestStageAndTakeBack(t *testing.T) {
	f := open(t)
	ctx, h := t.Context(), handle("trading", "binance")
	f.create(t, h)
	c, err := f.Stage(ctx, h, values("api_key", "second", "secret", "s"), time.Hour, now())
	if err != nil || c.Active() != 1 || c.Versions[1].State != keystore.Pending {
		t.Fatalf("staged: %+v %v", c, err)
	}
	if s, err := f.sign(t, h); err != nil || s.Version != 1 {
		t.Errorf("a pending version signs: %v", err)
	}
	if c, err = f.Activate(ctx, h, 2, now()); err != nil || c.Active() != 2 {
		t.Fatalf("activated: %+v %v", c, err)
	}
	if s, err := f.sign(t, h); err != nil || s.Version != 2 {
		t.Errorf("activated: %v", err)
	}
	if f.Forget(); f.Cached() != 0 {
		t.Error("something is still cached")
	}
	if c, err = f.Activate(ctx, h, 1, now()); err != nil || c.Active() != 1 || !c.Versions[1].Ends.Equal(now().Add(time.Hour)) {
		t.Fatalf("taken back: %+v %v", c, err)
	}
	if s, err := f.sign(t, h); err != nil || s.Version != 1 {
		t.Errorf("taken back: %v", err)
	}
}

// Bad fields are refused before anything is stored, and never echoed.
func TestRefusedFields(t *testing.T) {
	f := open(t)
	ctx, h := t.Context(), handle("trading", "binance")
	const canary = "cAnArYcAnArY"
	cases := []struct {
		name string
		spec credential.Spec
		want error
	}{
		{"no such profile", credential.Spec{Profile: "nobody", Values: values("secret", canary)}, broker.ErrUnknownProfile},
		{"bad key", credential.Spec{Profile: "binance", Values: values("api_key", "k", "ed25519_key", canary)}, broker.ErrField},
		{"missing field", credential.Spec{Profile: "binance", Values: values("secret", canary)}, broker.ErrField},
		{"unknown field", credential.Spec{Profile: "binance", Values: values("api_key", "k", "secret", "s", "pin", canary)}, broker.ErrField},
		{"no fields", credential.Spec{Profile: "static"}, broker.ErrField},
		{"description", credential.Spec{Profile: "static", Description: "a\nb", Values: values("a", canary)}, credential.ErrInvalid},
		{"long description", credential.Spec{Profile: "static", Description: strings.Repeat("x", 300), Values: values("a", canary)}, credential.ErrInvalid},
		{"large", credential.Spec{Profile: "static", Values: values("a", strings.Repeat("x", 16<<10), "b", strings.Repeat("x", 16<<10),
			"c", strings.Repeat("x", 16<<10), "d", strings.Repeat("x", 16<<10))}, credential.ErrInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := f.Create(ctx, h, c.spec, now()); !errors.Is(err, c.want) || strings.Contains(err.Error(), canary) {
				t.Errorf("got %v", err)
			}
			if _, err := f.Get(ctx, h); !errors.Is(err, credential.ErrNotFound) {
				t.Errorf("something was stored: %v", err)
			}
		})
	}
	f.create(t, h)
	if _, err := f.Rotate(ctx, h, values("api_key", "k", "rsa_key", canary), 0, now()); !errors.Is(err, broker.ErrField) || strings.Contains(err.Error(), canary) {
		t.Errorf("rotate: %v", err)
	}
	if c, err := f.Get(ctx, h); err != nil || len(c.Versions) != 1 {
		t.Errorf("a refused rotation changed it: %+v %v", c, err)
	}
}

func TestStaticRevealListDelete(t *testing.T) {
	f := open(t)
	ctx, h := t.Context(), handle("trading", "database")
	spec := credential.Spec{Profile: "static", Values: values("user", "u", "password", "p w")}
	if _, err := f.Create(ctx, h, spec, now()); err != nil {
		t.Fatal(err)
	}
	got, version, err := f.Reveal(ctx, h, 0)
	if err != nil || version != 1 || len(got) != 2 || string(got["password"].Reveal()) != "p w" {
		t.Errorf("revealed: %v", err)
	}
	got.Wipe()
	if _, err := f.sign(t, h); !errors.Is(err, broker.ErrField) {
		t.Errorf("a static secret signs: %v", err)
	}
	f.create(t, handle("trading", "binance"))
	list, err := f.List(ctx, identity.MustName("trading"))
	if err != nil || len(list) != 2 || list[0].Handle.Name().String() != "binance" || list[1].Profile != "static" {
		t.Errorf("list: %+v %v", list, err)
	}
	if err := f.Delete(ctx, h); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Get(ctx, h); !errors.Is(err, credential.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
	if _, _, err := f.Reveal(ctx, h, 1); !errors.Is(err, credential.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

// A change made elsewhere (another node) is seen by the next call, and what was
// cached goes when the credential goes or the node is sealed.
func TestCacheFollowsTheStore(t *testing.T) {
	f := open(t)
	profiles, err := broker.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := credential.New(f.db, profiles)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	}()
	h := handle("trading", "binance")
	f.create(t, h)
	if _, err := f.sign(t, h); err != nil {
		t.Fatal(err)
	}
	if _, err := elsewhere.Rotate(ctx, h, values("api_key", "second", "secret", "s"), 0, now()); err != nil {
		t.Fatal(err)
	}
	if s, err := f.sign(t, h); err != nil || s.Version != 2 {
		t.Errorf("the old version signed: %v", err)
	}
	ring, err := f.log.Keys().Keyring()
	if err != nil {
		t.Fatal(err)
	}
	f.log.Keys().Clear()
	f.db.Wake()
	eventually(t, "sealed: nothing is cached", func() bool { return f.Cached() == 0 })
	if _, err := f.sign(t, h); !errors.Is(err, keyring.ErrSealed) {
		t.Errorf("sealed: %v", err)
	}
	f.log.Keys().Set(ring)
	f.db.Wake()
	if _, err := f.sign(t, h); err != nil {
		t.Errorf("unsealed: %v", err)
	}
	if err := elsewhere.Delete(ctx, h); err != nil {
		t.Fatal(err)
	}
	eventually(t, "deleted: nothing is cached", func() bool { return f.Cached() == 0 })
	if _, err := f.sign(t, h); !errors.Is(err, credential.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

// A log that fails both ways, and one where someone else is always first.
func TestFaults(t *testing.T) {
	f := open(t)
	ctx, h := t.Context(), handle("trading", "binance")
	spec := credential.Spec{Profile: "binance", Values: values("api_key", apiKey, "secret", secret)}
	f.log.Next(keystoretest.NotDone)
	if c, err := f.Create(ctx, h, spec, now()); !errors.Is(err, keystoretest.ErrNotDone) || c.Revision != 0 {
		t.Errorf("not done: %v", err)
	}
	f.log.Next(keystoretest.DoneButFailed)
	if c, err := f.Create(ctx, h, spec, now()); !errors.Is(err, keystoretest.ErrUnknown) || c.Revision != 0 {
		t.Errorf("done, but said failed: %v", err)
	}
	if _, err := f.Create(ctx, h, spec, now()); !errors.Is(err, credential.ErrExists) {
		t.Errorf("again: %v", err)
	}
	f.log.Next(keystoretest.Conflict, keystoretest.Conflict)
	if c, err := f.Rotate(ctx, h, values("api_key", "second", "secret", "s"), 0, now()); err != nil || len(c.Versions) != 2 {
		t.Errorf("after two conflicts: %+v %v", c, err)
	}
	f.log.Next(keystoretest.DoneButFailed)
	if _, err := f.Rotate(ctx, h, values("api_key", "third", "secret", "s"), 0, now()); !errors.Is(err, keystoretest.ErrUnknown) {
		t.Errorf("done, but said failed: %v", err)
	}
	if s, err := f.sign(t, h); err != nil || s.Version != 3 {
		t.Errorf("what is stored signs: %v", err)
	}
}

// With nobody to drop what is cached, the next call sees a change all the same.
func TestSignReadsTheRevision(t *testing.T) {
	f := open(t)
	profiles, err := broker.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := credential.New(f.db, profiles)
	h := handle("trading", "binance")
	f.create(t, h)
	if _, err := f.sign(t, h); err != nil || f.Cached() != 1 {
		t.Fatal(err)
	}
	if _, err := elsewhere.Rotate(t.Context(), h, values("api_key", "second", "secret", "s"), 0, now()); err != nil {
		t.Fatal(err)
	}
	if s, err := f.sign(t, h); err != nil || s.Version != 2 {
		t.Errorf("the old version signed: %v", err)
	}
	if err := elsewhere.Delete(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if _, err := f.sign(t, h); !errors.Is(err, credential.ErrNotFound) || f.Cached() != 0 {
		t.Errorf("deleted: %v", err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func BenchmarkSignHMAC(b *testing.B) {
	benchmarkSign(b, values("api_key", apiKey, "secret", secret))
}

func BenchmarkSignEd25519(b *testing.B) {
	benchmarkSign(b, values("api_key", apiKey, "ed25519_key", ed25519Key))
}

func benchmarkSign(b *testing.B, v credential.Values) {
	f := open(b)
	h := handle("trading", "binance")
	if _, err := f.Create(b.Context(), h, credential.Spec{Profile: "binance", Values: v}, now()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.sign(b, h); err != nil {
			b.Fatal(err)
		}
	}
}
