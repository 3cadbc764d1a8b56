// Package cli is the command line: one binary, warder, holds every command.
//
// Run parses the arguments, does the command and returns the exit code: 0 when
// it was done, 1 when something on this machine was wrong (arguments, files, no
// endpoint reached), 2 when a server refused. What commands say of their errors
// is what happened, to what, and what to do next.
//
// A file per command group; run.go has the frame, settings.go the context file,
// output.go and input.go what goes out and in.
package cli
