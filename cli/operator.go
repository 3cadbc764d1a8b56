package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

// defaultSocket is the local socket of a node installed as a service.
const defaultSocket = "/var/lib/warder/warder.sock"

func (a *app) operator() *cobra.Command {
	return group("operator", "Run the cluster itself",
		a.operatorInit(), a.operatorStatus(), a.operatorJoin(), a.operatorJoinToken(), a.operatorRemove(),
		a.operatorSeal(), a.operatorUnseal(), a.operatorRotate(), a.operatorStepDown(),
	)
}

func socketFlag(cmd *cobra.Command, socket *string) {
	cmd.Flags().StringVar(socket, "socket", defaultSocket, "the node's local socket, <data directory>/warder.sock")
}

func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVar(yes, "yes", false, "do it without asking")
}

func (a *app) operatorInit() *cobra.Command {
	var socket, clusterName, trustDomain, operator, operatorNamespace string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the node on this machine the first of a new cluster",
		Long: `Make the node on this machine the first of a new cluster, and you its first operator.

Your key is made here and never leaves this machine. It is written beside the context file, with the
certificate, the CA certificate and the context itself, so that later commands need no flags.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.initCluster(cmd, socket, &warderv1.InitClusterRequest{
				ClusterName: clusterName, TrustDomain: trustDomain, OperatorName: operator, OperatorNamespace: operatorNamespace,
			})
		},
	}
	socketFlag(cmd, &socket)
	cmd.Flags().StringVar(&clusterName, "cluster-name", "warder", "the cluster's name")
	cmd.Flags().StringVar(&trustDomain, "cluster-trust-domain", "", "the SPIFFE trust domain of all its identities (default: the node's configuration)")
	cmd.Flags().StringVar(&operator, "operator", "admin", "your name")
	cmd.Flags().StringVar(&operatorNamespace, "operator-namespace", "system", "the namespace that you are in")
	return cmd
}

// defaultEndpoint is written into a context when no --endpoint is given.
const defaultEndpoint = "https://127.0.0.1:8443"

func (a *app) initCluster(cmd *cobra.Command, socket string, request *warderv1.InitClusterRequest) error {
	path, _ := a.contextPath()
	files := requested{dir: filepath.Dir(path)}
	if err := absent(path, filepath.Join(files.dir, "certificate.pem"), filepath.Join(files.dir, "ca.pem")); err != nil {
		return err
	}
	c, err := a.dialSocket(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	status, err := c.System.GetStatus(cmd.Context(), &warderv1.GetStatusRequest{})
	if err != nil {
		return err // before a key is written
	}
	if request.GetTrustDomain() == "" {
		request.TrustDomain = status.GetTrustDomain()
	}
	if request.OperatorCsr, err = a.csr(&files, request.GetOperatorName()); err != nil {
		return err
	}
	reply, err := c.System.InitCluster(cmd.Context(), request)
	if err != nil {
		return err
	}
	s := settings{
		Endpoints: a.flags.endpoints, TrustDomain: request.GetTrustDomain(), Namespace: a.flags.namespace,
		CA: "ca.pem", Certificate: "certificate.pem", Key: "key.pem",
	}
	if len(s.Endpoints) == 0 {
		s.Endpoints = []string{defaultEndpoint}
	}
	certificate := &warderv1.Certificate{ChainPem: reply.GetOperatorCertificatePem(), CaCertificatePem: reply.GetCaCertificatePem()}
	kept := requested{dir: files.dir} // the context file has a path of its own
	if err := a.keep(&kept, certificate, s); err != nil {
		return err
	}
	if err := writeSettings(path, s); err != nil {
		return err
	}
	return a.show(reply, func(t *table) {
		t.row("cluster", reply.GetClusterId())
		t.row("commitment", hex.EncodeToString(reply.GetCommitment()))
		t.row("operator", "operator:"+slashed(request.GetOperatorNamespace(), request.GetOperatorName()))
		t.row("context", path)
		t.row("endpoint", s.Endpoints[0])
	})
}

func (a *app) operatorJoin() *cobra.Command {
	var socket, token string
	var ttl time.Duration
	var noWait bool
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Make the node on this machine a member of the context's cluster",
		Long: `Make the node on this machine a member of the cluster that the context names.

With an operator's context, the join token is made on the way. Without one, give --join-token, made elsewhere by
"warder operator join-token", with --endpoint and --ca.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.join(cmd, socket, token, ttl, noWait) },
	}
	socketFlag(cmd, &socket)
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the node serves")
	cmd.Flags().StringVar(&token, "join-token", "", "join token: @file, - or env:NAME; made on the way when absent")
	cmd.Flags().DurationVar(&ttl, "ttl", 5*time.Minute, "how long a token made on the way lasts")
	return cmd
}

func (a *app) join(cmd *cobra.Command, socket, tokenSource string, ttl time.Duration, noWait bool) error {
	ctx := cmd.Context()
	node, err := a.dialSocket(socket)
	if err != nil {
		return err
	}
	defer node.Close()
	status, err := node.System.GetStatus(ctx, &warderv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	if s.CA == "" || len(s.Endpoints) == 0 {
		return local("no cluster known to join", "give --context, or --endpoint and --ca")
	}
	token, err := a.joinToken(cmd, tokenSource, status, ttl)
	if err != nil {
		return err
	}
	ca, err := a.readFile("CA certificate", s.CA)
	if err != nil {
		return err
	}
	reply, err := node.System.JoinCluster(ctx, &warderv1.SystemServiceJoinClusterRequest{
		Token: token, Endpoints: s.Endpoints, CaCertificatePem: string(ca),
	})
	if err != nil {
		return err
	}
	if !noWait {
		if err := a.awaitService(ctx, node); err != nil {
			return err
		}
	}
	return a.show(reply, func(t *table) {
		t.row("node", status.GetNodeId())
		t.row("cluster", reply.GetClusterId())
		t.row("commitment", hex.EncodeToString(reply.GetCommitment()))
	})
}

// How often a new member is looked at, and how often what it waits for is told.
const (
	memberPoll = 200 * time.Millisecond
	memberTold = 5 * time.Second
)

// awaitService waits until a new member serves, and tells what it waits for on stderr.
func (a *app) awaitService(ctx context.Context, node *client.Client) error {
	var told time.Time
	for {
		status, err := node.System.GetStatus(ctx, &warderv1.GetStatusRequest{})
		if err != nil {
			return fmt.Errorf("the node is a member; look at it again: %w", err)
		}
		if len(status.GetProblems()) == 0 {
			return nil
		}
		if time.Since(told) >= memberTold {
			a.tell("node %s is a member, and does not serve yet: %s", printable(status.GetNodeId()), printable(status.GetProblems()[0]))
			told = time.Now()
		}
		if err := sleep(ctx, memberPoll); err != nil {
			return localf("it goes on without you: warder operator status --socket tells how it is", "stopped watching the new member: %w", err)
		}
	}
}

// joinToken reads the token, or makes one by the operator's context for what the
// node's own HSM shows.
func (a *app) joinToken(cmd *cobra.Command, source string, status *warderv1.GetStatusResponse, ttl time.Duration) (string, error) {
	if source != "" {
		return a.readText("--join-token", source)
	}
	c, _, err := a.dial()
	if err != nil {
		return "", err
	}
	defer c.Close()
	reply, err := c.Cluster.CreateJoinToken(cmd.Context(), &warderv1.CreateJoinTokenRequest{
		NodeId: status.GetNodeId(), HsmFingerprint: status.GetHsm().GetNodeKeyFingerprint(), Ttl: durationpb.New(ttl),
	})
	return reply.GetToken(), err
}

func (a *app) operatorJoinToken() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "join-token NODE FINGERPRINT",
		Short: "Let one node join, once, with the HSM key of that fingerprint",
		Long: `Let one node join, once. FINGERPRINT is of the node's key in its HSM, as "sha256:" and hex;
"warder operator status --socket …" on the node's machine tells it.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Cluster.CreateJoinToken(cmd.Context(), &warderv1.CreateJoinTokenRequest{
				NodeId: args[0], HsmFingerprint: args[1], Ttl: durationpb.New(ttl),
			})
			if err != nil {
				return err
			}
			return a.show(reply, func(t *table) { t.row(reply.GetToken()) })
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 10*time.Minute, "how long the token lasts")
	return cmd
}

func (a *app) operatorRemove() *cobra.Command {
	var yes, noWait bool
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Evict a node and rotate the data keys",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(yes, "evict node "+args[0]+" for good and rotate the data keys"); err != nil {
				return err
			}
			c, _, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Cluster.RemoveMember(cmd.Context(), &warderv1.RemoveMemberRequest{NodeId: args[0]})
			if err != nil {
				return err
			}
			a.say("node %s is removed", args[0])
			return a.follow(cmd.Context(), c, reply.GetRotation(), noWait)
		},
	}
	yesFlag(cmd, &yes)
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for the rotation's end")
	return cmd
}

func (a *app) operatorSeal() *cobra.Command {
	var socket string
	var yes bool
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Make the node on this machine forget its keys",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.confirm(yes, "seal the node: it serves nothing until it is unsealed"); err != nil {
				return err
			}
			c, err := a.dialSocket(socket)
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.System.Seal(cmd.Context(), &warderv1.SealRequest{})
			if err != nil {
				return err
			}
			return a.show(reply, func(t *table) { t.row("sealed", reply.GetSealed()) })
		},
	}
	socketFlag(cmd, &socket)
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) operatorUnseal() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "unseal",
		Short: "Open the keyring of the node on this machine with its HSM",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dialSocket(socket)
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.System.Unseal(cmd.Context(), &warderv1.UnsealRequest{})
			if err != nil {
				return err
			}
			return a.show(reply, func(t *table) { t.row("sealed", reply.GetSealed()) })
		},
	}
	socketFlag(cmd, &socket)
	return cmd
}

func (a *app) operatorStepDown() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "step-down",
		Short: "Hand leadership to another node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.confirm(yes, "move leadership to another node"); err != nil {
				return err
			}
			c, _, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Cluster.StepDown(cmd.Context(), &warderv1.StepDownRequest{})
			if err != nil {
				return err
			}
			return a.show(reply, func(t *table) { t.row("leadership is handed over") })
		},
	}
	yesFlag(cmd, &yes)
	return cmd
}

// target makes the client of a local socket when one was named, else of the context.
func (a *app) target(cmd *cobra.Command, socket string) (*client.Client, error) {
	if cmd.Flags().Changed("socket") {
		return a.dialSocket(socket)
	}
	c, _, err := a.dial()
	return c, err
}
