package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Lane is a kind of work that has room of its own on a node, so that no other kind can take it.
type Lane uint8

// The lanes.
const (
	Local    Lane = iota + 1 // what a node answers by itself
	Cluster                  // what waits for a majority: without a leader it must not hold up what is local
	Hardware                 // what may wait for the HSM: one that hangs must not either
	Reserved                 // administration and revocation
)

// String names the lane.
func (l Lane) String() string {
	if int(l) < len(laneNames) {
		return laneNames[l]
	}
	return fmt.Sprintf("lane(%d)", uint8(l))
}

var laneNames = [...]string{0: "none", Local: "local", Cluster: "cluster", Hardware: "hardware", Reserved: "reserved"}

// Room is how many requests of a lane are worked on at once, how many more may wait for that, and for how long.
type Room struct {
	Working, Waiting int
	Wait             time.Duration
}

// DefaultRooms are wide enough for every group of writes and far below what a node has memory for. Who administers waits
// longer: it has nowhere else to go.
func DefaultRooms() map[Lane]Room {
	everyday := Room{Working: 512, Waiting: 512, Wait: 250 * time.Millisecond}
	return map[Lane]Room{Local: everyday, Cluster: everyday, Hardware: everyday, Reserved: {Working: 128, Waiting: 128, Wait: 2 * time.Second}}
}

// ErrOverloaded says that a node has too much to do. It is wrapped by every OverloadedError.
var ErrOverloaded = errors.New("the node has too much to do, and nothing was done")

// OverloadedError says when it is worth asking again.
type OverloadedError struct {
	Full       string // what of the node has no room
	RetryAfter time.Duration
}

func (e *OverloadedError) Error() string {
	return fmt.Sprintf("%v: its %s is full; ask again in %s", ErrOverloaded, e.Full, e.RetryAfter)
}

// Unwrap makes errors.Is(err, ErrOverloaded) true.
func (e *OverloadedError) Unwrap() error { return ErrOverloaded }

// Lanes bound how much is worked on at once. They are safe for concurrent use. The zero value admits nothing.
type Lanes struct{ lanes [Reserved + 1]lane }

type lane struct {
	slots   chan struct{} // holds one for each request that is worked on
	waiting atomic.Int64
	room    Room
}

// NewLanes gives lanes with these rooms. A lane without one admits nothing.
func NewLanes(rooms map[Lane]Room) *Lanes {
	l := &Lanes{}
	for name, room := range rooms {
		l.lanes[name].slots, l.lanes[name].room = make(chan struct{}, room.Working), room
	}
	return l
}

// Enter takes a place in a lane, which Leave gives back. Where none is free it waits, first come, first served. It gives
// an OverloadedError where too many wait already or the wait was too long, and the context's error where that ends first.
func (l *Lanes) Enter(ctx context.Context, name Lane) error {
	one := &l.lanes[name]
	select {
	case one.slots <- struct{}{}:
		return nil
	default:
	}
	if one.waiting.Add(1) > int64(one.room.Waiting) {
		one.waiting.Add(-1)
		return overloaded(name.String() + " lane")
	}
	defer one.waiting.Add(-1)
	timer := time.NewTimer(one.room.Wait)
	defer timer.Stop()
	select {
	case one.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return overloaded(name.String() + " lane")
	case <-ctx.Done():
		return fmt.Errorf("waiting in the %s lane: %w", name, context.Cause(ctx))
	}
}

// Leave gives a place back that Enter took.
func (l *Lanes) Leave(name Lane) { <-l.lanes[name].slots }

// Working is how many requests of a lane are worked on now.
func (l *Lanes) Working(name Lane) int { return len(l.lanes[name].slots) }

// AllLanes are the lanes that there are.
func AllLanes() []Lane { return []Lane{Local, Cluster, Hardware, Reserved} }

// retryAfter is about how long callers that were turned away are told to stay away.
const retryAfter = time.Second

// overloaded spreads the callers that are turned away at once: they must not come back at once.
func overloaded(full string) error {
	return &OverloadedError{Full: full, RetryAfter: (retryAfter/2 + rand.N(retryAfter)).Round(time.Millisecond)}
}

// RetryAfter gives the time that a LimitedError or an OverloadedError asks its caller to wait.
func RetryAfter(err error) (time.Duration, bool) {
	var limited *LimitedError
	if errors.As(err, &limited) {
		return limited.RetryAfter, true
	}
	var full *OverloadedError
	if errors.As(err, &full) {
		return full.RetryAfter, true
	}
	return 0, false
}
