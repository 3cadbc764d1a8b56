package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

// publicExponent is F4, the only one that Warder has keys made with.
const publicExponent = 65537

// findLimit bounds how many handles one search gives.
const findLimit = 1024

func attr(kind uint, value any) *p11.Attribute { return p11.NewAttribute(kind, value) }

// find lists the objects that match, at most findLimit.
func (e *engine) find(s *session, template ...*p11.Attribute) ([]p11.ObjectHandle, error) {
	if err := e.ctx.FindObjectsInit(s.handle, template); err != nil {
		return nil, err
	}
	var found []p11.ObjectHandle
	for len(found) < findLimit {
		some, _, err := e.ctx.FindObjects(s.handle, 64)
		if err != nil {
			return nil, errors.Join(err, e.ctx.FindObjectsFinal(s.handle))
		}
		if len(some) == 0 {
			break
		}
		found = append(found, some...)
	}
	return found, e.ctx.FindObjectsFinal(s.handle)
}

// findOne finds exactly one object: none is ErrKeyNotFound, and two are an error, because guessing would use a wrong key.
func (e *engine) findOne(s *session, what string, template ...*p11.Attribute) (p11.ObjectHandle, error) {
	found, err := e.find(s, template...)
	if err != nil {
		return 0, err
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return 0, e.errorf(hsm.ErrKeyNotFound, "has no %s", what)
	}
	return 0, e.errorf(hsm.ErrMechanism, "has %d objects for its %s and it cannot be told which one counts: remove the others with the vendor's tool", len(found), what)
}

// remembered finds a handle once for an age.
func (e *engine) remembered(s *session, name string) (p11.ObjectHandle, error) {
	e.mu.Lock()
	handle, ok := e.handles[name]
	e.mu.Unlock()
	if ok {
		return handle, nil
	}
	handle, fp, err := e.lookUp(s, name)
	if err = e.heed(name, fp, err); isNotFound(err) {
		err = e.missing(s, err)
	}
	if err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.age == e.age.Load() && !e.destroyed[name] {
		e.handles[name] = handle
	}
	return handle, nil
}

// forget lets go of a key that is about to be destroyed; one that is gone already is not missed.
func (e *engine) forget(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.destroyed[name] = true
	delete(e.handles, name)
	delete(e.known, name)
}

// readBack asks what became of a key: modules were seen to ignore the template. A key that is not as it was asked for
// is destroyed, and refused.
func (e *engine) readBack(s *session, what string, key p11.ObjectHandle, extractable bool) error {
	values, err := e.ctx.GetAttributeValue(s.handle, key, []*p11.Attribute{attr(p11.CKA_SENSITIVE, nil), attr(p11.CKA_EXTRACTABLE, nil)})
	if err != nil {
		return errors.Join(err, e.destroy(s, key))
	}
	sensitive, canLeave := isTrue(values[0].Value), isTrue(values[1].Value)
	if sensitive && canLeave == extractable {
		return nil
	}
	refusal := e.errorf(hsm.ErrMechanism, "made a %s with sensitive=%t extractable=%t, not as it was told: the key was removed; use a module that keeps to its template", what, sensitive, canLeave)
	if err := e.destroy(s, key); err != nil {
		return e.errorf(hsm.ErrMechanism, "made a %s with sensitive=%t extractable=%t, and does not let it be removed (%s): remove it with the vendor's tool", what, sensitive, canLeave, code(err))
	}
	return refusal
}

func isTrue(value []byte) bool { return len(value) > 0 && value[0] != 0 }

func (e *engine) destroy(s *session, objects ...p11.ObjectHandle) error {
	var errs []error
	for _, o := range objects {
		errs = append(errs, e.ctx.DestroyObject(s.handle, o))
	}
	return errors.Join(errs...)
}

// rsaPublic reads the public half from either half. The exponent is not readable everywhere; then it is F4.
func (e *engine) rsaPublic(s *session, key p11.ObjectHandle) (*rsa.PublicKey, error) {
	values, err := e.ctx.GetAttributeValue(s.handle, key, []*p11.Attribute{attr(p11.CKA_MODULUS, nil)})
	if err != nil {
		return nil, err
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(values[0].Value), E: publicExponent}
	values, err = e.ctx.GetAttributeValue(s.handle, key, []*p11.Attribute{attr(p11.CKA_PUBLIC_EXPONENT, nil)})
	if exponent := new(big.Int); err == nil && exponent.SetBytes(values[0].Value).IsInt64() && exponent.Sign() > 0 {
		public.E = int(exponent.Int64())
	}
	return public, nil
}

// p256Public reads CKA_EC_POINT: by the standard a DER OCTET STRING around the point, by some modules the point.
func (e *engine) p256Public(s *session, key p11.ObjectHandle) (*ecdsa.PublicKey, error) {
	values, err := e.ctx.GetAttributeValue(s.handle, key, []*p11.Attribute{attr(p11.CKA_EC_POINT, nil)})
	if err != nil {
		return nil, err
	}
	point := values[0].Value
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		point = inner
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, e.errorf(hsm.ErrMechanism, "gave a point that is not on P-256: use another module")
	}
	return public, nil
}

// describe gives the public half of a key that has no name here: a device key.
func (e *engine) describe(what string, public crypto.PublicKey) ([][]byte, error) {
	der, err := marshalPublic(public)
	if err != nil {
		return nil, e.errorf(hsm.ErrMechanism, "%s: %v", what, err)
	}
	return [][]byte{der}, nil
}

// describeKnown gives the public half of a key that is known from now on; a root key's name is its fingerprint.
func (e *engine) describeKnown(name string, public crypto.PublicKey) ([][]byte, error) {
	out, err := e.describe(name, public)
	if err != nil {
		return nil, err
	}
	fp := hsm.Fingerprint(sha256.Sum256(out[0]))
	if name == rootName {
		name = fp.String()
	}
	return out, e.heed(name, fp, nil)
}

// rootName stands for a root key where its fingerprint is not known yet.
const rootName = "root key"

// derSignature turns r and s, each half of raw, into ASN.1 DER (RFC 3279 2.2.3).
func derSignature(raw []byte) ([]byte, error) {
	if len(raw) == 0 || len(raw)%2 != 0 {
		return nil, fmt.Errorf("a signature of %d bytes", len(raw))
	}
	half := len(raw) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}
