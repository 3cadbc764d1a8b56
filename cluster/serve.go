package cluster

import (
	"bufio"
	"context"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"warder/cluster/transport"
)

// inHand bounds what one member's unanswered questions take, in bytes.
const inHand = 32 << 20

// accept hands incoming streams to Raft, or answers the questions on them.
func (n *Node) accept() {
	for {
		stream, err := n.network.Accept()
		if err != nil {
			return
		}
		switch {
		case n.isRemoved(stream.Peer):
			_ = stream.Close()
		case stream.Protocol == transport.Raft:
			select {
			case n.streams.accepted <- stream.Conn:
			case <-n.over:
				_ = stream.Close()
			}
		default:
			n.beginServing(stream)
		}
	}
}

// beginServing takes no stream any more when the node stops, so that the stop can wait for those that it has.
func (n *Node) beginServing(stream transport.Stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		_ = stream.Close()
		return
	}
	n.serving.Go(func() { n.serve(stream) })
}

// drainTime is what a stopping node gives a member to take its last answers.
const drainTime = 500 * time.Millisecond

// serve answers one member's questions, many at a time. When the node stops it answers those that it has read and
// says goodbye: the member then knows that the others were not read.
func (n *Node) serve(stream transport.Stream) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer stream.Close()
	send := make(chan []byte, 64)
	var writer, handlers sync.WaitGroup
	writer.Go(func() { defer cancel(); writeFrames(stream, send, ctx.Done()) })
	writer.Go(func() { n.drainAtStop(ctx, stream) })
	n.readQuestions(ctx, stream, send, &handlers)
	if n.stopped() == nil {
		cancel() // the member is gone, and nobody waits for its answers
	}
	handlers.Wait()
	reply(ctx, send, frame{kind: saysGoodbye})
	close(send)
	writer.Wait()
}

// drainAtStop ends the reading of questions when the node stops, and bounds the writing of answers.
func (n *Node) drainAtStop(ctx context.Context, stream transport.Stream) {
	select {
	case <-n.over:
		_ = stream.SetWriteDeadline(time.Now().Add(drainTime))
		_ = stream.SetReadDeadline(time.Now())
	case <-ctx.Done():
		_ = stream.Close()
	}
}

func (n *Node) readQuestions(ctx context.Context, stream transport.Stream, send chan<- []byte, handlers *sync.WaitGroup) {
	in, budget := bufio.NewReaderSize(stream, 64<<10), semaphore.NewWeighted(inHand)
	for {
		question, weight, err := readQuestion(ctx, in, budget)
		if err != nil {
			return
		}
		handlers.Go(func() {
			defer budget.Release(weight)
			kind, body := answerOf(n.answer(ctx, stream.Peer, question))
			reply(ctx, send, frame{kind, question.id, body})
		})
	}
}

func reply(ctx context.Context, send chan<- []byte, answer frame) {
	select {
	case send <- appendFrame(make([]byte, 0, frameHeader+len(answer.body)), answer):
	case <-ctx.Done():
	}
}

// readQuestion waits for room before it reads a body.
func readQuestion(ctx context.Context, in io.Reader, budget *semaphore.Weighted) (frame, int64, error) {
	question, length, err := readHead(in)
	if err != nil {
		return frame{}, 0, err
	}
	weight := int64(length + 4096)
	if err := budget.Acquire(ctx, weight); err != nil {
		return frame{}, 0, err
	}
	question.body = make([]byte, length)
	_, err = io.ReadFull(in, question.body)
	return question, weight, err
}

func (n *Node) answer(ctx context.Context, peer string, question frame) ([]byte, error) {
	switch question.kind {
	case askPropose:
		return n.answerPropose(ctx, question.body)
	case askReadIndex:
		if !n.IsLeader() {
			return nil, ErrNoLeader
		}
		at, err := n.leaderReads.join(ctx)
		return at.body(), err
	case askTerm:
		return indexBody(n.raft.CurrentTerm()), nil
	case askClock:
		return indexBody(uint64(n.clocks.wall().UnixNano())), nil
	case askProcess:
		return n.twin.process[:], nil
	case askStatus:
		return n.status().encode(), nil
	case askDemoted:
		return nil, n.answerDemoted(question.body)
	case askAdmit:
		id, hostPort, err := decodeAdmit(question.body)
		if err != nil {
			return nil, err
		}
		return nil, n.admitHere(id, hostPort)
	case askRemove:
		return nil, n.removeHere(string(question.body))
	case askStepDown:
		return nil, n.stepDownHere()
	case askDiverged:
		return nil, n.answerDiverged(peer, question.body)
	}
	return nil, errFrame
}

func (n *Node) answerPropose(ctx context.Context, entry []byte) ([]byte, error) {
	if len(entry) > MaxEntry {
		return nil, ErrTooLarge
	}
	if !n.IsLeader() {
		return nil, ErrNoLeader
	}
	got := n.batch.submit(ctx, entry)
	if got.err != nil {
		return nil, got.err
	}
	return append(got.at.body(), got.result...), nil
}

func (n *Node) answerDemoted(body []byte) error {
	if len(body) != 16+8 {
		return errFrame
	}
	index, _, err := bodyIndex(body[16:])
	if err != nil {
		return err
	}
	return n.standing.demote([16]byte(body), index)
}
