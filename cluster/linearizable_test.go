package cluster_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"warder/cluster"
	"warder/cluster/clustertest"
)

var seeds = flag.Int("seeds", 8, "histories of registers under partitions that TestLinearizable makes")

type operation struct {
	key   string
	write bool
	value string
}

// registers is Porcupine's model: independent registers.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, one := range history {
			key := one.Input.(operation).key
			byKey[key] = append(byKey[key], one)
		}
		var out [][]porcupine.Operation
		for _, part := range byKey {
			out = append(out, part)
		}
		return out
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		op := input.(operation)
		if op.write {
			return true, op.value
		}
		return output.(string) == state.(string), state
	},
}

// run is one history of clients that write and read on random nodes.
type run struct {
	c       *clustertest.Cluster
	barrier bool
	clock   atomic.Int64 // orders events: virtual time stands still between many of them

	mu      sync.Mutex // guards history
	history []porcupine.Operation
}

func (r *run) note(op porcupine.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, op)
}

func (r *run) client(id int, seed uint64, nodes map[string]*atomic.Pointer[cluster.Node]) {
	choose := rand.New(rand.NewPCG(seed, uint64(id)))
	for i := range 60 {
		at := r.c.IDs()[choose.IntN(3)]
		op := operation{key: fmt.Sprint("k", choose.IntN(3)), write: choose.IntN(2) == 0, value: fmt.Sprintf("%d.%d", id, i)}
		if node := nodes[at].Load(); node != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
			r.do(ctx, id, at, node, op)
			cancel()
		}
		time.Sleep(time.Duration(choose.IntN(100)) * time.Millisecond)
	}
}

func (r *run) do(ctx context.Context, client int, at string, node *cluster.Node, op operation) {
	event := porcupine.Operation{ClientId: client, Input: op, Call: r.clock.Add(1)}
	if op.write {
		_, err := node.Propose(ctx, fmt.Appendf(nil, "put %s %s", op.key, op.value))
		event.Return = r.clock.Add(1)
		switch {
		case errors.Is(err, cluster.ErrOutcomeUnknown):
			event.Return = math.MaxInt64
			event.ClientId = 1000 + int(event.Call) // it never returned: a client of its own
		case err != nil:
			return
		}
		r.note(event)
		return
	}
	if r.barrier && node.Barrier(ctx) != nil {
		return
	}
	event.Output = r.c.Machine(at).Get(op.key)
	event.Return = r.clock.Add(1)
	r.note(event)
}

// history runs clients against three nodes, while these are cut off, healed, killed and started at random.
func history(t *testing.T, seed uint64, barrier bool) []porcupine.Operation {
	c := clustertest.New(t, 3)
	c.Fabric.Delay(3*time.Millisecond, seed)
	r := &run{c: c, barrier: barrier}
	nodes := map[string]*atomic.Pointer[cluster.Node]{}
	for _, id := range c.IDs() {
		nodes[id] = &atomic.Pointer[cluster.Node]{}
		nodes[id].Store(c.Node(id))
	}
	var clients sync.WaitGroup
	for id := range 6 {
		clients.Go(func() { r.client(id, seed, nodes) })
	}
	choose := rand.New(rand.NewPCG(seed, 99))
	for range 8 {
		time.Sleep(time.Duration(choose.IntN(1200)) * time.Millisecond)
		who := c.IDs()[choose.IntN(3)]
		switch choose.IntN(4) {
		case 0:
			nodes[who].Store(nil)
			c.Kill(who)
			time.Sleep(time.Duration(choose.IntN(800)) * time.Millisecond)
			c.Start(who)
			nodes[who].Store(c.Node(who))
		case 1:
			c.Fabric.Heal()
		case 2:
			c.Fabric.Cut(who, c.IDs()[choose.IntN(3)])
		default:
			others := []string{c.IDs()[choose.IntN(3)]}
			c.Fabric.Partition([]string{who}, append(others, c.IDs()[(choose.IntN(3))]))
		}
	}
	c.Fabric.Heal()
	clients.Wait()
	c.Leader()
	for i, id := range c.IDs() { // all that was acknowledged is there in the end
		for key := range 3 {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			r.do(ctx, 100+i, id, c.Node(id), operation{key: fmt.Sprint("k", key)})
			cancel()
		}
	}
	c.Agree()
	c.StopAll()
	return r.history
}

func TestLinearizable(t *testing.T) {
	total := 0
	for seed := range uint64(*seeds) {
		synctest.Test(t, func(t *testing.T) {
			events := history(t, seed, true)
			total += len(events)
			if !porcupine.CheckOperations(registers, events) {
				t.Errorf("seed %d: a history of %d operations is not linearizable", seed, len(events))
			}
		})
	}
	t.Logf("%d operations in %d histories", total, *seeds)
}

// TestReadsWithoutBarrierAreCaught shows that TestLinearizable would find stale reads.
func TestReadsWithoutBarrierAreCaught(t *testing.T) {
	for seed := range uint64(20) {
		stale := false
		synctest.Test(t, func(t *testing.T) { stale = !porcupine.CheckOperations(registers, history(t, seed, false)) })
		if stale {
			return
		}
	}
	t.Error("20 histories with stale reads passed for linearizable")
}
