package hsm

import "errors"

// The errors of every [Token]. Each is wrapped with what it happened to (module, token, key) and what to do next;
// none ever holds a PIN, a plaintext or key material.
var (
	// ErrKeyNotFound: the token answers, and has no such key.
	ErrKeyNotFound = errors.New("hsm key not found")
	// ErrPINRefused: the token refused the PIN. It is latched: the same PIN is never tried a second time.
	ErrPINRefused = errors.New("hsm PIN refused")
	// ErrPINLocked: the token locked its PIN. Only its security officer can help.
	ErrPINLocked = errors.New("hsm PIN locked")
	// ErrModuleMissing: the PKCS#11 library is not there, or is no PKCS#11 library.
	ErrModuleMissing = errors.New("hsm module missing")
	// ErrTokenMissing: the module works, and shows no token (or more than one) of the label and serial asked for.
	ErrTokenMissing = errors.New("hsm token missing")
	// ErrMechanism: the token cannot do this, or does it in a way that is refused (a key that it left extractable).
	ErrMechanism = errors.New("hsm mechanism missing")
	// ErrTokenFull: the token has no room for another key.
	ErrTokenFull = errors.New("hsm token full")
	// ErrTimeout: the module did not answer in time. Whether the operation was done is not known.
	ErrTimeout = errors.New("hsm timeout")
	// ErrUnavailable: the token or its module is not reachable now, or was closed.
	ErrUnavailable = errors.New("hsm unavailable")
	// ErrBadInput: the token works, and this input is not what it decrypts, unwraps or signs.
	ErrBadInput = errors.New("hsm input refused")
)
