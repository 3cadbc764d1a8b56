//go:build battery

package battery_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// TestCalm lets the callers work on a cluster that nothing happens to: no request fails, but those that must.
func TestCalm(t *testing.T) {
	at := town.New(t, town.Plan{})
	crew := work.Start(t, at)
	town.Pass(t, 10*time.Second)
	crew.Finish(t)
	crew.Calm(t)
}

// times is how often a fault is injected: in the short form, and in the long one.
func times(short, long int) int {
	if testing.Short() {
		return short
	}
	return long
}

// TestCrash kills nodes with -9 while callers are at work, and starts them again: everything that was acknowledged is
// there at the end, on every node, and nothing that was taken away.
func TestCrash(t *testing.T) {
	for _, one := range []struct {
		name   string
		count  int
		binary func(testing.TB) string
		strike func(t *testing.T, at *town.Town, random *rand.Rand) []*town.Node // gives those that were killed
	}{
		{"any", times(6, 60), nil, func(t *testing.T, at *town.Town, random *rand.Rand) []*town.Node {
			return kill(at.Nodes[random.IntN(len(at.Nodes))])
		}},
		{"leader", times(2, 20), nil, func(t *testing.T, at *town.Town, _ *rand.Rand) []*town.Node { return kill(at.Leader(t)) }},
		{"follower", times(2, 15), nil, func(t *testing.T, at *town.Town, random *rand.Rand) []*town.Node {
			return kill(at.Others(at.Leader(t))[random.IntN(2)])
		}},
		{"all", times(2, 30), nil, func(t *testing.T, at *town.Town, _ *rand.Rand) []*town.Node { return kill(at.Nodes...) }},
		{"snapshot", times(2, 20), frequentSnapshots, func(t *testing.T, at *town.Town, random *rand.Rand) []*town.Node {
			return killWhile(t, at.Nodes[random.IntN(3)], "writes a snapshot", "raft/snapshots/*.tmp")
		}},
		{"install", times(1, 8), frequentSnapshots, killInstalling},
		{"root rotation", times(2, 10), nil, func(t *testing.T, at *town.Town, random *rand.Rand) []*town.Node {
			return killRotating(t, at, random, beginRoot)
		}},
		{"data rotation", times(2, 10), nil, func(t *testing.T, at *town.Town, random *rand.Rand) []*town.Node {
			return killRotating(t, at, random, beginData)
		}},
		{"join", times(2, 6), nil, killJoining},
		{"removal", times(1, 2), nil, killRemoving},
	} {
		t.Run(one.name, func(t *testing.T) {
			random, plan := town.Random(t), town.Plan{}
			if one.binary != nil {
				plan.Binary = one.binary(t)
			}
			at := town.New(t, plan)
			crew := work.Start(t, at)
			for range one.count {
				town.Pass(t, time.Duration(random.IntN(500))*time.Millisecond) // any moment
				killed := one.strike(t, at, random)
				if 2*len(killed) < len(at.Nodes) {
					crew.Await(t, 2)
				}
				for _, n := range killed {
					n.Launch(t)
				}
				for _, n := range killed {
					at.Ready(t, n)
				}
				crew.Await(t, 10)
			}
			crew.Finish(t)
		})
	}
}

func kill(nodes ...*town.Node) []*town.Node {
	for _, n := range nodes {
		n.Kill()
	}
	return nodes
}

// killWhile kills a node at the moment at which its data folder has a file that tells what it does.
func killWhile(t testing.TB, n *town.Node, what string, patterns ...string) []*town.Node {
	t.Helper()
	await(t, n, what, patterns...)
	return kill(n)
}

// await waits for a file of a node's data folder, more closely than the town does.
func await(t testing.TB, n *town.Node, what string, patterns ...string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, pattern := range patterns {
			if found, err := filepath.Glob(filepath.Join(n.Data, pattern)); err == nil && len(found) > 0 {
				return
			}
		}
	}
	t.Fatalf("node %s never %s:\n%s", n.ID, what, n.Log())
}

// frequentSnapshots is a build that takes a snapshot every 64 entries, keeps 8 behind it, and takes its time over both
// writing and installing one.
func frequentSnapshots(t testing.TB) string {
	t.Helper()
	return town.Build(t,
		town.Edit{File: "cluster/config.go", Old: "cmp.Or(t.SnapshotEntries, 8192)", New: "cmp.Or(t.SnapshotEntries, 64)"},
		town.Edit{File: "cluster/config.go", Old: "cmp.Or(t.TrailingEntries, 1024)", New: "cmp.Or(t.TrailingEntries, 8)"},
		town.Edit{File: "cluster/config.go", Old: "conf.SnapshotInterval = 20 * time.Second", New: "conf.SnapshotInterval = 500 * time.Millisecond"},
		town.Edit{File: "cluster/fsm.go", Old: "\tif err := sink.Close(); err != nil {", New: "\ttime.Sleep(50 * time.Millisecond)\n\tif err := sink.Close(); err != nil {"},
		town.Edit{File: "keystore/kv/restore.go", Old: "\tg, err := s.fill(in, st, number)\n", New: "\tg, err := s.fill(in, st, number)\n\ttime.Sleep(200 * time.Millisecond)\n"},
		town.Edit{File: "keystore/kv/restore.go", Old: "import (", New: "import (\n\t\"time\""},
	)
}

// killInstalling keeps a node down until the others have dropped what it lacks, and kills it again while it installs
// the snapshot that it is sent.
func killInstalling(t *testing.T, at *town.Town, random *rand.Rand) []*town.Node {
	t.Helper()
	lagging := at.Others(at.Leader(t))[random.IntN(2)]
	lagging.Kill()
	newest := func() string { return snapshots(t, at.Leader(t)) }
	for range 2 { // the second began after the node was gone
		before := newest()
		town.Eventually(t, "the leader takes a snapshot", time.Minute, func() error {
			if newest() == before {
				return errors.New("none yet")
			}
			return nil
		})
	}
	before := generations(t, lagging)
	lagging.Launch(t)
	for deadline := time.Now().Add(time.Minute); generations(t, lagging) == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("node %s installs no snapshot:\n%s", lagging.ID, lagging.Log())
		}
	}
	return kill(lagging)
}

// snapshots names a node's snapshots that are whole.
func snapshots(t testing.TB, n *town.Node) string {
	t.Helper()
	return names(t, filepath.Join(n.Data, "raft", "snapshots"), "*.snap*")
}

// generations names the folders that hold a node's state: a second one is there while a snapshot is installed.
func generations(t testing.TB, n *town.Node) string {
	t.Helper()
	return names(t, filepath.Join(n.Data, "state"), "gen-*")
}

func names(t testing.TB, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, " ")
}

// killRotating begins a rotation and kills a node in the course of it. The rotation comes to its end all the same.
func killRotating(t *testing.T, at *town.Town, random *rand.Rand, begin func(testing.TB, *town.Town) (string, error)) []*town.Node {
	t.Helper()
	victim, id := at.Nodes[random.IntN(3)], ""
	town.Eventually(t, "a rotation begins", time.Minute, func() (err error) {
		id, err = begin(t, at)
		return err
	})
	town.Pass(t, time.Duration(random.IntN(800))*time.Millisecond)
	victim.Kill()
	town.Pass(t, time.Duration(random.IntN(500))*time.Millisecond)
	victim.Launch(t)
	at.Ready(t, victim)
	town.Eventually(t, "the rotation ends", time.Minute, func() error { return rotated(t, at, id) })
	return nil
}

func beginRoot(t testing.TB, at *town.Town) (string, error) {
	answer, err := at.Client.Cluster.RotateRoot(t.Context(), &warderv1.RotateRootRequest{})
	return answer.GetRotation().GetId(), err
}

func beginData(t testing.TB, at *town.Town) (string, error) {
	answer, err := at.Client.Cluster.RotateData(t.Context(), &warderv1.RotateDataRequest{})
	return answer.GetRotation().GetId(), err
}

// rotated says why a rotation is not over: it is when it is done, or a later one has begun.
func rotated(t testing.TB, at *town.Town, id string) error {
	answer, err := at.Client.Cluster.GetRotation(t.Context(), &warderv1.GetRotationRequest{})
	if err != nil {
		return err
	}
	now := answer.GetRotation()
	if now.GetPhase() == warderv1.RotationPhase_ROTATION_PHASE_FAILED {
		return town.Final(fmt.Errorf("it failed: %s", now.GetDetail()))
	}
	if now.GetId() == id && now.GetPhase() != warderv1.RotationPhase_ROTATION_PHASE_DONE {
		return fmt.Errorf("it is in phase %s, and waits for %v", now.GetPhase(), now.GetWaitingFor())
	}
	return nil
}
