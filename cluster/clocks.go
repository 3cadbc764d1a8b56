package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	clockEvery = 500 * time.Millisecond // between two looks at the members' clocks
	// clockSettles is how long a clock that was off must have been right again before it is trusted: what was begun by the
	// wrong time is over by then.
	clockSettles = 5 * time.Second
)

// clocks holds this node's clock against the members'. Raft needs none; who decides by the state does: what has expired
// is a matter of clocks. A clock is right when a majority of the voters, this node included where it votes, is within the
// bound of it. Two nodes that are right have a voter in common, and are within twice the bound of each other.
type clocks struct {
	wall  func() time.Time
	bound time.Duration
	began time.Time // readings are held against the monotonic clock since then
	seen  atomic.Pointer[[]reading]
	offAt atomic.Int64 // when the clock was last seen to be off, ns since began; 0 = never
	wrong atomic.Bool  // and nobody has been told yet that it is right again
}

// reading is what a member's clock showed, less what this node's monotonic clock showed at that moment: ns since 1970. A
// step of this node's own clock shows against it at once, without asking anybody, and it does not age.
type reading struct {
	id    string
	voter bool
	self  bool
	known bool
	at    time.Duration
}

func newClocks(wall func() time.Time, bound time.Duration) *clocks {
	c := &clocks{wall: wall, bound: bound, began: time.Now()}
	c.seen.Store(&[]reading{})
	return c
}

// own is this node's clock as a reading of now.
func (c *clocks) own() time.Duration {
	return time.Duration(c.wall().UnixNano()) - time.Since(c.began)
}

// check says whether the clock is right; nil when it is.
func (c *clocks) check() error {
	own, voters, known, agree := c.own(), 0, 0, 0
	for _, member := range *c.seen.Load() {
		if !member.voter {
			continue
		}
		voters++
		if member.known {
			known++
		}
		if member.agrees(own, c.bound) {
			agree++
		}
	}
	switch {
	case agree > voters/2:
		return c.settled()
	case known <= voters/2:
		return fmt.Errorf("%w: a majority has not told its time yet", ErrClock)
	}
	c.offAt.Store(int64(time.Since(c.began)))
	return fmt.Errorf("%w: it is %s, and %s are allowed", ErrClock, distance(c.offset()), c.bound)
}

func (r reading) agrees(own, bound time.Duration) bool {
	off := own - r.at
	return r.self || r.known && -bound <= off && off <= bound
}

// settled refuses for a while after the clock was off.
func (c *clocks) settled() error {
	last := time.Duration(c.offAt.Load())
	if since := time.Since(c.began) - last; last != 0 && since < clockSettles {
		return fmt.Errorf("%w: it was off until %s ago, and is trusted again after %s", ErrClock, since.Round(time.Millisecond), clockSettles)
	}
	return nil
}

// offset is how far this clock is ahead of the median of the other members'; 0 where none is known.
func (c *clocks) offset() time.Duration {
	var offsets []time.Duration
	own := c.own()
	for _, member := range *c.seen.Load() {
		if member.known && !member.self {
			offsets = append(offsets, own-member.at)
		}
	}
	if len(offsets) == 0 {
		return 0
	}
	slices.Sort(offsets)
	return offsets[len(offsets)/2]
}

func distance(offset time.Duration) string {
	if offset < 0 {
		return (-offset).Round(time.Millisecond).String() + " behind the other members'"
	}
	return offset.Round(time.Millisecond).String() + " ahead of the other members'"
}

// agree says whether a member's clock is known, and within the bound of this node's.
func (c *clocks) agree(id string) bool {
	own := c.own()
	return slices.ContainsFunc(*c.seen.Load(), func(r reading) bool { return r.id == id && r.agrees(own, c.bound) })
}

// Clock says why this node's clock must not be trusted, by an error that wraps ErrClock; nil when it is within Timing.Skew
// of a majority's. It costs next to nothing.
func (n *Node) Clock() error { return n.clocks.check() }

// ClockOffset gives how far this node's clock is ahead of the median of the other members', half a round trip more or
// less; 0 where there is none to hold it against.
func (n *Node) ClockOffset() time.Duration { return n.clocks.offset() }

// keepTime reads the members' clocks over and over, the more often while this node's is not confirmed, and tells of a
// change in what it is worth.
func (n *Node) keepTime(ctx context.Context) {
	for ctx.Err() == nil {
		n.readClocks(ctx)
		n.tellClock()
		next := clockEvery
		if n.Clock() != nil {
			next = lookEvery
		}
		select {
		case <-ctx.Done():
		case <-time.After(next):
		}
	}
}

// readClocks asks all members at once, and heeds each answer as it comes. Of who does not answer, what it answered last
// stands.
func (n *Node) readClocks(ctx context.Context) {
	former, servers := *n.clocks.seen.Load(), n.servers()
	all, answers := make([]reading, len(servers)), make(chan func())
	for i, server := range servers {
		id := string(server.ID)
		if at := slices.IndexFunc(former, func(r reading) bool { return r.id == id }); at >= 0 {
			all[i] = former[at]
		}
		all[i].id, all[i].voter, all[i].self = id, server.Suffrage == raft.Voter, id == n.id
		all[i].known = all[i].known || all[i].self
		go func() {
			at, ok := n.clockOf(ctx, id)
			answers <- func() {
				if ok {
					all[i].at, all[i].known = at, true
				}
			}
		}()
	}
	for range servers {
		note := <-answers
		note()
		seen := slices.Clone(all)
		n.clocks.seen.Store(&seen)
	}
}

// clockOf reads a member's clock: the moment is the middle of the question's way there and back.
func (n *Node) clockOf(ctx context.Context, id string) (time.Duration, bool) {
	if id == n.id {
		return 0, false
	}
	limited, cancel := context.WithTimeout(ctx, controlTime)
	defer cancel()
	asked := time.Since(n.clocks.began)
	body, err := n.links.ask(limited, id, askClock, nil)
	answered := time.Since(n.clocks.began)
	if leader, _ := n.Leader(); err != nil && limited.Err() != nil && ctx.Err() == nil && id != leader {
		n.links.hangUp(id) // a dead connection; nobody else asks this member anything
	}
	if err != nil || answered-asked > controlTime { // this node was suspended meanwhile
		return 0, false
	}
	wall, _, err := bodyIndex(body)
	return time.Duration(wall) - (asked+answered)/2, err == nil
}

// tellClock logs when the clock is found to be off, and when it is right again.
func (n *Node) tellClock() {
	err := n.Clock()
	switch {
	case err == nil && n.clocks.wrong.CompareAndSwap(true, false):
		n.logger.Info("the clock is right again")
	case err != nil && n.clocks.offAt.Load() != 0 && n.clocks.wrong.CompareAndSwap(false, true):
		n.logger.Error("the clock is off: this node serves nobody and proposes nothing until it is right", "error", err)
	}
}
