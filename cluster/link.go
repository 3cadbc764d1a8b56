package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"warder/cluster/transport"
)

const controlTime = time.Second // for a member to answer a question that needs no disk

// errNotSent marks a question that did not leave this node.
var errNotSent = errors.New("not sent")

// links asks other members questions, over one stream to each.
type links struct {
	network transport.Network
	place   func(id string) (hostPort string, ok bool)

	mu   sync.Mutex // guards all below
	open map[string]*link
	over bool
	busy sync.WaitGroup
}

func newLinks(network transport.Network, place func(string) (string, bool)) *links {
	return &links{network: network, place: place, open: map[string]*link{}}
}

// ask puts one question to the member id. An error that wraps errNotSent means that it was not put.
func (l *links) ask(ctx context.Context, id string, kind byte, body []byte) ([]byte, error) {
	to, err := l.link(ctx, id)
	if err != nil {
		return nil, errors.Join(errNotSent, err)
	}
	answer, err := to.ask(ctx, kind, body)
	if err != nil {
		return nil, fmt.Errorf("ask node %s: %w", id, err)
	}
	return answer.body, errorOf(answer)
}

// control asks what is answered at once. A member that does not is hung up on, so that the next question does not
// wait on a dead connection.
func (l *links) control(ctx context.Context, id string, kind byte, body []byte) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, controlTime)
	defer cancel()
	answer, err := l.ask(limited, id, kind, body)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		l.hangUp(id)
	}
	return answer, err
}

func (l *links) link(ctx context.Context, id string) (*link, error) {
	l.mu.Lock()
	to, over := l.open[id], l.over
	if over {
		l.mu.Unlock()
		return nil, ErrClosed
	}
	if to == nil {
		to = &link{ready: make(chan struct{}), waiting: map[uint64]chan frame{}, send: make(chan []byte, 64)}
		to.life, to.hangUp = context.WithCancel(context.Background())
		l.open[id] = to
		l.busy.Go(func() { l.connect(to, id) })
	}
	l.mu.Unlock()
	select {
	case <-to.ready:
		return to, nil
	case <-to.life.Done():
		return nil, fmt.Errorf("node %s cannot be reached", id)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *links) connect(to *link, id string) {
	defer l.drop(to, id)
	place, ok := l.place(id)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(to.life, controlTime)
	defer cancel()
	conn, err := l.network.Dial(ctx, id, place, transport.Forward)
	if err != nil {
		return
	}
	close(to.ready)
	to.run(conn)
}

// drop forgets a link that is over. Who waits for it to be ready is told.
func (l *links) drop(to *link, id string) {
	to.hangUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[id] == to {
		delete(l.open, id)
	}
}

// hangUp ends the stream to id: what waits there has an unknown outcome.
func (l *links) hangUp(id string) {
	l.mu.Lock()
	to := l.open[id]
	l.mu.Unlock()
	if to != nil {
		l.drop(to, id)
	}
}

func (l *links) close() {
	l.mu.Lock()
	l.over = true
	for _, to := range l.open {
		to.hangUp()
	}
	l.mu.Unlock()
	l.busy.Wait()
}

// link is one stream to a member.
type link struct {
	ready  chan struct{}   // closed when connected
	life   context.Context //nolint:containedctx // ends with the link
	hangUp context.CancelFunc
	send   chan []byte
	parted atomic.Bool // the member said goodbye

	mu      sync.Mutex // guards all below
	next    uint64
	waiting map[uint64]chan frame
}

func (l *link) ask(ctx context.Context, kind byte, body []byte) (frame, error) {
	answer := make(chan frame, 1)
	l.mu.Lock()
	l.next++
	id := l.next
	l.waiting[id] = answer
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting, id)
	}()
	select {
	case l.send <- appendFrame(make([]byte, 0, frameHeader+len(body)), frame{kind, id, body}):
	case <-l.life.Done():
		return frame{}, errNotSent
	case <-ctx.Done():
		return frame{}, errors.Join(errNotSent, context.Cause(ctx))
	}
	select {
	case got := <-answer:
		return got, nil
	case <-l.life.Done():
		return l.last(answer)
	case <-ctx.Done():
		return frame{}, context.Cause(ctx)
	}
}

// last gives the answer that came before the end of the link, if one did.
func (l *link) last(answer <-chan frame) (frame, error) {
	select {
	case got := <-answer:
		return got, nil
	default:
	}
	if l.parted.Load() {
		return frame{}, errNotSent
	}
	return frame{}, errors.New("connection was lost before the answer")
}

// run sends and receives until the stream breaks or the link is hung up.
func (l *link) run(conn net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { defer l.hangUp(); writeFrames(conn, l.send, l.life.Done()) })
	both.Go(func() { defer l.hangUp(); l.receive(conn) })
	<-l.life.Done()
	_ = conn.Close()
	both.Wait()
}

func (l *link) receive(conn net.Conn) {
	in := bufio.NewReaderSize(conn, 64<<10)
	for {
		answer, err := readFrame(in)
		if err != nil {
			return
		}
		if answer.kind == saysGoodbye {
			l.parted.Store(true)
			return
		}
		l.mu.Lock()
		to := l.waiting[answer.id]
		delete(l.waiting, answer.id)
		l.mu.Unlock()
		if to != nil {
			to <- answer
		}
	}
}

// writeFrames writes what comes, and flushes when nothing more is at hand.
func writeFrames(conn net.Conn, send <-chan []byte, gone <-chan struct{}) {
	out := bufio.NewWriterSize(conn, 64<<10)
	for {
		select {
		case data, more := <-send:
			if !more {
				_ = out.Flush() // the last: the stream is closed next
				return
			}
			if _, err := out.Write(data); err != nil {
				return
			}
		case <-gone:
			return
		}
		if len(send) == 0 && out.Flush() != nil {
			return
		}
	}
}
