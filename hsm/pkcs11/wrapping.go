package pkcs11

import (
	"crypto/sha256"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

// netscapeDB is CKA_NETSCAPE_DB (NSS pkcs11n.h): NSS wants the public point there when it unwraps an EC key.
const netscapeDB = 0xD5A0DB00

// unwrapForm is how this module unwraps EC keys, found by doing.
type unwrapForm int

const (
	unwrapNot unwrapForm = iota
	unwrapPlain
	unwrapWithPoint
)

// ckmKeyWrapKWP is CKM_AES_KEY_WRAP_KWP of PKCS #11 3.0, which the binding does not name.
const ckmKeyWrapKWP = 0x210B

// wrapForm is the first byte of a blob. CKM_AES_KEY_WRAP_PAD is RFC 5649 in some modules and a padding of their own in
// others (NSS); a blob says which, so that a token of another make refuses it with the reason.
type wrapForm byte

const (
	wrapRFC5649 wrapForm = 1
	wrapPadded  wrapForm = 2 // PKCS #7 padding to 8 bytes, then RFC 3394
)

// wrapping is how this module wraps keys, found by doing.
type wrapping struct {
	mechanism uint
	form      wrapForm
	kekSize   int // of a KEK wrapped under itself
}

func (w wrapping) call() []*p11.Mechanism {
	return []*p11.Mechanism{p11.NewMechanism(w.mechanism, nil)}
}

// formOf tells the form from the length of a wrapped AES-256 key: 8 bytes more in RFC 5649 4.1, and 8 of padding besides
// in the other.
func formOf(size int) (wrapForm, bool) {
	switch size {
	case kekBytes + 8:
		return wrapRFC5649, true
	case kekBytes + 16:
		return wrapPadded, true
	}
	return 0, false
}

// probeCustody does once what custody does: make a KEK and a device key, wrap, unwrap, sign, verify.
func (e *engine) probeCustody() error {
	s, err := e.take()
	if err != nil {
		return e.errorf(hsm.ErrUnavailable, "opening a session failed (%s): see that the HSM has sessions free", code(err))
	}
	// Its objects end with it.
	defer e.drop(s)
	err = e.tryCustody(s)
	e.info.CustodyCapable = err == nil
	if err != nil {
		// A token that fell ill meanwhile is not one that cannot.
		if err := e.check(); err != nil {
			return err
		}
		e.info.Detail = "holds no device keys (custody level hsm): " + reason(err)
	}
	return nil
}

func reason(err error) string {
	var v *verdict
	if errors.As(err, &v) {
		return v.text
	}
	var p p11.Error
	if errors.As(err, &p) {
		return code(err)
	}
	return err.Error()
}

func (e *engine) tryCustody(s *session) error {
	kek, err := e.generateKEK(s, []byte("probe"), false)
	if err != nil {
		return err
	}
	var failed error
	for _, mechanism := range []uint{ckmKeyWrapKWP, p11.CKM_AES_KEY_WRAP_PAD} {
		if failed = e.tryWrapping(s, kek, mechanism); failed == nil {
			return nil
		}
	}
	return failed
}

func (e *engine) tryWrapping(s *session, kek p11.ObjectHandle, mechanism uint) error {
	e.wrap = wrapping{mechanism: mechanism}
	self, err := e.ctx.WrapKey(s.handle, e.wrap.call(), kek, kek)
	if err != nil {
		return err
	}
	form, ok := formOf(len(self))
	if !ok {
		return fmt.Errorf("mechanism %#x wraps an AES-256 key into %d bytes", mechanism, len(self))
	}
	e.wrap = wrapping{mechanism: mechanism, form: form, kekSize: len(self)}
	if form != wrapRFC5649 {
		e.info.Detail = "wraps device keys in a padding of its own: every node's HSM must be of this make"
	}
	key, err := e.makeWrapped(s, kek)
	if err != nil {
		return err
	}
	var failed error
	for _, form := range []unwrapForm{unwrapPlain, unwrapWithPoint} {
		e.unwrap = form
		if failed = e.tryUnwrap(s, kek, key); failed == nil {
			return nil
		}
	}
	return failed
}

func (e *engine) tryUnwrap(s *session, kek p11.ObjectHandle, key wrappedKey) error {
	handle, err := e.unwrapKey(s, kek, key)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte("probe"))
	_, err = e.signAndVerify(s, handle, key.public, digest[:])
	return err
}
