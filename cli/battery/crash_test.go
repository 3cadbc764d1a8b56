//go:build battery

package battery_test

import (
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// kills is how many nodes the crash test kills.
func kills() int {
	if testing.Short() {
		return 40
	}
	return 200
}

// TestNothingAcknowledgedIsLostToKill9 kills one node after the other at any moment, callers at work: each starts
// again, and everything that was acknowledged is there at the end, on every node.
func TestNothingAcknowledgedIsLostToKill9(t *testing.T) {
	at := town.New(t, town.Plan{})
	random := town.Random(t)
	crew := work.Start(t, at)
	for range kills() {
		town.Pass(t, time.Duration(random.IntN(300))*time.Millisecond) // any moment
		victim := at.Nodes[random.IntN(len(at.Nodes))]
		victim.Kill()
		crew.Await(t, 2)
		victim.Start(t)
		at.Ready(t, victim)
	}
	crew.Finish(t)
}
