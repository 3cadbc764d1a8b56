//go:build battery

package battery_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"warder/cli/battery/town"
)

// BenchmarkFailover kills the leader with -9 while writers run, and measures until the next write is acknowledged.
// Its figure is the median.
func BenchmarkFailover(b *testing.B) {
	c := town.New(b, town.Plan{})
	startWriters(b, c.Client, 2)
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		leader := c.Leader(b)
		leader.Kill()
		began := time.Now()
		for attempt := 0; ; attempt++ { // one that was on its way to the killed node has an unknown outcome
			_, err := c.Client.Credentials.PutCredential(b.Context(), putRequest(fmt.Sprintf("failover-%d-%d", n, attempt), "x"))
			if err == nil {
				break
			}
			if time.Since(began) > 30*time.Second {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(began))
		leader.Start(b)
		c.Ready(b, leader)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-median")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-max")
}
