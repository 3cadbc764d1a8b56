package work

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"testing"

	"warder/api/client"
	"warder/api/verify"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/work/history"
)

// page is how many entries of an audit log are read at a time.
const page = 1000

// auditLogs proves every node's audit log from its first entry, by the keys and anchors that the cluster keeps, and holds
// it to the requests that the node answered: one record each.
func (c *Crew) auditLogs(t testing.TB) []error {
	t.Helper()
	var wrong []error
	recorded := map[string]map[string]int{}
	for _, n := range c.town.Nodes {
		records, err := c.prove(t, c.town.Dial(t, n), n.ID)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("audit log of node %s: %w", n.ID, err))
			continue
		}
		recorded[n.ID] = records
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(wrong, history.Answers(c.answered, recorded)...)
}

// prove verifies one node's log, and counts the records of each request in it.
func (c *Crew) prove(t testing.TB, at *client.Client, node string) (map[string]int, error) {
	t.Helper()
	checkpoint, err := at.Audit.GetAuditCheckpoint(t.Context(), &warderv1.GetAuditCheckpointRequest{})
	if err != nil {
		return nil, err
	}
	evidence := verify.Evidence{Checkpoint: checkpoint.GetCheckpoint()}
	if evidence.Keys, err = c.auditKeys(t, node); err != nil {
		return nil, err
	}
	if evidence.Anchors, err = c.anchors(t, node); err != nil {
		return nil, err
	}
	records := map[string]int{}
	_, err = verify.Log(entries(t.Context(), at, evidence, records), evidence)
	return records, err
}

// auditKeys are the keys that the cluster knows a node's log by.
func (c *Crew) auditKeys(t testing.TB, node string) ([]string, error) {
	t.Helper()
	members, err := c.town.Client.Cluster.ListMembers(client.Linearizable(t.Context()), &warderv1.ListMembersRequest{})
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, member := range members.GetMembers() {
		if member.GetId() == node {
			key, err := verify.VerifierKey(node, ed25519.PublicKey(member.GetAuditPublicKey()))
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// anchors are the sizes and roots of a node's log that the cluster keeps.
func (c *Crew) anchors(t testing.TB, node string) ([]verify.Anchor, error) {
	t.Helper()
	kept, err := c.town.Client.Audit.ListAuditAnchors(client.Linearizable(t.Context()), &warderv1.ListAuditAnchorsRequest{NodeId: node})
	if err != nil {
		return nil, err
	}
	var anchors []verify.Anchor
	for _, one := range kept.GetAnchors() {
		origin, err := verify.ParseOrigin(one.GetOrigin())
		if err != nil {
			return nil, err
		}
		if len(one.GetRootHash()) != len(verify.Hash{}) {
			return nil, fmt.Errorf("an anchor has a root of %d bytes", len(one.GetRootHash()))
		}
		anchors = append(anchors, verify.Anchor{Origin: origin, Size: one.GetSize(), Root: verify.Hash(one.GetRootHash()), Time: one.GetAnchoredAt().AsTime()})
	}
	return anchors, nil
}

// errShort says that a log ends before the size that is promised.
var errShort = errors.New("there are none, though more are promised")

// entries reads a log up to the size that it had at first and that anchors promise, and counts each request's records.
func entries(ctx context.Context, at *client.Client, evidence verify.Evidence, records map[string]int) iter.Seq2[verify.Entry, error] {
	return func(yield func(verify.Entry, error) bool) {
		end := uint64(1)
		for _, anchor := range evidence.Anchors {
			end = max(end, anchor.Size)
		}
		for next := uint64(0); next < end; {
			answer, err := at.Audit.ListAuditEntries(ctx, &warderv1.ListAuditEntriesRequest{Start: next, Count: page})
			if err == nil && len(answer.GetLeaves()) == 0 {
				err = errShort
			}
			if err != nil {
				yield(verify.Entry{}, fmt.Errorf("entries from %d: %w", next, err))
				return
			}
			if next == 0 {
				end = max(end, answer.GetSize())
			}
			for _, leaf := range answer.GetLeaves() {
				var record verify.Record
				if record.UnmarshalBinary(leaf) == nil {
					records[record.RequestID]++
				}
				if !yield(verify.Entry{Index: next, Leaf: leaf}, nil) {
					return
				}
				next++
			}
		}
	}
}
