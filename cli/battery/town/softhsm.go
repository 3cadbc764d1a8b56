package town

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// SoftHSM gives each node a SoftHSM 2 token of its own, behind a module that fails as its file of faults says
// (hsm/pkcs11/testdata/proxy.c tells how). Its Config is a Plan's.
type SoftHSM struct{ proxy, module string }

// pin is the user PIN of every token; WrongPIN is not.
const (
	pin      = "battery-1234"
	WrongPIN = "battery-4321"
)

// NewSoftHSM builds the proxy.
func NewSoftHSM(t testing.TB) *SoftHSM {
	t.Helper()
	h := &SoftHSM{proxy: filepath.Join(t.TempDir(), "proxy.so"), module: softHSMModule(t)}
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Fatalf("find the PKCS#11 headers: %v", err)
	}
	source := filepath.Join(Root(t), "hsm", "pkcs11", "testdata", "proxy.c")
	command(t, nil, "gcc", "-shared", "-fPIC", "-O1", "-I"+strings.TrimSpace(string(headers)), "-o", h.proxy, source, "-ldl")
	return h
}

// BareSoftHSM gives each node a token without anything before its module: for measures.
func BareSoftHSM(t testing.TB) *SoftHSM {
	t.Helper()
	module := softHSMModule(t)
	return &SoftHSM{proxy: module, module: module}
}

func softHSMModule(t testing.TB) string {
	t.Helper()
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("there is no SoftHSM 2 here: make deps")
	return ""
}

func command(t testing.TB, env []string, name string, args ...string) {
	t.Helper()
	run := exec.Command(name, args...)
	run.Env = append(os.Environ(), env...)
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// Config makes a node's token and gives the lines of its configuration.
func (h *SoftHSM) Config(t testing.TB, n *Node) string {
	t.Helper()
	if err := os.Mkdir(h.Tokens(n), 0o700); err != nil {
		t.Fatal(err)
	}
	lines := h.install(t, n, h.Label(n))
	command(t, n.Env, "softhsm2-util", "--init-token", "--free", "--label", h.Label(n), "--so-pin", "so-battery-1234", "--pin", pin)
	return lines
}

// Copied gives a copy of a node a copy of its token, and the lines of its configuration. See [Town.Copy].
func (h *SoftHSM) Copied(t testing.TB, n, twin *Node) string {
	t.Helper()
	command(t, nil, "cp", "-a", h.Tokens(n), h.Tokens(twin))
	return h.install(t, twin, h.Label(n))
}

// install has a node use the token in its folder.
func (h *SoftHSM) install(t testing.TB, n *Node, label string) string {
	t.Helper()
	settings := filepath.Join(n.Dir, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", h.Tokens(n))
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Env = append(n.Env, "SOFTHSM2_CONF="+settings, "PROXY_MODULE="+h.module, "PROXY_FAULTS="+h.faults(n), "PROXY_CALLS="+h.calls(n))
	h.SetPIN(t, n, pin)
	return fmt.Sprintf("hsm:\n  module: %s\n  label: %s\n  pin: file:%s\n  timeout: 3s\n", h.proxy, label, filepath.Join(n.Dir, "pin"))
}

// Label is the label of a node's token, and Tokens the folder that holds it.
func (h *SoftHSM) Label(n *Node) string { return "battery-" + n.ID }

// Tokens is the folder that holds a node's token.
func (h *SoftHSM) Tokens(n *Node) string { return filepath.Join(n.Dir, "tokens") }

func (h *SoftHSM) faults(n *Node) string { return filepath.Join(n.Dir, "faults") }
func (h *SoftHSM) calls(n *Node) string  { return filepath.Join(n.Dir, "calls") }

// Module is the path of the module as the nodes know it.
func (h *SoftHSM) Module() string { return h.proxy }

// SetPIN writes the file that a node reads its PIN from. An empty one is the right one.
func (h *SoftHSM) SetPIN(t testing.TB, n *Node, text string) {
	t.Helper()
	if text == "" {
		text = pin
	}
	if err := os.WriteFile(filepath.Join(n.Dir, "pin"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Fail sets the faults of a node's module, in place of those before; with none it mends it.
func (h *SoftHSM) Fail(t testing.TB, n *Node, lines ...string) {
	t.Helper()
	next := h.faults(n) + ".new" // written aside and renamed: the module reads it at any moment
	if err := os.WriteFile(next, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, h.faults(n)); err != nil {
		t.Fatal(err)
	}
}

// Calls says how often a node's module was asked for a function so far.
func (h *SoftHSM) Calls(t testing.TB, n *Node, function string) int {
	t.Helper()
	text, err := os.ReadFile(h.calls(n))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == function {
			count++
		}
	}
	return count
}

// KillModule kills the process in which a node runs the module.
func (h *SoftHSM) KillModule(t testing.TB, n *Node) {
	t.Helper()
	command(t, nil, "pkill", "-KILL", "-P", fmt.Sprint(n.PID()), "-f", "hsm-module")
}
