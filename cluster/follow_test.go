package cluster_test

import (
	"testing"
	"testing/synctest"
	"time"

	"warder/cluster"
	"warder/cluster/clustertest"
)

// TestFollowersDoNotWaitForTheNextMessage: a leader that has nothing else to send tells its followers late what is
// committed. A change and a linearizable read through a follower do not wait for that. The time is virtual.
func TestFollowersDoNotWaitForTheNextMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const late = 2 * time.Second
		c := clustertest.New(t, 3, clustertest.WithTiming(cluster.Timing{Commit: late}))
		leader := c.Leader()
		for _, id := range c.Followers() {
			began := time.Now()
			put(t, c, id, "a", id)
			if took := time.Since(began); took > late/10 {
				t.Errorf("a change through %s took %s", id, took)
			}
			put(t, c, leader, "b", id)
			began = time.Now()
			read(t, c, id, "b", id)
			if took := time.Since(began); took > late/10 {
				t.Errorf("a linearizable read on %s took %s", id, took)
			}
		}
		c.StopAll()
	})
}
