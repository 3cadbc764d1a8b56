package cli

import (
	"cmp"
	"strings"

	"github.com/spf13/cobra"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

func (a *app) audit() *cobra.Command {
	return group("audit", "Read and prove the audit logs", a.auditTail(), a.auditVerify())
}

func (a *app) auditTail() *cobra.Command {
	var from, limit uint64
	var follow bool
	var at string
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print a node's decisions, from an index on",
		Long:  "Print the decisions of one node: each node keeps a log of its own. Without --at, it is the first endpoint's.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx := client.At(cmd.Context(), cmp.Or(at, c.Endpoints()[0]))
			stream, err := c.Audit.TailAudit(ctx, &warderv1.TailAuditRequest{FromIndex: from, Follow: follow, Limit: limit})
			if err != nil {
				return err
			}
			defer func() { _ = stream.Close() }()
			for stream.Receive() {
				if err := a.printRecord(stream.Msg()); err != nil {
					return err
				}
			}
			if cmd.Context().Err() != nil {
				return nil // Ctrl-C ends a tail well
			}
			return stream.Err()
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "the first index")
	cmd.Flags().Uint64Var(&limit, "limit", 0, "stop after this many (default: no bound)")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "stay and print what comes")
	cmd.Flags().StringVar(&at, "at", "", "the endpoint of the node whose log it is")
	return cmd
}

// printRecord prints one decision in one line.
func (a *app) printRecord(entry *warderv1.TailAuditResponse) error {
	if a.flags.format == "json" {
		return a.printLine(entry)
	}
	r := entry.GetRecord()
	parts := []string{
		when(r.GetTime()), r.GetNodeId(), word(r.GetDecision(), "DECISION_"), cmp.Or(r.GetAction(), r.GetMethod()),
		cmp.Or(resourceText(r.GetResource()), "-"), "by " + cmp.Or(principalText(r.GetPrincipal()), "unknown"),
	}
	if r.GetReason() != 0 {
		parts = append(parts, word(r.GetReason(), "REASON_"))
	}
	if len(r.GetPolicies()) > 0 {
		parts = append(parts, "policies "+strings.Join(r.GetPolicies(), " "))
	}
	parts = append(parts, "request "+r.GetRequestId())
	a.say("%d  %s", entry.GetIndex(), printable(strings.Join(parts, "  ")))
	return nil
}
