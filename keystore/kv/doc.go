// Package kv is Warder's only state machine: encrypted, transactional records
// on Badger.
//
// Every change to a cluster is one [Batch], sealed by the node that proposes
// it. [Store] applies batches: it needs no key, has no clock, no randomness and
// no domain knowledge, so that every member that applies the same log holds the
// same state, sealed or not. [DB] is the other half: it reads the store through
// the keyring, turns what a function read and wrote into a batch, and proposes
// it to a [Log].
//
// On disk, in the log, in snapshots: names of records are blinded (a keyed MAC
// for each part), values are sealed with the blinded name as additional data,
// and the name itself stands inside the sealed value. What shows is how many
// records there are, how large, and which share a prefix. Revisions, counters
// and the sealed keyring are plain.
//
// The store finds damage when it opens: each row counts in a running hash of
// the state, which a full scan must reproduce and which a separately fsynced
// mark file confirms. See DESIGN.md for why, and docs/formats.md for every
// byte.
package kv
