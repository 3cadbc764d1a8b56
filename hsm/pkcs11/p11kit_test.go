package pkcs11_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"warder/hsm"
	"warder/hsm/hsmtest"
	"warder/hsm/pkcs11"
)

// remoteToken serves a fresh SoftHSM token over p11-kit's socket, as an HSM on the network. It is the client's config, and
// a server to stop and start.
type remoteToken struct {
	config pkcs11.Config
	socket string
	env    []string
	server *exec.Cmd
}

func newRemote(t testing.TB) *remoteToken {
	t.Helper()
	local := softToken(t)
	dir, err := os.MkdirTemp("", "p11") // a socket's path is short: t.TempDir is too long for some tests
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &remoteToken{socket: filepath.Join(dir, "s"), env: local.Env}
	r.config = local
	r.config.Module = module(t, "p11-kit-modules", "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so")
	r.config.Env = []string{"P11_KIT_SERVER_ADDRESS=unix:path=" + r.socket}
	r.start(t)
	t.Cleanup(func() { r.stop(t) })
	return r
}

func (r *remoteToken) start(t testing.TB) {
	t.Helper()
	// In the foreground, in a group of its own: it forks for each client, and all must go with it.
	r.server = exec.Command(program(t, "p11-kit", "p11-kit"), "server", "-f", "-n", r.socket, "--provider", softHSM(t), "pkcs11:")
	r.server.Env = append(os.Environ(), r.env...)
	r.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.server.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the p11-kit server listens", func() bool {
		_, err := os.Stat(r.socket)
		return err == nil
	})
}

func (r *remoteToken) stop(t testing.TB) {
	t.Helper()
	if r.server == nil {
		return
	}
	_ = syscall.Kill(-r.server.Process.Pid, syscall.SIGKILL)
	_ = r.server.Wait()
	r.server = nil
	_ = os.Remove(r.socket)
}

// eventually waits for another process; there is nothing to be told by.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestP11KitContract(t *testing.T) {
	hsmtest.Run(t, func(t *testing.T) hsm.Token {
		token := open(t, newRemote(t).config)
		// p11-kit 0.24 carries no CKM_AES_KEY_WRAP_PAD over its socket: refused with the reason.
		if i := token.Info(); i.CustodyCapable || !strings.Contains(i.Detail, "CKR_MECHANISM_INVALID") {
			t.Errorf("info: %+v", i)
		}
		return token
	})
}
