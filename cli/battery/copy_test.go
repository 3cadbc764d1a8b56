//go:build battery

package battery_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// TestCopiedNode starts a copy of one node, its disk and its HSM's token, beside the node itself: callers at work at all of
// them, the copy included. Nothing that was acknowledged is lost, no read at either is staler than promised; the copy names
// what it is and stops. What the copy wrote into its audit log is not judged, the node's own log is.
func TestCopiedNode(t *testing.T) {
	for _, role := range []string{"leader", "follower"}[:times(1, 2)] {
		t.Run(role, func(t *testing.T) {
			hsm := town.NewSoftHSM(t)
			at := town.New(t, town.Plan{Config: hsm.Config})
			crew := work.Start(t, at)
			crew.Await(t, 50)
			victim := at.Leader(t)
			if role == "follower" {
				victim = at.Others(victim)[0]
			}
			twin := at.Copy(t, victim, hsm.Copied)
			crew.Await(t, 20)
			twin.Launch(t)
			crew.Beside(t, twin)
			crew.Await(t, 50)
			twinStops(t, twin)

			gone, behind, twin := forgetful(t, at, crew, hsm.Copied)
			twinStops(t, twin)
			town.Pass(t, 5*time.Second) // nobody serves what is old
			for _, n := range gone {
				n.Launch(t)
			}
			for _, n := range append(gone, behind) {
				at.Ready(t, n)
			}
			crew.Await(t, 20)
			crew.Finish(t)
		})
	}
}

// forgetful leaves of a town the node that was down while the two others acknowledged changes, and a copy of one of those,
// made before. Neither of the two knows of the changes; together they would be a majority.
func forgetful(t *testing.T, at *town.Town, crew *work.Crew, lines func(testing.TB, *town.Node, *town.Node) string) (gone []*town.Node, behind, twin *town.Node) {
	t.Helper()
	leader := at.Leader(t)
	others := at.Others(leader)
	behind = others[1]
	behind.Stop()
	twin = at.Copy(t, others[0], lines)
	crew.Await(t, 20)
	gone = []*town.Node{leader, others[0]}
	kill(gone...)
	twin.Launch(t)
	behind.Launch(t)
	crew.Beside(t, twin)
	return gone, behind, twin
}

// TestBrokenCopy has a build in which a copy does not ask who it is, and demands that the history shows what comes of it. The
// short form builds it only, as TestBroken does.
func TestBrokenCopy(t *testing.T) {
	binary := town.Build(t, town.Edit{File: "cluster/run.go", Old: "busy.Go(func() { n.watchTwin(inner) })", New: "n.twin.sure.Store(true)"})
	if testing.Short() {
		return // the edit fits the code: that is what the short form shows
	}
	at := town.New(t, town.Plan{Binary: binary})
	crew := work.Start(t, at)
	crew.Await(t, 50)
	forgetful(t, at, crew, func(testing.TB, *town.Node, *town.Node) string { return "dev: true\n" })
	town.Eventually(t, "the history cannot be explained", time.Minute, func() error {
		if crew.Explained() {
			return errors.New("it can be")
		}
		return nil
	})
	crew.Halt()
}

// twinStops waits until a copy has stopped, and holds it to saying why.
func twinStops(t *testing.T, twin *town.Node) {
	t.Helper()
	town.Eventually(t, "the copy stops", 20*time.Second, func() error {
		if twin.Ended() == nil {
			return errors.New("it runs")
		}
		return nil
	})
	if !strings.Contains(twin.Wrote(t), "a copy") {
		t.Errorf("it does not say why it stopped:\n%s", twin.Log())
	}
}

// TestYesterdaysDisk puts back an old copy of one node's data. It takes nothing from what the cluster acknowledged; the
// one thing that only that node had, its newer audit records, is missed by name.
func TestYesterdaysDisk(t *testing.T) {
	at := town.New(t, town.Plan{})
	victim := at.Others(at.Leader(t))[0]
	old := filepath.Join(victim.Dir, "yesterday")
	crew := work.Start(t, at)
	crew.Await(t, 20)
	victim.Stop()
	replaceDir(t, victim.Data, old)
	victim.Start(t)
	crew.Await(t, 60)
	victim.Kill()
	replaceDir(t, old, victim.Data)
	victim.Start(t)
	at.Ready(t, victim)
	crew.Await(t, 20)
	named := false
	for _, finding := range crew.Findings(t) {
		text := finding.Error()
		ours := strings.Contains(text, "which node "+victim.ID+" answered, has 0 records") || strings.Contains(text, "audit")
		named = named || ours
		if !ours {
			t.Error(finding)
		}
	}
	if !named {
		t.Error("nobody missed the records that the old copy lacks")
	}
}
