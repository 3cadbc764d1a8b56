// Package device is what devices come to Warder for: enrolment (a certificate request in, a certificate out, RFC 2986
// and RFC 5280) and signing keys in custody.
//
// A key has one algorithm, one custody level and one purpose for life; it is signed with by version. Custody "hsm"
// keeps the private key inside the members' HSMs: it is generated there, wrapped by a key that never leaves them, and
// unwrapped for each use. Custody "sealed" keeps it sealed by a data key and uses it in this process. The level is
// chosen when the key is made, is on every answer, and never falls silently.
package device
