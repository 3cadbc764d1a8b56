// Package ratelimit bounds how often each caller, and each address, may ask.
//
// Each class of request has a rate of its own, so that no amount of reading uses up what administration and revocation
// need. Memory is bounded: what has not asked for longest is forgotten first, which can only be in its favour.
package ratelimit
