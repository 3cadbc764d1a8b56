package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

const (
	// minRSABits is the smallest RSA key certified (CA/Browser Forum Baseline Requirements, section 6.1.5); larger ones
	// than maxRSABits only cost time.
	minRSABits = 2048
	maxRSABits = 4096
	// minRSAExponent is the smallest public exponent (CA/Browser Forum Baseline Requirements, section 6.1.6).
	minRSAExponent = 1<<16 + 1
	// maxHosts bounds the names and addresses of one node.
	maxHosts = 16
)

// provenKey gives the public key of a request whose signature proves possession of it (RFC 2986, section 3).
func provenKey(der []byte) (crypto.PublicKey, error) {
	if len(der) > maxRequest {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrRequest, maxRequest)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not a PKCS #10 request in DER", ErrRequest)
	}
	if err := checkKey(request.PublicKey); err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: its signature does not prove possession of its key", ErrRequest)
	}
	return request.PublicKey, nil
}

// checkKey takes P-256 and P-384 (RFC 5480), Ed25519 (RFC 8410) and RSA of 2048 to 4096 bits.
func checkKey(public crypto.PublicKey) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		bits := key.N.BitLen()
		if bits >= minRSABits && bits <= maxRSABits && key.E >= minRSAExponent && key.E%2 == 1 {
			return nil
		}
	}
	return fmt.Errorf("%w: its key must be EC P-256 or P-384, Ed25519, or RSA of %d to %d bits with an exponent of %d or more",
		ErrRequest, minRSABits, maxRSABits, minRSAExponent)
}

// KeyOf gives the SHA-256 of the SubjectPublicKeyInfo in a request, for binding it before it is certified.
func KeyOf(request []byte) ([sha256.Size]byte, error) {
	public, err := provenKey(request)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("%w: its key does not encode", ErrRequest)
	}
	return sha256.Sum256(spki), nil
}

// keyID gives a key's identifier (RFC 7093, section 2, method 4, cut to 160 bits).
func keyID(public crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("%w: its key does not encode", ErrRequest)
	}
	digest := sha256.Sum256(spki)
	return digest[:20], nil
}

// splitHosts tells addresses from DNS names (RFC 1123, section 2.1), and takes no wildcards.
func splitHosts(hosts []string) (names []string, addresses []net.IP, err error) {
	if len(hosts) > maxHosts {
		return nil, nil, fmt.Errorf("%w: a node has at most %d names and addresses", ErrRequest, maxHosts)
	}
	for _, host := range hosts {
		if address, err := netip.ParseAddr(host); err == nil && address.Zone() == "" && !address.IsUnspecified() {
			addresses = append(addresses, address.AsSlice())
		} else if isHostName(host) {
			names = append(names, host)
		} else {
			return nil, nil, fmt.Errorf("%w: %q is no address that a node is reached at, nor a DNS name in lower case", ErrRequest, host)
		}
	}
	return names, addresses, nil
}

func isHostName(text string) bool {
	labels := strings.Split(text, ".")
	for _, label := range labels {
		wrong := strings.IndexFunc(label, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
		if label == "" || len(label) > 63 || wrong >= 0 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	last := labels[len(labels)-1]
	return len(text) <= 253 && strings.Trim(last, "0123456789") != "" // digits at the end: a mistyped address
}
