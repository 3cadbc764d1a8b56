package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"warder/api/client"
)

// The exit codes.
const (
	exitDone   = 0
	exitLocal  = 1
	exitRemote = 2
)

// Env is what the commands have of the world.
type Env struct {
	// Args are the arguments without the program's name.
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv reads the environment.
	Getenv func(string) string
	// Server is the daemon's entry point, with the arguments after "server";
	// nil in a build without the daemon.
	Server func(ctx context.Context, args []string) int
	// HSMChild is the entry point of the process that loads a PKCS#11 module; nil
	// in a build without one.
	HSMChild func(ctx context.Context) int
	// Version is the build's version.
	Version string
}

// hsmChildCommand is the hidden command that the daemon starts itself with.
const hsmChildCommand = "hsm-module"

// Run does the command that env.Args name and returns the process's exit code.
func Run(ctx context.Context, env Env) int {
	if len(env.Args) == 1 && env.Args[0] == hsmChildCommand && env.HSMChild != nil {
		return env.HSMChild(ctx)
	}
	a := &app{env: env}
	root := a.root()
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return a.code
	}
	return a.fail(command.CommandPath(), err)
}

// app is one run of the program.
type app struct {
	env   Env
	flags flags
	code  int // what a command that ran another program came to
}

// flags are those that every command has.
type flags struct {
	context, namespace, ca, certificate, key, token, trustDomain, format string
	endpoints                                                            []string
	timeout                                                              time.Duration
	linearizable                                                         bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "warder",
		Short: "Keeps brokers' credentials and device keys, and lets others use them without seeing them",
		Long: `warder runs a node of a cluster (warder server) and asks a cluster to do things (all other commands).

Commands find the cluster by a context file, written by "warder operator init": --context, else
$WARDER_CONTEXT, else warder/context.yaml in $XDG_CONFIG_HOME or ~/.config.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.flags.linearizable {
				cmd.SetContext(client.Linearizable(cmd.Context()))
			}
			return oneOf("--format", a.flags.format, "table", "json")
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&a.flags.context, "context", "", "context file")
	f.StringSliceVar(&a.flags.endpoints, "endpoint", nil, "node to ask, as https://host:port; may be repeated")
	f.StringVarP(&a.flags.namespace, "namespace", "n", "", "namespace of the names that are given without one")
	f.StringVar(&a.flags.ca, "ca", "", "file with the cluster's CA certificate")
	f.StringVar(&a.flags.certificate, "certificate", "", "file with the caller's certificate")
	f.StringVar(&a.flags.key, "key-file", "", "file with the certificate's key")
	f.StringVar(&a.flags.trustDomain, "trust-domain", "", "SPIFFE trust domain of the cluster's nodes")
	f.StringVar(&a.flags.token, "token", "", "token to show: @file, - or env:NAME (default env:WARDER_TOKEN when set)")
	f.DurationVar(&a.flags.timeout, "timeout", 15*time.Second, "time for each call")
	f.BoolVar(&a.flags.linearizable, "linearizable", false, "answers show everything acknowledged before, on any node; each asks a majority first")
	f.StringVar(&a.flags.format, "format", "table", "output: table or json")
	root.AddCommand(
		a.server(), a.hsmChild(), a.operator(), a.identity(), a.policy(), a.credential(), a.keys(), a.device(),
		a.tokens(), a.audit(), a.status(), a.version(), a.bench(),
	)
	return root
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(commands...)
	return c
}

func (a *app) server() *cobra.Command {
	return &cobra.Command{
		Use:                "server",
		Short:              "Run a node",
		Long:               "Run a node until it is told to stop. warder server --help tells its own flags.",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.env.Server == nil {
				return local("this build of warder has no server", "use a build that has")
			}
			a.code = a.env.Server(cmd.Context(), args)
			return nil
		},
	}
}

func (a *app) hsmChild() *cobra.Command {
	return &cobra.Command{
		Use: hsmChildCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.env.HSMChild == nil {
				return local("this build of warder loads no PKCS#11 module", "use a build that does")
			}
			a.code = a.env.HSMChild(cmd.Context())
			return nil
		},
	}
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Tell the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.flags.format == "json" {
				return a.printJSON(map[string]string{"version": a.env.Version})
			}
			_, err := fmt.Fprintf(a.env.Stdout, "warder %s\n", a.env.Version)
			return err
		},
	}
}

func oneOf(what, value string, allowed ...string) error {
	for _, word := range allowed {
		if value == word {
			return nil
		}
	}
	return localf("use one of them", "%s %q is not one of %v", what, value, allowed)
}
