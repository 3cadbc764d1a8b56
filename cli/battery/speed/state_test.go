//go:build battery

package speed_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"warder/cli/battery/town"
	"warder/cluster"
	"warder/cluster/clustertest"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// TestState measures what the log and the state machine do without the road before them: transactions that each store one
// record of 300 bytes, sealed, on three nodes in this process, over mutual TLS and on this machine's disk. That is what the
// goals for durable writes were set from; what a caller gets through the road is in the table of TestCluster.
func TestState(t *testing.T) {
	at := newStates(t, 3)
	long := time.Duration(times(200, 3000)) * time.Millisecond
	r := &table{title: "Durable changes of the state, three nodes, without the road", head: []string{"writers", "a second", "of D", "goal", "CPU of all, µs", "p50 ms", "p99 ms", "p99.9 ms"}}
	goal := map[int]string{256: "7", 64: "3", 1: "0.2"}
	for _, writers := range []int{1, 16, 64, 256} {
		var disk []float64
		var got series
		for range times(1, 5) {
			disk = append(disk, floorD(t, t.TempDir(), long/3))
			got = append(got, at.write(t, writers, long))
		}
		r.add(fmt.Sprint(writers), spread(got.of(perSecond)), spread(ratios(got.inRounds(perSecond), disk)), goal[writers], spread(got.of(cpu)),
			latency(got, p50), latency(got, p99), latency(got, p999))
		r.add("floor D, 1 writer", spread(disk), "1", "", "", "", "", "")
	}
	r.show(t)
}

// states are nodes of the log, with the state machine on each, in this process.
type states struct {
	leader *kv.DB
	made   atomic.Int64
}

type machine struct{ *kv.Store }

// Snapshot implements cluster.Machine.
func (m machine) Snapshot() (cluster.Snapshot, error) { return m.Store.Snapshot() }

func newStates(t *testing.T, count int) *states {
	t.Helper()
	ring, err := keyring.New(rand.Reader)
	expect(t, err)
	keys := &keyring.Holder{}
	keys.Set(ring)
	ca, dir := clustertest.NewCA(t, "example.test"), t.TempDir()
	var nodes []*cluster.Node
	var all *states
	for i := range count {
		id := fmt.Sprintf("n%d", i+1)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		expect(t, err)
		store, err := kv.OpenStore(kv.StoreConfig{Dir: filepath.Join(dir, id, "state")})
		expect(t, err)
		node, err := cluster.Open(cluster.Config{ID: id, Dir: filepath.Join(dir, id, "raft"), Advertise: listener.Addr().String(),
			Machine: machine{store}, Listener: listener, TLS: ca.Node(id), Bootstrap: i == 0})
		expect(t, err)
		run(t, store.Run, store.Close)
		run(t, node.Run, func() error { return nil })
		if nodes = append(nodes, node); i > 0 {
			expect(t, nodes[0].Admit(t.Context(), id, listener.Addr().String()))
			continue
		}
		all = &states{leader: kv.New(store, node, keys)}
	}
	town.Eventually(t, "all vote", time.Minute, func() error {
		members, err := nodes[0].Members(t.Context())
		for _, one := range members {
			if !one.Voter {
				err = errors.Join(err, fmt.Errorf("%s does not vote yet", one.ID))
			}
		}
		return err
	})
	return all
}

// run keeps a part going until the test ends, and then closes it.
func run(t *testing.T, part func(context.Context) error, closed func() error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- part(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, closed()); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// write lets writers store a record each, over and over.
func (s *states) write(t testing.TB, writers int, long time.Duration) figures {
	t.Helper()
	took := make([][]time.Duration, writers)
	value := bytes.Repeat([]byte("x"), 300)
	before, began := ownTime(t), time.Now()
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for time.Since(began) < long {
				due := time.Now()
				err := s.leader.Update(context.Background(), func(tx *kv.Tx) error {
					tx.Put(kv.K("record", "bulk", fmt.Sprint(s.made.Add(1))), value)
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(due))
			}
		})
	}
	all.Wait()
	return figuresOf(slices.Concat(took...), time.Since(began), ownTime(t)-before, 0)
}
