// Package reason is the table of refusals: for each stable reason of
// warder.v1.Reason its Connect code, what it means, what a caller can do, and
// whether another attempt can help. Servers build errors with it, clients read
// them with it, and docs/reasons.md is held to it by a test.
package reason
