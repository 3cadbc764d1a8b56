package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

func (a *app) credential() *cobra.Command {
	return group("credential", "Keep brokers' credentials and sign with them",
		a.credentialPut(), a.credentialList(), a.credentialShow(), a.credentialRotate(), a.credentialSign(), a.credentialDelete())
}

const fieldHelp = "a field: name=@file, name=- (stdin) or name=env:NAME; may be repeated"

// readFields reads name=source pairs.
func (a *app) readFields(texts []string) ([]*warderv1.SecretField, error) {
	var fields []*warderv1.SecretField
	for _, text := range texts {
		name, source, found := strings.Cut(text, "=")
		if !found {
			return nil, local("a --field has no source", "write it as name=@file, name=- or name=env:NAME")
		}
		value, err := a.read("field "+name, source)
		if err != nil {
			return nil, err
		}
		fields = append(fields, &warderv1.SecretField{Name: name, Value: trimLine(value)})
	}
	if len(fields) == 0 {
		return nil, local("no field given", "give at least one --field, for example --field secret=@secret.txt")
	}
	return fields, nil
}

func (a *app) credentialPut() *cobra.Command {
	var profile string
	var fields []string
	cmd := &cobra.Command{
		Use:     "put NAME",
		Short:   "Store a new credential",
		Example: "  warder credential put binance-main --profile binance --field api_key=@key.txt --field secret=-",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			values, err := a.readFields(fields)
			if err != nil {
				return err
			}
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				reply, err := c.Credentials.PutCredential(cmd.Context(), &warderv1.PutCredentialRequest{Namespace: namespace, Name: name, Profile: profile, Fields: values})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) { credentialRows(t, reply.GetCredential()) })
			})
		},
	}
	cmd.Flags().StringVar(&profile, "profile", "", "the broker's profile, for example binance")
	cmd.Flags().StringArrayVar(&fields, "field", nil, fieldHelp)
	_ = cmd.MarkFlagRequired("profile") // the flag exists
	return cmd
}

func (a *app) credentialRotate() *cobra.Command {
	var fields []string
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Make a new version active; the old one stays until its grace ends",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			values, err := a.readFields(fields)
			if err != nil {
				return err
			}
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				request := &warderv1.RotateCredentialRequest{Namespace: namespace, Name: name, Fields: values}
				if cmd.Flags().Changed("grace") {
					request.Grace = durationpb.New(grace)
				}
				reply, err := c.Credentials.RotateCredential(cmd.Context(), request)
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) { credentialRows(t, reply.GetCredential()) })
			})
		},
	}
	cmd.Flags().StringArrayVar(&fields, "field", nil, fieldHelp)
	cmd.Flags().DurationVar(&grace, "grace", 0, "how long the old version stays (default: the server's)")
	return cmd
}

func credentialRows(t *table, c *warderv1.Credential) {
	t.row("credential", slashed(c.GetNamespace(), c.GetName()))
	t.row("profile", c.GetProfile())
	t.row("active version", c.GetActiveVersion())
	for _, v := range c.GetVersions() {
		line := fmt.Sprintf("%s, created %s, fields %s", word(v.GetState(), "VERSION_STATE_"), when(v.GetCreatedAt()), strings.Join(v.GetFieldNames(), " "))
		if v.GetDestroyAt() != nil {
			line += ", destroyed at " + when(v.GetDestroyAt())
		}
		t.row(fmt.Sprintf("version %d", v.GetNumber()), line)
	}
}

func (a *app) credentialList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the namespace's credentials", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.tokenCall("", "credential.read", "namespace", func(c *client.Client, namespace, _ string) error {
				reply, err := pages(func(token string) (*warderv1.ListCredentialsResponse, error) {
					return c.Credentials.ListCredentials(cmd.Context(), &warderv1.ListCredentialsRequest{Namespace: namespace, PageToken: token})
				})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) {
					t.row("CREDENTIAL", "PROFILE", "VERSION", "VERSIONS", "CREATED")
					for _, c := range reply.GetCredentials() {
						t.row(slashed(c.GetNamespace(), c.GetName()), c.GetProfile(), c.GetActiveVersion(), len(c.GetVersions()), when(c.GetCreatedAt()))
					}
				})
			})
		},
	}
}

func (a *app) credentialShow() *cobra.Command {
	var reveal bool
	var version uint32
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Tell what is known of a credential; its secrets only with --reveal",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reveal {
				return a.reveal(cmd, args[0], version)
			}
			return a.tokenCall(args[0], "credential.read", "credential", func(c *client.Client, namespace, name string) error {
				reply, err := c.Credentials.GetCredential(cmd.Context(), &warderv1.GetCredentialRequest{Namespace: namespace, Name: name})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) {
					credentialRows(t, reply.GetCredential())
					for _, v := range reply.GetCredential().GetVersions() {
						if v.GetNumber() == reply.GetCredential().GetActiveVersion() {
							maskedRows(t, v.GetFieldNames())
						}
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&reveal, "reveal", false, "show the secrets; policy must allow credential.reveal, and audit keeps it")
	cmd.Flags().Uint32Var(&version, "version", 0, "with --reveal, this version (default: the active one)")
	return cmd
}

func maskedRows(t *table, names []string) {
	for _, name := range names {
		t.row(name, "********")
	}
}

func (a *app) reveal(cmd *cobra.Command, text string, version uint32) error {
	return a.tokenCall(text, "credential.reveal", "credential", func(c *client.Client, namespace, name string) error {
		reply, err := c.Credentials.RevealCredential(cmd.Context(), &warderv1.RevealCredentialRequest{Namespace: namespace, Name: name, Version: version})
		if err != nil {
			return err
		}
		return a.show(reply, func(t *table) {
			t.row("version", fmt.Sprintf("%d (%s)", reply.GetVersion(), word(reply.GetState(), "VERSION_STATE_")))
			for _, field := range reply.GetFields() {
				t.row(field.GetName(), string(field.GetValue()))
			}
		})
	})
}

func (a *app) credentialDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a credential and destroy its versions", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(yes, "destroy every version of credential "+args[0]); err != nil {
				return err
			}
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				reply, err := c.Credentials.DeleteCredential(cmd.Context(), &warderv1.DeleteCredentialRequest{Namespace: namespace, Name: name})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) { t.row("credential " + slashed(namespace, name) + " is deleted") })
			})
		},
	}
	yesFlag(cmd, &yes)
	return cmd
}
