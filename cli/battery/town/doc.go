// Package town runs clusters of real warder processes for the battery of faults: each node with its own folder, ports and
// token, on loopback or in a network namespace of its own, started, paused, killed and started again.
package town
