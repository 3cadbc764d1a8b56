// Command warder is the whole of Warder in one binary: the daemon and its command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"warder/cli"
	"warder/daemon"
	"warder/hsm/pkcs11"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version,
		Server: serve, HSMChild: pkcs11.ServeChild,
	})
	stop()
	os.Exit(code)
}

// serve runs the daemon, which starts this same program again as the process that holds the HSM's library: by what
// the kernel has of it, so that an upgrade of the file changes nothing under a running node.
func serve(ctx context.Context, args []string) int {
	return daemon.Main(ctx, args, daemon.Program{
		Stdout: os.Stdout, Stderr: os.Stderr, Version: version, HSMChild: []string{"/proc/self/exe", "hsm-module"},
	})
}
