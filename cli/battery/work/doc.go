// Package work puts callers of every kind to work on a town, records what each asked and was told, and checks the
// recorded history when the faults are over.
//
// Each kind of caller has a file: registers, deletes, counters, enrolments, guests (whose rights are taken away while they
// use them), signers, rotations. A caller asks one node only, over a line, each time with one attempt. What it was told is
// in package history, whose checks are pure; what is checked on the nodes themselves is in audit.go and states.go.
package work
