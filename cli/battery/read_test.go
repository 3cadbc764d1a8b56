//go:build battery && root

package battery_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// TestReadErrors has every read of one node's disk fail, callers at work: while the node runs, with nothing of its files in
// the system's memory; and when it is started, with nothing of one of its folders there. The node refuses or stops, and names
// the fault, where it needs what it cannot read; the others go on; on the mended disk it serves.
func TestReadErrors(t *testing.T) {
	p := &powered{disks: map[*town.Node]*town.Disk{}}
	p.Town = town.New(t, town.Plan{Prepare: p.on(func(t testing.TB) *town.Disk { return town.NewFrailDisk(t, "ext4", 300) })})
	crew := work.Start(t, p.Town)
	for _, one := range []struct {
		name    string
		leader  bool
		running bool
		folder  string // that cannot be read, below the node's data
	}{
		{"the leader runs", true, true, ""},
		{"a follower runs", false, true, ""},
		{"started, nothing can be read", false, false, ""},
		{"started, the state cannot be read", false, false, "state"},
		{"started, the Raft log cannot be read", false, false, "raft"},
		{"started, the audit log cannot be read", false, false, "audit"},
	} {
		t.Run(one.name, func(t *testing.T) {
			crew.Await(t, 50)
			victim := p.Leader(t)
			if !one.leader {
				victim = p.Others(victim)[0]
			}
			disk, before := p.disks[victim], len(victim.Wrote(t))
			defer disk.FailReads(t, false)
			if !one.running {
				victim.Stop()
				disk.Recall(t, victim.Data)
			}
			disk.Forget(t, victim, filepath.Join(victim.Data, one.folder))
			disk.FailReads(t, true)
			if !one.running {
				victim.Launch(t)
			}
			says := func(words ...string) bool {
				wrote := victim.Wrote(t)[before:]
				return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(wrote, word) })
			}
			// A mapped file has no other error than its fault, and in a goroutine of Badger's the runtime's word for it is the last.
			stops := func() bool { return says("the store stopped", "unexpected fault address") }
			names := func() bool { return stops() || says("input/output error") }
			if !one.running {
				town.Eventually(t, "the node names its disk's fault, and stops or refuses", time.Minute, func() error {
					if !names() {
						return errors.New("it says nothing of it")
					}
					return p.fails(t, victim)
				})
			}
			crew.Await(t, 60)
			// One that runs may have in memory all that it is asked for, or need what it could not read no more. What it answers
			// is judged with the rest.
			if failed := p.fails(t, victim) == nil; one.running && (failed && !names() || stops() && !failed) {
				t.Errorf("the node fails: %t; it names the fault: %t; its store has stopped: %t\n%s", failed, names(), stops(), victim.Log())
			}
			t.Logf("stopped: %t", victim.Ended() != nil)
			victim.Kill()
			disk.FailReads(t, false)
			disk.Unmount(t)
			disk.Mount(t)
			victim.Start(t)
			p.Ready(t, victim)
		})
	}
	crew.Finish(t)
}

// fails says, by nil, that a node has ended or answers with a problem; otherwise that all seems well.
func (p *powered) fails(t *testing.T, n *town.Node) error {
	if n.Ended() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	status, err := p.Dial(t, n).System.GetStatus(client.Linearizable(ctx), &warderv1.GetStatusRequest{})
	if err == nil && len(status.GetProblems()) == 0 {
		return errors.New("it says that all is well")
	}
	return nil
}
