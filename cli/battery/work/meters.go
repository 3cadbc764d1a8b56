package work

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work/history"
)

// meterKey is one of the device's keys.
type meterKey struct {
	name      string
	algorithm warderv1.KeyAlgorithm
}

// makeMeterKeys makes a key in the custody of the HSMs, and one that is sealed. Where the HSMs keep no keys there is
// the second only.
func makeMeterKeys(t testing.TB, at *line) []meterKey {
	t.Helper()
	made := []meterKey{{"meter-sealed", warderv1.KeyAlgorithm_KEY_ALGORITHM_ED25519}}
	must(t, at.Keys.CreateKey, keyRequest(made[0], warderv1.KeyCustody_KEY_CUSTODY_SEALED))
	kept := meterKey{"meter-kept", warderv1.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256}
	_, err := at.Keys.CreateKey(t.Context(), keyRequest(kept, warderv1.KeyCustody_KEY_CUSTODY_HSM))
	switch {
	case errors.Is(err, client.ReasonError(warderv1.Reason_REASON_CUSTODY_UNSUPPORTED)):
		return made
	case err != nil:
		t.Fatalf("%v: %v", errSetUp, err)
	}
	return append(made, kept)
}

func keyRequest(key meterKey, custody warderv1.KeyCustody) *warderv1.CreateKeyRequest {
	return &warderv1.CreateKeyRequest{
		Namespace: namespace, Name: key.name, Algorithm: key.algorithm, Custody: custody,
		Purpose: warderv1.KeyPurpose_KEY_PURPOSE_TELEMETRY, Owner: principal(warderv1.PrincipalKind_PRINCIPAL_KIND_DEVICE, "meter"),
	}
}

// signingMeter is the device at one node with one of its keys.
type signingMeter struct {
	office *office
	key    meterKey
	node   *town.Node
	line   *line
	issued time.Duration     // when its token was issued
	public map[uint32][]byte // the key's versions that it knows
}

// meterToken is how long the meter uses one token.
const meterToken = 10 * time.Second

// sign has a reading signed, and verifies the signature by the public key of the version that is named.
func (m *signingMeter) sign(turn int) {
	if !m.admitted() {
		return
	}
	reading := fmt.Appendf(nil, "reading number %d", turn)
	answer, op := ask(m.line, history.Op{Kind: "sign", Key: m.key.name, Fresh: turn%4 == 0}, m.line.Keys.SignWithKey, m.request(reading))
	if op.Outcome != history.Done {
		return
	}
	if m.public[answer.GetVersion()] == nil {
		m.learn()
	}
	if public := m.public[answer.GetVersion()]; public != nil && !verifies(public, reading, answer.GetSignature()) {
		m.office.crew.complain(fmt.Errorf("%s: %w", op, errSignature))
	}
}

// admitted gets a token now and then.
func (m *signingMeter) admitted() bool {
	c := m.office.crew
	if m.line != nil && c.log.Now() < m.issued+meterToken {
		return true
	}
	bare, err := c.line(m.node, m.office.settings, m.office.meter, "")
	if err != nil {
		c.complain(err)
		return false
	}
	defer bare.Close()
	grants := append(grant("key.sign", "key", m.key.name), grant("key.read", "key", m.key.name)...)
	issued, op := ask(bare, history.Op{Kind: "issue", Key: m.key.name}, bare.Tokens.IssueToken, tokenRequest(grants, 0))
	if op.Outcome != history.Done {
		return false
	}
	own, err := c.line(m.node, m.office.settings, m.office.meter, issued.GetToken())
	if err != nil {
		c.complain(err)
		return false
	}
	if m.line != nil {
		m.line.Close()
	}
	m.line, m.issued = own, c.log.Now()
	return true
}

// learn reads the key's public halves.
func (m *signingMeter) learn() {
	answer, op := ask(m.line, history.Op{Kind: "look", Key: m.key.name, Fresh: true}, m.line.Keys.GetKey, &warderv1.GetKeyRequest{Namespace: namespace, Name: m.key.name})
	if op.Outcome != history.Done {
		return
	}
	for _, version := range answer.GetKey().GetVersions() {
		m.public[version.GetNumber()] = version.GetPublicKey()
	}
}

func (m *signingMeter) request(reading []byte) *warderv1.SignWithKeyRequest {
	request := &warderv1.SignWithKeyRequest{Namespace: namespace, Name: m.key.name, Algorithm: m.key.algorithm}
	if m.key.algorithm == warderv1.KeyAlgorithm_KEY_ALGORITHM_ED25519 {
		request.Input = &warderv1.SignWithKeyRequest_Message{Message: reading}
		return request
	}
	digest := sha256.Sum256(reading)
	request.Input = &warderv1.SignWithKeyRequest_Digest{Digest: digest[:]}
	return request
}

// verifies checks a signature by a public key in DER.
func verifies(public, reading, signature []byte) bool {
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return false
	}
	switch key := parsed.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, reading, signature)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(reading)
		return ecdsa.VerifyASN1(key, digest[:], signature)
	}
	return false
}
