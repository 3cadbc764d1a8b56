package pkcs11_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"warder/hsm"
	"warder/hsm/hsmtest"
	"warder/hsm/pkcs11"
)

// proxy is a SoftHSM token behind testdata/proxy.c, which does what its file of faults says.
type proxy struct {
	config        pkcs11.Config
	faults, calls string
}

func newProxy(t testing.TB) *proxy {
	t.Helper()
	dir := t.TempDir()
	first := &proxy{config: softToken(t)}
	first.config.Module = filepath.Join(dir, "proxy.so")
	compile(t, first.config.Module, filepath.Join("testdata", "proxy.c"))
	return first.at(t, dir)
}

// at gives a proxy with files of its own in dir, the library too: a test may take it away.
func (p *proxy) at(t testing.TB, dir string) *proxy {
	t.Helper()
	next := &proxy{config: p.config, faults: filepath.Join(dir, "faults"), calls: filepath.Join(dir, "calls")}
	next.config.Module = filepath.Join(dir, "proxy.so")
	if next.config.Module != p.config.Module {
		library, err := os.ReadFile(p.config.Module)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(next.config.Module, library, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next.config.Env = []string{p.config.Env[0], "PROXY_MODULE=" + softHSM(t), "PROXY_FAULTS=" + next.faults, "PROXY_CALLS=" + next.calls}
	return next
}

// compile builds a shared object. The PKCS#11 headers are those of the binding.
func compile(t testing.TB, out, source string) {
	t.Helper()
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Fatalf("finding the PKCS#11 headers: %v", err)
	}
	run(t, "", program(t, "gcc", "gcc"), "-shared", "-fPIC", "-O1", "-I"+strings.TrimSpace(string(headers)), "-o", out, source, "-ldl")
}

// fail sets the faults, in place of those before; with none it mends the module.
func (p *proxy) fail(t testing.TB, lines ...string) {
	t.Helper()
	// Written aside and renamed: the module reads it at any moment.
	next := p.faults + ".new"
	if err := os.WriteFile(next, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, p.faults); err != nil {
		t.Fatal(err)
	}
}

// count says how often a function was called so far, over all children.
func (p *proxy) count(t testing.TB, function string) int {
	t.Helper()
	text, err := os.ReadFile(p.calls)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == function {
			n++
		}
	}
	return n
}

func TestProxyContract(t *testing.T) {
	var first *proxy
	hsmtest.Run(t, func(t *testing.T) hsm.Token {
		p := newProxy(t)
		if first == nil {
			first = p
		}
		return open(t, p.config)
	})
	if n := first.count(t, "C_Login"); n != 1 {
		t.Errorf("the contract took %d logins, want 1", n)
	}
}
