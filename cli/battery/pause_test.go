//go:build battery

package battery_test

import (
	"fmt"
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// TestPause stops a node where it is (SIGSTOP), for longer than an election takes and, every other time, for longer than
// the bound on staleness. While it is stopped the others write on, and take rights away. When it goes on, requests lie
// waiting in its sockets: it must answer none of them by what it knew before, where that is promised.
func TestPause(t *testing.T) {
	for _, one := range []struct {
		name   string
		victim func(testing.TB, *town.Town) *town.Node
	}{
		{"leader", func(t testing.TB, at *town.Town) *town.Node { return at.Leader(t) }},
		{"follower", func(t testing.TB, at *town.Town) *town.Node { return at.Others(at.Leader(t))[0] }},
	} {
		t.Run(one.name, func(t *testing.T) {
			at := town.New(t, town.Plan{})
			crew := work.Start(t, at)
			for turn := range times(2, 10) {
				victim := one.victim(t, at)
				suspend(t, at, crew, victim, turn)
				at.Ready(t, victim)
				crew.Await(t, 10)
			}
			crew.Finish(t)
		})
	}
}

// suspend stops a node while others write and revoke, with requests waiting for it, and lets it go on.
func suspend(t testing.TB, at *town.Town, crew *work.Crew, victim *town.Node, turn int) {
	t.Helper()
	party := crew.Invite(t, fmt.Sprintf("pause-%d", turn))
	defer party.Leave()
	crew.Await(t, 10)
	victim.Pause()
	defer victim.Resume()
	party.Evict(t, at.Others(victim)...)
	crew.Await(t, 10)
	if turn%2 == 1 {
		town.Pass(t, work.StalenessBound+time.Second)
	}
	crew.Await(t, 2)
	crew.Rush(victim, 32)
	town.Pass(t, 200*time.Millisecond) // the requests leave
	victim.Resume()
	town.Pass(t, time.Second) // the guests try on
}
