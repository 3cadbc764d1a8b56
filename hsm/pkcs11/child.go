package pkcs11

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"warder/hsm"
)

// childSocket is the file descriptor on which the child finds its parent.
const childSocket = 3

// closeGrace is what the library has for ending well; the parent waits for twice as long.
const closeGrace = 500 * time.Millisecond

// ServeChild is the child's whole life: it serves the socket on file descriptor 3 until its parent closes it, or dies,
// and gives the exit code. The caller exits with it at once: calls that hang in the library are left behind.
func ServeChild(ctx context.Context) int {
	harden()
	// The parent decides when this ends: a Ctrl-C in the terminal goes to it too, and it still needs the HSM to stop well.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	f := os.NewFile(childSocket, "parent")
	conn, err := net.FileConn(f)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hsm-module is started by the daemon, and not by hand")
		return 2
	}
	_ = f.Close() // conn has its own copy
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := serve(conn); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		return 1
	}
	return 0
}

// harden keeps the PIN and what is decrypted out of core files and from other processes of the user.
func harden() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) // best effort: some sandboxes forbid it
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// serve opens the token as the first frame says, then answers each request in a goroutine of its own.
func serve(conn io.ReadWriter) error {
	in := bufio.NewReader(conn)
	first, err := readFrame(in)
	if err != nil {
		return err
	}
	if n, _ := opOpen.fieldsOf(); operation(first.code) != opOpen || len(first.fields) != n {
		return errFrame
	}
	e, config, err := openFromFrame(first)
	if err != nil {
		return answer(conn, first.id, nil, err)
	}
	if err := answer(conn, first.id, e.describeInfo(), nil); err != nil {
		return err
	}
	defer e.close()
	var writing sync.Mutex
	free := make(chan struct{}, config.Sessions+reservedSessions)
	for {
		request, err := readFrame(in)
		if err != nil {
			return err
		}
		free <- struct{}{}
		go func() {
			defer func() { <-free }()
			out, err := e.handle(request)
			writing.Lock()
			defer writing.Unlock()
			_ = answer(conn, request.id, out, err) // a parent that is gone shows at the next read
			for _, field := range out {
				clear(field)
			}
		}()
	}
}

// close lets the HSM know that its sessions are over. What hangs in the library does not hold up the end.
func (e *engine) close() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = e.ctx.Finalize()
	}()
	select {
	case <-closed:
	case <-time.After(closeGrace):
	}
}

func openFromFrame(f frame) (*engine, Config, error) {
	config := Config{Module: string(f.fields[0]), Label: string(f.fields[1]), Serial: string(f.fields[2]), Init: string(f.fields[3])}
	if n := f.fields[5]; len(n) == 1 && n[0] >= 1 && n[0] <= maxSessions {
		config.Sessions = int(n[0])
	} else {
		return nil, config, errFrame
	}
	known, err := decodeKeys(f.fields[6])
	if err != nil {
		return nil, config, err
	}
	e, err := openEngine(config, f.fields[4], known)
	return e, config, err
}

func answer(w io.Writer, id uint32, out [][]byte, err error) error {
	reply := frame{id: id, fields: out}
	if err != nil {
		reply.code = uint8(statusOf(err))
		reply.fields = [][]byte{[]byte(limit(message(err)))}
	}
	buf, err := reply.encode()
	if err != nil {
		return err
	}
	defer clear(buf)
	_, err = w.Write(buf)
	return err
}

func limit(s string) string {
	if len(s) > maxText {
		return s[:maxText]
	}
	return s
}

// message is a verdict's text alone: its kind travels as the status.
func message(err error) string {
	var v *verdict
	if errors.As(err, &v) {
		return v.text
	}
	return err.Error()
}

// handle does one request. A panic is a fault of ours or of the binding: it must not show what it was working on.
func (e *engine) handle(r frame) (out [][]byte, err error) {
	defer func() {
		if recover() != nil {
			out, err = nil, e.errorf(hsm.ErrUnavailable, "operation %d panicked in the module process", r.code)
		}
	}()
	op := operation(r.code)
	if n, ok := op.fieldsOf(); !ok || n != len(r.fields) {
		return nil, e.errorf(hsm.ErrBadInput, "operation %d with %d fields is not known", r.code, len(r.fields))
	}
	return e.perform(op, r.fields)
}

func (e *engine) perform(op operation, in [][]byte) ([][]byte, error) {
	switch op {
	case opCheck:
		return nil, e.health()
	case opCreateRoot:
		return e.createRoot(string(in[0]))
	case opFindRoot, opDestroyRoot, opDecrypt:
		return e.performRoot(op, in)
	case opNodeKey:
		return e.nodePublic()
	case opSign:
		return e.sign(in[0])
	case opTransport:
		if err := e.custody(); err != nil {
			return nil, err
		}
		return e.transportPublic()
	case opCreateKEK, opHasKEK, opExportKEK, opImportKEK, opGenerate, opSignWrapped:
		return e.performKEK(op, in)
	}
	return nil, e.errorf(hsm.ErrBadInput, "operation %d is not known here", op)
}

func (e *engine) performRoot(op operation, in [][]byte) ([][]byte, error) {
	var fp hsm.Fingerprint
	if len(in[0]) != len(fp) {
		return nil, e.errorf(hsm.ErrBadInput, "a fingerprint has %d bytes", len(fp))
	}
	copy(fp[:], in[0])
	switch op {
	case opFindRoot:
		return e.findRoot(fp)
	case opDestroyRoot:
		return e.destroyRoot(fp)
	}
	return e.decrypt(fp, in[1])
}

func (e *engine) performKEK(op operation, in [][]byte) ([][]byte, error) {
	id := in[0]
	if len(id) != len(hsm.KEKID{}) {
		return nil, e.errorf(hsm.ErrBadInput, "a KEK's id has %d bytes", len(hsm.KEKID{}))
	}
	switch op {
	case opCreateKEK:
		return e.createKEK(id)
	case opHasKEK:
		return e.hasKEK(id)
	case opExportKEK:
		return e.exportKEK(id, in[1])
	case opImportKEK:
		return e.importKEK(id, in[1])
	case opGenerate:
		return e.generate(id, hsm.Algorithm(in[1]))
	}
	return e.signWrapped(id, hsm.WrappedKey{Algorithm: hsm.Algorithm(in[1]), Public: in[2], Blob: in[3]}, in[4])
}

func (e *engine) describeInfo() [][]byte {
	custody := byte(0)
	if e.info.CustodyCapable {
		custody = 1
	}
	return [][]byte{
		[]byte(e.info.Label), []byte(e.info.Serial), []byte(e.info.Manufacturer), []byte(e.info.Model),
		[]byte(e.info.OAEP), {custody}, []byte(limit(e.info.Detail)),
	}
}
