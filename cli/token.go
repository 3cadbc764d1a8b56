package cli

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

// ownTokenLife is how long a token lasts that a command gets for itself.
const ownTokenLife = time.Minute

// tokenCall is namedCall for what workloads and devices need a token for. When
// none was given, it gets one for this action on this resource and nothing else.
func (a *app) tokenCall(text, action, kind string, call func(c *client.Client, namespace, name string) error) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	namespace, name := split(text, s.Namespace)
	config, err := a.config(s)
	if err != nil {
		return err
	}
	if config.Token == nil && needsToken(s.Certificate) {
		issuer, err := client.Dial(config)
		if err != nil {
			return localf("correct the context file or the flags", "%w", err)
		}
		defer issuer.Close()
		grant := &warderv1.Grant{Actions: []string{action}, Resource: &warderv1.Resource{Type: kind, Namespace: namespace, Name: name}}
		config.Token = client.NewTokenSource(issuer, []*warderv1.Grant{grant}, ownTokenLife).Token
	}
	c, err := client.Dial(config)
	if err != nil {
		return localf("correct the context file or the flags", "%w", err)
	}
	defer c.Close()
	return call(c, namespace, name)
}

// needsToken tells whether a certificate is a workload's or a device's.
func needsToken(path string) bool {
	text, err := os.ReadFile(path) //nolint:gosec // the user's own file
	block, _ := pem.Decode(text)
	if err != nil || block == nil {
		return false
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(certificate.URIs) != 1 {
		return false
	}
	id := certificate.URIs[0].Path // /ns/<namespace>/<kind>/<name>
	return strings.Contains(id, "/workload/") || strings.Contains(id, "/device/")
}

func (a *app) tokens() *cobra.Command {
	return group("token", "Get and judge short-lived tokens", a.tokenIssue(), a.tokenInspect(), a.tokenRevoke())
}

func (a *app) tokenIssue() *cobra.Command {
	var grants []string
	var ttl time.Duration
	var uses uint32
	cmd := &cobra.Command{
		Use:     "issue",
		Short:   "Issue a token to the caller, bound to its certificate",
		Example: "  warder token issue --grant credential.sign=credential:trading/binance-main --ttl 5m",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, s, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			parsed, err := parseGrants(grants, s.Namespace)
			if err != nil {
				return err
			}
			reply, err := c.Tokens.IssueToken(cmd.Context(), &warderv1.IssueTokenRequest{Grants: parsed, Ttl: durationpb.New(ttl), MaxUses: uses})
			if err != nil {
				return err
			}
			return a.show(reply, func(t *table) { t.row(reply.GetToken()) })
		},
	}
	cmd.Flags().StringArrayVar(&grants, "grant", nil, "what it is for, as action[,action]=type:namespace/name; may be repeated")
	cmd.Flags().DurationVar(&ttl, "ttl", 5*time.Minute, "how long it lasts")
	cmd.Flags().Uint32Var(&uses, "max-uses", 0, "how often it may be used (default: until it ends)")
	_ = cmd.MarkFlagRequired("grant") // the flag exists
	return cmd
}

func (a *app) tokenInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect TOKEN", Short: "Tell what a token says; TOKEN is @file, - or env:NAME", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := a.readText("token", args[0])
			if err != nil {
				return err
			}
			c, _, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Tokens.InspectToken(cmd.Context(), &warderv1.InspectTokenRequest{Token: token})
			if err != nil {
				return err
			}
			return a.show(reply, func(t *table) { tokenRows(t, reply) })
		},
	}
}

func tokenRows(t *table, r *warderv1.InspectTokenResponse) {
	t.row("id", r.GetId())
	t.row("principal", principalText(r.GetPrincipal()))
	state := "active"
	if !r.GetActive() {
		state = "not active: " + word(r.GetInactiveReason(), "REASON_")
	}
	t.row("state", state)
	for _, grant := range r.GetGrants() {
		t.row("grant", strings.Join(grant.GetActions(), ",")+"="+resourceText(grant.GetResource()))
	}
	t.row("issued", when(r.GetIssuedAt()))
	t.row("expires", when(r.GetExpiresAt()))
	if r.GetMaxUses() > 0 {
		t.row("max uses", r.GetMaxUses())
	}
	t.row("epoch", r.GetEpoch())
	t.row("bound to", fmt.Sprintf("sha256:%s", hex.EncodeToString(r.GetCertificateSha256())))
}

func (a *app) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Void a token on every node", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := c.Tokens.RevokeToken(cmd.Context(), &warderv1.RevokeTokenRequest{Id: args[0]})
			if err != nil {
				return err
			}
			return a.show(reply, func(t *table) { t.row("token " + args[0] + " is revoked") })
		},
	}
}
