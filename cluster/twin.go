package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const twinEvery = 5 * time.Second // between two looks at who is at this node's address

// ErrTwin means that the others reach another process by this node's name and address: this one runs on a copy of its
// disk, or was moved. It takes no part in anything, and stops.
var ErrTwin = errors.New("this is a copy of another node, or was moved")

// errUnsure refuses to stand for election.
var errUnsure = errors.New("this node does not know yet whether it is the one that the others reach by its name")

// twin tells this process from another one with the same name, which has a copy of its disk: two of a name would each vote.
// Who is at the address that the members know is the node.
type twin struct {
	process [16]byte    // random
	sure    atomic.Bool // asked once: see look
}

func newTwin() *twin {
	t := &twin{}
	rand.Read(t.process[:])
	return t
}

// look asks, as the others would, who is at this node's address. Where nobody answers there is nobody that they reach.
func (n *Node) look(ctx context.Context) error {
	defer n.twin.sure.Store(true)
	known, ok := n.place(n.id)
	if !ok || n.voters() < 2 {
		return nil
	}
	if known != n.cfg.Advertise {
		return fmt.Errorf("the members know node %s at %s, and this one is to be reached at %s: %w: stop it, set its address back, or remove the node and let it join anew",
			n.id, known, n.cfg.Advertise, ErrTwin)
	}
	body, err := n.links.control(ctx, n.id, askProcess, nil)
	n.links.hangUp(n.id) // the next look dials anew: who is there may have changed
	if err == nil && len(body) == len(n.twin.process) && [16]byte(body) != n.twin.process {
		return fmt.Errorf("another process answers as node %s at %s: %w: stop one of them", n.id, known, ErrTwin)
	}
	return nil
}

// watchTwin stops this node where it is not the one that the others reach.
func (n *Node) watchTwin(ctx context.Context) {
	for {
		if err := n.look(ctx); err != nil {
			n.fail(err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(twinEvery):
		}
	}
}
