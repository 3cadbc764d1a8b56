package pkcs11

import (
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/asn1"
	"errors"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

const (
	nodeLabel      = "warder-node"
	transportLabel = "warder-transport"
	kekLabel       = "warder-kek"
)

// p256OID is CKA_EC_PARAMS of P-256: the OID 1.2.840.10045.3.1.7 (RFC 5480 2.1.1.1), in DER.
func p256OID() []byte { return []byte{asn1.TagOID, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7} }

func isNotFound(err error) bool { return errors.Is(err, hsm.ErrKeyNotFound) }

// generateEC makes a P-256 pair that only signs.
func (e *engine) generateEC(s *session, label string, token, extractable bool) (public, private p11.ObjectHandle, err error) {
	id := make([]byte, 16)
	rand.Read(id)
	publicTemplate := []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_EC), attr(p11.CKA_TOKEN, token),
		attr(p11.CKA_LABEL, label), attr(p11.CKA_ID, id), attr(p11.CKA_EC_PARAMS, p256OID()), attr(p11.CKA_VERIFY, true),
	}
	privateTemplate := []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_EC), attr(p11.CKA_TOKEN, token),
		attr(p11.CKA_PRIVATE, true), attr(p11.CKA_LABEL, label), attr(p11.CKA_ID, id),
		attr(p11.CKA_SENSITIVE, true), attr(p11.CKA_EXTRACTABLE, extractable),
		attr(p11.CKA_SIGN, true), attr(p11.CKA_DERIVE, false),
	}
	mechanism := []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)}
	public, private, err = e.ctx.GenerateKeyPair(s.handle, mechanism, publicTemplate, privateTemplate)
	if err != nil {
		return 0, 0, err
	}
	if err := e.readBack(s, "private EC key", private, extractable); err != nil {
		_ = e.destroy(s, public) // it opens nothing without its private half
		return 0, 0, err
	}
	return public, private, nil
}

func nodeSearch(class uint) []*p11.Attribute {
	return []*p11.Attribute{
		attr(p11.CKA_CLASS, class), attr(p11.CKA_KEY_TYPE, p11.CKK_EC), attr(p11.CKA_TOKEN, true), attr(p11.CKA_LABEL, nodeLabel),
	}
}

// findNodeKey finds the node's private key by its label, and reads which key it is from its public half.
func (e *engine) findNodeKey(s *session) (p11.ObjectHandle, hsm.Fingerprint, error) {
	key, err := e.findOne(s, "node key", nodeSearch(p11.CKO_PRIVATE_KEY)...)
	if err != nil {
		return 0, hsm.Fingerprint{}, err
	}
	public, err := e.nodeHalf(s)
	if err != nil {
		return 0, hsm.Fingerprint{}, err
	}
	fp, err := hsm.FingerprintOf(public)
	return key, fp, err
}

func (e *engine) nodeHalf(s *session) (*ecdsa.PublicKey, error) {
	half, err := e.findOne(s, "node key's public half", nodeSearch(p11.CKO_PUBLIC_KEY)...)
	if err != nil {
		return nil, err
	}
	return e.p256Public(s, half)
}

// nodeKey gives the node's private key.
func (e *engine) nodeKey(s *session) (p11.ObjectHandle, error) {
	return e.remembered(s, nodeLabel)
}

func (e *engine) nodePublic() ([][]byte, error) {
	return e.do("finding or making the node key", hsm.ErrMechanism, func(s *session) ([][]byte, error) {
		e.making.Lock()
		defer e.making.Unlock()
		if err := e.ensureNodeKey(s); err != nil {
			return nil, err
		}
		public, err := e.nodeHalf(s)
		if err != nil {
			return nil, err
		}
		return e.describeKnown(nodeLabel, public)
	})
}

// ensureNodeKey makes the node key on a token that is not known to have had one, and shows none of either half: a half that
// was lost is for a person to mend.
func (e *engine) ensureNodeKey(s *session) error {
	_, err := e.nodeKey(s)
	if !isNotFound(err) {
		return err
	}
	halves, findErr := e.find(s, attr(p11.CKA_TOKEN, true), attr(p11.CKA_KEY_TYPE, p11.CKK_EC), attr(p11.CKA_LABEL, nodeLabel))
	if findErr != nil {
		return findErr
	}
	if len(halves) > 0 {
		return err
	}
	_, _, err = e.generateEC(s, nodeLabel, true, false)
	return err
}

func (e *engine) sign(digest []byte) ([][]byte, error) {
	if err := e.checkDigest(digest); err != nil {
		return nil, err
	}
	return e.do("signing", hsm.ErrBadInput, func(s *session) ([][]byte, error) {
		key, err := e.nodeKey(s)
		if err != nil {
			return nil, err
		}
		signature, err := e.signECDSA(s, key, digest)
		return [][]byte{signature}, err
	})
}

func (e *engine) checkDigest(digest []byte) error {
	if len(digest) != hsm.DigestSize {
		return e.errorf(hsm.ErrBadInput, "signing: a digest has %d bytes, this one %d", hsm.DigestSize, len(digest))
	}
	return nil
}

// signECDSA signs the digest itself (CKM_ECDSA): not every module hashes.
func (e *engine) signECDSA(s *session, key p11.ObjectHandle, digest []byte) ([]byte, error) {
	if err := e.ctx.SignInit(s.handle, []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}, key); err != nil {
		return nil, err
	}
	raw, err := e.ctx.Sign(s.handle, digest)
	if err != nil {
		return nil, err
	}
	return derSignature(raw)
}
