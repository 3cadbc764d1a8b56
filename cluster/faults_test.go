package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warder/cluster"
	"warder/cluster/clustertest"
)

// TestMachineFailureStopsTheNode: fail, do not continue.
func TestMachineFailureStopsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		leader, follower := c.Leader(), c.Followers()[0]
		fault := errors.New("disk is full")
		c.Machine(leader).Fail(fault)
		_, err := c.Node(leader).Propose(within(t, 10*time.Second), []byte("put a 1"))
		if !errors.Is(err, cluster.ErrOutcomeUnknown) {
			t.Errorf("propose on a failing node: got %v, want ErrOutcomeUnknown", err)
		}
		if err := c.Ended(leader); !errors.Is(err, fault) {
			t.Errorf("run ended with %v, want the fault", err)
		}
		read(t, c, follower, "a", "1")
		c.Machine(leader).Fail(nil)
		c.Start(leader)
		read(t, c, leader, "a", "1")
		c.StopAll()
	})
}

// TestHangingMachineMakesTheLeaderStepDown also stands for a hanging disk: both are watched alike.
func TestHangingMachineMakesTheLeaderStepDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		leader, follower := c.Leader(), c.Followers()[0]
		release := c.Machine(leader).Hang()
		var asked sync.WaitGroup
		asked.Go(func() {
			_, err := c.Node(leader).Propose(within(t, 30*time.Second), []byte("put a 1"))
			if err != nil && !errors.Is(err, cluster.ErrOutcomeUnknown) {
				t.Errorf("propose on a hanging node: %v", err)
			}
		})
		c.Await("another leads", func() bool {
			for _, id := range c.IDs() {
				if id != leader && c.Node(id).IsLeader() {
					return true
				}
			}
			return false
		})
		put(t, c, follower, "b", "2")
		release()
		asked.Wait()
		read(t, c, leader, "b", "2")
		c.Agree()
		c.StopAll()
	})
}

func TestDivergedNodeIsTakenOut(t *testing.T) {
	for _, who := range []string{"leader", "follower"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := clustertest.New(t, 3)
				put(t, c, "n1", "a", "1")
				odd := c.Leader()
				if who == "follower" {
					odd = c.Followers()[0]
				}
				c.Machine(odd).Corrupt()
				if err := c.Ended(odd); !errors.Is(err, cluster.ErrDiverged) {
					t.Errorf("run ended with %v, want ErrDiverged", err)
				}
				c.Leader()
				for _, id := range c.IDs() {
					if id != odd {
						put(t, c, id, "a", id)
					}
				}
				c.StopAll()
			})
		})
	}
}

// TestParallelProposalsShareEntries: each gets its own result, and exactly one of those that exclude each other wins.
func TestParallelProposalsShareEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		leader := c.Leader()
		before, _ := c.Machine(leader).Calls()
		var all sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for i := range 200 {
			id := c.IDs()[i%3]
			all.Go(func() {
				result, err := c.Node(id).Propose(within(t, 30*time.Second), fmt.Appendf(nil, "add token %d", i))
				if err != nil {
					t.Errorf("propose: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				if string(result) != "refused" {
					won++
				}
			})
		}
		all.Wait()
		if won != 1 {
			t.Errorf("%d of 200 won, want 1", won)
		}
		after, entries := c.Machine(leader).Calls()
		if entries != 200 || after-before > 100 {
			t.Errorf("%d proposals took %d raft entries: they were not grouped", entries, after-before)
		}
		c.StopAll()
	})
}

func TestPartitionedLeaderConfirmsNoRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		put(t, c, "n1", "a", "old")
		leader, others := c.Leader(), c.Followers()
		c.Fabric.Partition([]string{leader}, others)
		if err := c.Node(leader).Barrier(within(t, 5*time.Second)); !errors.Is(err, cluster.ErrNoLeader) {
			t.Errorf("barrier on a leader alone: got %v, want ErrNoLeader", err)
		}
		if _, err := c.Node(leader).Propose(within(t, 10*time.Second), []byte("put b 1")); err == nil {
			t.Error("a leader alone took a write")
		}
		put(t, c, others[0], "a", "new")
		c.Fabric.Heal()
		read(t, c, leader, "a", "new")
		if stale := c.Node(leader).Staleness(); stale > time.Second {
			t.Errorf("staleness after a barrier: %v", stale)
		}
		c.StopAll()
	})
}

// TestVoteThatCannotBeStoredStopsTheNode: hashicorp/raft would panic.
func TestVoteThatCannotBeStoredStopsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		broken := c.Followers()[0]
		if err := os.Mkdir(filepath.Join(c.Dir(broken), "stable.tmp"), 0o700); err != nil {
			t.Fatal(err)
		}
		c.Kill(c.Leader())
		if err := c.Ended(broken); err == nil || !strings.Contains(err.Error(), "stable") {
			t.Errorf("run ended with %v, want the failed write of the vote", err)
		}
		c.StopAll()
	})
}

// TestDamageWhileRunningStopsTheNode: entries that change under a running leader are not sent to anyone.
func TestDamageWhileRunningStopsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, 3)
		leader, behind := c.Leader(), c.Followers()[0]
		c.Kill(behind)
		for i := range 300 {
			put(t, c, leader, fmt.Sprint("key", i), "value")
		}
		harmLog(t, c.Dir(leader), "key7 value")
		c.Start(behind)
		if err := c.Ended(leader); !errors.Is(err, cluster.ErrDamaged) {
			t.Errorf("run ended with %v, want ErrDamaged", err)
		}
		read(t, c, behind, "key7", "value")
		if _, err := c.Open(leader); !errors.Is(err, cluster.ErrDamaged) {
			t.Errorf("open: got %v, want ErrDamaged", err)
		}
		c.Wipe(leader) // what an operator does with a node that says so
		c.Start(leader)
		c.AwaitVoter(leader)
		read(t, c, leader, "key299", "value")
		c.StopAll()
	})
}

func harmLog(t *testing.T, dir, text string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "log", "*.wal"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no log: %v", err)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(found[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt([]byte("X"), int64(strings.Index(string(data), text)))
	if err = errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}
