package daemon

import "warder/keystore/kv"

// Through gives a program whose changes go through what wrap makes of the cluster.
func Through(program Program, wrap func(kv.Log) kv.Log) Program {
	program.through = wrap
	return program
}
