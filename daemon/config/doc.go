// Package config reads the daemon's file: one documented struct in YAML, copied, defaulted and validated.
//
// What the file may not say is refused with the line and what to write instead: a key that the struct does not have
// (with the nearest that it has), a value of another type, a duration without a unit, anchors, aliases and tags. All
// problems are reported at once. No message repeats a value, because a person may have put a secret in the wrong place.
package config
