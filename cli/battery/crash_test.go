//go:build battery

package battery_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
)

// kills is how many nodes the crash test kills.
func kills() int {
	if testing.Short() {
		return 40
	}
	return 200
}

// writers keep storing credentials with names of their own, and remember which were acknowledged.
type writers struct {
	mu           sync.Mutex
	acknowledged map[string]string // guarded by mu: name to secret
	failures     int
	stop         context.CancelFunc
	done         sync.WaitGroup
}

func startWriters(t testing.TB, c *client.Client, count int) *writers {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w := &writers{acknowledged: map[string]string{}, stop: stop}
	for i := range count {
		w.done.Go(func() { w.write(ctx, c, i) })
	}
	t.Cleanup(func() { stop(); w.done.Wait() })
	return w
}

func (w *writers) write(ctx context.Context, c *client.Client, writer int) {
	for n := 0; ctx.Err() == nil; n++ {
		name, secret := fmt.Sprintf("w%d-%d", writer, n), fmt.Sprintf("secret of %d-%d", writer, n)
		_, err := c.Credentials.PutCredential(ctx, putRequest(name, secret))
		w.mu.Lock()
		if err == nil {
			w.acknowledged[name] = secret
		} else {
			w.failures++
		}
		w.mu.Unlock()
	}
}

func putRequest(name, secret string) *warderv1.PutCredentialRequest {
	return &warderv1.PutCredentialRequest{
		Namespace: "e2e", Name: name, Profile: "static", Fields: []*warderv1.SecretField{{Name: "secret", Value: []byte(secret)}},
	}
}

func (w *writers) finish() map[string]string {
	w.stop()
	w.done.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.acknowledged)
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acknowledged)
}

// TestNothingAcknowledgedIsLostToKill9 kills one node after the other at any moment, writers running: each starts
// again, and every acknowledged write is there at the end, on every node.
func TestNothingAcknowledgedIsLostToKill9(t *testing.T) {
	c := town.New(t, town.Plan{})
	w := startWriters(t, c.Client, 4)
	random := town.Random(t)
	for range kills() {
		before := w.count()
		pause := time.NewTimer(time.Duration(random.IntN(300)) * time.Millisecond)
		<-pause.C // any moment: this is the fault, not a wait for something
		victim := c.Nodes[random.IntN(len(c.Nodes))]
		victim.Kill()
		town.Eventually(t, "the others go on writing", 30*time.Second, func() error {
			if w.count() <= before+1 {
				return errors.New("no write was acknowledged since the kill")
			}
			return nil
		})
		victim.Start(t)
		c.Ready(t, victim)
	}
	acknowledged := w.finish()
	t.Logf("%d writes acknowledged, %d answered with an error", len(acknowledged), w.failures)
	for _, n := range c.Nodes {
		checkAll(t, c.Dial(t, n), n.ID, acknowledged)
	}
}

func checkAll(t testing.TB, one *client.Client, node string, acknowledged map[string]string) {
	t.Helper()
	lost := 0
	for _, name := range slices.Sorted(maps.Keys(acknowledged)) {
		answer, err := one.Credentials.RevealCredential(t.Context(), &warderv1.RevealCredentialRequest{Namespace: "e2e", Name: name})
		if err != nil || len(answer.GetFields()) != 1 || string(answer.GetFields()[0].GetValue()) != acknowledged[name] {
			lost++
			if lost < 10 {
				t.Errorf("node %s: the acknowledged credential %s: %v", node, name, err)
			}
		}
	}
	if lost > 0 {
		t.Errorf("node %s: %d of %d acknowledged writes are lost", node, lost, len(acknowledged))
	}
}
