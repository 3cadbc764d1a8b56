//go:build battery

package battery_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// BenchmarkFailover kills the leader with -9 while callers are at work, and measures until the next write is
// acknowledged. Its figure is the median.
func BenchmarkFailover(b *testing.B) {
	at := town.New(b, town.Plan{})
	work.Start(b, at)
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		leader := at.Leader(b)
		leader.Kill()
		began := time.Now()
		for attempt := 0; ; attempt++ { // one that was on its way to the killed node has an unknown outcome
			_, err := at.Client.Credentials.PutCredential(b.Context(), &warderv1.PutCredentialRequest{
				Namespace: "failover", Name: fmt.Sprintf("%d-%d", n, attempt), Profile: "static",
				Fields: []*warderv1.SecretField{{Name: "secret", Value: []byte("x")}},
			})
			if err == nil {
				break
			}
			if time.Since(began) > 30*time.Second {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(began))
		leader.Start(b)
		at.Ready(b, leader)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-median")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-max")
}
