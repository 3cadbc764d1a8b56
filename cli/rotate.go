package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

func (a *app) operatorRotate() *cobra.Command {
	return group("rotate", "Rotate the cluster's own keys", a.rotateRoot(), a.rotateData())
}

func (a *app) rotateRoot() *cobra.Command {
	var node string
	var yes, noWait bool
	cmd := &cobra.Command{
		Use:   "root",
		Short: "Give the nodes' HSMs new root keys",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.confirm(yes, "replace the root key of "+orAll(node)); err != nil {
				return err
			}
			c, _, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Cluster.RotateRoot(cmd.Context(), &warderv1.RotateRootRequest{NodeId: node})
			if err != nil {
				return err
			}
			return a.follow(cmd.Context(), c, reply.GetRotation(), noWait)
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "this node only")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for the end")
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) rotateData() *cobra.Command {
	var yes, noWait bool
	cmd := &cobra.Command{
		Use:   "data",
		Short: "Make a new data key and seal every record again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.confirm(yes, "make a new data key and seal every record again"); err != nil {
				return err
			}
			c, _, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Cluster.RotateData(cmd.Context(), &warderv1.RotateDataRequest{})
			if err != nil {
				return err
			}
			return a.follow(cmd.Context(), c, reply.GetRotation(), noWait)
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for the end")
	yesFlag(cmd, &yes)
	return cmd
}

func orAll(node string) string {
	if node == "" {
		return "every node"
	}
	return "node " + node
}

// rotationPoll is how often a rotation is looked at.
const rotationPoll = 200 * time.Millisecond

// follow watches a rotation to its end and tells how far it is on stderr.
func (a *app) follow(ctx context.Context, c *client.Client, rotation *warderv1.RotationStatus, noWait bool) error {
	told := ""
	for !noWait && running(rotation) {
		if line := progress(rotation); line != told {
			a.tell("%s", line)
			told = line
		}
		if err := sleep(ctx, rotationPoll); err != nil {
			return localf("it goes on without you: warder operator status tells how far it is", "stopped watching the rotation: %w", err)
		}
		reply, err := c.Cluster.GetRotation(ctx, &warderv1.GetRotationRequest{RotationId: rotation.GetId()})
		if err != nil {
			return fmt.Errorf("watch rotation %s: %w", rotation.GetId(), err)
		}
		rotation = reply.GetRotation()
	}
	if rotation.GetPhase() == warderv1.RotationPhase_ROTATION_PHASE_FAILED {
		return &refusal{localf("repair what it names, then rotate again; the old key still holds", "rotation %s failed: %s", rotation.GetId(), rotation.GetDetail())}
	}
	return a.show(rotation, func(t *table) { rotationRows(t, rotation) })
}

// refusal marks an error as the server's, though no call failed.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

func running(r *warderv1.RotationStatus) bool {
	switch r.GetPhase() {
	case warderv1.RotationPhase_ROTATION_PHASE_DONE, warderv1.RotationPhase_ROTATION_PHASE_FAILED, warderv1.RotationPhase_ROTATION_PHASE_UNSPECIFIED:
		return false
	}
	return true
}

func progress(r *warderv1.RotationStatus) string {
	text := fmt.Sprintf("rotation %s: %s, %d of %d", r.GetId(), word(r.GetPhase(), "ROTATION_PHASE_"), r.GetDone(), r.GetTotal())
	if waiting := r.GetWaitingFor(); len(waiting) > 0 {
		text += ", waiting for " + strings.Join(waiting, " ")
	}
	return printable(text)
}

func rotationRows(t *table, r *warderv1.RotationStatus) {
	t.row("rotation", r.GetId())
	t.row("kind", word(r.GetKind(), "ROTATION_KIND_"))
	t.row("phase", word(r.GetPhase(), "ROTATION_PHASE_"))
	t.row("progress", fmt.Sprintf("%d of %d", r.GetDone(), r.GetTotal()))
	t.row("waiting for", strings.Join(r.GetWaitingFor(), " "))
	t.row("updated", when(r.GetUpdatedAt()))
	if r.GetDetail() != "" {
		t.row("detail", r.GetDetail())
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
