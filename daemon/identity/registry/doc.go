// Package registry keeps the registered identities: which principals there are, in which groups, with which keys.
//
// A certificate alone is nobody: its subject must be registered here, and its key bound to the identity. The registry
// keeps all identities in memory, so that a request costs no storage; every node follows the replicated records.
package registry
