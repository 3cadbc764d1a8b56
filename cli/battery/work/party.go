package work

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"warder/cli/battery/town"
)

// Party is guests whose rights a schedule has taken away when it wants: one by its token, one by its identity, one by its
// policy. They use them at every node until they leave.
type Party struct {
	guests []*guest
	stop   context.CancelFunc
	all    sync.WaitGroup
}

// Invite admits guests, and returns when all nodes know them. Their names begin with the given one, which is new.
func (c *Crew) Invite(t testing.TB, name string) *Party {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &Party{stop: stop}
	t.Cleanup(p.Leave)
	for way, take := range ways() {
		var admitted *guest
		attempt := 0
		town.Eventually(t, "a guest is admitted", time.Minute, func() error {
			attempt++
			admitted = c.office.admit(fmt.Sprintf("%s-%s-%d", name, way, attempt), way, take)
			if admitted == nil {
				return fmt.Errorf("attempt %d failed", attempt)
			}
			return nil
		})
		p.guests = append(p.guests, admitted)
		p.all.Go(func() { admitted.stay(ctx) })
	}
	return p
}

// Evict has the guests' rights taken away through some nodes, and returns when that was acknowledged.
func (p *Party) Evict(t testing.TB, through ...*town.Node) {
	t.Helper()
	for _, g := range p.guests {
		var lines []*line
		for _, at := range g.office.operator {
			for _, n := range through {
				if at.node == n.ID {
					lines = append(lines, at)
				}
			}
		}
		if !g.taken(t.Context(), lines) {
			t.Fatalf("the rights of %s could not be taken away", g.name)
		}
	}
}

// Leave lets the guests go.
func (p *Party) Leave() {
	p.stop()
	p.all.Wait()
}

// Rush has many linearizable reads made at one node, all at once, and returns at once: on a node that is suspended they
// wait for it.
func (c *Crew) Rush(n *town.Node, count int) {
	for _, at := range c.office.operator {
		if at.node != n.ID {
			continue
		}
		for i := range count {
			c.done.Go(func() { c.read(at, c.slots[i%len(c.slots)].current(), true) })
		}
	}
}
