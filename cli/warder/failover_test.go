package main_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	warderv1 "warder/api/warder/v1"
)

// BenchmarkFailover kills the leader with -9 while writers run, and measures until the next write is acknowledged.
// Its figure is the median.
func BenchmarkFailover(b *testing.B) {
	c := newTestCluster(b)
	startWriters(b, c.client, 2)
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		leader := c.leader(b)
		leader.kill()
		began := time.Now()
		for attempt := 0; ; attempt++ { // one that was on its way to the killed node has an unknown outcome
			_, err := c.client.Credentials.PutCredential(b.Context(), putRequest(fmt.Sprintf("failover-%d-%d", n, attempt), "x"))
			if err == nil {
				break
			}
			if time.Since(began) > 30*time.Second {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(began))
		leader.start(b)
		c.ready(b, leader)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-median")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-max")
}

func (c *testCluster) leader(t testing.TB) *process {
	t.Helper()
	var found *process
	eventually(t, "a leader", 30*time.Second, func() error {
		members, err := c.client.Cluster.ListMembers(t.Context(), &warderv1.ListMembersRequest{})
		if err != nil {
			return err
		}
		for i, member := range members.GetMembers() {
			if member.GetRole() == warderv1.NodeRole_NODE_ROLE_LEADER {
				found = c.nodes[i]
				return nil
			}
		}
		return fmt.Errorf("nobody leads")
	})
	return found
}
