// Package work puts callers of every kind to work on a town, records what each asked and was told, and checks the
// recorded history when the faults are over.
package work
