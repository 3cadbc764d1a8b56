// Package seal decides whether this node holds the cluster's data keys.
//
// The keyring is sealed to a list of recipients: one root key for each member, in that member's own HSM. A Keeper
// opens the member's entry, keeps the keyring in memory only, follows every new sealing that the cluster agrees on,
// and confirms each one in a record, so that a rotation drops an old key only when every voter has shown that it
// holds the new one. The package alone touches the records below "seal".
//
// It also owns what admits a node: its local home (certificate, keys, and the pin that its HSM signed), join tokens,
// and the sharing of the custody key-encryption key between the members' HSMs.
package seal
