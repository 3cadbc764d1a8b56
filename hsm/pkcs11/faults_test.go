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
}

// newBench makes the key with all the time that a loaded machine needs, and opens the token anew with timeout.
func newBench(t *testing.T, timeout time.Duration) *bench {
	t.Helper()
	b := &bench{proxy: newProxy(t)}
	b.config.Timeout = time.Minute
	maker := open(t, b.config)
	made, err := maker.CreateRootKey(t.Context(), "root")
	if err != nil {
		t.Fatal(err)
	}
	_ = maker.Close()
	b.config.Timeout = timeout
	b.token = open(t, b.config)
	if b.key, err = b.token.RootKey(t.Context(), made.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	if b.sealed, err = hsm.EncryptOAEP(b.key.Public(), b.key.Hash(), []byte("plain")); err != nil {
		t.Fatal(err)
	}
	return b
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
	conf := strings.TrimPrefix(b.config.Env[0], "SOFTHSM2_CONF=")
	files, err := filepath.Glob(filepath.Join(filepath.Dir(conf), "tokens", "*", "*.object"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no objects of SoftHSM found (%v)", err)
	}
	return len(files)
}

func TestFaultsThatMendThemselves(t *testing.T) {
	b := newBench(t, 10*time.Second)
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

func TestFaultsThatAreReported(t *testing.T) {
	b := newBench(t, 10*time.Second)
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

func TestDeadDeviceComesBackWithoutARestart(t *testing.T) {
	b := newBench(t, 10*time.Second)
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

func TestHangIsKilledAndReplaced(t *testing.T) {
	b := newBench(t, 2*time.Second)
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

func TestCallerThatLeavesKillsNothing(t *testing.T) {
	b := newBench(t, 10*time.Second)
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

func TestRefusedPINIsLatchedAcrossRestarts(t *testing.T) {
	b := newBench(t, 10*time.Second)
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

func TestRefusedPINIsLatchedWithinAChild(t *testing.T) {
	b := newBench(t, 10*time.Second)
	logins := b.count(t, "C_Login")
	b.fail(t, "C_Login rv 0xa0", "C_DecryptInit rv 0x101")
	for range 3 {
		if err := b.decrypt(t.Context()); !errors.Is(err, hsm.ErrPINRefused) {
			t.Errorf("got %v", err)
		}
	}
	if n := b.count(t, "C_Login") - logins; n != 1 {
		t.Errorf("%d login attempts with a refused PIN, want 1", n)
	}
}

func TestLibraryThatGoesAwayComesBack(t *testing.T) {
	b := newBench(t, 10*time.Second)
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

func TestDroppedSessionsUnderLoad(t *testing.T) {
	b := newBench(t, 10*time.Second)
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
