package work

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work/history"
)

// namespace is where the crew works.
const namespace = "work"

// Crew is callers at work on a town, until Finish.
type Crew struct {
	town *town.Town
	log  *history.Log
	stop context.CancelFunc
	done sync.WaitGroup
	// office and slots are set once, by Start.
	office *office
	slots  []*slot

	mu        sync.Mutex
	answered  map[string][]string      // guarded by mu: node to the ids of the requests that it answered
	tolerated map[warderv1.Reason]bool // guarded by mu
	wrong     []error                  // guarded by mu: what was seen to be wrong at once
	refusals  map[string]int           // guarded by mu: by reason
	beside    []context.CancelFunc     // guarded by mu: end what Beside began
	written   int                      // guarded by mu: acknowledged changes of registers
}

// Start puts callers to work: some tens of requests a second of every kind, to each node.
func Start(t testing.TB, at *town.Town) *Crew {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c := &Crew{
		town: at, log: history.NewLog(), stop: stop,
		answered: map[string][]string{}, tolerated: weather(), refusals: map[string]int{},
	}
	t.Cleanup(c.Halt)
	office := c.open(t)
	c.office, c.slots = office, newSlots()
	c.registers(ctx, office)
	c.deletes(ctx, office)
	c.counters(ctx, office)
	c.enrolments(ctx, office)
	c.guests(ctx, office)
	c.signers(ctx, office)
	c.rotations(ctx, office)
	return c
}

// work runs one caller's work over and over, with time to think between, until the crew is halted. What is under way then
// comes to its end.
func (c *Crew) work(ctx context.Context, think time.Duration, turn func(turn int)) {
	c.done.Go(func() {
		for n := 0; pause(ctx, think/2+rand.N(think)); n++ {
			turn(n)
		}
	})
}

// pause lets time pass, and says whether the work goes on.
func pause(ctx context.Context, how time.Duration) bool {
	timer := time.NewTimer(how)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Tolerate makes refusals of some reasons no fault of the cluster: those which a schedule provokes, as TOKEN_EXPIRED by a
// clock that is wrong.
func (c *Crew) Tolerate(reasons ...warderv1.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range reasons {
		c.tolerated[one] = true
	}
}

// Refusals is how many requests were refused, or not answered, by reason: "" where nobody said why.
func (c *Crew) Refusals() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	copied := map[string]int{}
	for reason, count := range c.refusals {
		copied[reason] = count
	}
	return copied
}

// complain records what is wrong beyond doubt.
func (c *Crew) complain(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) < maxFindings {
		c.wrong = append(c.wrong, err)
	}
}

// add adds an operation to the history.
func (c *Crew) add(op history.Op) {
	c.log.Add(op)
	if op.Kind != history.Write || op.Outcome != history.Done {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written++
}

// Done is how many changes were acknowledged so far.
func (c *Crew) Done() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

// Await waits until some more changes are acknowledged: the work goes on.
func (c *Crew) Await(t testing.TB, more int) {
	t.Helper()
	before := c.Done()
	town.Eventually(t, "the work goes on", time.Minute, func() error {
		if done := c.Done(); done < before+more {
			return fmt.Errorf("%d changes were acknowledged; want %d", done-before, more)
		}
		return nil
	})
}

// Halt ends the work.
func (c *Crew) Halt() {
	c.stop()
	c.mu.Lock()
	for _, stop := range c.beside {
		stop()
	}
	c.mu.Unlock()
	c.done.Wait()
}

// errSetUp says that the crew's own beginnings failed, on a town without faults.
var errSetUp = errors.New("the crew cannot begin")
