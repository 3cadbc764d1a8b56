// Package rpc is the road of every request, and the handlers at its end.
//
//	listener → recover/id → authenticate → limit → authorise → audit (before effect) → handler → answer
//
// methods.go is the table of RPCs: a method without a row refuses to start, and a handler gets only the object that
// the authoriser returned. errors.go is the table of errors: what is not in it is "internal", with an incident id.
package rpc
