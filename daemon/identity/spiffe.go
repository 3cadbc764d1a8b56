package identity

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// maxTrustDomain bounds a trust domain, in bytes (SPIFFE-ID, section 2.3).
const maxTrustDomain = 255

// ErrTrustDomain says that a text is no trust domain.
var ErrTrustDomain = errors.New("a trust domain has 1 to 255 characters of a-z, 0-9, dot, dash and underscore")

// CheckTrustDomain holds a text against the rules of a trust domain's name (SPIFFE-ID, section 2.1): it has no
// capitals, no port and no user, and is never changed into something that fits.
func CheckTrustDomain(text string) error {
	if len(text) == 0 || len(text) > maxTrustDomain {
		return ErrTrustDomain
	}
	for i := range len(text) {
		c := text[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return ErrTrustDomain
		}
	}
	return nil
}

// SPIFFE gives the principal's SPIFFE ID: spiffe://<trust domain>/ns/<namespace>/<kind>/<name>.
func (p Principal) SPIFFE(trustDomain string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: p.spiffePath()}
}

func (p Principal) spiffePath() string {
	return "/ns/" + p.Namespace.String() + "/" + p.Kind.String() + "/" + p.Name.String()
}

// ParseSPIFFE takes a SPIFFE ID of the trust domain (SPIFFE-ID, section 2), written byte for byte as SPIFFE gives it.
// It is the check to use where the text itself is at hand: a parsed URL no longer shows a scheme in capitals, nor an
// empty fragment.
func ParseSPIFFE(text, trustDomain string) (Principal, error) {
	path, ok := strings.CutPrefix(text, "spiffe://"+trustDomain+"/")
	if !ok || trustDomain == "" {
		return Principal{}, fmt.Errorf("%w: the SPIFFE ID must be of trust domain %s", ErrPrincipal, trustDomain)
	}
	return parsePath("/" + path)
}

// FromSPIFFE is ParseSPIFFE for a parsed URI: no port, user, query, fragment, escape, empty or further segment.
func FromSPIFFE(uri *url.URL, trustDomain string) (Principal, error) {
	if uri == nil || trustDomain == "" || *uri != (url.URL{Scheme: "spiffe", Host: trustDomain, Path: uri.Path}) {
		return Principal{}, fmt.Errorf("%w: the SPIFFE ID must be of trust domain %s and have a path only", ErrPrincipal, trustDomain)
	}
	return parsePath(uri.Path)
}

func parsePath(path string) (Principal, error) {
	rest, ok := strings.CutPrefix(path, "/ns/")
	namespaceText, rest, okKind := strings.Cut(rest, "/")
	kindText, nameText, okName := strings.Cut(rest, "/")
	if !ok || !okKind || !okName {
		return Principal{}, fmt.Errorf("%w: the SPIFFE ID's path must be /ns/<namespace>/<kind>/<name>", ErrPrincipal)
	}
	return parse(kindText, namespaceText, nameText)
}
