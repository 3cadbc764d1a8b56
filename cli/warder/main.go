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

// serve runs the daemon, which starts this same binary again as the process that holds the HSM's library.
func serve(ctx context.Context, args []string) int {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return daemon.Main(ctx, args, daemon.Program{
		Stdout: os.Stdout, Stderr: os.Stderr, Version: version, HSMChild: []string{self, "hsm-module"},
	})
}
