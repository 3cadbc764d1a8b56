// Package wycheproof has test vectors of Project Wycheproof (https://github.com/C2SP/wycheproof), for the tests of
// every package of Warder that does cryptography. Nothing else imports it.
//
// Vectors are given to Warder's code, by the door that its callers use or the narrowest behind it, and never to a
// library: a test that only tests Go's cryptography, or SoftHSM's, is worth nothing. Where Warder's code fixes a
// parameter (a nonce of 12 bytes, a key of 32), the vectors with other parameters do not fit, and the count of those
// that do is part of the test.
package wycheproof
