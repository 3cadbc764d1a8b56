// Package keyring is the sealed keyring: the cluster's data keys, its blinding key and its lineage secret, sealed to a
// list of recipients.
//
// A [Keyring] is in memory only and immutable; a change gives a new one. Sealing it ([Keyring.SealTo]) gives bytes that
// any of its recipients can open ([Unseal]) and that nobody else can read or change unseen. docs/formats.md draws them.
//
// Data keys seal values (AES-256-GCM with random nonces) and are rotated. The blinding key hides names and the lineage
// secret derives the cluster's subkeys; both live as long as the cluster.
//
// What is wiped: body keys, wrapped secrets and encoded bodies, as soon as they were used. The keys of an open keyring
// are not: their expanded forms live inside crypto/cipher, and readers may be using them. A node that seals itself
// drops the keyring and leaves its memory to the garbage collector; ending the process is what clears it for certain.
package keyring
