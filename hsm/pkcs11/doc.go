// Package pkcs11 is hsm.Token on a PKCS#11 module (OASIS PKCS #11 2.40).
//
// The vendor's library lives in a child process: the same binary, started again as a hidden command ([ServeChild]),
// spoken to over a socket pair. A library that crashes, hangs or loses its token takes the child with it and not the
// daemon; the child is replaced. The parent half ([Open]) keeps the PIN's latch, the time limits and the restarts; the
// child half (engine) keeps sessions, finds keys, and turns return codes into the errors of package hsm.
// DESIGN.md says why, with what was measured.
package pkcs11
