package work

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/work/history"
)

// newKey makes a caller's key and the request to certify it (PKCS#10, DER).
func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return key, csr, err
}

// certificate puts a key and the chain that came for it together.
func certificate(key crypto.Signer, chain string) (*tls.Certificate, error) {
	paired := &tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode([]byte(chain)); block != nil; block, rest = pem.Decode(rest) {
		paired.Certificate = append(paired.Certificate, block.Bytes)
	}
	if len(paired.Certificate) == 0 {
		return nil, errors.New("the answer holds no certificate")
	}
	return paired, nil
}

func principal(kind warderv1.PrincipalKind, name string) *warderv1.Principal {
	return &warderv1.Principal{Kind: kind, Namespace: namespace, Name: name}
}

func workload(name string) *warderv1.Principal {
	return principal(warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, name)
}

// hour is how long what the crew gets is to last: longer than any schedule.
func hour() *durationpb.Duration { return durationpb.New(time.Hour) }

// grant is the right to do something with one thing of the namespace; with an empty name, with all of that type.
func grant(action, kind, name string) []*warderv1.Grant {
	return []*warderv1.Grant{{Actions: []string{action}, Resource: &warderv1.Resource{Type: kind, Namespace: namespace, Name: name}}}
}

func tokenRequest(grants []*warderv1.Grant, uses uint32) *warderv1.IssueTokenRequest {
	return &warderv1.IssueTokenRequest{Grants: grants, Ttl: hour(), MaxUses: uses}
}

// hire registers a workload and gives its certificate; nil where it failed.
func hire(at *line, name string, groups ...string) *tls.Certificate {
	key, csr, err := newKey()
	if err != nil {
		at.crew.complain(err)
		return nil
	}
	answer, op := ask(at, history.Op{Kind: "hire", Key: name}, at.Identities.CreateIdentity,
		&warderv1.CreateIdentityRequest{Principal: workload(name), Groups: groups, Csr: csr, Ttl: hour()})
	if op.Outcome != history.Done {
		return nil
	}
	paired, err := certificate(key, answer.GetCertificate().GetChainPem())
	if err != nil {
		at.crew.complain(err)
		return nil
	}
	return paired
}
