package town

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Node is one node of a town: a process that may run or not, with what outlives it.
type Node struct {
	ID string
	// Dir holds what the node needs beside its data: configuration, log, token. Data is its data folder.
	Dir, Data string
	// API, Peer and Metrics are the addresses it listens on.
	API, Peer, Metrics string
	// Binary is what Launch starts, Wrap the command before it (strace, ip netns exec), Env what is added to its environment.
	// They may be changed between two starts.
	Binary string
	Wrap   []string
	Env    []string

	mu  sync.Mutex
	cmd *exec.Cmd
	log *logFile
	end chan error // gets the result of the running process once
}

// Socket is the path of the node's local socket.
func (n *Node) Socket() string { return filepath.Join(n.Data, "warder.sock") }

// Endpoint is where callers reach the node.
func (n *Node) Endpoint() string { return "https://" + n.API }

// Log gives the last lines that the node wrote.
func (n *Node) Log() string { return n.log.String() }

// Wrote gives everything that the node wrote since it was made.
func (n *Node) Wrote(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.Dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Start starts the process and waits until it answers on its socket.
func (n *Node) Start(t testing.TB) {
	t.Helper()
	n.Launch(t)
	Eventually(t, "node "+n.ID+" answers on its socket", time.Minute, func() error {
		if err := n.Ended(); err != nil {
			return Final(err)
		}
		return exec.Command(n.Binary, "operator", "status", "--socket", n.Socket()).Run()
	})
}

// Launch starts the process, in a process group of its own.
func (n *Node) Launch(t testing.TB) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	file, err := os.OpenFile(filepath.Join(n.Dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	n.log = &logFile{file: file}
	command := append(append([]string{}, n.Wrap...), n.Binary, "server", "--config", filepath.Join(n.Dir, "warder.yaml"))
	n.cmd = exec.Command(command[0], command[1:]...)
	n.cmd.Env = append(os.Environ(), n.Env...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, end := n.cmd, make(chan error, 1)
	n.end = end
	go func() { end <- errors.Join(cmd.Wait(), file.Close()) }()
}

// errEnded says that a process is no more.
var errEnded = errors.New("process ended")

// Ended says how the process ended, or nil while it runs.
func (n *Node) Ended() error {
	select {
	case err := <-n.end:
		n.end <- err
		return fmt.Errorf("node %s has ended (%w):\n%s", n.ID, errors.Join(err, errEnded), n.log)
	default:
		return nil
	}
}

// Kill is kill -9 of the node and all its children, and waits until they are gone.
func (n *Node) Kill() { n.signal(syscall.SIGKILL, true) }

// Stop asks the node to end, and waits until it has.
func (n *Node) Stop() { n.signal(syscall.SIGTERM, true) }

// Pause stops the node where it is (SIGSTOP); Resume lets it go on.
func (n *Node) Pause() { n.signal(syscall.SIGSTOP, false) }

// Resume lets a paused node go on.
func (n *Node) Resume() { n.signal(syscall.SIGCONT, false) }

func (n *Node) signal(what syscall.Signal, wait bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return
	}
	_ = syscall.Kill(-n.cmd.Process.Pid, what) // it may have ended already
	if wait {
		err := <-n.end
		n.end <- err
	}
}

// PID is the process that was started last.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd.Process.Pid
}

// FreeAddress gives an address on loopback that nobody listened on a moment ago. It lies below the ports that the system
// gives to outgoing connections (ip_local_port_range): one of those could take the place of a node that is down.
func FreeAddress(t testing.TB) string {
	t.Helper()
	const first, end = 10000, 32768
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(end-first))
		listener, err := net.Listen("tcp", address)
		if err == nil && listener.Close() == nil {
			return address
		}
	}
	t.Fatal("100 ports tried on loopback, and all are in use")
	return ""
}
