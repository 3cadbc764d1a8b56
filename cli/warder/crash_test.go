package main_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

// kills is how many nodes the crash test kills: WARDER_KILLS, or a few.
func kills(t testing.TB) int {
	t.Helper()
	text := os.Getenv("WARDER_KILLS")
	if text == "" {
		return 5
	}
	count, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("WARDER_KILLS: %v", err)
	}
	return count
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
	c := newTestCluster(t)
	w := startWriters(t, c.client, 4)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, seed))
	for range kills(t) {
		before := w.count()
		pause := time.NewTimer(time.Duration(random.IntN(300)) * time.Millisecond)
		<-pause.C // any moment: this is the fault, not a wait for something
		victim := c.nodes[random.IntN(len(c.nodes))]
		victim.kill()
		eventually(t, "the others go on writing", 30*time.Second, func() error {
			if w.count() <= before+1 {
				return errors.New("no write was acknowledged since the kill")
			}
			return nil
		})
		victim.start(t)
		c.ready(t, victim)
	}
	acknowledged := w.finish()
	t.Logf("%d writes acknowledged, %d answered with an error", len(acknowledged), w.failures)
	for _, n := range c.nodes {
		checkAll(t, c.at(t, n), n.id, acknowledged)
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
