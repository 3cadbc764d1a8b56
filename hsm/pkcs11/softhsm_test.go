package pkcs11_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"warder/hsm"
	"warder/hsm/hsmtest"
	"warder/hsm/pkcs11"
)

const (
	childVerb = "hsm-module"

	softHSMConf = "SOFTHSM2_CONF="
	userPIN     = "123456"
	label       = "warder test"
)

// TestMain makes this test binary its own child, as the daemon's is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == childVerb {
		os.Exit(pkcs11.ServeChild(context.Background()))
	}
	if len(os.Args) == 3 && os.Args[1] == orphanVerb {
		os.Exit(orphan(os.Args[2]))
	}
	os.Exit(m.Run())
}

// module finds a PKCS#11 library, or fails with the package to install.
func module(t testing.TB, apt string, paths ...string) string {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("none of %v is there: apt-get install %s", paths, apt)
	return ""
}

func program(t testing.TB, apt, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not there: apt-get install %s", name, apt)
	}
	return path
}

func softHSM(t testing.TB) string {
	return module(t, "softhsm2", "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so")
}

// softToken initialises a fresh SoftHSM token in a folder of its own.
func softToken(t testing.TB) pkcs11.Config {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	env := softHSMConf + configure(t, dir)
	initToken(t, env, label)
	return pkcs11.Config{
		Module: softHSM(t), Label: label, PIN: pinOf(userPIN), Env: []string{env},
		Executable: []string{os.Args[0], childVerb}, Timeout: 20 * time.Second,
	}
}

// configure writes SoftHSM's configuration for the folder "tokens" in dir, and gives its path.
func configure(t testing.TB, dir string) string {
	t.Helper()
	conf := filepath.Join(dir, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", filepath.Join(dir, "tokens"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return conf
}

func initToken(t testing.TB, env, label string) {
	t.Helper()
	run(t, env, program(t, "softhsm2", "softhsm2-util"), "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", userPIN)
}

func run(t testing.TB, env, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", path, err, out)
	}
}

func pinOf(pin string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) { return []byte(pin), nil }
}

func open(t testing.TB, c pkcs11.Config) hsm.Token {
	t.Helper()
	token, err := pkcs11.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	t.Cleanup(func() { _ = token.Close() })
	return token
}

func TestSoftHSMContract(t *testing.T) {
	hsmtest.Run(t, func(t *testing.T) hsm.Token {
		token := open(t, softToken(t))
		if i := token.Info(); !i.CustodyCapable || i.Software {
			t.Errorf("SoftHSM should hold device keys: %+v", i)
		}
		return token
	})
}
