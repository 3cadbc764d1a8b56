package work

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

// Crew is callers at work on a town, until Finish.
type Crew struct {
	town *town.Town
	stop context.CancelFunc
	done sync.WaitGroup

	mu           sync.Mutex
	acknowledged map[string]string // guarded by mu: name to secret
	failures     int
}

// Start puts callers to work.
func Start(t testing.TB, at *town.Town) *Crew {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c := &Crew{town: at, acknowledged: map[string]string{}, stop: stop}
	for i := range 4 {
		c.done.Go(func() { c.write(ctx, at.Client, i) })
	}
	t.Cleanup(func() { stop(); c.done.Wait() })
	return c
}

// write keeps storing credentials with names of its own, and remembers which were acknowledged.
func (c *Crew) write(ctx context.Context, asked *client.Client, writer int) {
	for n := 0; ctx.Err() == nil; n++ {
		name, secret := fmt.Sprintf("w%d-%d", writer, n), fmt.Sprintf("secret of %d-%d", writer, n)
		_, err := asked.Credentials.PutCredential(ctx, &warderv1.PutCredentialRequest{
			Namespace: "work", Name: name, Profile: "static", Fields: []*warderv1.SecretField{{Name: "secret", Value: []byte(secret)}},
		})
		c.mu.Lock()
		if err == nil {
			c.acknowledged[name] = secret
		} else {
			c.failures++
		}
		c.mu.Unlock()
	}
}

// Done is how many requests were acknowledged so far.
func (c *Crew) Done() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acknowledged)
}

// Await waits until some more requests are acknowledged: the work goes on.
func (c *Crew) Await(t testing.TB, more int) {
	t.Helper()
	before := c.Done()
	town.Eventually(t, "the work goes on", time.Minute, func() error {
		if c.Done() < before+more {
			return errors.New("too little was acknowledged")
		}
		return nil
	})
}

// Finish ends the work, waits until every node serves, and checks what was recorded.
func (c *Crew) Finish(t testing.TB) {
	t.Helper()
	c.Halt()
	for _, n := range c.town.Nodes {
		c.town.Ready(t, n)
		c.Check(t, n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("%d requests acknowledged, %d answered with an error", len(c.acknowledged), c.failures)
}

// Halt ends the work.
func (c *Crew) Halt() {
	c.stop()
	c.done.Wait()
}

// Check holds one node that serves to everything that was acknowledged.
func (c *Crew) Check(t testing.TB, n *town.Node) {
	t.Helper()
	one, lost := c.town.Dial(t, n), 0
	c.mu.Lock()
	acknowledged := maps.Clone(c.acknowledged)
	c.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(acknowledged)) {
		answer, err := one.Credentials.RevealCredential(t.Context(), &warderv1.RevealCredentialRequest{Namespace: "work", Name: name})
		if err != nil || len(answer.GetFields()) != 1 || string(answer.GetFields()[0].GetValue()) != acknowledged[name] {
			lost++
			if lost < 10 {
				t.Errorf("node %s: the acknowledged credential %s: %v", n.ID, name, err)
			}
		}
	}
	if lost > 0 {
		t.Errorf("node %s: %d of %d acknowledged writes are lost", n.ID, lost, len(acknowledged))
	}
}
