// Package ratelimit bounds how often each caller, and each address, may ask, and how much a node works on at once.
//
// Each class of request has a rate of its own, so that no amount of reading uses up what administration and revocation
// need. Memory is bounded: what has not asked for longest is forgotten first, which can only be in its favour.
//
// Rates say who asks too often; lanes hold however many ask. A lane has a number of places for requests that are worked on,
// and a short queue before them, so that what is admitted is answered soon and the rest is turned away at once.
//
// A pool holds what is shared before anybody knows whose it is: connections, and the memory of requests.
package ratelimit
