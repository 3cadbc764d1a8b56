//go:build battery

package speed_test

import (
	"fmt"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// TestFailover kills the leader with -9 while callers are at work, and measures until the next write is acknowledged.
func TestFailover(t *testing.T) {
	softHSM := town.BareSoftHSM(t)
	at := town.New(t, town.Plan{Config: softHSM.Config})
	crew := work.Start(t, at)
	var took []float64
	for kill := range times(1, 20) {
		leader := at.Leader(t)
		survivors := at.Dial(t, at.Others(leader)...)
		crew.Await(t, 20)
		leader.Kill()
		began := time.Now()
		for attempt := 0; ; attempt++ { // one that was on its way to the killed node has an unknown outcome
			if written(t, survivors, fmt.Sprintf("%d-%d", kill, attempt)) {
				break
			}
			if time.Since(began) > 30*time.Second {
				t.Fatal("nobody leads after half a minute")
			}
		}
		took = append(took, time.Since(began).Seconds())
		leader.Start(t)
		at.Ready(t, leader)
	}
	crew.Finish(t)
	r := &table{title: "Failover: kill -9 of the leader under load, until the next acknowledged write", head: []string{"kills", "seconds, median (least to most)", "goal"}}
	r.add(fmt.Sprint(len(took)), spread(took), "0.8")
	r.show(t)
}

func written(t testing.TB, c *client.Client, name string) bool {
	_, err := c.Credentials.PutCredential(t.Context(), &warderv1.PutCredentialRequest{
		Namespace: "failover", Name: name, Profile: "static", Fields: []*warderv1.SecretField{{Name: "secret", Value: []byte("x")}},
	})
	return err == nil
}
