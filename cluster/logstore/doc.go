// Package logstore keeps what a Raft node must not lose: its log, its term and vote, and its snapshots.
//
// The files come from hashicorp/raft-wal (the log) and from this package (everything else). Whatever the
// library does with a damaged file, this package finds the damage itself and names it: each log record
// carries a checksum over its index, term, type and payload that is verified on every read, the whole log is
// read once at open, and a mark beside it says how far the log is known to have reached, so that a lost tail
// is not taken for a write that was cut short. A reader of this package gets the bytes that were stored, or
// an error that wraps ErrDamaged; never fewer entries. DESIGN.md says why, docs/formats.md draws the bytes.
package logstore
