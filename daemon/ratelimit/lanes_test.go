package ratelimit_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warder/daemon/ratelimit"
)

func smallLanes() *ratelimit.Lanes {
	room := ratelimit.Room{Working: 2, Waiting: 3, Wait: 250 * time.Millisecond}
	return ratelimit.NewLanes(map[ratelimit.Lane]ratelimit.Room{ratelimit.Local: room, ratelimit.Reserved: room})
}

func enter(t *testing.T, lanes *ratelimit.Lanes, lane ratelimit.Lane, times int) {
	t.Helper()
	for range times {
		if err := lanes.Enter(t.Context(), lane); err != nil {
			t.Fatal(err)
		}
	}
}

// shed fails the test where a request is not turned away with a hint after exactly this wait.
func shed(t *testing.T, lanes *ratelimit.Lanes, lane ratelimit.Lane, after time.Duration) {
	t.Helper()
	began := time.Now()
	err := lanes.Enter(t.Context(), lane)
	hint, told := ratelimit.RetryAfter(err)
	if !errors.Is(err, ratelimit.ErrOverloaded) || !told || hint < 500*time.Millisecond || hint > 1500*time.Millisecond {
		t.Errorf("a full lane: %v (hint %s)", err, hint)
	}
	if took := time.Since(began); took != after {
		t.Errorf("turned away after %s; want %s", took, after)
	}
}

func TestFullLaneShedsAfterAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lanes := smallLanes()
		enter(t, lanes, ratelimit.Local, 2)
		shed(t, lanes, ratelimit.Local, 250*time.Millisecond)
		enter(t, lanes, ratelimit.Reserved, 2) // which everyday work has not used up
		lanes.Leave(ratelimit.Local)
		enter(t, lanes, ratelimit.Local, 1)
		shed(t, lanes, ratelimit.Cluster, 0) // a lane without room admits nothing
	})
}

func TestWaitersComeInOrderAndAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lanes := smallLanes()
		enter(t, lanes, ratelimit.Local, 2)
		order, all := make(chan int, 3), sync.WaitGroup{}
		for i := range 3 {
			all.Go(func() {
				if err := lanes.Enter(t.Context(), ratelimit.Local); err != nil {
					t.Errorf("waiter %d: %v", i, err)
				}
				order <- i
			})
			synctest.Wait()
		}
		shed(t, lanes, ratelimit.Local, 0)
		for want := range 3 {
			time.Sleep(50 * time.Millisecond)
			lanes.Leave(ratelimit.Local)
			if got := <-order; got != want {
				t.Errorf("waiter %d came in the place of %d", got, want)
			}
		}
		all.Wait()
	})
}

// TestWaiterGoesAway: who hangs up, or has no more time, takes no place.
func TestWaiterGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lanes := smallLanes()
		enter(t, lanes, ratelimit.Local, 2)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := lanes.Enter(ctx, ratelimit.Local); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a waiter without time: %v", err)
		}
		lanes.Leave(ratelimit.Local)
		enter(t, lanes, ratelimit.Local, 1)
		for _, lane := range ratelimit.AllLanes() {
			want := map[ratelimit.Lane]int{ratelimit.Local: 2}[lane]
			if working := lanes.Working(lane); working != want {
				t.Errorf("%d work in the %s lane; want %d", working, lane, want)
			}
		}
	})
}

// TestOverloadInVirtualTime: requests at ten times what a node can do. Those that are admitted wait no longer than the
// bound, the node is never idle, and administration is never turned away.
func TestOverloadInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, apart, count = 10 * time.Millisecond, 500 * time.Microsecond, 20000 // 200 a second can be done; 2000 come
		lanes := smallLanes()
		var all sync.WaitGroup
		var mu sync.Mutex
		done, longest := 0, time.Duration(0)
		work := func(lane ratelimit.Lane) error {
			began := time.Now()
			if err := lanes.Enter(t.Context(), lane); err != nil {
				return err
			}
			waited := time.Since(began)
			time.Sleep(each)
			lanes.Leave(lane)
			mu.Lock()
			defer mu.Unlock()
			done, longest = done+1, max(longest, waited)
			return nil
		}
		for i := range count {
			all.Go(func() { _ = work(ratelimit.Local) }) // most are turned away
			if i%100 == 0 {
				all.Go(func() {
					if err := work(ratelimit.Reserved); err != nil {
						t.Errorf("administration under overload: %v", err)
					}
				})
			}
			time.Sleep(apart)
		}
		all.Wait()
		if capacity := count / 10; done < capacity {
			t.Errorf("%d were done; the node can do %d", done, capacity)
		}
		if bound := 3 * each; longest > bound {
			t.Errorf("a request that was admitted waited %s; the bound is %s", longest, bound)
		}
	})
}
