package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"warder/cluster"
	"warder/cluster/clustertest"
)

// TestOverTLS runs three nodes over TCP and TLS on loopback, in real time.
func TestOverTLS(t *testing.T) {
	nodes, stop := overTLS(t, 3)
	ctx := within(t, 15*time.Second)
	for i, one := range nodes {
		if err := one.propose(ctx, fmt.Appendf(nil, "put a %d", i)); err != nil {
			t.Fatal(err)
		}
		for _, other := range nodes {
			if err := other.node.Barrier(ctx); err != nil {
				t.Fatal(err)
			}
			if got := other.machine.Get("a"); got != fmt.Sprint(i) {
				t.Errorf("read %q, want %d", got, i)
			}
		}
	}
	big := append([]byte("put big "), make([]byte, 4<<20)...)
	if err := nodes[1].propose(ctx, big); err != nil {
		t.Errorf("an entry of 4 MiB: %v", err)
	}
	stop(0) // the leader
	began := time.Now()
	if err := nodes[2].propose(ctx, []byte("put b 1")); err != nil {
		t.Fatal(err)
	}
	t.Logf("a write after the leader's clean stop took %v", time.Since(began))
}

type real struct {
	node    *cluster.Node
	machine *clustertest.Machine
}

// propose asks again while the outcome is unknown: a connection may end, or the leader change, while an entry is on its way.
func (r real) propose(ctx context.Context, entry []byte) error {
	for {
		if _, err := r.node.Propose(ctx, entry); !errors.Is(err, cluster.ErrOutcomeUnknown) || ctx.Err() != nil {
			return err
		}
	}
}

func overTLS(t testing.TB, count int) (nodes []real, stop func(i int)) {
	t.Helper()
	ca, dir := clustertest.NewCA(t, "example.test"), t.TempDir()
	var stops []func()
	for i := range count {
		id := fmt.Sprintf("n%d", i+1)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		auth, machine := ca.Node(id), clustertest.NewMachine()
		node, err := cluster.Open(cluster.Config{ID: id, Dir: filepath.Join(dir, id), Advertise: listener.Addr().String(),
			Machine: machine, Listener: listener, TLS: auth, Bootstrap: i == 0})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- node.Run(ctx) }()
		stops = append(stops, func() {
			cancel()
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("stop %s: %v", id, err)
			}
			ended <- nil
		})
		nodes = append(nodes, real{node, machine})
		if i > 0 {
			if err := nodes[0].node.Admit(ctx, id, listener.Addr().String()); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() {
		for _, one := range stops {
			one()
		}
	})
	awaitVoters(t, nodes)
	return nodes, func(i int) { stops[i]() }
}

func awaitVoters(t testing.TB, nodes []real) {
	t.Helper()
	tick, limit := time.NewTicker(20*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for {
		voters := 0
		members, err := nodes[0].node.Members(context.Background())
		for _, one := range members {
			if one.Voter {
				voters++
			}
		}
		if err == nil && voters == len(nodes) {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("members in time: %v, %v", members, err)
		}
	}
}
