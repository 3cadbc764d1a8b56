//go:build battery && root

package battery_test

import (
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// TestNetwork parts nodes from each other, loses what they send and pulls their plugs, callers at work at every node: at
// those of the minority, too. When the network is whole again all serve, by themselves.
func TestNetwork(t *testing.T) {
	net := town.NewNetwork(t)
	at := town.New(t, town.Plan{Prepare: net.Prepare})
	crew := work.Start(t, at)
	for _, fault := range []struct {
		name   string
		strike func(t *testing.T, leader *town.Node, others []*town.Node)
		lasts  time.Duration
		works  bool // a majority can reach each other
	}{
		{"the leader is cut off", func(t *testing.T, leader *town.Node, others []*town.Node) {
			net.Part(t, leader, others[0])
			net.Part(t, leader, others[1])
		}, 12 * time.Second, true},
		{"a follower is cut off", func(t *testing.T, leader *town.Node, others []*town.Node) {
			net.Part(t, leader, others[0])
			net.Part(t, others[0], others[1])
		}, 12 * time.Second, true},
		{"all are apart", func(t *testing.T, leader *town.Node, others []*town.Node) {
			net.Part(t, leader, others[0])
			net.Part(t, leader, others[1])
			net.Part(t, others[0], others[1])
		}, 10 * time.Second, false},
		{"leader and one follower do not reach each other", func(t *testing.T, leader *town.Node, others []*town.Node) {
			net.Part(t, leader, others[0])
		}, 12 * time.Second, true},
		{"the leader speaks and does not hear", func(t *testing.T, leader *town.Node, others []*town.Node) {
			net.Deafen(t, leader, others[0])
			net.Deafen(t, leader, others[1])
		}, 12 * time.Second, true},
		{"the leader hears and is not heard", func(t *testing.T, leader *town.Node, others []*town.Node) {
			net.Deafen(t, others[0], leader)
			net.Deafen(t, others[1], leader)
		}, 12 * time.Second, true},
		{"a third of everything is lost", func(t *testing.T, leader *town.Node, others []*town.Node) {
			for _, n := range at.Nodes {
				net.Lose(t, n, 0.3)
			}
		}, 20 * time.Second, false},
		{"the leader's link flaps", func(t *testing.T, leader *town.Node, _ []*town.Node) {
			for range 8 {
				net.Unplug(t, leader)
				town.Pass(t, 1500*time.Millisecond)
				net.Plug(t, leader)
				town.Pass(t, 1500*time.Millisecond)
			}
		}, 0, true},
	} {
		t.Run(fault.name, func(t *testing.T) {
			leader := at.Leader(t)
			fault.strike(t, leader, at.Others(leader))
			if fault.works {
				crew.Await(t, 20)
			}
			town.Pass(t, fault.lasts)
			net.Heal(t)
			for _, n := range at.Nodes {
				at.Ready(t, n)
			}
			crew.Await(t, 20)
		})
	}
	crew.Finish(t)
}
