package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"warder/api/client"
	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
)

func (a *app) status() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how each node is",
		Long:  "Tell how each node of the context's endpoints is, or, with --socket, the node on this machine.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.target(cmd, socket)
			if err != nil {
				return err
			}
			defer c.Close()
			return a.showStatuses(askEach(cmd.Context(), c))
		},
	}
	socketFlag(cmd, &socket)
	return cmd
}

// nodeStatus is what one endpoint said, or why it said nothing.
type nodeStatus struct {
	endpoint string
	status   *warderv1.GetStatusResponse
	err      error
}

// askEach asks every endpoint for its own status, at the same time.
func askEach(ctx context.Context, c *client.Client) []nodeStatus {
	endpoints := c.Endpoints()
	all := make([]nodeStatus, len(endpoints))
	done := make(chan int)
	for i, endpoint := range endpoints {
		go func() {
			at, cancel := context.WithTimeout(client.At(ctx, endpoint), 4*time.Second)
			defer cancel()
			status, err := c.System.GetStatus(at, &warderv1.GetStatusRequest{})
			all[i] = nodeStatus{endpoint, status, err}
			done <- i
		}()
	}
	for range endpoints {
		<-done
	}
	return all
}

// showStatuses prints them. It fails when no node answered.
func (a *app) showStatuses(all []nodeStatus) error {
	answered := 0
	for _, one := range all {
		if one.err == nil {
			answered++
		}
	}
	if answered == 0 {
		return all[0].err
	}
	if a.flags.format == "json" {
		return a.statusJSON(all)
	}
	if len(all) == 1 {
		return a.show(all[0].status, func(t *table) { statusRows(t, all[0].status) })
	}
	t := newTable()
	t.row("ENDPOINT", "NODE", "ROLE", "SEALED", "LEADER", "APPLIED", "BEHIND", "HSM", "AUDIT", "PROBLEMS")
	for _, one := range all {
		if one.err != nil {
			t.row(one.endpoint, "", "", "", "", "", "", "", "", shortError(one.err))
			continue
		}
		s := one.status
		t.row(one.endpoint, s.GetNodeId(), word(s.GetRole(), "NODE_ROLE_"), yesNo(s.GetSealed()), s.GetLeaderId(), s.GetAppliedIndex(),
			s.GetStaleness().AsDuration().Round(time.Millisecond), hsmState(s.GetHsm()), word(s.GetAuditMode(), "AUDIT_MODE_"), strings.Join(s.GetProblems(), "; "))
	}
	_, err := a.env.Stdout.Write(t.bytes())
	return err
}

func (a *app) statusJSON(all []nodeStatus) error {
	type entry struct {
		Endpoint string `json:"endpoint"`
		Status   any    `json:"status,omitempty"`
		Error    string `json:"error,omitempty"`
	}
	var entries []entry
	for _, one := range all {
		e := entry{Endpoint: one.endpoint}
		if one.err != nil {
			e.Error = shortError(one.err)
		} else {
			text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(one.status)
			if err != nil {
				return err
			}
			e.Status = rawJSON(text)
		}
		entries = append(entries, e)
	}
	return a.printJSON(entries)
}

// rawJSON is JSON that is made already.
type rawJSON []byte

func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }

func statusRows(t *table, s *warderv1.GetStatusResponse) {
	t.row("node", s.GetNodeId())
	t.row("cluster", strings.TrimSpace(s.GetClusterName()+" "+s.GetClusterId()))
	t.row("trust domain", s.GetTrustDomain())
	t.row("version", s.GetVersion())
	t.row("initialised", yesNo(s.GetInitialised()))
	t.row("sealed", yesNo(s.GetSealed()))
	t.row("role", word(s.GetRole(), "NODE_ROLE_"))
	t.row("leader", s.GetLeaderId())
	t.row("members", s.GetMembers())
	t.row("applied", s.GetAppliedIndex())
	t.row("behind", s.GetStaleness().AsDuration().Round(time.Millisecond))
	h := s.GetHsm()
	t.row("hsm", hsmState(h))
	t.row("hsm token", fmt.Sprintf("%s, serial %s, module %s", h.GetTokenLabel(), h.GetSerial(), h.GetModule()))
	t.row("root key", h.GetRootKeyFingerprint())
	t.row("node key", h.GetNodeKeyFingerprint())
	k := s.GetKeyring()
	t.row("keyring", fmt.Sprintf("epoch %d, data key %d (%d held), %d recipients", k.GetEpoch(), k.GetActiveDataKey(), k.GetDataKeys(), k.GetRecipients()))
	t.row("audit", word(s.GetAuditMode(), "AUDIT_MODE_"))
	if s.GetDevMode() {
		t.row("development", "yes: not for production")
	}
	for _, problem := range s.GetProblems() {
		t.row("problem", problem)
	}
}

func hsmState(h *warderv1.HsmStatus) string {
	switch {
	case h == nil:
		return ""
	case !h.GetHealthy():
		return "failing"
	case h.GetSoftware():
		return "healthy (software)"
	}
	return "healthy"
}

func yesNo(value bool) string {
	if value {
		return "yes"
	}
	return "no"
}

func shortError(err error) string {
	var remote *client.Error
	if !errors.As(err, &remote) {
		return err.Error()
	}
	if reason.Known(remote.Reason) && !errors.Is(remote, client.ErrUnreachable) {
		return strings.TrimPrefix(remote.Reason.String(), "REASON_") + ": " + remote.Message
	}
	return remote.Message
}

func (a *app) operatorStatus() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell the cluster's members and its latest rotation",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.target(cmd, socket)
			if err != nil {
				return err
			}
			defer c.Close()
			if cmd.Flags().Changed("socket") {
				return a.showStatuses(askEach(cmd.Context(), c))
			}
			return a.showMembers(cmd.Context(), c)
		},
	}
	socketFlag(cmd, &socket)
	return cmd
}

func (a *app) showMembers(ctx context.Context, c *client.Client) error {
	reply, err := c.Cluster.ListMembers(ctx, &warderv1.ListMembersRequest{})
	if err != nil {
		return err
	}
	err = a.show(reply, func(t *table) {
		t.row("NODE", "ROLE", "VOTER", "CLUSTER ADDRESS", "API ADDRESS", "ROOT KEY", "JOINED")
		for _, m := range reply.GetMembers() {
			t.row(m.GetId(), word(m.GetRole(), "NODE_ROLE_"), yesNo(m.GetVoter()), m.GetClusterAddress(), m.GetApiAddress(), m.GetRootKeyFingerprint(), when(m.GetJoinedAt()))
		}
	})
	if err != nil || a.flags.format == "json" {
		return err
	}
	rotation, err := c.Cluster.GetRotation(ctx, &warderv1.GetRotationRequest{})
	if errors.Is(err, client.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	a.say("")
	return a.show(rotation.GetRotation(), func(t *table) { rotationRows(t, rotation.GetRotation()) })
}
