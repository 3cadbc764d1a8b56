package broker

import (
	"errors"
	"net/http"
	"time"
)

// Class is what an endpoint does to an account.
type Class string

// The classes.
const (
	Read     Class = "read"     // changes nothing
	Trade    Class = "trade"    // places or changes an order
	Cancel   Class = "cancel"   // takes orders back
	Transfer Class = "transfer" // moves value within the account or its sub-accounts
	Withdraw Class = "withdraw" // moves value out
	KeyMgmt  Class = "keymgmt"  // makes, changes or shows keys and their rights
	Token    Class = "token"    // hands out a token that works without signing
)

// Valid says whether c is one of the classes.
func (c Class) Valid() bool {
	switch c {
	case Read, Trade, Cancel, Transfer, Withdraw, KeyMgmt, Token:
		return true
	}
	return false
}

// Limits of a request, checked before anything is parsed.
const (
	MaxURL         = 8 << 10
	MaxBody        = 256 << 10
	MaxHeaders     = 64
	MaxHeaderBytes = 8 << 10 // one value
)

// Request is an HTTP request for a broker, or a WebSocket message: then Method is
// "WS", URL the socket's and Body the message. Header keys are matched without case.
type Request struct {
	Method string
	URL    string
	Header http.Header
	Body   []byte
}

// Signed is a request as it goes on the wire.
type Signed Request

// Moment is when a request is signed.
type Moment struct {
	Now time.Time
	// Nonce is the nonce to use, for a broker whose nonces must grow: the caller
	// owns their order. Empty where the request brings its own.
	Nonce string
}

// Errors of this package. Messages name fields and places, never values.
var (
	ErrUnknownProfile = errors.New("no such broker profile")
	ErrProfile        = errors.New("broker profile is not valid")
	ErrMalformed      = errors.New("request is malformed")
	ErrHost           = errors.New("host is not one of the broker's")
	ErrUnclassified   = errors.New("endpoint has no class in the broker's profile")
	ErrNoScheme       = errors.New("no signing scheme of the profile fits the request")
	ErrField          = errors.New("credential field is not valid")
	ErrClock          = errors.New("timestamp of the request is outside the broker's window")
	ErrNonce          = errors.New("the broker needs a nonce in order")
	ErrLease          = errors.New("request is not signed with the lease")
)
