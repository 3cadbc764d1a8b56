// Package daemon is a node of Warder: it puts the parts together, and starts and stops them in order.
//
// A node begins without a cluster and listens on its local socket only, until an operator initialises a cluster there
// or lets the node join one. From then on it is a member: it follows the log even while it is sealed, and answers
// callers once its HSM has opened the keyring.
package daemon
