package pkcs11

import (
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

// class says what to do about a return code.
type class int

const (
	classDoubt     class = iota // says nothing by itself: ask the canary
	classDevice                 // the device or the library failed: ask the canary, and try again when it is well
	classSession                // sessions, login or handles are gone: rebuild them, try again
	classBusy                   // the session is in the middle of something: another session, try again
	classPIN                    // refused: latch
	classLocked                 // locked: latch
	classInput                  // what was given is wrong
	classMechanism              // the token cannot do it, or not so
	classFull                   // no room
)

// classify is the table of return codes (PKCS #11 2.40, 5.1). A code that is not in it is a doubt.
func classify(err error) class {
	var code p11.Error
	if !errors.As(err, &code) {
		return classDoubt
	}
	switch code {
	case p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_OBJECT_HANDLE_INVALID,
		p11.CKR_KEY_HANDLE_INVALID, p11.CKR_WRAPPING_KEY_HANDLE_INVALID, p11.CKR_UNWRAPPING_KEY_HANDLE_INVALID:
		return classSession
	case p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED,
		p11.CKR_CRYPTOKI_NOT_INITIALIZED:
		return classDevice
	case p11.CKR_OPERATION_ACTIVE, p11.CKR_OPERATION_NOT_INITIALIZED:
		return classBusy
	case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE, p11.CKR_PIN_EXPIRED:
		return classPIN
	case p11.CKR_PIN_LOCKED:
		return classLocked
	case p11.CKR_ENCRYPTED_DATA_INVALID, p11.CKR_ENCRYPTED_DATA_LEN_RANGE, p11.CKR_DATA_INVALID, p11.CKR_DATA_LEN_RANGE,
		p11.CKR_WRAPPED_KEY_INVALID, p11.CKR_WRAPPED_KEY_LEN_RANGE:
		return classInput
	case p11.CKR_MECHANISM_INVALID, p11.CKR_MECHANISM_PARAM_INVALID, p11.CKR_FUNCTION_NOT_SUPPORTED,
		p11.CKR_TEMPLATE_INCOMPLETE, p11.CKR_TEMPLATE_INCONSISTENT, p11.CKR_ATTRIBUTE_TYPE_INVALID,
		p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_ATTRIBUTE_READ_ONLY, p11.CKR_KEY_TYPE_INCONSISTENT,
		p11.CKR_KEY_FUNCTION_NOT_PERMITTED, p11.CKR_KEY_SIZE_RANGE, p11.CKR_KEY_UNEXTRACTABLE, p11.CKR_KEY_NOT_WRAPPABLE,
		p11.CKR_WRAPPING_KEY_TYPE_INCONSISTENT, p11.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
		p11.CKR_DOMAIN_PARAMS_INVALID, p11.CKR_CURVE_NOT_SUPPORTED, p11.CKR_TOKEN_WRITE_PROTECTED:
		return classMechanism
	case p11.CKR_DEVICE_MEMORY:
		return classFull
	}
	return classDoubt
}

// code gives the return code's name for messages, such as "CKR_PIN_INCORRECT".
func code(err error) string {
	var c p11.Error
	if errors.As(err, &c) {
		return c.Error()[len("pkcs11: "):]
	}
	return "no return code"
}

// verdict is an error that is decided: its kind is one of package hsm, its text names the token and what to do.
type verdict struct {
	kind error
	text string
}

func (v *verdict) Error() string { return v.text }
func (v *verdict) Unwrap() error { return v.kind }

// errorf is a verdict on this engine's token.
func (e *engine) errorf(kind error, format string, args ...any) error {
	return &verdict{kind: kind, text: e.config.name() + ": " + fmt.Sprintf(format, args...)}
}

// loginVerdict names what a refused login means.
func (e *engine) loginVerdict(err error) error {
	switch classify(err) {
	case classPIN:
		return e.errorf(hsm.ErrPINRefused, "the PIN was refused (%s) and will not be tried again: correct the PIN where the node reads it, then run `warder operator unseal` there, or repeat init or join", code(err))
	case classLocked:
		return e.errorf(hsm.ErrPINLocked, "the PIN is locked (%s): have the security officer reset it, then run `warder operator unseal`, or repeat init or join", code(err))
	}
	return e.errorf(hsm.ErrUnavailable, "login failed (%s): see that the HSM is connected and its service runs", code(err))
}

// decided is the verdict on a code that needs no canary and no second try; nil when it needs one.
func (e *engine) decided(what string, err error) error {
	switch classify(err) {
	case classInput:
		return e.errorf(hsm.ErrBadInput, "%s: the token refused the input (%s)", what, code(err))
	case classMechanism:
		return e.errorf(hsm.ErrMechanism, "%s: the module cannot do it (%s): see its firmware and policy, or use another module", what, code(err))
	case classFull:
		return e.errorf(hsm.ErrTokenFull, "%s: the token is full (%s): destroy keys that are no longer used, or use a larger token", what, code(err))
	case classPIN, classLocked:
		return e.loginVerdict(err)
	}
	return nil
}
