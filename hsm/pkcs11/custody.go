package pkcs11

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

const (
	kekBytes = 32 // AES-256
	// maxBlob and maxPublic bound a device key: a wrapped PKCS #8 P-256 key has about 150 bytes, its public half 91.
	maxBlob   = 512
	maxPublic = 256
)

// kekTemplate: a KEK leaves the token only wrapped, to another token's transport key.
func kekTemplate(id []byte, token bool) []*p11.Attribute {
	return []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_SECRET_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_AES), attr(p11.CKA_TOKEN, token),
		attr(p11.CKA_PRIVATE, true), attr(p11.CKA_LABEL, kekLabel), attr(p11.CKA_ID, id),
		attr(p11.CKA_SENSITIVE, true), attr(p11.CKA_EXTRACTABLE, true),
		attr(p11.CKA_WRAP, true), attr(p11.CKA_UNWRAP, true), attr(p11.CKA_ENCRYPT, false), attr(p11.CKA_DECRYPT, false),
	}
}

func kekSearch(id []byte) []*p11.Attribute {
	return []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_SECRET_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_AES), attr(p11.CKA_TOKEN, true), attr(p11.CKA_ID, id),
	}
}

func (e *engine) generateKEK(s *session, id []byte, token bool) (p11.ObjectHandle, error) {
	template := append(kekTemplate(id, token), attr(p11.CKA_VALUE_LEN, kekBytes))
	kek, err := e.ctx.GenerateKey(s.handle, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}, template)
	if err != nil {
		return 0, err
	}
	return kek, e.readBack(s, "KEK", kek, true)
}

// wrappedKey is a device key with its public half parsed.
type wrappedKey struct {
	public *ecdsa.PublicKey
	blob   []byte
}

func (e *engine) makeWrapped(s *session, kek p11.ObjectHandle) (wrappedKey, error) {
	publicKey, private, err := e.generateEC(s, "", false, true)
	if err != nil {
		return wrappedKey{}, err
	}
	public, err := e.p256Public(s, publicKey)
	var blob []byte
	if err == nil {
		blob, err = e.ctx.WrapKey(s.handle, e.wrap.call(), kek, private)
	}
	if err := errors.Join(err, e.destroy(s, publicKey, private)); err != nil {
		return wrappedKey{}, err
	}
	return wrappedKey{public: public, blob: blob}, nil
}

// unwrapKey gives a session object that cannot leave the token.
func (e *engine) unwrapKey(s *session, kek p11.ObjectHandle, key wrappedKey) (p11.ObjectHandle, error) {
	template := []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_EC), attr(p11.CKA_TOKEN, false),
		attr(p11.CKA_PRIVATE, true), attr(p11.CKA_SENSITIVE, true), attr(p11.CKA_EXTRACTABLE, false), attr(p11.CKA_SIGN, true),
	}
	if e.unwrap == unwrapWithPoint {
		point, err := key.public.Bytes()
		if err != nil {
			return 0, err
		}
		template = append(template, attr(netscapeDB, point))
	}
	handle, err := e.ctx.UnwrapKey(s.handle, e.wrap.call(), kek, key.blob, template)
	if err != nil {
		return 0, err
	}
	return handle, e.readBack(s, "device key", handle, false)
}

// signAndVerify checks a signature of a key's first use: it shows that blob and public half belong together.
func (e *engine) signAndVerify(s *session, handle p11.ObjectHandle, public *ecdsa.PublicKey, digest []byte) ([]byte, error) {
	signature, err := e.signECDSA(s, handle, digest)
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(public, digest, signature) {
		return nil, e.errorf(hsm.ErrBadInput, "the wrapped device key is not the private half of its public key: restore the record")
	}
	return signature, nil
}

func (e *engine) custody() error {
	if !e.info.CustodyCapable {
		return e.errorf(hsm.ErrMechanism, "%s: use custody level sealed, or another module", e.info.Detail)
	}
	return nil
}

func (e *engine) kek(s *session, id []byte) (p11.ObjectHandle, error) {
	return e.remembered(s, kekName(id))
}

func (e *engine) hasKEK(id []byte) ([][]byte, error) {
	return e.do("finding a KEK", hsm.ErrMechanism, func(s *session) ([][]byte, error) {
		_, err := e.kek(s, id)
		switch {
		case isNotFound(err):
			return [][]byte{{0}}, nil
		case err != nil:
			return nil, err
		}
		return [][]byte{{1}}, nil
	})
}

func (e *engine) createKEK(id []byte) ([][]byte, error) {
	if err := e.custody(); err != nil {
		return nil, err
	}
	return e.do("making a KEK", hsm.ErrMechanism, func(s *session) ([][]byte, error) {
		e.making.Lock()
		defer e.making.Unlock()
		_, err := e.kek(s, id)
		if err == nil {
			return nil, e.errorf(hsm.ErrBadInput, "has a KEK %s already", hexID(id))
		}
		if !isNotFound(err) {
			return nil, err
		}
		_, err = e.generateKEK(s, id, true)
		return nil, e.heed(kekName(id), hsm.Fingerprint{}, err)
	})
}

func (e *engine) exportKEK(id, spki []byte) ([][]byte, error) {
	if err := e.custody(); err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(spki)
	to, ok := parsed.(*rsa.PublicKey)
	if err != nil || !ok || to.N.BitLen() < hsm.RSABits {
		return nil, e.errorf(hsm.ErrBadInput, "exporting a KEK: a transport key is RSA of at least %d bits", hsm.RSABits)
	}
	return e.do("exporting a KEK", hsm.ErrMechanism, func(s *session) ([][]byte, error) {
		kek, err := e.kek(s, id)
		if err != nil {
			return nil, err
		}
		var exponent [4]byte
		binary.BigEndian.PutUint32(exponent[:], uint32(to.E)) //nolint:gosec // x509 bounds it
		foreign, err := e.ctx.CreateObject(s.handle, []*p11.Attribute{
			attr(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_RSA), attr(p11.CKA_TOKEN, false),
			attr(p11.CKA_WRAP, true), attr(p11.CKA_ENCRYPT, true),
			attr(p11.CKA_MODULUS, to.N.Bytes()), attr(p11.CKA_PUBLIC_EXPONENT, exponent[1:]),
		})
		if err != nil {
			return nil, err
		}
		wrapped, err := e.ctx.WrapKey(s.handle, []*p11.Mechanism{oaep(hsm.TransportHash)}, foreign, kek)
		if err := errors.Join(err, e.destroy(s, foreign)); err != nil {
			return nil, err
		}
		return [][]byte{hsm.EncodeTransport(wrapped)}, nil
	})
}

func (e *engine) importKEK(id, wrapped []byte) ([][]byte, error) {
	if err := e.custody(); err != nil {
		return nil, err
	}
	ciphertext, err := hsm.DecodeTransport(wrapped)
	if err != nil || len(ciphertext) != hsm.RSABits/8 {
		return nil, e.errorf(hsm.ErrBadInput, "importing a KEK: these are not bytes that an export gave")
	}
	return e.do("importing a KEK", hsm.ErrBadInput, func(s *session) ([][]byte, error) {
		if _, err := e.kek(s, id); !isNotFound(err) {
			return nil, err
		}
		transport, err := e.remembered(s, transportLabel) // what was exported to a key that is gone cannot be read by a new one
		if err != nil {
			return nil, err
		}
		e.making.Lock()
		defer e.making.Unlock()
		// Once more, now that nobody else makes one: two objects of one id would serve nobody.
		if _, err := e.kek(s, id); !isNotFound(err) {
			return nil, err
		}
		kek, err := e.ctx.UnwrapKey(s.handle, []*p11.Mechanism{oaep(hsm.TransportHash)}, transport, ciphertext, kekTemplate(id, true))
		if err != nil {
			return nil, err
		}
		if err := e.readBack(s, "KEK", kek, true); err != nil {
			return nil, err
		}
		return nil, e.heed(kekName(id), hsm.Fingerprint{}, e.mustBeAES256(s, kek))
	})
}

// mustBeAES256 sees how long an unwrapped KEK is. SoftHSM sets no CKA_VALUE_LEN when it unwraps, so that the length of
// the key wrapped under itself has to tell.
func (e *engine) mustBeAES256(s *session, kek p11.ObjectHandle) error {
	wrapped, err := e.ctx.WrapKey(s.handle, e.wrap.call(), kek, kek)
	if err == nil && len(wrapped) == e.wrap.kekSize {
		return nil
	}
	if err == nil {
		err = e.errorf(hsm.ErrBadInput, "importing a KEK: it is not an AES-256 key")
	}
	return errors.Join(err, e.destroy(s, kek))
}

func (e *engine) generate(id []byte, alg hsm.Algorithm) ([][]byte, error) {
	if err := e.custody(); err != nil {
		return nil, err
	}
	if alg != hsm.ECDSAP256SHA256 {
		return nil, e.errorf(hsm.ErrMechanism, "wraps no %.40q keys: use %q, or custody level sealed", alg, hsm.ECDSAP256SHA256)
	}
	return e.do("making a device key", hsm.ErrMechanism, func(s *session) ([][]byte, error) {
		kek, err := e.kek(s, id)
		if err != nil {
			return nil, err
		}
		key, err := e.makeWrapped(s, kek)
		if err != nil {
			return nil, err
		}
		out, err := e.describe("device key", key.public)
		return append(out, append([]byte{byte(e.wrap.form)}, key.blob...)), err
	})
}

func (e *engine) signWrapped(id []byte, key hsm.WrappedKey, digest []byte) ([][]byte, error) {
	if err := e.custody(); err != nil {
		return nil, err
	}
	if err := e.checkDigest(digest); err != nil {
		return nil, err
	}
	if key.Algorithm != hsm.ECDSAP256SHA256 {
		return nil, e.errorf(hsm.ErrMechanism, "signs with no wrapped %.40q keys", key.Algorithm)
	}
	blob, err := e.wrapped(key)
	if err != nil {
		return nil, err
	}
	name := cacheName(id, key)
	return e.do("signing with a device key", hsm.ErrBadInput, func(s *session) ([][]byte, error) {
		kek, err := e.kek(s, id)
		if err != nil {
			return nil, err
		}
		signature, err := e.signDevice(s, kek, name, key.Public, blob, digest)
		return [][]byte{signature}, err
	})
}

// wrapped checks a device key's sizes and form, and gives the wrapped key itself.
func (e *engine) wrapped(key hsm.WrappedKey) ([]byte, error) {
	// RFC 5649 and RFC 3394 give a multiple of 8 bytes, at least 16.
	if n := len(key.Blob) - 1; n > maxBlob || n < 16 || n%8 != 0 || len(key.Public) > maxPublic {
		return nil, e.errorf(hsm.ErrBadInput, "signing: this is not a wrapped P-256 key: restore the record")
	}
	switch wrapForm(key.Blob[0]) {
	case e.wrap.form:
		return key.Blob[1:], nil
	case wrapRFC5649, wrapPadded:
		return nil, e.errorf(hsm.ErrMechanism, "signing: the device key was wrapped by an HSM of another make, in a form that this one does not unwrap: use one make, or custody level sealed")
	}
	return nil, e.errorf(hsm.ErrBadInput, "signing: the wrapped key has an unknown form: restore the record")
}

// signDevice signs with a key that this session has cached, or unwraps it and caches it.
func (e *engine) signDevice(s *session, kek p11.ObjectHandle, name [sha256.Size]byte, spki, blob, digest []byte) ([]byte, error) {
	if handle, ok := s.cached(name); ok {
		return e.signECDSA(s, handle, digest)
	}
	parsed, err := x509.ParsePKIXPublicKey(spki)
	public, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok || public.Curve != elliptic.P256() {
		return nil, e.errorf(hsm.ErrBadInput, "signing: the device key's public half is not a P-256 key: restore the record")
	}
	handle, err := e.unwrapKey(s, kek, wrappedKey{public: public, blob: blob})
	if err != nil {
		return nil, err
	}
	signature, err := e.signAndVerify(s, handle, public, digest)
	if err != nil {
		return nil, errors.Join(err, e.destroy(s, handle))
	}
	if evicted, full := s.keep(name, handle); full {
		return signature, e.destroy(s, evicted)
	}
	return signature, nil
}

// cacheName covers everything that decides which key it is; lengths are fixed or told apart by the hash of each part.
func cacheName(id []byte, key hsm.WrappedKey) [sha256.Size]byte {
	public, blob := sha256.Sum256(key.Public), sha256.Sum256(key.Blob)
	h := sha256.New()
	h.Write(id)
	h.Write(public[:])
	h.Write(blob[:])
	return [sha256.Size]byte(h.Sum(nil))
}

func hexID(id []byte) string {
	var k hsm.KEKID
	copy(k[:], id)
	return k.String()
}
