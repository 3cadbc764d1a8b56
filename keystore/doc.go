// Package keystore keeps named secrets and keys, each with versions that have states.
//
// An entry is named by a [Ref] and has a public part, its [Entry], and for each version the material, a [Secret]. A
// version is pending, active, retired or destroyed; at most one is active. [State.MayBecome] is the table of changes.
//
// A version's material is sealed under a key of its own, which is a record of its own; destroying a version deletes
// that record and the material in one batch (crypto-shredding), while its public part stays. DESIGN.md says what that
// promises and what it does not; docs/formats.md, "Secrets", draws the records.
//
// Every function works inside a transaction of keystore/kv and touches no clock: the caller brings the time. A kv
// function may run several times, so the caller wipes a Secret that it passes after Update, not inside it.
package keystore
