package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"warder/daemon/config"
	"warder/keystore/kv"
)

// Program is what the daemon has of the process that it runs in.
type Program struct {
	Stdout, Stderr io.Writer
	Version        string
	// HSMChild is the command, with its arguments, that starts this program as the process that holds the HSM's library.
	HSMChild []string
	// through is what changes go through on their way to the cluster, where it is set: tests let them fail.
	through func(kv.Log) kv.Log
}

const usage = `Run a node of a Warder cluster until it is told to stop.

  warder server --config FILE     run the node that FILE describes
  warder server --dev             run a single node for trying things out, with keys in software: not for production
  warder server --example-config  print a configuration file with every key and its default

Flags:
`

// Main is "warder server": it returns the process's exit code.
func Main(ctx context.Context, args []string, program Program) int {
	flags := flag.NewFlagSet("warder server", flag.ContinueOnError)
	flags.SetOutput(program.Stderr)
	path := flags.String("config", "", "configuration file")
	dev := flags.Bool("dev", false, "run a single development node with a software token: not for production")
	dir := flags.String("data-dir", "", "with --dev: keep the node's data there (default: a temporary folder, removed at the end)")
	example := flags.Bool("example-config", false, "print an example configuration")
	check := flags.Bool("check", false, "check the configuration file and exit")
	flags.Usage = func() {
		fmt.Fprint(program.Stderr, usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 1
	}
	switch {
	case *example:
		fmt.Fprint(program.Stdout, config.Example())
		return 0
	case *dev == (*path != "") || flags.NArg() > 0 || *dir != "" && !*dev:
		fmt.Fprintln(program.Stderr, "warder server: give --config FILE, or --dev with or without --data-dir")
		return 1
	case *dev:
		return report(program, runDev(ctx, *dir, program))
	}
	cfg, err := config.Load(*path)
	if err != nil || *check {
		return report(program, err)
	}
	return report(program, Run(ctx, cfg, program))
}

func report(program Program, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(program.Stderr, "warder server: %v\n", err)
	return 1
}

// newLogger writes text or JSON lines of the configured level to the standard error stream.
func newLogger(cfg config.Log, to io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(to, options)), nil
	}
	return slog.New(slog.NewTextHandler(to, options)), nil
}
