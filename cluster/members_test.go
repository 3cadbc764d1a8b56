package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"warder/cluster"
	"warder/cluster/clustertest"
)

func TestRemoveAndAdmitAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		leader, gone := c.Leader(), c.Followers()[0]
		put(t, c, leader, "a", "1")
		if err := c.Node(leader).Remove(within(t, 10*time.Second), gone); err != nil {
			t.Fatal(err)
		}
		put(t, c, leader, "a", "2")
		time.Sleep(5 * time.Second)
		if err := c.Node(gone).Barrier(within(t, 5*time.Second)); !errors.Is(err, cluster.ErrNoLeader) {
			t.Errorf("barrier on a removed node: got %v, want ErrNoLeader", err)
		}
		if stale := c.Node(gone).Staleness(); stale < 4*time.Second {
			t.Errorf("a removed node thinks that it is %v old", stale)
		}
		members, err := c.Node(leader).Members(t.Context())
		if err != nil || len(members) != 2 {
			t.Errorf("members: got %v, %v", members, err)
		}
		if err := c.Node(leader).Admit(within(t, 10*time.Second), gone, gone+".test:7000"); err != nil {
			t.Fatal(err)
		}
		c.AwaitVoter(gone)
		read(t, c, gone, "a", "2")
		c.StopAll()
	})
}

func TestRemoveTheLeaderFromAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		leader, follower := c.Leader(), c.Followers()[0]
		if err := c.Node(follower).Remove(within(t, 10*time.Second), leader); err != nil {
			t.Fatal(err)
		}
		c.Stop(leader)
		put(t, c, follower, "a", "1")
		if err := c.Node(follower).Remove(within(t, 10*time.Second), "n9"); !errors.Is(err, cluster.ErrNotMember) {
			t.Errorf("remove a stranger: got %v, want ErrNotMember", err)
		}
		c.StopAll()
	})
}

func TestTheLastVoterStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 1)
		c.Leader()
		if err := c.Node("n1").Remove(within(t, time.Second), "n1"); !errors.Is(err, cluster.ErrLastVoter) {
			t.Errorf("got %v, want ErrLastVoter", err)
		}
		c.StopAll()
	})
}

func TestStepDownFromAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		leader, follower := c.Leader(), c.Followers()[0]
		if err := c.Node(follower).StepDown(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		c.Await("another leads", func() bool { id, _ := c.Node(follower).Leader(); return id != "" && id != leader })
		put(t, c, leader, "a", "1")
		c.StopAll()
	})
}

// TestCleanStopHandsOver: nobody waits for an election when the leader stops cleanly.
func TestCleanStopHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		leader, follower := c.Leader(), c.Followers()[0]
		began := time.Now()
		c.Stop(leader)
		put(t, c, follower, "a", "1")
		if took := time.Since(began); took > 250*time.Millisecond {
			t.Errorf("a write after a clean stop took %v, longer than an election needs", took)
		}
		c.StopAll()
	})
}

// TestLostDisk: a member that comes back with an empty disk is demoted, brought up to date and promoted by itself.
func TestLostDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		for i := range 50 {
			put(t, c, "n1", fmt.Sprint(i), "x")
		}
		lost := c.Followers()[0]
		c.Kill(lost)
		c.Wipe(lost)
		c.Start(lost)
		if !c.Node(lost).State().Outside {
			t.Error("a node with an empty disk takes part in elections")
		}
		c.Await("the member is demoted", func() bool { return !votes(c, c.Leader(), lost) })
		c.AwaitVoter(lost)
		c.Await("the member takes part", func() bool { return !c.Node(lost).State().Outside })
		read(t, c, lost, "49", "x")
		other := c.Followers()[0]
		if other == lost {
			other = c.Followers()[1]
		}
		c.Kill(other) // the rebuilt member's vote and acknowledgement count again
		put(t, c, lost, "a", "2")
		c.StopAll()
	})
}

func votes(c *clustertest.Cluster, at, id string) bool {
	members, err := c.Node(at).Members(context.Background())
	for _, one := range members {
		if one.ID == id {
			return err == nil && one.Voter
		}
	}
	return false
}

// TestEmptyDiskDoesNotVote is the loss that the exclusion prevents. n1 leads, and n2 has acknowledged a write that n3
// has not seen. n2 loses its disk and n1 is gone: n3 must not be elected with the vote of n2, which hashicorp/raft
// would grant, because the write would be lost.
func TestEmptyDiskDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		leader := c.Leader()
		behind, lost := c.Followers()[0], c.Followers()[1]
		c.Fabric.Partition([]string{leader, lost}, []string{behind})
		put(t, c, leader, "a", "acknowledged")
		c.Kill(leader)
		c.Kill(lost)
		c.Wipe(lost)
		c.Fabric.Heal()
		c.Start(lost)
		time.Sleep(20 * time.Second)
		for _, id := range []string{behind, lost} {
			if c.Node(id).IsLeader() {
				t.Fatalf("%s was elected without the acknowledged write", id)
			}
		}
		c.Start(leader)
		c.AwaitVoter(lost)
		for _, id := range c.IDs() {
			read(t, c, id, "a", "acknowledged")
		}
		c.StopAll()
	})
}

func small() clustertest.Option {
	return clustertest.WithTiming(cluster.Timing{SnapshotBytes: 1000, TrailingEntries: 4, SnapshotEntries: 16})
}

func TestSnapshotIsInstalledOnALaggingAndOnANewNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3, small())
		behind := c.Followers()[0]
		c.Kill(behind)
		leader := c.Leader()
		for i := range 200 {
			put(t, c, leader, fmt.Sprint(i), "x")
		}
		c.Await("a snapshot is saved", func() bool { return snapshots(t, c, leader) > 0 })
		time.Sleep(time.Second) // the log is cut after the snapshot is in place
		c.Start(behind)
		read(t, c, behind, "199", "x")
		c.Join("n4")
		c.AwaitVoter("n4")
		read(t, c, "n4", "0", "x")
		if calls, _ := c.Machine("n4").Calls(); calls > 150 {
			t.Errorf("the new node applied %d entries: it was not given the snapshot", calls)
		}
		for _, id := range c.IDs() {
			c.Kill(id)
			c.Start(id)
		}
		for _, id := range c.IDs() {
			read(t, c, id, "100", "x")
		}
		c.Agree()
		c.StopAll()
	})
}

func snapshots(t *testing.T, c *clustertest.Cluster, id string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(c.Dir(id), "snapshots", "*.snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

func TestDamageIsNamedAtOpen(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, c *clustertest.Cluster){
		"machine is ahead of the log": func(t *testing.T, c *clustertest.Cluster) { remove(t, c.Dir("n1")) },
		"standing is missing":         func(t *testing.T, c *clustertest.Cluster) { remove(t, filepath.Join(c.Dir("n1"), "standing")) },
		"stable is missing":           func(t *testing.T, c *clustertest.Cluster) { remove(t, filepath.Join(c.Dir("n1"), "stable")) },
		"log is missing":              func(t *testing.T, c *clustertest.Cluster) { remove(t, filepath.Join(c.Dir("n1"), "log")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := clustertest.New(t, 1)
				put(t, c, "n1", "a", "1")
				c.Stop("n1")
				harm(t, c)
				node, err := c.Open("n1")
				if !errors.Is(err, cluster.ErrDamaged) {
					t.Errorf("got %v, %v, want ErrDamaged", node, err)
				}
			})
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
