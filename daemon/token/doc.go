// Package token issues, verifies and revokes Warder's tokens: short-lived JWTs (RFC 7519) signed with EdDSA (RFC 8037),
// bound to the caller's certificate (RFC 8705) and narrowed by authorization details (RFC 9396).
//
// A token costs no storage write: every unsealed node issues and verifies with the cluster's keys. What ends one early
// is replicated: its id on the revocation list, or a newer epoch of its identity.
package token
