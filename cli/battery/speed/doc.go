// Package speed measures Warder side by side with what the same machine can do at best, and writes the tables of
// docs/performance.md. A figure that decides something is a ratio to a floor of the same run: machines are noisy.
//
// What is measured are real processes on real SoftHSM tokens; the callers are in another process, and write requests
// that cost them next to nothing (cli/battery/wire). `make bench` runs it.
package speed
