package cli

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	warderv1 "warder/api/warder/v1"
)

// newKey makes an EC P-256 key and encodes it (PKCS#8, PEM).
func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, localf("try again", "generate a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, localf("try again", "encode the key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ownKey makes a key and writes it, before any server knows of it, so that a lost
// answer loses nothing. A key that an attempt before this one left is taken again.
func ownKey(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the user's own path
	if errors.Is(err, fs.ErrNotExist) {
		key, text, err := newKey()
		if err != nil {
			return nil, err
		}
		return key, writeNew(path, text, 0o600)
	}
	if err != nil {
		return nil, localf("check the file", "key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, localf("move it away", "key %s is not in PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, localf("move it away", "key %s is not a signing key in PKCS#8", path)
	}
	return key, nil
}

// request makes a certificate request. The name in it is for people: the server
// takes the key only.
func request(key crypto.Signer, name string) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, localf("try again", "make a certificate request: %w", err)
	}
	return csr, nil
}

// readCSR reads a certificate request in PEM or DER.
func (a *app) readCSR(path string) ([]byte, error) {
	data, err := a.readFile("certificate request", path)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	if _, err := x509.ParseCertificateRequest(data); err != nil {
		return nil, localf("make one with: openssl req -new -key key.pem -subj /CN=name", "certificate request %s: %w", path, err)
	}
	return data, nil
}

// requested is where a certificate request comes from and where the certificate goes.
type requested struct {
	csrFile, dir string
	ownKey       bool // the key was made here
}

// csr returns the given request, or makes a key for one when there is a directory to
// keep it in, or nothing.
func (a *app) csr(r *requested, name string) ([]byte, error) {
	switch {
	case r.csrFile != "":
		return a.readCSR(r.csrFile)
	case r.dir == "":
		return nil, nil
	}
	key, err := ownKey(filepath.Join(r.dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	r.ownKey = true
	return request(key, name)
}

// keep writes the certificate, and, for a key made here, a context file beside it.
func (a *app) keep(r *requested, certificate *warderv1.Certificate, s settings) error {
	if r.dir == "" || certificate == nil {
		return nil
	}
	if err := writeNew(filepath.Join(r.dir, "certificate.pem"), []byte(certificate.GetChainPem()), 0o644); err != nil {
		return err
	}
	if err := writeNew(filepath.Join(r.dir, "ca.pem"), []byte(certificate.GetCaCertificatePem()), 0o644); err != nil {
		return err
	}
	if !r.ownKey {
		return nil
	}
	return writeSettings(filepath.Join(r.dir, "context.yaml"), settings{
		Endpoints: s.Endpoints, TrustDomain: s.TrustDomain, Namespace: s.Namespace,
		CA: "ca.pem", Certificate: "certificate.pem", Key: "key.pem",
	})
}

// writeNew writes a file that must not exist, and its directory.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return localf("choose another directory", "write %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) //nolint:gosec // the user's own path
	if errors.Is(err, fs.ErrExist) {
		return localf("move it away or choose another place; nothing is overwritten", "%s exists", path)
	}
	if err != nil {
		return localf("choose another place", "write %s: %w", path, err)
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return localf("check the disk", "write %s: %w", path, err)
	}
	return nil
}

// absent tells early that a file is in the way, before anything is asked of a server.
func absent(paths ...string) error {
	for _, path := range paths {
		if _, err := os.Lstat(path); err == nil {
			return localf("move it away or choose another place; nothing is overwritten", "%s exists", path)
		}
	}
	return nil
}
