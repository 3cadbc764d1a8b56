package cluster_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warder/cluster"
	"warder/cluster/clustertest"
)

// skews is how far each node's clock is ahead.
type skews struct {
	mu    sync.Mutex
	ahead map[string]time.Duration
}

func (s *skews) clock(id string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.ahead[id])
}

func (s *skews) set(id string, ahead time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead[id] = ahead
}

func withSkews(t *testing.T, n int, test func(t *testing.T, c *clustertest.Cluster, s *skews)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &skews{ahead: map[string]time.Duration{}}
		c := clustertest.New(t, n, clustertest.WithClocks(s.clock))
		for _, id := range c.IDs() {
			c.Await("the clock of "+id+" is confirmed", func() bool { return c.Node(id).Clock() == nil })
		}
		test(t, c, s)
		c.StopAll()
	})
}

func proposeFails(t *testing.T, c *clustertest.Cluster, id string) {
	t.Helper()
	if _, err := c.Node(id).Propose(within(t, 20*time.Second), []byte("put by-"+id+" it")); !errors.Is(err, cluster.ErrClock) {
		t.Errorf("%s proposes with a clock that is off: %v", id, err)
	}
	if got := c.Machine(id).Get("by-" + id); got != "" {
		t.Errorf("%s proposed %q", id, got)
	}
}

func TestSkewedClock(t *testing.T) {
	for _, one := range []struct {
		name  string
		ahead time.Duration
		says  string
	}{
		{"five minutes ahead", 5 * time.Minute, "5m0s ahead"},
		{"five minutes behind", -5 * time.Minute, "5m0s behind"},
		{"thirty days ahead", 30 * 24 * time.Hour, "720h0m0s ahead"},
		{"just past the bound", 31 * time.Second, "31s ahead"},
	} {
		for _, role := range []string{"leader", "follower"} {
			t.Run(one.name+", "+role, func(t *testing.T) {
				withSkews(t, 3, func(t *testing.T, c *clustertest.Cluster, s *skews) {
					odd := c.Leader()
					if role == "follower" {
						odd = c.Followers()[0]
					}
					s.set(odd, one.ahead)
					if err := c.Node(odd).Clock(); !errors.Is(err, cluster.ErrClock) || !strings.Contains(err.Error(), one.says) {
						t.Errorf("the step is not seen at once, in its words: %v", err)
					}
					proposeFails(t, c, odd)
					time.Sleep(time.Minute)
					for _, id := range c.IDs() {
						if id != odd {
							put(t, c, id, "a", id)
							read(t, c, odd, "a", id)
						}
					}
					s.set(odd, 0)
					if err := c.Node(odd).Clock(); !errors.Is(err, cluster.ErrClock) {
						t.Errorf("a clock that was off a moment ago is trusted: %v", err)
					}
					time.Sleep(6 * time.Second)
					put(t, c, odd, "a", "again")
				})
			})
		}
	}
}

func TestSkewWithinTheBound(t *testing.T) {
	withSkews(t, 3, func(t *testing.T, c *clustertest.Cluster, s *skews) {
		s.set("n1", 29*time.Second)
		time.Sleep(time.Minute)
		for _, id := range c.IDs() {
			put(t, c, id, "a", id)
		}
		if got := c.Node("n1").ClockOffset(); got < 28*time.Second || got > 30*time.Second {
			t.Errorf("n1 is %s ahead; want 29s", got)
		}
	})
}

// TestClockIsNotConfirmed: a node that starts believes its own clock only with a majority, and remembers what it was told.
func TestClockIsNotConfirmed(t *testing.T) {
	withSkews(t, 3, func(t *testing.T, c *clustertest.Cluster, _ *skews) {
		c.Stop("n2")
		c.Stop("n3")
		time.Sleep(time.Minute)
		if err := c.Node("n1").Clock(); err != nil {
			t.Errorf("n1 was told that its clock is right, and forgot: %v", err)
		}
		c.Stop("n1")
		c.Start("n1")
		time.Sleep(time.Minute)
		if err := c.Node("n1").Clock(); !errors.Is(err, cluster.ErrClock) || !strings.Contains(err.Error(), "not told") {
			t.Errorf("n1 believes its clock by itself: %v", err)
		}
		c.Start("n2")
		c.Await("n1 is confirmed by n2", func() bool { return c.Node("n1").Clock() == nil })
	})
}

// TestNoVoteForASkewedClock: a new member whose clock is off would stop a cluster of one, were it to vote.
func TestNoVoteForASkewedClock(t *testing.T) {
	withSkews(t, 1, func(t *testing.T, c *clustertest.Cluster, s *skews) {
		s.set("n2", -time.Hour)
		c.Join("n2")
		time.Sleep(time.Minute)
		put(t, c, "n1", "a", "1")
		members, err := c.Node("n1").Members(t.Context())
		if err != nil || len(members) != 2 || members[1].Voter {
			t.Errorf("members: %+v, %v; n2 must not vote", members, err)
		}
		proposeFails(t, c, "n2")
		s.set("n2", 0)
		c.AwaitVoter("n2")
		time.Sleep(6 * time.Second)
		put(t, c, "n2", "a", "2")
	})
}
