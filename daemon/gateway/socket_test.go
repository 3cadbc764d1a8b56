package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"warder/daemon/gateway"
)

func TestSocketKnowsItsPeer(t *testing.T) {
	dir, err := os.MkdirTemp("", "warder-gateway")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	cfg := gateway.Config{Addresses: []string{}, Socket: path, SocketHandler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		uid, ok := gateway.PeerUID(r.Context())
		fmt.Fprint(w, uid, ok)
	})}
	r := serve(t, cfg)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	if _, body := fetch(t, c, "GET", "http://warder/", nil); body != fmt.Sprint(os.Geteuid(), true) {
		t.Errorf("peer: %s", body)
	}
	if _, err := gateway.Open(cfg); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second gateway on the socket: %v", err)
	}
	if os.Geteuid() == 0 {
		foreignUser(t, dir, path)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	serve(t, cfg) // in place of what a dead process left
}

// foreignUser connects as nobody, past the file's mode: the kernel's word about the peer must be enough.
func foreignUser(t *testing.T, dir, path string) {
	t.Helper()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const keep = ^uintptr(0)
	if _, _, err := unix.RawSyscall(unix.SYS_SETRESUID, keep, 65534, keep); err != 0 {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if _, _, back := unix.RawSyscall(unix.SYS_SETRESUID, keep, 0, keep); back != 0 {
		panic("the test's thread cannot become root again")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, _ = unix.Write(fd, []byte("GET / HTTP/1.0\r\n\r\n")) // may already be refused
	if n, err := unix.Read(fd, make([]byte, 1)); n > 0 {
		t.Errorf("a foreign user is served: %d, %v", n, err)
	}
}

func TestSocketThatIsNoSocketIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{path, "/" + strings.Repeat("x", 200)} {
		if _, err := gateway.Open(gateway.Config{Socket: socket, SocketHandler: http.NotFoundHandler()}); err == nil {
			t.Errorf("%s is accepted", socket)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "kept" {
		t.Errorf("the file is gone: %v", err)
	}
}
