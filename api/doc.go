// Package api is the root of what is said between Warder and its callers. The
// services are drawn in api/warder/v1, their refusals in api/reason, the wire's
// codecs and checks in api/codec, the Go client in api/client, and the outside
// verification of audit logs in api/verify.
package api
