// Package clustertest runs the nodes of a cluster in one process, over a network in memory that can be cut and
// healed, with machines that remember what they were given. Inside testing/synctest it all runs on virtual time.
package clustertest
