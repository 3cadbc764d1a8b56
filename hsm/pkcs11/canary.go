package pkcs11

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

const canarySize = 32

// canaryBits is the size of the canary's own key, made when the token has no root key yet.
const canaryBits = 2048

// canary is a ciphertext whose decryption shows that the token works; C_GetSessionInfo stays happy on a dead one.
type canary struct {
	mu      sync.Mutex // guards all, and so the reserved session has one user at a time
	session *session
	key     p11.ObjectHandle
	plain   []byte
	sealed  []byte
}

var errCanary = errors.New("the canary came back changed")

// openCanary opens the reserved session, chooses a key and finds by doing the OAEP hash that the module has.
func (e *engine) openCanary() error {
	e.canary.mu.Lock()
	defer e.canary.mu.Unlock()
	public, err := e.canaryKey()
	if err != nil {
		return e.startVerdict("finding or making an RSA key for the health check", err)
	}
	var last error
	for _, h := range []hsm.Hash{hsm.SHA256, hsm.SHA1} {
		if last = e.armCanary(public, h); last == nil {
			e.info.OAEP = h
			return nil
		}
	}
	return e.startVerdict("decrypting with RSA-OAEP, by SHA-256 and by SHA-1", last)
}

// startVerdict judges an error at a time when there is no canary to ask.
func (e *engine) startVerdict(what string, err error) error {
	if isVerdict(err) {
		return err
	}
	if verdict := e.decided(what, err); verdict != nil {
		return verdict
	}
	return e.errorf(hsm.ErrUnavailable, "%s failed (%s): see that the HSM is connected and its service runs", what, code(err))
}

// renewCanary makes a canary for new sessions; the hash is known.
func (e *engine) renewCanary() error {
	e.canary.mu.Lock()
	defer e.canary.mu.Unlock()
	if e.canary.session != nil {
		e.drop(e.canary.session)
		e.canary.session = nil
	}
	public, err := e.canaryKey()
	if err == nil {
		err = e.armCanary(public, e.info.OAEP)
	}
	if err != nil {
		return e.errorf(hsm.ErrUnavailable, "the token does not decrypt after logging in again (%s)", code(err))
	}
	return nil
}

// canaryKey takes a root key, so that a check shows that those work, or else makes a key that ends with the session.
// Caller holds canary.mu.
func (e *engine) canaryKey() (*rsa.PublicKey, error) {
	if e.canary.session == nil {
		s, err := e.take()
		if err != nil {
			return nil, err
		}
		e.canary.session = s
	}
	s := e.canary.session
	roots, err := e.find(s, rootSearch()...)
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if public, err := e.rsaPublic(s, root); err == nil && public.N.BitLen() == hsm.RSABits {
			e.canary.key = root
			return public, nil
		}
	}
	publicKey, private, err := e.generateRSA(s, canaryBits, "warder-canary", p11.CKA_DECRYPT, false)
	if err != nil {
		return nil, err
	}
	e.canary.key = private
	public, err := e.rsaPublic(s, publicKey)
	return public, errors.Join(err, e.destroy(s, publicKey))
}

// armCanary encrypts a new secret and sees it come back. Caller holds canary.mu.
func (e *engine) armCanary(public *rsa.PublicKey, h hsm.Hash) error {
	plain := make([]byte, canarySize)
	rand.Read(plain)
	sealed, err := hsm.EncryptOAEP(public, h, plain)
	if err != nil {
		return err
	}
	e.canary.plain, e.canary.sealed = plain, sealed
	return e.sing(h)
}

// sing is one canary decrypt. Caller holds canary.mu.
func (e *engine) sing(h hsm.Hash) error {
	plain, err := e.decryptOAEP(e.canary.session, e.canary.key, h, e.canary.sealed)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(plain, e.canary.plain) != 1 {
		return errCanary
	}
	return nil
}

// check sees whether the token works, logging in again when the session was lost.
func (e *engine) check() error {
	age, err := e.checkOnce()
	if err != nil && (classify(err) == classSession || classify(err) == classBusy) {
		if err := e.rebuild(age); err != nil {
			return err
		}
		_, err = e.checkOnce()
	}
	if err == nil || isVerdict(err) {
		return err
	}
	return e.errorf(hsm.ErrUnavailable, "the health check failed (%s): see that the HSM is connected and its service runs", code(err))
}

func (e *engine) checkOnce() (age uint64, err error) {
	e.canary.mu.Lock()
	defer e.canary.mu.Unlock()
	if e.canary.session == nil {
		return e.age.Load(), p11.Error(p11.CKR_SESSION_CLOSED)
	}
	return e.canary.session.age, e.sing(e.info.OAEP)
}

// changeCanary chooses anew after root keys came or went: at once when the canary's key was the one that went.
func (e *engine) changeCanary() error {
	e.canary.mu.Lock()
	defer e.canary.mu.Unlock()
	if e.canary.session == nil {
		return nil
	}
	public, err := e.canaryKey()
	if err == nil {
		err = e.armCanary(public, e.info.OAEP)
	}
	return err
}
