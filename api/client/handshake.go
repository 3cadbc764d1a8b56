package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"

	warderv1 "warder/api/warder/v1"
)

// errServer is the root of each refusal of a server's certificate.
var errServer = errors.New("the server is not trusted")

// distrusted tells whether this side refused the server; to try again is useless.
func distrusted(err error) bool {
	var verification *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var hostname x509.HostnameError
	return errors.Is(err, errServer) || errors.As(err, &verification) || errors.As(err, &unknown) || errors.As(err, &hostname)
}

// alertReason reads the alert by which a server refuses a client's certificate
// (RFC 8446, section 6.2). crypto/tls gives it no exported type. In TLS 1.3 it
// comes after the client's own part of the handshake, when the request may be on
// its way already; the server has read none of it.
func alertReason(err error) warderv1.Reason {
	_, alert, found := strings.Cut(err.Error(), "remote error: tls: ")
	switch {
	case !found:
		return warderv1.Reason_REASON_UNSPECIFIED
	case strings.HasPrefix(alert, "certificate required"):
		return warderv1.Reason_REASON_UNAUTHENTICATED
	case strings.HasPrefix(alert, "expired certificate"):
		return warderv1.Reason_REASON_CERTIFICATE_EXPIRED
	case strings.HasPrefix(alert, "bad certificate"), strings.HasPrefix(alert, "unknown certificate"),
		strings.HasPrefix(alert, "unsupported certificate"), strings.HasPrefix(alert, "revoked certificate"):
		return warderv1.Reason_REASON_CERTIFICATE_UNKNOWN
	}
	return warderv1.Reason_REASON_UNSPECIFIED
}
