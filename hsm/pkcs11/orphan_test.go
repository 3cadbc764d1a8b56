package pkcs11_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warder/hsm/pkcs11"
)

const orphanVerb = "orphan-parent"

// orphanArgs is a pkcs11.Config without its functions.
type orphanArgs struct {
	Module, Label string
	Env           []string
}

// orphan is a daemon in little: it opens the token, says so, and waits in a call that hangs in the library.
func orphan(args string) int {
	var a orphanArgs
	if err := json.Unmarshal([]byte(args), &a); err != nil {
		return 2
	}
	token, err := pkcs11.Open(context.Background(), pkcs11.Config{
		Module: a.Module, Label: a.Label, Env: a.Env, PIN: pinOf(userPIN), Timeout: time.Minute, Executable: []string{os.Args[0], childVerb},
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("open")
	_ = token.Check(context.Background())
	return 0
}

// TestChildDiesWithItsParent: killed with -9, the parent says no farewell, and the child is in a call that never ends.
func TestChildDiesWithItsParent(t *testing.T) {
	p := newProxy(t)
	args, err := json.Marshal(orphanArgs{p.config.Module, p.config.Label, p.config.Env})
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(os.Args[0], orphanVerb, string(args))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.fail(t)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatalf("parent said %q, %v", line, err)
	}
	p.fail(t, "C_Decrypt hang 0")
	child := childOf(t, parent.Process.Pid)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, "the child is gone", func() bool { return gone(child) })
}

func childOf(t *testing.T, pid int) int {
	t.Helper()
	var children []string
	eventually(t, "the parent has a child", func() bool {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
			children = append(children, strings.Fields(string(text))...)
		}
		return len(children) > 0
	})
	child, err := strconv.Atoi(children[0])
	if err != nil {
		t.Fatal(err)
	}
	return child
}

// gone: no such process, or one that ended and that nobody has reaped yet.
func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(text), ") ")
	return strings.HasPrefix(state, "Z")
}

// TestChildRefusesStrangers: noise on the socket, and a socket that closes at once, end it without a word.
func TestChildRefusesStrangers(t *testing.T) {
	for name, noise := range map[string]string{
		"nothing": "", "an endless frame": "\xff\xff\xff\xff", "a short frame": "\x00\x00\x00\x01x", "another operation first": "\x00\x00\x00\x05\x00\x00\x00\x01\x02",
	} {
		t.Run(name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			theirs := os.NewFile(uintptr(pair[1]), "child")
			var said strings.Builder
			child := exec.Command(os.Args[0], childVerb)
			child.ExtraFiles = []*os.File{theirs}
			child.Stdout, child.Stderr = &said, &said
			child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			_ = theirs.Close()
			if _, err := unix.Write(pair[0], []byte(noise)); err != nil {
				t.Fatal(err)
			}
			_ = unix.Close(pair[0])
			_ = child.Wait()
			if said.Len() > 0 {
				t.Errorf("the child said %q", said.String())
			}
		})
	}
}
