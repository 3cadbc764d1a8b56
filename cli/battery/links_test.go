//go:build battery && root

package battery_test

import (
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// narrow is how many KB a second a slow link lets through, each way of each connection.
const narrow = 64

// TestNetworkSlow delays and narrows the links between nodes, and lets links hang, callers at work at every node. A
// majority goes on: with slow links among it where the nodes were told of them. When the links are as before all serve.
func TestNetworkSlow(t *testing.T) {
	near, apart := append(slownesses(), hangs()...), append(slownesses(), everywhere(), hangs()[0])
	for _, distance := range []struct {
		name, roundTrip string
		cases           []slowness
	}{{"near", "30ms", near}, {"far", "300ms", apart}} {
		t.Run(distance.name, func(t *testing.T) {
			net := town.NewNetwork(t)
			links := town.NewLinks(t, net, 3)
			at := town.New(t, town.Plan{Prepare: links.Prepare, RoundTrip: distance.roundTrip})
			crew := work.Start(t, at)
			for _, one := range distance.cases {
				t.Run(one.name, func(t *testing.T) { endure(t, at, crew, links, one) })
			}
			crew.Finish(t)
		})
	}
}

// slowness is one thing that happens to links.
type slowness struct {
	name   string
	strike func(t *testing.T, links *town.Links, leader *town.Node, others []*town.Node)
}

func slownesses() []slowness {
	return []slowness{
		{"the leader's links", func(t *testing.T, links *town.Links, leader *town.Node, others []*town.Node) {
			links.Slow(t, leader, others, narrow)
		}},
		{"a follower's links", func(t *testing.T, links *town.Links, leader *town.Node, others []*town.Node) {
			links.Slow(t, others[0], []*town.Node{leader, others[1]}, narrow)
		}},
	}
}

func everywhere() slowness {
	return slowness{"all links", func(t *testing.T, links *town.Links, leader *town.Node, others []*town.Node) {
		links.Slow(t, leader, others, narrow)
		links.Slow(t, others[0], others[1:], narrow)
	}}
}

func hangs() []slowness {
	return []slowness{
		{"the leader hangs", func(t *testing.T, links *town.Links, leader *town.Node, others []*town.Node) {
			links.Hang(t, leader, others)
		}},
		{"a follower hangs", func(t *testing.T, links *town.Links, leader *town.Node, others []*town.Node) {
			links.Hang(t, others[0], []*town.Node{leader, others[1]})
		}},
		{"the link of leader and one follower hangs", func(t *testing.T, links *town.Links, leader *town.Node, others []*town.Node) {
			links.Hang(t, leader, others[:1])
		}},
	}
}

// endure lets a slowness last, and sees that the work goes on in it and afterwards.
func endure(t *testing.T, at *town.Town, crew *work.Crew, links *town.Links, one slowness) {
	t.Helper()
	leader := at.Leader(t)
	defer links.Heal(t)
	one.strike(t, links, leader, at.Others(leader))
	before := crew.Done()
	crew.Await(t, 20)
	town.Pass(t, 10*time.Second)
	crew.Await(t, 20)
	t.Logf("%d changes were acknowledged while it lasted; node %s led before, node %s leads", crew.Done()-before, leader.ID, at.Leader(t).ID)
	links.Heal(t)
	for _, n := range at.Nodes {
		at.Ready(t, n)
	}
	crew.Await(t, 20)
}
