// Package keystore keeps named secrets and keys, each with versions that have states.
//
// A version's material is sealed under a key of its own, which is a record of its own; destroying a version deletes
// that record and the material in one batch, so that no later state of the store can open what an older disk may still
// hold (crypto-shredding). docs/formats.md draws the records.
//
// Every function works inside a transaction of keystore/kv and touches no clock: the caller brings the time.
package keystore
