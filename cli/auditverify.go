package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"warder/api/client"
	"warder/api/verify"
	warderv1 "warder/api/warder/v1"
)

func (a *app) auditVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Prove every node's audit log from outside",
		Long: `Prove the audit log of each endpoint's node, trusting none of them alone: every entry is read and hashed here;
the result must be what the node signed, under the key that the cluster's members know it by, and what the
cluster's anchors remember, as every endpoint tells them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			return a.verifyAll(cmd.Context(), c)
		},
	}
}

// verdict is what the verification of one node came to.
type verdict struct {
	Endpoint string `json:"endpoint"`
	Node     string `json:"node,omitempty"`
	Proved   bool   `json:"proved"`
	Entries  uint64 `json:"entries"`
	Signed   uint64 `json:"signed"`
	Anchors  int    `json:"anchors"`
	Denied   uint64 `json:"denied"`
	Detail   string `json:"detail,omitempty"`
	err      error
}

func (a *app) verifyAll(ctx context.Context, c *client.Client) error {
	keys, anchors, err := witnesses(ctx, c)
	if err != nil {
		return err
	}
	var verdicts []verdict
	var faults []string
	for _, endpoint := range c.Endpoints() {
		v := a.verifyNode(client.At(ctx, endpoint), c, endpoint, keys, anchors)
		if v.err != nil {
			v.Detail = shortError(v.err)
			faults = append(faults, fmt.Sprintf("%s: %s", endpoint, v.Detail))
		}
		verdicts = append(verdicts, v)
	}
	if err := a.showVerdicts(verdicts); err != nil {
		return err
	}
	if len(faults) > 0 {
		return &refusal{localf("keep the node's files as they are, and compare with its backups and the anchors",
			"not proved: %s", strings.Join(faults, "; "))}
	}
	return nil
}

// witnesses asks every endpoint for the members' audit keys and for the anchors.
// One that does not answer is told later, by its own verdict.
func witnesses(ctx context.Context, c *client.Client) (keys map[string]map[string]bool, anchors map[string][]verify.Anchor, err error) {
	keys, anchors = map[string]map[string]bool{}, map[string][]verify.Anchor{}
	answered := 0
	for _, endpoint := range c.Endpoints() {
		at, cancel := context.WithTimeout(client.At(ctx, endpoint), 5*time.Second)
		members, membersErr := c.Cluster.ListMembers(at, &warderv1.ListMembersRequest{})
		kept, anchorsErr := c.Audit.ListAuditAnchors(at, &warderv1.ListAuditAnchorsRequest{})
		cancel()
		if failed := errors.Join(membersErr, anchorsErr); failed != nil {
			err = failed
			continue
		}
		answered++
		addKeys(keys, members.GetMembers())
		if err := addAnchors(anchors, kept.GetAnchors()); err != nil {
			return nil, nil, fmt.Errorf("anchors that %s tells: %w", endpoint, err)
		}
	}
	if answered > 0 {
		return keys, anchors, nil
	}
	return nil, nil, err
}

func addKeys(keys map[string]map[string]bool, members []*warderv1.Member) {
	for _, m := range members {
		if keys[m.GetId()] == nil {
			keys[m.GetId()] = map[string]bool{}
		}
		keys[m.GetId()][string(m.GetAuditPublicKey())] = true
	}
}

// addAnchors reads anchors.
func addAnchors(anchors map[string][]verify.Anchor, kept []*warderv1.AuditAnchor) error {
	for _, one := range kept {
		origin, err := verify.ParseOrigin(one.GetOrigin())
		if err != nil {
			return fmt.Errorf("of node %s: %w", one.GetNodeId(), err)
		}
		if len(one.GetRootHash()) != len(verify.Hash{}) {
			return fmt.Errorf("of node %s: a root of %d bytes", one.GetNodeId(), len(one.GetRootHash()))
		}
		anchors[one.GetNodeId()] = append(anchors[one.GetNodeId()], verify.Anchor{
			Origin: origin, Size: one.GetSize(), Root: verify.Hash(one.GetRootHash()), Time: one.GetAnchoredAt().AsTime(), Note: one.GetCheckpoint(),
		})
	}
	return nil
}

func (a *app) verifyNode(ctx context.Context, c *client.Client, endpoint string, keys map[string]map[string]bool, anchors map[string][]verify.Anchor) verdict {
	v := verdict{Endpoint: endpoint}
	reply, err := c.Audit.GetAuditCheckpoint(ctx, &warderv1.GetAuditCheckpointRequest{})
	if err != nil {
		v.err = err
		return v
	}
	v.Node = reply.GetNodeId()
	trusted, err := verifierKeys(v.Node, keys[v.Node])
	if err != nil {
		v.err = err
		return v
	}
	evidence := verify.Evidence{Checkpoint: reply.GetCheckpoint(), Keys: trusted, Anchors: anchors[v.Node]}
	report, err := verify.Log(a.entries(ctx, c, v.Node, largest(evidence)), evidence)
	v.Entries, v.Signed, v.Anchors, v.Denied = report.Entries, report.Checkpoint.Size, report.Anchors, report.Denied
	v.Proved, v.err = err == nil, err
	return v
}

func verifierKeys(node string, keys map[string]bool) ([]string, error) {
	var texts []string
	for key := range keys {
		if len(key) != ed25519.PublicKeySize {
			continue // the member has shown none yet
		}
		text, err := verify.VerifierKey(node, ed25519.PublicKey(key))
		if err != nil {
			return nil, fmt.Errorf("audit key of node %s: %w", node, err)
		}
		texts = append(texts, text)
	}
	if len(texts) == 0 {
		return nil, fmt.Errorf("no member named %s with an audit key is known to the cluster", node)
	}
	return texts, nil
}

// largest is the size up to which the log must be read: all that anyone vouches for.
func largest(evidence verify.Evidence) uint64 {
	size := uint64(0)
	for _, anchor := range evidence.Anchors {
		size = max(size, anchor.Size)
	}
	return size
}

// entriesPerPage bounds one read, so that an answer stays below the client's limit.
const entriesPerPage = 1000

// entries reads a log from its start. To read is itself recorded, so that the log
// never ends: it is read up to the size that it had at first, or what anchors promise.
func (a *app) entries(ctx context.Context, c *client.Client, node string, promised uint64) iter.Seq2[verify.Entry, error] {
	return func(yield func(verify.Entry, error) bool) {
		end := promised
		for next, first := uint64(0), true; first || next < end; first = false {
			reply, err := c.Audit.ListAuditEntries(ctx, &warderv1.ListAuditEntriesRequest{Start: next, Count: entriesPerPage})
			if err != nil {
				yield(verify.Entry{}, err)
				return
			}
			if first {
				end = max(end, reply.GetSize())
			}
			for i, leaf := range reply.GetLeaves() {
				if !yield(verify.Entry{Index: reply.GetStart() + uint64(i), Leaf: leaf}, nil) {
					return
				}
			}
			if len(reply.GetLeaves()) == 0 {
				return
			}
			next = reply.GetStart() + uint64(len(reply.GetLeaves()))
			if end > entriesPerPage {
				a.tell("node %s: %d of %d entries", printable(node), min(next, end), end)
			}
		}
	}
}

func (a *app) showVerdicts(verdicts []verdict) error {
	if a.flags.format == "json" {
		return a.printJSON(verdicts)
	}
	t := newTable()
	t.row("ENDPOINT", "NODE", "VERDICT", "ENTRIES", "SIGNED", "ANCHORS", "DENIED", "DETAIL")
	for _, v := range verdicts {
		word := "proved"
		if !v.Proved {
			word = "NOT PROVED"
		}
		t.row(v.Endpoint, v.Node, word, v.Entries, v.Signed, v.Anchors, v.Denied, v.Detail)
	}
	_, err := a.env.Stdout.Write(t.bytes())
	return err
}
