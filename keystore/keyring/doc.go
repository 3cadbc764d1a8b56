// Package keyring is the sealed keyring: the cluster's data keys, its blinding key and its lineage secret, sealed to a
// list of recipients.
//
// A Keyring is in memory only and immutable; a change gives a new one. Sealing it (SealTo) gives bytes that any of its
// recipients can open (Unseal) and that nobody else can read or change unseen. docs/formats.md draws them.
package keyring
