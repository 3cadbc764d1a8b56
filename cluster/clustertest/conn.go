package clustertest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const pipeSize = 1 << 20

// pipe is one direction of a stream.
type pipe struct {
	mu       sync.Mutex // guards all below
	moved    *sync.Cond
	data     []byte
	closed   bool
	ended    chan struct{} // closed with the pipe
	dropped  bool
	deadline [2]time.Time // of reads, of writes
	timer    [2]*time.Timer
}

func newPipe() *pipe {
	p := &pipe{ended: make(chan struct{})}
	p.moved = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) == 0 {
		switch {
		case p.closed:
			return 0, io.EOF
		case p.late(0):
			return 0, os.ErrDeadlineExceeded
		}
		p.moved.Wait()
	}
	n := copy(b, p.data)
	p.data = p.data[n:]
	p.moved.Broadcast()
	return n, nil
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) > pipeSize && !p.closed && !p.late(1) {
		p.moved.Wait()
	}
	switch {
	case p.closed:
		return 0, net.ErrClosed
	case p.late(1):
		return 0, os.ErrDeadlineExceeded
	}
	p.data = append(p.data, b...)
	p.moved.Broadcast()
	return len(b), nil
}

func (p *pipe) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropped = true
}

func (p *pipe) lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	close(p.ended)
	for _, timer := range p.timer {
		if timer != nil {
			timer.Stop()
		}
	}
	p.moved.Broadcast()
}

func (p *pipe) late(side int) bool {
	return !p.deadline[side].IsZero() && !time.Now().Before(p.deadline[side])
}

func (p *pipe) limit(side int, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline[side] = at
	if p.timer[side] != nil {
		p.timer[side].Stop()
	}
	if !at.IsZero() && !p.closed {
		p.timer[side] = time.AfterFunc(time.Until(at), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.moved.Broadcast()
		})
	}
	p.moved.Broadcast()
}

// conn is one end of a stream. Bytes written while the way is cut vanish, and so do all after them.
type conn struct {
	fabric   *Fabric
	from, to string
	in, out  *pipe
}

var _ net.Conn = (*conn)(nil)

func (c *conn) Read(b []byte) (int, error) { return c.in.read(b) }

func (c *conn) Write(b []byte) (int, error) {
	if wait := c.fabric.delay(); wait > 0 {
		select { // virtual time stands still once a test's end has closed the streams
		case <-time.After(wait):
		case <-c.out.ended:
		}
	}
	if c.fabric.isCut(c.from, c.to) {
		c.out.drop()
	}
	if c.out.lost() {
		return len(b), nil
	}
	return c.out.write(b)
}

func (c *conn) Close() error {
	c.fabric.forget(c)
	c.in.close()
	c.out.close()
	return nil
}

func (c *conn) LocalAddr() net.Addr                 { return place(c.from) }
func (c *conn) RemoteAddr() net.Addr                { return place(c.to) }
func (c *conn) SetReadDeadline(at time.Time) error  { c.in.limit(0, at); return nil }
func (c *conn) SetWriteDeadline(at time.Time) error { c.out.limit(1, at); return nil }
func (c *conn) SetDeadline(at time.Time) error {
	c.in.limit(0, at)
	c.out.limit(1, at)
	return nil
}

type place string

func (place) Network() string  { return "memory" }
func (p place) String() string { return string(p) }
