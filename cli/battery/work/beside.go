package work

import (
	"context"
	"fmt"
	"testing"

	"warder/cli/battery/town"
)

// Beside puts more callers to work, at a node that is none of the town's: a copy of one. They read and write the same
// registers, and what they are told belongs to the history. What such a node records of it is not
// judged: its audit log is a branch of another's, which no other node knows.
func (c *Crew) Beside(t testing.TB, twin *town.Node) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c.mu.Lock()
	c.beside = append(c.beside, stop)
	at := fmt.Sprintf("copy %d of %s", len(c.beside), twin.ID)
	c.mu.Unlock()
	own := c.town.Certificate(t)
	line, err := c.line(twin, settings{c.town.Roots(t)}, &own, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(line.Close)
	line.node = at
	for i := range slots {
		c.work(ctx, thinkOfReader, func(int) { c.read(line, c.slots[i].current(), true) })
		c.work(ctx, thinkOfReader, func(int) { c.read(line, c.slots[i].current(), false) })
		c.work(ctx, thinkOfReader, func(turn int) { c.write(line, c.slots[i], i, fmt.Sprintf("%s-%d-%d", at, i, turn)) })
	}
}
