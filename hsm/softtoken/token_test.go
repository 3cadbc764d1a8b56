package softtoken_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"warder/hsm"
	"warder/hsm/hsmtest"
	"warder/hsm/softtoken"
)

func open(t *testing.T, dir string) hsm.Token {
	t.Helper()
	token, err := softtoken.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = token.Close() })
	return token
}

func TestContract(t *testing.T) {
	t.Run("memory", func(t *testing.T) { hsmtest.Run(t, func(t *testing.T) hsm.Token { return open(t, "") }) })
	t.Run("files", func(t *testing.T) {
		hsmtest.Run(t, func(t *testing.T) hsm.Token { return open(t, filepath.Join(t.TempDir(), "token")) })
	})
}

func TestKeysSurviveReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "token")
	token := open(t, dir)
	root, err := token.CreateRootKey(t.Context(), "root")
	if err != nil {
		t.Fatal(err)
	}
	node, err := token.NodeKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = token.Close()
	token = open(t, dir)
	if _, err := token.RootKey(t.Context(), root.Fingerprint()); err != nil {
		t.Errorf("root key after reopening: %v", err)
	}
	if again, err := token.NodeKey(t.Context()); err != nil || again.Fingerprint() != node.Fingerprint() {
		t.Errorf("node key after reopening: %v", err)
	}
	eachFile(t, dir, func(path string, mode fs.FileMode) {
		if mode.Perm() != 0o600 {
			t.Errorf("%s has mode %o", path, mode.Perm())
		}
	})
}

func TestDamagedKeyFileIsNamed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "token")
	token := open(t, dir)
	if _, err := token.NodeKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	eachFile(t, dir, func(path string, _ fs.FileMode) {
		if err := os.WriteFile(path, []byte("noise"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := token.NodeKey(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("a damaged key gave %v", err)
	}
}

func TestOpenFolderIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := softtoken.Open(dir); !errors.Is(err, hsm.ErrUnavailable) {
		t.Errorf("a folder that others read gave %v", err)
	}
}

func eachFile(t *testing.T, dir string, visit func(path string, mode fs.FileMode)) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("no key files (%v)", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		visit(filepath.Join(dir, e.Name()), info.Mode())
	}
}
