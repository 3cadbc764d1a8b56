package work

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work/history"
)

// maxFindings bounds what is said of one failure: the first tell enough.
const maxFindings = 20

// Finish ends the work, waits until every node serves, and checks everything that was recorded.
func (c *Crew) Finish(t testing.TB) {
	t.Helper()
	c.Halt()
	for _, n := range c.town.Nodes {
		c.town.Ready(t, n)
	}
	for _, finding := range c.Findings(t) {
		t.Error(finding)
	}
	c.report(t)
}

// Findings checks everything that was recorded, and the nodes as they are now, which all serve. It says what is wrong.
func (c *Crew) Findings(t testing.TB) []error {
	t.Helper()
	c.Halt()
	final := c.final(t, c.town.Nodes)
	for _, op := range final {
		c.log.Add(op)
	}
	ops := c.log.Ops()
	c.mu.Lock()
	findings := slices.Clone(c.wrong)
	c.mu.Unlock()
	for _, wrong := range [][]error{
		history.Registers(ops), history.Stale(ops, StalenessBound+slack), history.Counters(ops),
		history.Permissions(ops, StalenessBound+slack), c.states(t), c.auditLogs(t),
	} {
		findings = append(findings, wrong[:min(len(wrong), maxFindings)]...)
	}
	if out, err := c.town.Try(c.verifyCommand()...); err != nil {
		findings = append(findings, fmt.Errorf("%w: %s", err, out))
	}
	if len(findings) > 0 {
		c.keep(t, ops)
	}
	return findings
}

// Explained says whether what was recorded of the registers so far can be: while the crew works, without a look at the nodes.
func (c *Crew) Explained() bool { return len(history.Registers(c.log.Ops())) == 0 }

// Check holds one node that serves to everything that was acknowledged, when the crew has been halted.
func (c *Crew) Check(t testing.TB, n *town.Node) {
	t.Helper()
	ops := append(c.log.Ops(), c.final(t, []*town.Node{n})...)
	for _, finding := range history.Stale(ops, StalenessBound+slack) {
		t.Error(finding)
	}
}

// final reads every register once at each of some nodes, linearizably.
func (c *Crew) final(t testing.TB, nodes []*town.Node) []history.Op {
	t.Helper()
	keys := map[string]bool{}
	for _, op := range c.log.Ops() {
		if op.Kind == history.Write {
			keys[op.Key] = true
		}
	}
	own, roots := c.town.Certificate(t), settings{c.town.Roots(t)}
	var reads []history.Op
	for _, n := range nodes {
		at, err := c.line(n, roots, &own, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			reads = append(reads, c.certain(t, at, key))
		}
		at.Close()
	}
	return reads
}

// certain reads a register until it is told: a node that serves may have no leader for a moment.
func (c *Crew) certain(t testing.TB, at *line, key string) history.Op {
	t.Helper()
	var op history.Op
	town.Eventually(t, "node "+at.node+" shows "+key, patience*5, func() error {
		if op = reveal(at, key, true); op.Outcome != history.Done {
			return fmt.Errorf("%s", op)
		}
		return nil
	})
	return op
}

// verifyCommand is what an operator would type to have every log proved.
func (c *Crew) verifyCommand() []string {
	args := []string{"audit", "verify"}
	for _, n := range c.town.Nodes {
		args = append(args, "--endpoint", n.Endpoint())
	}
	return args
}

// keep writes the history to a file that outlives the test.
func (c *Crew) keep(t testing.TB, ops []history.Op) {
	t.Helper()
	dir, err := os.MkdirTemp("", "warder-history-")
	if err != nil {
		t.Error(err)
		return
	}
	path := filepath.Join(dir, "history.jsonl")
	if err := history.WriteFile(path, ops); err != nil {
		t.Error(err)
		return
	}
	t.Logf("the history is in %s", path)
}

// report says how much was done.
func (c *Crew) report(t testing.TB) {
	t.Helper()
	ops := c.log.Ops()
	counts := map[string]int{}
	for _, op := range ops {
		counts[string(op.Kind)+" "+string(op.Outcome)]++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	answered := 0
	for _, ids := range c.answered {
		answered += len(ids)
	}
	t.Logf("%d requests answered, %d changes acknowledged; operations: %v; refusals: %v", answered, c.written, counts, c.refusals)
}

// Calm demands that no request failed for a cause that only a fault would excuse.
func (c *Crew) Calm(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for excused := range weather() {
		name := strings.TrimPrefix(excused.String(), "REASON_")
		if excused == warderv1.Reason_REASON_UNSPECIFIED {
			name = ""
		}
		if c.refusals[name] > 0 {
			t.Errorf("%d requests failed with the reason %q, without any fault", c.refusals[name], name)
		}
	}
	if c.refusals[unreachable] > 0 {
		t.Errorf("%d requests reached no node, without any fault", c.refusals[unreachable])
	}
}
