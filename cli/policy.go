package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

func (a *app) policy() *cobra.Command {
	return group("policy", "Say who may do what", a.policyPut(), a.policyGet(), a.policyList(), a.policyDelete(), a.policyTest())
}

func (a *app) policyPut() *cobra.Command {
	var revision int64
	cmd := &cobra.Command{
		Use:   "put NAME FILE",
		Short: "Store a Cedar policy from a file, or - for stdin",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readFile("policy", strings.TrimPrefix(args[1], "@"))
			if err != nil {
				return err
			}
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				request := &warderv1.PutPolicyRequest{Namespace: namespace, Name: name, Text: string(text)}
				if cmd.Flags().Changed("revision") {
					expected := uint64(max(revision, 0))
					request.ExpectedRevision = &expected
				}
				reply, err := c.Policies.PutPolicy(cmd.Context(), request)
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) { policyRows(t, reply.GetPolicy()) })
			})
		},
	}
	cmd.Flags().Int64Var(&revision, "revision", 0, "refuse when the stored policy is not at this revision; 0: when there is one")
	return cmd
}

// namedCall dials and splits a name.
func (a *app) namedCall(text string, call func(c *client.Client, namespace, name string) error) error {
	c, s, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	namespace, name := split(text, s.Namespace)
	return call(c, namespace, name)
}

func policyRows(t *table, p *warderv1.Policy) {
	t.row("policy", slashed(p.GetNamespace(), p.GetName()))
	t.row("revision", p.GetRevision())
	t.row("updated", when(p.GetUpdatedAt()))
}

func (a *app) policyGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Print a policy's text", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				reply, err := c.Policies.GetPolicy(cmd.Context(), &warderv1.GetPolicyRequest{Namespace: namespace, Name: name})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) {
					t.out.WriteString(strings.TrimSuffix(reply.GetPolicy().GetText(), "\n") + "\n")
				})
			})
		},
	}
}

func (a *app) policyList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the namespace's policies", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, s, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			reply, err := pages(func(token string) (*warderv1.ListPoliciesResponse, error) {
				return c.Policies.ListPolicies(cmd.Context(), &warderv1.ListPoliciesRequest{Namespace: s.Namespace, PageToken: token})
			})
			if err != nil {
				return err
			}
			return a.show(reply, func(t *table) {
				t.row("POLICY", "REVISION", "UPDATED")
				for _, p := range reply.GetPolicies() {
					t.row(slashed(p.GetNamespace(), p.GetName()), p.GetRevision(), when(p.GetUpdatedAt()))
				}
			})
		},
	}
}

func (a *app) policyDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a policy", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(yes, "delete policy "+args[0]); err != nil {
				return err
			}
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				reply, err := c.Policies.DeletePolicy(cmd.Context(), &warderv1.DeletePolicyRequest{Namespace: namespace, Name: name})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) { t.row("policy " + slashed(namespace, name) + " is deleted") })
			})
		},
	}
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) policyTest() *cobra.Command {
	var attributes []string
	cmd := &cobra.Command{
		Use:   "test PRINCIPAL ACTION RESOURCE",
		Short: "Tell what would be decided, and by which policies",
		Example: `  warder policy test workload:trading/bot credential.sign credential:trading/binance \
      --attribute class=trade --attribute qty:int=100`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error { return a.testPolicy(cmd.Context(), args, attributes) },
	}
	cmd.Flags().StringArrayVar(&attributes, "attribute", nil, "a fact of the request: name=text, name:int=number or name:bool=true; may be repeated")
	return cmd
}

func (a *app) testPolicy(ctx context.Context, args, attributes []string) error {
	c, s, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	principal, err := parsePrincipal(args[0], s.Namespace)
	if err != nil {
		return err
	}
	resource, err := parseResource(args[2], s.Namespace)
	if err != nil {
		return err
	}
	facts, err := parseAttributes(attributes)
	if err != nil {
		return err
	}
	reply, err := c.Policies.TestPolicy(ctx, &warderv1.TestPolicyRequest{Principal: principal, Action: args[1], Resource: resource, Context: facts})
	if err != nil {
		return err
	}
	return a.show(reply, func(t *table) {
		t.row("decision", word(reply.GetDecision(), "DECISION_"))
		t.row("policies", strings.Join(reply.GetPolicies(), " "))
		for _, problem := range reply.GetErrors() {
			t.row("error", problem)
		}
	})
}

// parseAttributes reads name=text, name:int=number and name:bool=true.
func parseAttributes(texts []string) ([]*warderv1.ContextAttribute, error) {
	var all []*warderv1.ContextAttribute
	for _, text := range texts {
		name, value, found := strings.Cut(text, "=")
		if !found {
			return nil, localf("write it as name=text, name:int=number or name:bool=true", "attribute %q has no value", text)
		}
		name, kind, _ := strings.Cut(name, ":")
		attribute := &warderv1.ContextAttribute{Name: name}
		if err := setAttribute(attribute, kind, value); err != nil {
			return nil, localf("types are int (a whole number) and bool (true or false)", "attribute %s: %w", name, err)
		}
		all = append(all, attribute)
	}
	return all, nil
}

func setAttribute(attribute *warderv1.ContextAttribute, kind, value string) error {
	switch kind {
	case "":
		attribute.Value = &warderv1.ContextAttribute_StringValue{StringValue: value}
	case "int":
		number, err := strconv.ParseInt(value, 10, 64)
		attribute.Value = &warderv1.ContextAttribute_IntValue{IntValue: number}
		return err
	case "bool":
		flag, err := strconv.ParseBool(value)
		attribute.Value = &warderv1.ContextAttribute_BoolValue{BoolValue: flag}
		return err
	default:
		return local("type "+kind+" is not known", "")
	}
	return nil
}
