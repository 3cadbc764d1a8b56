// Package battery is the battery of faults: it starts real warder processes, lets callers of every kind work on them, does
// to the processes, their disks, networks, clocks and HSMs what happens to such things, and checks the recorded history.
// docs/reliability.md says which promise each of its tests holds.
//
// It is run by `make faults` and, in its short form, by `make ci`:
//
//	go test -tags battery ./cli/battery -run Crash            # one family
//	WARDER_SEED=42 go test -tags battery ./cli/battery -run TestCrash/leader
//
// It wants Linux. What mounts file systems or makes network namespaces, and so wants root, has the build tag root beside
// battery, and is not in the short form. The nodes are in package town, the callers, their history
// and its checks in package work; the schedules of faults are the tests here.
package battery
