package cli

import (
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

func (a *app) device() *cobra.Command {
	return group("device", "Enrol devices", a.deviceToken(), a.deviceEnrol(), a.deviceRenew())
}

func (a *app) deviceToken() *cobra.Command {
	var ttl time.Duration
	var groups []string
	cmd := &cobra.Command{
		Use: "token NAME", Short: "Let one device enrol, once; prints the token", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				reply, err := c.Devices.CreateEnrolmentToken(cmd.Context(), &warderv1.CreateEnrolmentTokenRequest{
					Namespace: namespace, Name: name, Ttl: durationpb.New(ttl), Groups: groups,
				})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) { t.row(reply.GetToken()) })
			})
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token lasts")
	cmd.Flags().StringSliceVar(&groups, "group", nil, "group to put the device in; may be repeated")
	return cmd
}

func (a *app) deviceEnrol() *cobra.Command {
	var token string
	var r requested
	cmd := &cobra.Command{
		Use:   "enrol",
		Short: "Enrol this device: a token in, a certificate out",
		Long: `Enrol this device. Needs no certificate: the single-use token stands for it, so --endpoint and --ca are enough.

The key is made here, in --out, and never leaves this machine; or --csr gives the request of a key that is
elsewhere, for example in the device's own secure element.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.enrol(cmd, token, &r) },
	}
	cmd.Flags().StringVar(&token, "enrolment-token", "", "the token: @file, - or env:NAME")
	cmd.Flags().StringVar(&r.csrFile, "csr", "", "certificate request (PEM or DER) of a key made elsewhere")
	cmd.Flags().StringVar(&r.dir, "out", "", "directory for key, certificate, CA and context file")
	_ = cmd.MarkFlagRequired("enrolment-token") // the flags exist
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

func (a *app) enrol(cmd *cobra.Command, tokenSource string, r *requested) error {
	if err := absent(filepath.Join(r.dir, "certificate.pem"), filepath.Join(r.dir, "ca.pem"), filepath.Join(r.dir, "context.yaml")); err != nil {
		return err
	}
	token, err := a.readText("--enrolment-token", tokenSource)
	if err != nil {
		return err
	}
	c, s, err := a.dialAnonymous()
	if err != nil {
		return err
	}
	defer c.Close()
	csr, err := a.csr(r, "device")
	if err != nil {
		return err
	}
	reply, err := c.Devices.EnrolDevice(cmd.Context(), &warderv1.EnrolDeviceRequest{Token: token, Csr: csr})
	if err != nil {
		return err
	}
	s.Namespace = reply.GetPrincipal().GetNamespace()
	if err := a.keep(r, reply.GetCertificate(), s); err != nil {
		return err
	}
	return a.show(reply, func(t *table) {
		t.row("principal", principalText(reply.GetPrincipal()))
		certificateRows(t, reply.GetCertificate(), r.dir)
	})
}

// dialAnonymous makes a client without a certificate and without a token.
func (a *app) dialAnonymous() (*client.Client, settings, error) {
	s, err := a.settings()
	if err != nil {
		return nil, s, err
	}
	s.Certificate, s.Key = "", ""
	config, err := a.config(s)
	if err != nil {
		return nil, s, err
	}
	config.Token = nil
	c, err := client.Dial(config)
	if err != nil {
		return nil, s, localf("correct the context file or the flags", "%w", err)
	}
	return c, s, nil
}

func (a *app) deviceRenew() *cobra.Command {
	var r requested
	cmd := &cobra.Command{
		Use: "renew", Short: "Get this device a new certificate, by its current one", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, s, err := a.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			if err := absent(filepath.Join(r.dir, "certificate.pem"), filepath.Join(r.dir, "ca.pem"), filepath.Join(r.dir, "context.yaml")); err != nil {
				return err
			}
			csr, err := a.csr(&r, "device")
			if err != nil {
				return err
			}
			reply, err := c.Devices.RenewDevice(cmd.Context(), &warderv1.RenewDeviceRequest{Csr: csr})
			if err != nil {
				return err
			}
			if err := a.keep(&r, reply.GetCertificate(), s); err != nil {
				return err
			}
			return a.show(reply, func(t *table) { certificateRows(t, reply.GetCertificate(), r.dir) })
		},
	}
	cmd.Flags().StringVar(&r.csrFile, "csr", "", "certificate request (PEM or DER) of a key made elsewhere")
	cmd.Flags().StringVar(&r.dir, "out", "", "new directory for key, certificate, CA and context file")
	_ = cmd.MarkFlagRequired("out") // the flag exists
	return cmd
}
