// Package history is what callers asked and were told, on one clock, and the checks of it: pure functions from a history
// to what is wrong with it. It knows no process and no network, so that histories made by hand show what each check finds.
//
// Registers, counters and permissions are held to linearizability by Porcupine, key by key. Answers that may be old are
// held to their bound instead.
package history
