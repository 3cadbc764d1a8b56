// Package transport connects the members of a cluster: streams between nodes that have proved who they are.
//
// One TCP port carries everything, by TLS 1.3 with certificates on both sides. A node's name is the URI
// spiffe://<trust domain>/node/<id> in its certificate (SPIFFE X.509-SVID, section 2); the protocol of a
// stream is what TLS negotiates (ALPN, RFC 7301). A dialled node must be the one that was meant.
package transport
