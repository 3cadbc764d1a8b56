package main_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

const trustDomain = "e2e.warder.internal"

// binary is the program under test, built once for the package.
func TestMain(m *testing.M) {
	if os.Getenv("WARDER_E2E_BINARY") == "" {
		dir, err := os.MkdirTemp("", "warder-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		path := filepath.Join(dir, "warder")
		if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build warder: %v\n%s", err, out)
			os.Exit(1)
		}
		_ = os.Setenv("WARDER_E2E_BINARY", path)
		code := m.Run()
		_ = os.RemoveAll(dir) // a leftover lies in the system's temporary folder
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func binary() string { return os.Getenv("WARDER_E2E_BINARY") }

// process is one node: a real process with its own folder, ports and software token.
type process struct {
	id   string
	dir  string
	api  string
	peer string

	mu  sync.Mutex
	cmd *exec.Cmd
	log *logFile
	end chan error // gets the result of the running process once
}

// testCluster is three processes and an operator's client.
type testCluster struct {
	nodes  []*process
	client *client.Client
	dir    string
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func newTestCluster(t testing.TB) *testCluster {
	t.Helper()
	c := &testCluster{dir: t.TempDir()}
	var endpoints []string
	for _, id := range []string{"n1", "n2", "n3"} {
		n := &process{id: id, dir: filepath.Join(c.dir, id), api: freeAddress(t), peer: freeAddress(t)}
		n.configure(t)
		n.start(t)
		t.Cleanup(n.kill)
		c.nodes = append(c.nodes, n)
		endpoints = append(endpoints, "https://"+n.api)
	}
	operator := filepath.Join(c.dir, "operator")
	args := []string{"operator", "init", "--context", operator + "/context.yaml", "--socket", c.nodes[0].socket(), "--cluster-trust-domain", trustDomain}
	for _, endpoint := range endpoints {
		args = append(args, "--endpoint", endpoint)
	}
	warder(t, args...)
	for _, n := range c.nodes[1:] {
		warder(t, "operator", "join", "--context", operator+"/context.yaml", "--socket", n.socket())
	}
	c.client = c.dial(t, operator, endpoints...)
	eventually(t, "three voters", 30*time.Second, func() error {
		members, err := c.client.Cluster.ListMembers(t.Context(), &warderv1.ListMembersRequest{})
		if err != nil {
			return err
		}
		voters := 0
		for _, member := range members.GetMembers() {
			if member.GetVoter() {
				voters++
			}
		}
		if voters != 3 {
			return fmt.Errorf("%d voters", voters)
		}
		return nil
	})
	return c
}

func (c *testCluster) dial(t testing.TB, dir string, endpoints ...string) *client.Client {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	dialled, err := client.Dial(client.Config{
		Endpoints: endpoints, CA: roots, TrustDomain: trustDomain, Certificate: client.StaticCertificate(certificate), Timeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dialled.Close)
	return dialled
}

// at gives a client that asks one node only.
func (c *testCluster) at(t testing.TB, n *process) *client.Client {
	t.Helper()
	return c.dial(t, filepath.Join(c.dir, "operator"), "https://"+n.api)
}

func (n *process) data() string   { return filepath.Join(n.dir, "data") }
func (n *process) socket() string { return filepath.Join(n.data(), "warder.sock") }

func (n *process) configure(t testing.TB) {
	t.Helper()
	text := fmt.Sprintf("node: %s\ndata_dir: %s\ntrust_domain: %s\ndev: true\napi:\n  listen: [%q]\ncluster:\n  listen: %s\nlog:\n  level: info\n",
		n.id, n.data(), trustDomain, n.api, n.peer)
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "warder.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts the process and waits until it answers on its socket.
func (n *process) start(t testing.TB) {
	t.Helper()
	n.launch(t)
	eventually(t, "node "+n.id+" answers on its socket", 30*time.Second, func() error {
		if err := n.ended(); err != nil {
			return &finalError{err}
		}
		return exec.Command(binary(), "operator", "status", "--socket", n.socket()).Run()
	})
}

func (n *process) launch(t testing.TB) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	n.log = &logFile{file: log}
	n.cmd = exec.Command(binary(), "server", "--config", filepath.Join(n.dir, "warder.yaml"))
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, end := n.cmd, make(chan error, 1)
	n.end = end
	go func() { end <- cmd.Wait() }()
}

// ended says how the process ended, or nil while it runs.
func (n *process) ended() error {
	select {
	case err := <-n.end:
		n.end <- err
		return fmt.Errorf("node %s has ended (%w):\n%s", n.id, errors.Join(err, errEnded), n.log)
	default:
		return nil
	}
}

var errEnded = errors.New("process ended")

// kill is kill -9, and waits until the process is gone.
func (n *process) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGKILL) // it may have ended already
	err := <-n.end
	n.end <- err
}

// logFile is a process's output: a file for people, and its last part for messages.
type logFile struct {
	file *os.File
	mu   sync.Mutex
	last bytes.Buffer
}

func (l *logFile) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.Len() > 1<<16 {
		l.last.Next(l.last.Len() / 2)
	}
	l.last.Write(text)
	return l.file.Write(text)
}

func (l *logFile) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(l.last.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

func warder(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(binary(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("warder %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// finalError ends eventually at once.
type finalError struct{ error }

// eventually asks until it is told yes, or fails the test when the time is up: for what other processes do.
func eventually(t testing.TB, what string, bound time.Duration, ask func() error) {
	t.Helper()
	deadline, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		var final *finalError
		if err == nil {
			return
		}
		if errors.As(err, &final) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-deadline.Done():
			t.Fatalf("%s: not within %s: %v", what, bound, err)
		case <-tick.C:
		}
	}
}

// ready waits until a node serves callers.
func (c *testCluster) ready(t testing.TB, n *process) {
	t.Helper()
	one := c.at(t, n)
	eventually(t, "node "+n.id+" serves", 60*time.Second, func() error {
		if err := n.ended(); err != nil {
			return &finalError{err}
		}
		return servesAll(t, one)
	})
}
