package pkcs11_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"warder/hsm"
)

// bench is an open token behind the proxy, with a root key.
type bench struct {
	*proxy
	token  hsm.Token
	key    hsm.RootKey
	sealed []byte
	tokens string // SoftHSM's folder
}

// template is a token with a root key, made once: each test has a copy. RSA keys take long to make.
type template struct {
	made   *proxy
	tokens string
	root   hsm.Fingerprint
}

func newTemplate(t *testing.T) *template {
	t.Helper()
	tpl := &template{made: newProxy(t)}
	conf := strings.TrimPrefix(tpl.made.config.Env[0], softHSMConf)
	tpl.tokens = filepath.Join(filepath.Dir(conf), "tokens")
	maker := open(t, tpl.made.config)
	root, err := maker.CreateRootKey(t.Context(), "root")
	if err != nil {
		t.Fatal(err)
	}
	tpl.root = root.Fingerprint()
	_ = maker.Close()
	return tpl
}

func newBench(t *testing.T, tpl *template, timeout time.Duration) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{proxy: tpl.made.at(t, dir), tokens: filepath.Join(dir, "tokens")}
	if err := os.CopyFS(b.tokens, os.DirFS(tpl.tokens)); err != nil {
		t.Fatal(err)
	}
	b.config.Env[0] = softHSMConf + configure(t, dir)
	b.config.Timeout = timeout
	b.token = open(t, b.config)
	var err error
	if b.key, err = b.token.RootKey(t.Context(), tpl.root); err != nil {
		t.Fatal(err)
	}
	if b.sealed, err = hsm.EncryptOAEP(b.key.Public(), b.key.Hash(), []byte("plain")); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFaults(t *testing.T) {
	tpl := newTemplate(t)
	for name, test := range map[string]func(*testing.T, *template){
		"faults that mend themselves":              faultsThatMendThemselves,
		"faults that are reported":                 faultsThatAreReported,
		"dead device comes back without a restart": deadDeviceComesBackWithoutARestart,
		"hang is killed and replaced":              hangIsKilledAndReplaced,
		"caller that leaves kills nothing":         callerThatLeavesKillsNothing,
		"refused PIN is latched across restarts":   refusedPINIsLatchedAcrossRestarts,
		"refused PIN is latched within a child":    refusedPINIsLatchedWithinAChild,
		"library that goes away comes back":        libraryThatGoesAwayComesBack,
		"dropped sessions under load":              droppedSessionsUnderLoad,
	} {
		t.Run(name, func(t *testing.T) { test(t, tpl) })
	}
}

func (b *bench) decrypt(ctx context.Context) error {
	plain, err := b.key.Decrypt(ctx, b.sealed)
	if err == nil && string(plain) != "plain" {
		return errors.New("decrypted to something else")
	}
	return err
}

// works waits until the token is well again; the host backs off between its attempts.
func (b *bench) works(t *testing.T) {
	t.Helper()
	eventually(t, "the token works again", func() bool { return b.decrypt(t.Context()) == nil })
	if err := b.token.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
}

// objects counts what SoftHSM keeps, a file for each object.
func (b *bench) objects(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.tokens, "*", "*.object"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no objects of SoftHSM found (%v)", err)
	}
	return len(files)
}

func faultsThatMendThemselves(t *testing.T, tpl *template) {
	b := newBench(t, tpl, 10*time.Second)
	cases := []struct{ name, fault string }{
		{"sessions dropped", "!C_DecryptInit drop 0"},
		{"session handle invalid", "!C_DecryptInit rv 0xb3"},
		{"session closed", "!C_Decrypt rv 0xb0"},
		{"logged out", "!C_DecryptInit rv 0x101"},
		{"key handle invalid", "!C_DecryptInit rv 0x60"},
		{"operation active", "!C_DecryptInit rv 0x90"},
		{"device error that passes", "!C_Decrypt rv 0x30"},
		{"crash", "!C_Decrypt crash 0"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b.fail(t, c.fault)
			if err := b.decrypt(t.Context()); err != nil {
				t.Errorf("decrypting: %v", err)
			}
			if _, err := os.Stat(b.faults); err == nil {
				t.Error("the fault did not strike")
			}
			b.fail(t, c.fault)
			if err := b.token.Check(t.Context()); err != nil {
				t.Errorf("check: %v", err)
			}
		})
	}
}

func faultsThatAreReported(t *testing.T, tpl *template) {
	b := newBench(t, tpl, 10*time.Second)
	logins := b.count(t, "C_Login")
	decrypt := func() error { return b.decrypt(t.Context()) }
	create := func() error { _, err := b.token.CreateRootKey(t.Context(), "another"); return err }
	objects := b.objects(t)
	cases := []struct {
		name, fault string
		do          func() error
		want        error
	}{
		{"a code that says nothing, on a token that is well", "!C_Decrypt rv 0x5", decrypt, hsm.ErrBadInput},
		{"function failed, on a token that is well", "!C_Decrypt rv 0x6", decrypt, hsm.ErrBadInput},
		{"token full", "C_GenerateKeyPair rv 0x31", create, hsm.ErrTokenFull},
		{"mechanism forbidden", "C_GenerateKeyPair mech 0x0", create, hsm.ErrMechanism},
		{"template ignored", "C_GetAttributeValue leak 0", create, hsm.ErrMechanism},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b.fail(t, c.fault)
			if err := c.do(); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if n := b.objects(t); n != objects {
				t.Errorf("%d objects more on the token", n-objects)
			}
			b.fail(t)
			if err := b.decrypt(t.Context()); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	if n := b.count(t, "C_Login"); n != logins {
		t.Errorf("%d more logins for faults that need none", n-logins)
	}
}

func deadDeviceComesBackWithoutARestart(t *testing.T, tpl *template) {
	b := newBench(t, tpl, 10*time.Second)
	b.fail(t, "C_Decrypt rv 0x30", "C_DecryptInit rv 0x30")
	if err := b.decrypt(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("a dead device gave %v", err)
	}
	if err := b.token.Check(t.Context()); err == nil {
		t.Error("a dead device passed its check")
	}
	b.fail(t)
	b.works(t)
}

func hangIsKilledAndReplaced(t *testing.T, tpl *template) {
	b := newBench(t, tpl, 2*time.Second)
	b.fail(t, "!C_Decrypt hang 0")
	errs := make(chan error, 6) // more callers than there are sessions
	for range cap(errs) {
		go func() { errs <- b.decrypt(t.Context()) }()
	}
	late := 0
	for range cap(errs) {
		err := <-errs
		switch {
		case errors.Is(err, hsm.ErrTimeout):
			late++
		case err != nil:
			t.Errorf("a neighbour of a call that hangs got %v", err)
		}
	}
	if late != 1 {
		t.Errorf("%d calls timed out, want the one that hung", late)
	}
	b.works(t)
}

func callerThatLeavesKillsNothing(t *testing.T, tpl *template) {
	b := newBench(t, tpl, 10*time.Second)
	logins := b.count(t, "C_Login")
	b.fail(t, "C_Decrypt sleep 300")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := b.decrypt(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that left got %v", err)
	}
	b.fail(t)
	b.works(t)
	if n := b.count(t, "C_Login"); n != logins {
		t.Errorf("%d more logins: the child was replaced", n-logins)
	}
}

func refusedPINIsLatchedAcrossRestarts(t *testing.T, tpl *template) {
	b := newBench(t, tpl, 10*time.Second)
	logins := b.count(t, "C_Login")
	b.fail(t, "C_Login rv 0xa0", "C_Decrypt crash 0")
	for range 5 {
		if err := b.decrypt(t.Context()); !errors.Is(err, hsm.ErrPINRefused) {
			t.Errorf("got %v", err)
		}
	}
	b.fail(t) // even when it would work now: nobody gave another PIN
	if err := b.token.Check(t.Context()); !errors.Is(err, hsm.ErrPINRefused) {
		t.Errorf("got %v", err)
	}
	if n := b.count(t, "C_Login") - logins; n != 1 {
		t.Errorf("%d login attempts with a refused PIN, want 1", n)
	}
}

func refusedPINIsLatchedWithinAChild(t *testing.T, tpl *template) {
	b := newBench(t, tpl, 10*time.Second)
	logins := b.count(t, "C_Login")
	b.fail(t, "C_Login rv 0xa0", "C_DecryptInit rv 0x101")
	// Several at once, so that more than one finds itself logged out before the parent hears of the first.
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() { errs <- errors.Join(b.decrypt(t.Context()), b.token.Check(t.Context())) }()
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, hsm.ErrPINRefused) {
			t.Errorf("got %v", err)
		}
	}
	if n := b.count(t, "C_Login") - logins; n != 1 {
		t.Errorf("%d login attempts with a refused PIN, want 1", n)
	}
}

func libraryThatGoesAwayComesBack(t *testing.T, tpl *template) {
	b := newBench(t, tpl, 10*time.Second)
	aside := b.config.Module + ".aside"
	if err := os.Rename(b.config.Module, aside); err != nil {
		t.Fatal(err)
	}
	b.fail(t, "!C_Decrypt crash 0")
	if err := b.decrypt(t.Context()); !errors.Is(err, hsm.ErrModuleMissing) {
		t.Errorf("a library that went away gave %v", err)
	}
	if err := os.Rename(aside, b.config.Module); err != nil {
		t.Fatal(err)
	}
	b.works(t)
}

func droppedSessionsUnderLoad(t *testing.T, tpl *template) {
	b := newBench(t, tpl, 10*time.Second)
	node, err := b.token.NodeKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("load"))
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 20 {
				if _, err := node.Sign(t.Context(), digest[:]); err != nil && !errors.Is(err, hsm.ErrUnavailable) && !errors.Is(err, hsm.ErrBadInput) {
					t.Errorf("under dropped sessions: %v", err)
				}
			}
		})
	}
	for range 4 {
		b.fail(t, "!C_SignInit drop 0")
		_ = b.decrypt(t.Context()) // paces the drops; it may meet one
	}
	callers.Wait()
	b.fail(t)
	b.works(t)
}

func TestNetworkHSMGoesAwayAndComesBack(t *testing.T) {
	r := newRemote(t)
	token := open(t, r.config)
	if err := token.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.stop(t)
	if err := token.Check(t.Context()); err == nil {
		t.Error("a token that is gone passed its check")
	}
	r.start(t)
	eventually(t, "the token is back", func() bool { return token.Check(t.Context()) == nil })
}
