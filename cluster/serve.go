package cluster

import (
	"bufio"
	"context"
	"io"
	"sync"

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
			n.serving.Go(func() { n.serve(stream) })
		}
	}
}

// serve answers one member's questions, many at a time.
func (n *Node) serve(stream transport.Stream) {
	ctx, cancel := context.WithCancel(context.Background())
	defer context.AfterFunc(ctx, func() { _ = stream.Close() })()
	send, budget := make(chan []byte, 64), semaphore.NewWeighted(inHand)
	var busy sync.WaitGroup
	busy.Go(func() { defer cancel(); writeFrames(stream, send, ctx.Done()) })
	busy.Go(func() {
		select {
		case <-n.over:
			cancel()
		case <-ctx.Done():
		}
	})
	in := bufio.NewReaderSize(stream, 64<<10)
	for {
		question, weight, err := readQuestion(ctx, in, budget)
		if err != nil {
			break
		}
		busy.Go(func() {
			defer budget.Release(weight)
			kind, body := answerOf(n.answer(ctx, stream.Peer, question))
			select {
			case send <- appendFrame(make([]byte, 0, frameHeader+len(body)), frame{kind, question.id, body}):
			case <-ctx.Done():
			}
		})
	}
	cancel()
	_ = stream.Close()
	busy.Wait()
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
		index, err := n.leaderReads.join(ctx)
		return indexBody(index), err
	case askTerm:
		return indexBody(n.raft.CurrentTerm()), nil
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
	return append(indexBody(got.index), got.result...), nil
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
