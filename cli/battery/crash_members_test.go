//go:build battery

package battery_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
)

// killJoining adds a node, and kills it or the leader while it joins. It comes to be a member all the same.
func killJoining(t *testing.T, at *town.Town, random *rand.Rand) []*town.Node {
	t.Helper()
	joining := at.Add(t)
	victims := []*town.Node{joining, at.Leader(t)}
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = at.Try("operator", "join", "--socket", joining.Socket()) // what it came to is looked at later
	}()
	town.Pass(t, time.Duration(random.IntN(400))*time.Millisecond)
	victim := victims[random.IntN(2)]
	victim.Kill()
	<-over
	victim.Start(t)
	town.Eventually(t, "node "+joining.ID+" joins", time.Minute, func() error { return joined(t, at, joining) })
	return nil
}

// joined does what an operator would do until the node is a member and serves: have it join, where it is none yet. Of one
// that was killed after the cluster knew it, and before it knew that itself, the cluster is told to forget it first; and one
// that came to know it when it had been forgotten starts anew, without its disk.
func joined(t testing.TB, at *town.Town, n *town.Node) error {
	member, err := isMember(t, at, n)
	if err != nil || member && town.Serves(t, at.Dial(t, n)) == nil {
		return err
	}
	out, err := at.Try("operator", "join", "--socket", n.Socket())
	switch {
	case err != nil && strings.Contains(out, "is a member already"):
		out, err = at.Try("operator", "remove", n.ID, "--yes", "--no-wait")
	case err != nil && strings.Contains(out, "belongs to a cluster already"):
		if member, asked := isMember(t, at, n); member || asked != nil { // it may have become one meanwhile
			break
		}
		n.Kill()
		if err := os.RemoveAll(n.Data); err != nil {
			return err
		}
		n.Start(t)
	}
	return fmt.Errorf("it does not serve yet: %w: %s", err, out)
}

// isMember asks the others.
func isMember(t testing.TB, at *town.Town, n *town.Node) (bool, error) {
	asked := at.Dial(t, at.Others(n)...)
	members, err := asked.Cluster.ListMembers(client.Linearizable(t.Context()), &warderv1.ListMembersRequest{})
	return slices.ContainsFunc(members.GetMembers(), func(m *warderv1.Member) bool { return m.GetId() == n.ID }), err
}

// killRemoving adds a node and removes another, and kills one of those that stay in the course of it. The removed one
// serves nobody.
func killRemoving(t *testing.T, at *town.Town, random *rand.Rand) []*town.Node {
	t.Helper()
	added := at.Add(t) // the crew rotates keys, and nobody joins meanwhile
	town.Eventually(t, "node "+added.ID+" joins", time.Minute, func() error { return joined(t, at, added) })
	at.Ready(t, added)
	gone := at.Nodes[random.IntN(3)]
	staying := at.Others(gone)
	victim := staying[random.IntN(len(staying))]
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = at.Try("operator", "remove", gone.ID, "--yes", "--no-wait") // what it came to is looked at later
	}()
	town.Pass(t, time.Duration(random.IntN(200))*time.Millisecond)
	victim.Kill()
	<-over
	victim.Start(t)
	town.Eventually(t, "node "+gone.ID+" is removed", time.Minute, func() error { return removed(t, at, gone) })
	town.Eventually(t, "node "+gone.ID+" serves nobody", time.Minute, func() error {
		if town.Serves(t, at.Dial(t, gone)) == nil {
			return errors.New("it serves")
		}
		return nil
	})
	at.Leave(gone)
	return nil
}

// removed says why a node is not out of the cluster, and has it removed where it is not: it does not do so itself.
func removed(t testing.TB, at *town.Town, gone *town.Node) error {
	member, err := isMember(t, at, gone)
	if err != nil || !member {
		return err
	}
	_, err = at.Try("operator", "remove", gone.ID, "--yes", "--no-wait", "--endpoint", at.Others(gone)[0].Endpoint())
	return fmt.Errorf("it is a member: %w", err)
}
