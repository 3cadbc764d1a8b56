package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"warder/cluster"
	"warder/cluster/clustertest"
)

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, c *clustertest.Cluster, id, key, value string) {
	t.Helper()
	if _, err := c.Node(id).Propose(within(t, 20*time.Second), fmt.Appendf(nil, "put %s %s", key, value)); err != nil {
		t.Fatalf("propose on %s: %v", id, err)
	}
	if got := c.Machine(id).Get(key); got != value {
		t.Fatalf("%s does not read its own write of %s: got %q, want %q", id, key, got, value)
	}
}

func read(t *testing.T, c *clustertest.Cluster, id, key, want string) {
	t.Helper()
	if err := c.Node(id).Barrier(within(t, 20*time.Second)); err != nil {
		t.Fatalf("barrier on %s: %v", id, err)
	}
	if got := c.Machine(id).Get(key); got != want {
		t.Fatalf("%s reads %s: got %q, want %q", id, key, got, want)
	}
}

func TestOneNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 1)
		put(t, c, "n1", "a", "1")
		read(t, c, "n1", "a", "1")
		c.Stop("n1")
		c.Start("n1")
		read(t, c, "n1", "a", "1")
		c.StopAll()
	})
}

func TestThreeNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		for i, id := range c.IDs() {
			put(t, c, id, "a", fmt.Sprint(i))
			for _, other := range c.IDs() {
				read(t, c, other, "a", fmt.Sprint(i))
			}
		}
		c.Agree()
		c.StopAll()
	})
}

func TestFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		put(t, c, "n1", "a", "1")
		leader := c.Leader()
		c.Kill(leader)
		began := time.Now()
		next := c.Leader()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a new leader took %v", took)
		}
		put(t, c, next, "a", "2")
		c.Start(leader)
		read(t, c, leader, "a", "2")
		c.Agree()
		c.StopAll()
	})
}

// TestFailoverTime: a write on another node succeeds within a second of the leader's death, at the median, whether the
// others' connections to it break or just go silent.
func TestFailoverTime(t *testing.T) {
	for name, lose := range map[string]func(c *clustertest.Cluster, leader string){
		"killed": func(c *clustertest.Cluster, leader string) { c.Kill(leader); c.Start(leader) },
		"cut off": func(c *clustertest.Cluster, leader string) {
			c.Fabric.Partition([]string{leader}, slices.DeleteFunc(c.IDs(), func(id string) bool { return id == leader }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := clustertest.New(t, 3)
				var took []time.Duration
				for i := range 11 {
					leader, other := c.Leader(), c.Followers()[i%2]
					began := time.Now()
					lose(c, leader)
					for { // a write that was on its way when the leader was lost has an unknown outcome
						_, err := c.Node(other).Propose(within(t, 20*time.Second), []byte("put a 1"))
						if err == nil {
							break
						}
						if !errors.Is(err, cluster.ErrOutcomeUnknown) {
							t.Fatal(err)
						}
					}
					took = append(took, time.Since(began))
					c.Fabric.Heal()
					c.Agree()
				}
				slices.Sort(took)
				t.Logf("median %v, longest %v", took[5], took[10])
				if took[5] > time.Second {
					t.Errorf("failover took %v at the median", took[5])
				}
				c.StopAll()
			})
		})
	}
}

// TestFarApart: a cluster keeps its leader and goes on where each message takes long, when it was told so.
func TestFarApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3, clustertest.WithTiming(cluster.Timing{RoundTrip: 300 * time.Millisecond}))
		leader := c.Leader()
		c.Fabric.Delay(150*time.Millisecond, 1)
		for began, i := time.Now(), 0; time.Since(began) < 2*time.Minute; i++ {
			if _, err := c.Node(c.IDs()[i%3]).Propose(within(t, 20*time.Second), []byte("put a 1")); err != nil {
				t.Fatalf("after %s: %v", time.Since(began), err)
			}
		}
		if now := c.Leader(); now != leader {
			t.Errorf("%s leads in the place of %s", now, leader)
		}
		c.StopAll()
	})
}

func TestTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 1)
		if _, err := c.Node("n1").Propose(within(t, time.Second), make([]byte, cluster.MaxEntry+1)); !errors.Is(err, cluster.ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
		c.StopAll()
	})
}
