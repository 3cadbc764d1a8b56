package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
)

// BenchmarkPropose measures durable writes of 300 bytes to three nodes over TLS, all on this machine's disk.
func BenchmarkPropose(b *testing.B) {
	nodes, _ := overTLS(b, 3)
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			work := make(chan struct{})
			var all sync.WaitGroup
			for i := range writers {
				entry := append(fmt.Appendf(nil, "put %d ", i), bytes.Repeat([]byte("x"), 290)...)
				all.Go(func() {
					for range work {
						if _, err := nodes[0].node.Propose(context.Background(), entry); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			all.Wait()
		})
	}
}

func BenchmarkBarrier(b *testing.B) {
	nodes, _ := overTLS(b, 3)
	for _, row := range []struct {
		name    string
		node    int
		readers int
	}{{"leader/1", 0, 1}, {"leader/64", 0, 64}, {"follower/1", 1, 1}, {"follower/64", 1, 64}} {
		b.Run(row.name, func(b *testing.B) {
			work := make(chan struct{})
			var all sync.WaitGroup
			for range row.readers {
				all.Go(func() {
					for range work {
						if err := nodes[row.node].node.Barrier(context.Background()); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			all.Wait()
		})
	}
}
