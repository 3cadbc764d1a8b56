// Package keystoretest opens a keystore without Raft for tests, over a [FaultyLog] that checks its caller and can fail
// both ways: "not done, and said so" and "done, but said failed".
package keystoretest
