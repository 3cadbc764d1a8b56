// Package identity says who is calling: a Principal, canonical and opaque.
//
// A name is checked once, where it enters, and is a value of an opaque type from then on. What does not match is
// refused, never changed into something that does, so that there is one spelling of each identity and no raw string
// reaches a comparison.
package identity
