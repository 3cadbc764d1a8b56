package pkcs11

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

func marshalPublic(public crypto.PublicKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(public) }

func rootSearch() []*p11.Attribute {
	return []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_RSA),
		attr(p11.CKA_TOKEN, true), attr(p11.CKA_DECRYPT, true),
	}
}

// generateRSA makes a pair whose private half has one use: CKA_DECRYPT or CKA_UNWRAP. Every use is spelled out, because
// what a template leaves out is the module's choice.
func (e *engine) generateRSA(s *session, bits int, label string, use uint, token bool) (public, private p11.ObjectHandle, err error) {
	id := make([]byte, 16)
	rand.Read(id)
	decrypt := use == p11.CKA_DECRYPT
	publicTemplate := []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_RSA), attr(p11.CKA_TOKEN, token),
		attr(p11.CKA_LABEL, label), attr(p11.CKA_ID, id), attr(p11.CKA_MODULUS_BITS, bits),
		attr(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		attr(p11.CKA_ENCRYPT, decrypt), attr(p11.CKA_WRAP, !decrypt), attr(p11.CKA_VERIFY, false),
	}
	privateTemplate := []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_RSA), attr(p11.CKA_TOKEN, token),
		attr(p11.CKA_PRIVATE, true), attr(p11.CKA_LABEL, label), attr(p11.CKA_ID, id),
		attr(p11.CKA_SENSITIVE, true), attr(p11.CKA_EXTRACTABLE, false),
		attr(p11.CKA_DECRYPT, decrypt), attr(p11.CKA_UNWRAP, !decrypt), attr(p11.CKA_SIGN, false),
	}
	mechanism := []*p11.Mechanism{p11.NewMechanism(p11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)}
	public, private, err = e.ctx.GenerateKeyPair(s.handle, mechanism, publicTemplate, privateTemplate)
	if err != nil {
		return 0, 0, err
	}
	if err := e.readBack(s, "private RSA key", private, false); err != nil {
		_ = e.destroy(s, public) // it opens nothing without its private half
		return 0, 0, err
	}
	return public, private, nil
}

func (e *engine) createRoot(label string) ([][]byte, error) {
	out, err := e.do("making a root key", hsm.ErrMechanism, func(s *session) ([][]byte, error) {
		if err := e.present(s); err != nil {
			return nil, err
		}
		publicKey, _, err := e.generateRSA(s, hsm.RSABits, label, p11.CKA_DECRYPT, true)
		if err != nil {
			return nil, err
		}
		public, err := e.rsaPublic(s, publicKey)
		if err != nil {
			return nil, err
		}
		return e.describeKnown(rootName, public)
	})
	if err == nil {
		e.retuneCanary()
	}
	return out, err
}

// retuneCanary leaves a failure to the next check, which finds it and mends it.
func (e *engine) retuneCanary() {
	if err := e.changeCanary(); err != nil {
		e.canary.mu.Lock()
		defer e.canary.mu.Unlock()
		e.drop(e.canary.session)
		e.canary.session = nil
	}
}

// root finds a root key by its fingerprint.
func (e *engine) root(s *session, fp hsm.Fingerprint) (p11.ObjectHandle, error) {
	return e.remembered(s, fp.String())
}

func (e *engine) findRootKey(s *session, fp hsm.Fingerprint) (p11.ObjectHandle, error) {
	keys, err := e.find(s, rootSearch()...)
	if err != nil {
		return 0, err
	}
	var matches []p11.ObjectHandle
	for _, key := range keys {
		public, err := e.rsaPublic(s, key)
		if err != nil {
			return 0, err
		}
		if got, err := hsm.FingerprintOf(public); err == nil && got == fp {
			matches = append(matches, key)
		}
	}
	switch len(matches) {
	case 0:
		return 0, e.errorf(hsm.ErrKeyNotFound, "has no root key %s: see that this is the token that the key was made on", fp)
	case 1:
		return matches[0], e.mustBeSafe(s, matches[0], fp)
	}
	return 0, e.errorf(hsm.ErrMechanism, "has %d objects for root key %s: remove the others with the vendor's tool", len(matches), fp)
}

// mustBeSafe refuses, and leaves alone, a root key that somebody made readable.
func (e *engine) mustBeSafe(s *session, key p11.ObjectHandle, fp hsm.Fingerprint) error {
	values, err := e.ctx.GetAttributeValue(s.handle, key, []*p11.Attribute{attr(p11.CKA_SENSITIVE, nil), attr(p11.CKA_EXTRACTABLE, nil)})
	if err != nil {
		return err
	}
	if !isTrue(values[0].Value) || isTrue(values[1].Value) {
		return e.errorf(hsm.ErrMechanism, "root key %s is not sensitive, or is extractable: make a new one with Warder and rotate to it", fp)
	}
	return nil
}

func (e *engine) findRoot(fp hsm.Fingerprint) ([][]byte, error) {
	return e.do("finding a root key", hsm.ErrMechanism, func(s *session) ([][]byte, error) {
		key, err := e.root(s, fp)
		if err != nil {
			return nil, err
		}
		public, err := e.rsaPublic(s, key)
		if err != nil {
			return nil, err
		}
		return e.describeKnown(rootName, public)
	})
}

func (e *engine) destroyRoot(fp hsm.Fingerprint) ([][]byte, error) {
	e.forget(fp.String())
	_, err := e.do("destroying a root key", hsm.ErrMechanism, func(s *session) ([][]byte, error) {
		key, err := e.findRootKey(s, fp)
		if err != nil {
			return nil, err
		}
		values, err := e.ctx.GetAttributeValue(s.handle, key, []*p11.Attribute{attr(p11.CKA_ID, nil)})
		if err != nil {
			return nil, err
		}
		if err := e.destroy(s, key); err != nil {
			return nil, err
		}
		publics, err := e.find(s, attr(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_RSA), attr(p11.CKA_ID, values[0].Value))
		if err != nil {
			return nil, err
		}
		return nil, e.destroy(s, publics...)
	})
	if err == nil {
		e.retuneCanary()
	}
	return nil, err
}

func (e *engine) decrypt(fp hsm.Fingerprint, ciphertext []byte) ([][]byte, error) {
	// The binding leaks its buffer when a decryption fails; a ciphertext of the modulus' size bounds that to 384 bytes.
	if len(ciphertext) != hsm.RSABits/8 {
		return nil, e.errorf(hsm.ErrBadInput, "decrypting: a ciphertext has %d bytes, this one %d", hsm.RSABits/8, len(ciphertext))
	}
	return e.do("decrypting", hsm.ErrBadInput, func(s *session) ([][]byte, error) {
		key, err := e.root(s, fp)
		if err != nil {
			return nil, err
		}
		plain, err := e.decryptOAEP(s, key, e.info.OAEP, ciphertext)
		return [][]byte{plain}, err
	})
}

func (e *engine) decryptOAEP(s *session, key p11.ObjectHandle, h hsm.Hash, ciphertext []byte) ([]byte, error) {
	if err := e.ctx.DecryptInit(s.handle, []*p11.Mechanism{oaep(h)}, key); err != nil {
		return nil, fmt.Errorf("C_DecryptInit: %w", err)
	}
	plain, err := e.ctx.Decrypt(s.handle, ciphertext)
	if err != nil {
		return nil, fmt.Errorf("C_Decrypt: %w", err)
	}
	return plain, nil
}

func oaep(h hsm.Hash) *p11.Mechanism {
	parameters := p11.NewOAEPParams(p11.CKM_SHA_1, p11.CKG_MGF1_SHA1, p11.CKZ_DATA_SPECIFIED, nil)
	if h == hsm.SHA256 {
		parameters = p11.NewOAEPParams(p11.CKM_SHA256, p11.CKG_MGF1_SHA256, p11.CKZ_DATA_SPECIFIED, nil)
	}
	return p11.NewMechanism(p11.CKM_RSA_PKCS_OAEP, parameters)
}

func transportSearch() []*p11.Attribute {
	return []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_RSA),
		attr(p11.CKA_TOKEN, true), attr(p11.CKA_LABEL, transportLabel),
	}
}

// transport finds this token's transport key, or makes it.
func (e *engine) transport(s *session) (p11.ObjectHandle, error) {
	e.making.Lock()
	defer e.making.Unlock()
	key, err := e.remembered(s, transportLabel)
	if !isNotFound(err) {
		return key, err
	}
	_, key, err = e.generateRSA(s, hsm.RSABits, transportLabel, p11.CKA_UNWRAP, true)
	return key, err
}

// findTransport finds this token's transport key, and says which key it is.
func (e *engine) findTransport(s *session) (p11.ObjectHandle, hsm.Fingerprint, error) {
	key, err := e.findOne(s, "transport key", transportSearch()...)
	if err != nil {
		return 0, hsm.Fingerprint{}, err
	}
	public, err := e.rsaPublic(s, key)
	if err != nil {
		return 0, hsm.Fingerprint{}, err
	}
	fp, err := hsm.FingerprintOf(public)
	return key, fp, err
}

func (e *engine) transportPublic() ([][]byte, error) {
	return e.do("finding or making the transport key", hsm.ErrMechanism, func(s *session) ([][]byte, error) {
		key, err := e.transport(s)
		if err != nil {
			return nil, err
		}
		var public *rsa.PublicKey
		if public, err = e.rsaPublic(s, key); err != nil {
			return nil, err
		}
		return e.describeKnown(transportLabel, public)
	})
}
