package pkcs11

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"warder/hsm"
)

// process is one child and the calls that wait for it.
type process struct {
	cmd  *exec.Cmd
	conn net.Conn
	name string        // how errors call the token
	done chan struct{} // closed when the child was reaped and every call was answered

	writing sync.Mutex

	mu      sync.Mutex // guards what follows
	next    uint32
	pending map[uint32]*pendingCall
	ended   error // set once no call can be answered any more
}

// pendingCall is a request on its way. Its slot is free again when the child has answered or is gone, and not when the
// caller is: what hangs in the module goes on taking its room.
type pendingCall struct {
	answered chan reply // buffered
	timer    *time.Timer
	release  func()
	late     bool // guarded by process.mu: this is the call for which the child was killed
}

type reply struct {
	fields [][]byte
	err    error
}

func startProcess(c Config) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: socket pair for the module process: %w", hsm.ErrUnavailable, err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "module"), os.NewFile(uintptr(pair[1]), "parent")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("%w: socket pair for the module process: %w", hsm.ErrUnavailable, err)
	}
	cmd := exec.Command(c.Executable[0], c.Executable[1:]...) //nolint:gosec // the daemon's own argv
	cmd.ExtraFiles = []*os.File{theirs}                       // file descriptor 3
	cmd.Env = append(os.Environ(), c.Env...)
	// Output goes nowhere: a library may print what it likes, a PIN too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: starting the module process: %w", hsm.ErrUnavailable, errors.Join(err, conn.Close()))
	}
	p := &process{cmd: cmd, conn: conn, name: c.name(), done: make(chan struct{}), pending: map[uint32]*pendingCall{}}
	go p.read()
	return p, nil
}

// read answers calls until the child is gone, then reaps it. done tells that it returned.
func (p *process) read() {
	defer close(p.done)
	in := bufio.NewReader(p.conn) // one system call for a frame, or for several
	for {
		f, err := readFrame(in)
		if err != nil {
			break
		}
		p.finish(f)
	}
	// Its socket is closed: it ends by itself, or is ended.
	_ = p.conn.Close()
	defer time.AfterFunc(2*closeGrace, p.kill).Stop()
	state := "ended"
	if err := p.cmd.Wait(); err != nil {
		state = err.Error() // "exit status 1", "signal: killed"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = fmt.Errorf("%w: %s: the module process is gone (%s)", hsm.ErrUnavailable, p.name, state)
	for id, call := range p.pending {
		err := p.ended
		if call.late {
			err = p.timeout()
		}
		p.resolve(id, call, reply{err: err})
	}
}

func (p *process) timeout() error {
	return fmt.Errorf("%w: %s did not answer in time; the module process was killed: see that the HSM is connected, or raise the timeout", hsm.ErrTimeout, p.name)
}

func (p *process) finish(f frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	call, ok := p.pending[f.id]
	if !ok {
		return
	}
	r := reply{fields: f.fields}
	if s := status(f.code); s != 0 {
		text := ""
		if len(f.fields) > 0 {
			text = string(f.fields[0])
		}
		r = reply{err: &remoteError{kind: s.err(), text: text}}
	}
	p.resolve(f.id, call, r)
}

// resolve ends a call. Caller holds mu.
func (p *process) resolve(id uint32, call *pendingCall, r reply) {
	delete(p.pending, id)
	call.timer.Stop()
	call.release()
	call.answered <- r
}

// remoteError is a verdict that came from the child.
type remoteError struct {
	kind error
	text string
}

func (e *remoteError) Error() string { return e.kind.Error() + ": " + e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// call sends one request and waits for its answer or for ctx. release is called once, when the child is done with it.
func (p *process) call(ctx context.Context, op operation, in [][]byte, limit time.Duration, release func()) ([][]byte, error) {
	call, err := p.send(op, in, limit, release)
	if err != nil {
		return nil, err
	}
	select {
	case r := <-call.answered:
		return r.fields, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", p.name, ctx.Err())
	}
}

func (p *process) send(op operation, in [][]byte, limit time.Duration, release func()) (*pendingCall, error) {
	id, call, err := p.register(limit, release)
	if err != nil {
		release()
		return nil, err
	}
	buf, err := frame{id: id, code: uint8(op), fields: in}.encode()
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.resolve(id, call, reply{err: err})
		return call, nil
	}
	defer clear(buf) // it may hold the PIN
	p.writing.Lock()
	defer p.writing.Unlock()
	if _, err := p.conn.Write(buf); err != nil {
		p.kill() // read answers every call that is pending, this one too
	}
	return call, nil
}

func (p *process) register(limit time.Duration, release func()) (uint32, *pendingCall, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return 0, nil, p.ended
	}
	p.next++
	id, call := p.next, &pendingCall{answered: make(chan reply, 1), release: release}
	call.timer = time.AfterFunc(limit, func() { p.expire(id) })
	p.pending[id] = call
	return id, call, nil
}

// expire kills the child for a call that takes too long: nothing else ends a call that hangs in a library.
func (p *process) expire(id uint32) {
	p.mu.Lock()
	call, ok := p.pending[id]
	if ok {
		call.late = true
	}
	p.mu.Unlock()
	if ok {
		p.kill()
	}
}

// kill ends the child at once; read does the rest. Errors mean that it is gone already.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.conn.Close()
}

// end lets the child end by itself: it sees its socket closed.
func (p *process) end() {
	_ = p.conn.Close()
	<-p.done
}

// alive says whether calls can still be answered.
func (p *process) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended == nil
}
