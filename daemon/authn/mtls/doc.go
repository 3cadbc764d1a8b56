// Package mtls turns a client certificate into a Principal (X.509-SVID, sections 3 to 5).
//
// Verify does once for a connection what cannot change: the chain, the usage, the one URI. Check does on every request,
// resumed sessions too, what can: the validity period, the authorities, the registered identity, and that the
// certificate's key is bound to it. Only what Verify returned can be checked, so that nothing is verified and another thing used.
package mtls
