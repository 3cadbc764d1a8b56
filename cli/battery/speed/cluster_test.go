//go:build battery

package speed_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cli/battery/wire"
)

// TestCluster measures three nodes, on one machine and one disk: durable writes and reads, through the leader and through
// a follower.
func TestCluster(t *testing.T) {
	softHSM := town.BareSoftHSM(t)
	at := town.New(t, town.Plan{Config: func(t testing.TB, n *town.Node) string { return softHSM.Config(t, n) + settings }})
	bot := furnish(t, at)
	leader := at.Leader(t)
	c := &three{at: at, bot: bot, leader: serverOf(leader), follower: serverOf(at.Others(leader)[0])}
	c.writes(t)
	c.reads(t)
	if at.Leader(t) != leader {
		t.Error("the leader changed without a fault")
	}
}

type three struct {
	at               *town.Town
	bot              *bot
	leader, follower *server
	writer           writer
}

func (c *three) writes(t testing.TB) {
	t.Helper()
	long := time.Duration(times(200, 3000)) * time.Millisecond
	r := &table{title: "Durable writes, three nodes", head: []string{"writers", "through", "a second", "of D", "goal", "of the leader's", "CPU of all nodes, µs", "p50 ms", "p99 ms", "p99.9 ms"}}
	goal := map[int]string{256: "7", 64: "3", 1: "0.2"}
	operator := c.at.Certificate(t)
	for _, writers := range []int{1, 16, 64, 256} {
		direct, forwarded := dial(t, c.leader, &operator, writers), dial(t, c.follower, &operator, writers)
		var disk []float64
		var byLeader, byFollower series
		for range times(1, 5) {
			disk = append(disk, floorD(t, c.at.Dir, long/3))
			byLeader = append(byLeader, c.everybody(t, func() figures { return offer(t, c.leader, direct, 0, long, c.writer.request) }))
			byFollower = append(byFollower, c.everybody(t, func() figures { return offer(t, c.follower, forwarded, 0, long, c.writer.request) }))
		}
		hangUp(direct, forwarded)
		r.add(fmt.Sprint(writers), "leader", spread(byLeader.of(perSecond)), spread(ratios(byLeader.inRounds(perSecond), disk)), goal[writers], "1", spread(byLeader.of(cpu)),
			latency(byLeader, p50), latency(byLeader, p99), latency(byLeader, p999))
		r.add("", "follower", spread(byFollower.of(perSecond)), spread(ratios(byFollower.inRounds(perSecond), disk)), "",
			spread(ratios(byFollower.inRounds(perSecond), byLeader.inRounds(perSecond)))+", goal 0.67", spread(byFollower.of(cpu)), latency(byFollower, p50), latency(byFollower, p99), latency(byFollower, p999))
		r.add("", "floor D, 1 writer", spread(disk), "1", "", "", "", "", "", "")
	}
	r.show(t)
}

// everybody gives the figures of an offer with the processors' time of all nodes: a write is work for each.
func (c *three) everybody(t testing.TB, offered func() figures) figures {
	t.Helper()
	sum := func() (used time.Duration) {
		for _, n := range c.at.Nodes {
			used += serverOf(n).processors(t)
		}
		return used
	}
	before, began := sum(), time.Now()
	f := offered()
	f.cpu = (sum() - before).Seconds() * 1e6 / max(1, f.perSecond*time.Since(began).Seconds())
	return f
}

func (c *three) reads(t testing.TB) {
	t.Helper()
	long := time.Duration(times(200, 2000)) * time.Millisecond
	r := &table{title: "Secret read, three nodes, 64 connections", head: []string{"through", "a second", "server CPU, µs", "p50 ms", "p99 ms", "p99.9 ms"}}
	direct, through := dial(t, c.leader, c.bot.certificate, 64), dial(t, c.follower, c.bot.certificate, 64)
	read := always(kinds()[0].request(c.bot))
	var byLeader, byFollower series
	for range times(1, 5) {
		byLeader = append(byLeader, offer(t, c.leader, direct, 0, long, read))
		byFollower = append(byFollower, offer(t, c.follower, through, 0, long, read))
	}
	for name, got := range map[string]series{"leader": byLeader, "follower": byFollower} {
		r.add(name, spread(got.of(perSecond)), spread(got.of(cpu)), latency(got, p50), latency(got, p99), latency(got, p999))
	}
	r.show(t)
}

func hangUp(all ...[]*wire.Pipe) {
	for _, p := range slices.Concat(all...) {
		_ = p.Close() // the node may have been first
	}
}

// TestNoElection puts full load on three nodes for ten minutes: the leader stays. A follower that loses sight of it for a
// moment asks for an election, which the others refuse: the table tells of it.
func TestNoElection(t *testing.T) {
	long := time.Duration(times(3, 600)) * time.Second
	softHSM := town.BareSoftHSM(t)
	at := town.New(t, town.Plan{Config: func(t testing.TB, n *town.Node) string { return softHSM.Config(t, n) + settings }})
	bot, writes, operator := furnish(t, at), writer{}, at.Certificate(t)
	elections, changes := greatest(t, at, "warder_cluster_term"), total(t, at, "warder_cluster_leader_changes_total")
	ended := make(chan figures)
	count := 0
	for _, n := range at.Nodes {
		s := serverOf(n)
		writing, reading := dial(t, s, &operator, 64), dial(t, s, bot.certificate, 64)
		count += 2
		go func() { ended <- offer(t, s, writing, 0, long, writes.request) }()
		go func() { ended <- offer(t, s, reading, 0, long, always(kinds()[0].request(bot))) }()
	}
	sum := 0.0
	for range count {
		sum += (<-ended).perSecond
	}
	elections, changes = greatest(t, at, "warder_cluster_term")-elections, total(t, at, "warder_cluster_leader_changes_total")-changes
	r := &table{title: "Full load without a fault, three nodes, 64 writers and 64 readers on each", head: []string{"for", "requests a second", "writes in all", "elections", "goal", "times that a node lost or found the leader"}}
	r.add(long.String(), number(sum), fmt.Sprint(writes.made.Load()), fmt.Sprint(elections), "0", fmt.Sprint(changes))
	r.show(t)
	if elections != 0 {
		t.Errorf("%v elections without a fault", elections)
	}
}

// greatest and total gather a number of all nodes' metrics.
func greatest(t testing.TB, at *town.Town, metric string) float64 {
	t.Helper()
	most := 0.0
	for _, n := range at.Nodes {
		most = max(most, n.Gauge(t, metric))
	}
	return most
}

func total(t testing.TB, at *town.Town, metric string) float64 {
	t.Helper()
	sum := 0.0
	for _, n := range at.Nodes {
		sum += n.Gauge(t, metric)
	}
	return sum
}
