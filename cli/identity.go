package cli

import (
	"context"
	"encoding/pem"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

func (a *app) identity() *cobra.Command {
	return group("identity", "Register who may call",
		a.identityCreate(), a.identityList(), a.identityShow(), a.identityGroups(), a.identityIssue(),
		a.identityChange("disable", "Refuse an identity until it is enabled again", "refuse every call of", disable),
		a.identityChange("enable", "Let a disabled identity in again", "", enable),
		a.identityChange("revoke", "End every token and certificate of an identity", "end every token and certificate of", revoke),
	)
}

func certificateFlags(cmd *cobra.Command, r *requested, ttl *time.Duration) {
	cmd.Flags().StringVar(&r.csrFile, "csr", "", "certificate request (PEM or DER) of a key made elsewhere")
	cmd.Flags().StringVar(&r.dir, "out", "", "directory for certificate and CA; without --csr, a key is made there too, with a context file")
	cmd.Flags().DurationVar(ttl, "ttl", 0, "how long the certificate lasts (default: the server's)")
}

func optionalDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func (a *app) identityCreate() *cobra.Command {
	var r requested
	var groups []string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:     "create PRINCIPAL",
		Short:   "Register an identity and, with --out or --csr, certify its key",
		Example: "  warder identity create workload:trading/bot --group bots --out ./bot",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.certified(cmd, &r, args[0], func(ctx context.Context, c *client.Client, p *warderv1.Principal, csr []byte) (*warderv1.Certificate, error) {
				reply, err := c.Identities.CreateIdentity(ctx, &warderv1.CreateIdentityRequest{
					Principal: p, Groups: groups, Csr: csr, Ttl: optionalDuration(ttl),
				})
				if err != nil {
					return nil, err
				}
				return reply.GetCertificate(), a.show(reply, func(t *table) {
					identityRows(t, reply.GetIdentity())
					certificateRows(t, reply.GetCertificate(), r.dir)
				})
			})
		},
	}
	cmd.Flags().StringSliceVar(&groups, "group", nil, "group to put it in; may be repeated")
	certificateFlags(cmd, &r, &ttl)
	return cmd
}

func (a *app) identityIssue() *cobra.Command {
	var r requested
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "issue PRINCIPAL",
		Short: "Issue a certificate to a registered identity",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.csrFile == "" && r.dir == "" {
				return local("no key to certify", "give --csr with a certificate request, or --out with a directory to make a key in")
			}
			return a.certified(cmd, &r, args[0], func(ctx context.Context, c *client.Client, p *warderv1.Principal, csr []byte) (*warderv1.Certificate, error) {
				reply, err := c.Identities.IssueCertificate(ctx, &warderv1.IssueCertificateRequest{Principal: p, Csr: csr, Ttl: optionalDuration(ttl)})
				if err != nil {
					return nil, err
				}
				return reply.GetCertificate(), a.show(reply, func(t *table) { certificateRows(t, reply.GetCertificate(), r.dir) })
			})
		},
	}
	certificateFlags(cmd, &r, &ttl)
	return cmd
}

// certified does what has a principal's key certified: it makes or reads the
// request, asks, and keeps the certificate.
func (a *app) certified(cmd *cobra.Command, r *requested, name string,
	ask func(context.Context, *client.Client, *warderv1.Principal, []byte) (*warderv1.Certificate, error),
) error {
	c, s, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	p, err := parsePrincipal(name, s.Namespace)
	if err != nil {
		return err
	}
	if r.dir != "" {
		if err := absent(filepath.Join(r.dir, "certificate.pem"), filepath.Join(r.dir, "ca.pem"), filepath.Join(r.dir, "context.yaml")); err != nil {
			return err
		}
	}
	csr, err := a.csr(r, p.GetName())
	if err != nil {
		return err
	}
	certificate, err := ask(cmd.Context(), c, p, csr)
	if err != nil {
		return err
	}
	s.Namespace = p.GetNamespace()
	return a.keep(r, certificate, s)
}

func (a *app) identityList() *cobra.Command {
	var kind string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the namespace's identities",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var number int32
			if kind != "" {
				var err error
				if number, err = parseEnum("--kind", kind, "PRINCIPAL_KIND_", warderv1.PrincipalKind_value); err != nil {
					return err
				}
			}
			c, s, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := pages(func(token string) (*warderv1.ListIdentitiesResponse, error) {
				return c.Identities.ListIdentities(cmd.Context(), &warderv1.ListIdentitiesRequest{
					Namespace: s.Namespace, Kind: warderv1.PrincipalKind(number), PageToken: token,
				})
			})
			if err != nil {
				return err
			}
			return a.show(reply, func(t *table) {
				t.row("PRINCIPAL", "STATE", "GROUPS", "KEYS", "EPOCH", "CREATED")
				for _, i := range reply.GetIdentities() {
					t.row(principalText(i.GetPrincipal()), word(i.GetState(), "IDENTITY_STATE_"), strings.Join(i.GetGroups(), " "), len(i.GetKeyFingerprints()), i.GetEpoch(), when(i.GetCreatedAt()))
				}
			})
		},
	}
	cmd.Flags().StringVar(&kind, "kind", "", "only operator, workload or device")
	return cmd
}

func (a *app) identityShow() *cobra.Command {
	return &cobra.Command{
		Use: "show PRINCIPAL", Short: "Tell what is known of an identity", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.oneIdentity(cmd, args[0], func(ctx context.Context, c *client.Client, p *warderv1.Principal) (*warderv1.Identity, error) {
				reply, err := c.Identities.GetIdentity(ctx, &warderv1.GetIdentityRequest{Principal: p})
				return reply.GetIdentity(), err
			})
		},
	}
}

func (a *app) identityGroups() *cobra.Command {
	return &cobra.Command{
		Use: "groups PRINCIPAL [GROUP…]", Short: "Put an identity in these groups and no others", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.oneIdentity(cmd, args[0], func(ctx context.Context, c *client.Client, p *warderv1.Principal) (*warderv1.Identity, error) {
				reply, err := c.Identities.SetIdentityGroups(ctx, &warderv1.SetIdentityGroupsRequest{Principal: p, Groups: args[1:]})
				return reply.GetIdentity(), err
			})
		},
	}
}

type identityCall func(context.Context, *client.Client, *warderv1.Principal) (*warderv1.Identity, error)

func disable(ctx context.Context, c *client.Client, p *warderv1.Principal) (*warderv1.Identity, error) {
	reply, err := c.Identities.DisableIdentity(ctx, &warderv1.DisableIdentityRequest{Principal: p})
	return reply.GetIdentity(), err
}

func enable(ctx context.Context, c *client.Client, p *warderv1.Principal) (*warderv1.Identity, error) {
	reply, err := c.Identities.EnableIdentity(ctx, &warderv1.EnableIdentityRequest{Principal: p})
	return reply.GetIdentity(), err
}

func revoke(ctx context.Context, c *client.Client, p *warderv1.Principal) (*warderv1.Identity, error) {
	reply, err := c.Identities.RevokeIdentity(ctx, &warderv1.RevokeIdentityRequest{Principal: p})
	return reply.GetIdentity(), err
}

// identityChange is a command that changes an identity; danger, when set, is what
// it asks about first.
func (a *app) identityChange(verb, short, danger string, call identityCall) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: verb + " PRINCIPAL", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if danger != "" {
				if err := a.confirm(yes, danger+" "+args[0]); err != nil {
					return err
				}
			}
			return a.oneIdentity(cmd, args[0], call)
		},
	}
	if danger != "" {
		yesFlag(cmd, &yes)
	}
	return cmd
}

func (a *app) oneIdentity(cmd *cobra.Command, name string, call identityCall) error {
	c, s, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	p, err := parsePrincipal(name, s.Namespace)
	if err != nil {
		return err
	}
	found, err := call(cmd.Context(), c, p)
	if err != nil {
		return err
	}
	return a.show(found, func(t *table) { identityRows(t, found) })
}

func identityRows(t *table, i *warderv1.Identity) {
	t.row("principal", principalText(i.GetPrincipal()))
	t.row("spiffe id", i.GetSpiffeId())
	t.row("state", word(i.GetState(), "IDENTITY_STATE_"))
	t.row("groups", strings.Join(i.GetGroups(), " "))
	t.row("epoch", i.GetEpoch())
	for _, key := range i.GetKeyFingerprints() {
		t.row("key", key)
	}
	t.row("created", when(i.GetCreatedAt()))
}

// certificateRows tells of a certificate; where it is not kept, it is printed whole.
func certificateRows(t *table, c *warderv1.Certificate, dir string) {
	if c == nil {
		return
	}
	t.row("serial", c.GetSerial())
	t.row("valid until", when(c.GetNotAfter()))
	if dir != "" {
		t.row("kept in", dir)
		return
	}
	_ = t.writer.Flush()
	for rest := []byte(c.GetChainPem()); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return
		}
		t.out.Write(pem.EncodeToMemory(block))
	}
}
