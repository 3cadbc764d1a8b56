package pkcs11_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warder/hsm"
	"warder/hsm/pkcs11"
)

// TestOpenSaysWhatIsWrong: each fault gives one error of its kind that names the module, and the token where there is
// one, and says what to do; it never holds the PIN.
func TestOpenSaysWhatIsWrong(t *testing.T) {
	p := newProxy(t)
	dir := t.TempDir()
	text, plain := filepath.Join(dir, "text.so"), filepath.Join(dir, "plain.so")
	source := filepath.Join(dir, "plain.c")
	for path, content := range map[string]string{text: "not a library\n", source: "int nothing;\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	compile(t, plain, source)
	locked := func(c *pkcs11.Config) { c.PIN = pinOf("999999") }
	cases := []struct {
		name   string
		fault  string
		change func(*pkcs11.Config)
		want   error
		says   []string
		logins int
	}{
		{name: "no file", change: func(c *pkcs11.Config) { c.Module = dir + "/none.so" }, want: hsm.ErrModuleMissing, says: []string{"/none.so", "install"}},
		{name: "a folder", change: func(c *pkcs11.Config) { c.Module = dir }, want: hsm.ErrModuleMissing, says: []string{dir, "not a file"}},
		{name: "a text file", change: func(c *pkcs11.Config) { c.Module = text }, want: hsm.ErrModuleMissing, says: []string{text, "not a shared object"}},
		{name: "another library", change: func(c *pkcs11.Config) { c.Module = plain }, want: hsm.ErrModuleMissing, says: []string{plain, "C_GetFunctionList"}},
		{name: "unknown label", change: func(c *pkcs11.Config) { c.Label = "elsewhere" }, want: hsm.ErrTokenMissing, says: []string{`"elsewhere"`, `"warder test"`, "correct the label"}},
		{name: "unknown serial", change: func(c *pkcs11.Config) { c.Serial = "0000" }, want: hsm.ErrTokenMissing, says: []string{`"0000"`}},
		{name: "no tokens", fault: "C_GetSlotList rv 0x30", want: hsm.ErrUnavailable, says: []string{"CKR_DEVICE_ERROR", "connected"}},
		{name: "wrong PIN", change: locked, want: hsm.ErrPINRefused, says: []string{"will not be tried again", "correct the PIN"}, logins: 1},
		{name: "locked PIN", fault: "C_Login rv 0xa4", want: hsm.ErrPINLocked, says: []string{"CKR_PIN_LOCKED", "security officer"}, logins: 1},
		{name: "locked PIN that shows", fault: "C_GetTokenInfo flags 0x40000", want: hsm.ErrPINLocked, says: []string{"no login was tried"}},
		{name: "last attempt", fault: "C_GetTokenInfo flags 0x20000", want: hsm.ErrPINRefused, says: []string{"one attempt is left"}},
		{name: "device dies after login", fault: "C_DecryptInit rv 0x30", want: hsm.ErrUnavailable, says: []string{"CKR_DEVICE_ERROR", "connected"}, logins: 1},
		{name: "full at start", fault: "C_GenerateKeyPair rv 0x31", want: hsm.ErrTokenFull, says: []string{"destroy keys"}, logins: 1},
		{name: "no OAEP", fault: "C_DecryptInit mech 0x9", want: hsm.ErrMechanism, says: []string{"RSA-OAEP", "CKR_MECHANISM_INVALID"}, logins: 1},
		{name: "dead at start", fault: "C_Initialize rv 0x5", want: hsm.ErrUnavailable, says: []string{"does not initialise", "CKR_GENERAL_ERROR"}},
		{name: "crash at start", fault: "C_Initialize crash 0", want: hsm.ErrUnavailable, says: []string{"process is gone"}},
		{name: "hang at login", fault: "C_Login hang 0", change: func(c *pkcs11.Config) { c.Timeout = 200 * time.Millisecond }, want: hsm.ErrTimeout, says: []string{"did not answer in time", "raise the timeout"}, logins: 1},
		{name: "bad config", change: func(c *pkcs11.Config) { c.Module = "relative.so"; c.Sessions = 1000 }, want: hsm.ErrBadInput, says: []string{"absolute path", "sessions"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p.fail(t, c.fault)
			before := p.count(t, "C_Login")
			config := p.config
			if c.change != nil {
				c.change(&config)
			}
			token, err := pkcs11.Open(t.Context(), config)
			if err == nil {
				_ = token.Close()
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			says := c.says
			if errors.Is(err, hsm.ErrPINRefused) || errors.Is(err, hsm.ErrPINLocked) || errors.Is(err, hsm.ErrTimeout) || errors.Is(err, hsm.ErrMechanism) {
				says = append(says, config.Module, config.Label)
			}
			for _, part := range says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), userPIN) || strings.Contains(err.Error(), "999999") {
				t.Errorf("the error holds the PIN: %v", err)
			}
			if n := p.count(t, "C_Login") - before; n != c.logins {
				t.Errorf("%d logins, want %d", n, c.logins)
			}
		})
	}
}

func TestMissingCustodyMechanismIsRefused(t *testing.T) {
	p := newProxy(t)
	p.fail(t, "C_WrapKey mech 0x210a")
	token := open(t, p.config)
	if i := token.Info(); i.CustodyCapable || !strings.Contains(i.Detail, "CKR_MECHANISM_INVALID") {
		t.Errorf("info: %+v", i)
	}
	if err := token.CreateKEK(t.Context(), hsm.KEKID{1}); !errors.Is(err, hsm.ErrMechanism) || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("making a KEK gave %v", err)
	}
}

func TestTokensAreFoundBySerialAmongEqualLabels(t *testing.T) {
	c := softToken(t)
	first := open(t, c).Info()
	initToken(t, c.Env[0], label)
	_, err := pkcs11.Open(t.Context(), c)
	if !errors.Is(err, hsm.ErrTokenMissing) || !strings.Contains(err.Error(), "serial") || !strings.Contains(err.Error(), first.Serial) {
		t.Fatalf("two tokens of one label gave %v", err)
	}
	c.Serial = first.Serial
	if got := open(t, c).Info(); got.Serial != first.Serial {
		t.Errorf("opened %q, want %q", got.Serial, first.Serial)
	}
}

func TestPINSourceErrorsAreKept(t *testing.T) {
	c := softToken(t)
	source, err := hsm.ParsePIN("file:/nowhere/pin")
	if err != nil {
		t.Fatal(err)
	}
	c.PIN = source
	if _, err := pkcs11.Open(t.Context(), c); !errors.Is(err, hsm.ErrPINSource) || !strings.Contains(err.Error(), label) {
		t.Errorf("got %v", err)
	}
}

func TestOpenHonoursItsContext(t *testing.T) {
	p := newProxy(t)
	p.fail(t, "C_Initialize hang 0")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p.config.Timeout = 100 * time.Millisecond
	if _, err := pkcs11.Open(ctx, p.config); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
