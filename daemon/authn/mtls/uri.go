package mtls

import (
	"crypto/x509"
	"encoding/asn1"
)

// uriTag is a uniformResourceIdentifier's in a GeneralName (RFC 5280, section 4.2.1.6).
const uriTag = 6

// uris gives the URIs of a certificate's subject alternative names as they are written there: the parsed ones no longer
// show all of the text, such as a scheme in capitals.
func uris(certificate *x509.Certificate) (texts []string) {
	for _, extension := range certificate.Extensions {
		if !extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) { // id-ce-subjectAltName
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &names); err != nil || len(rest) > 0 {
			return nil
		}
		for _, name := range names {
			if name.Class == asn1.ClassContextSpecific && name.Tag == uriTag {
				texts = append(texts, string(name.Bytes))
			}
		}
	}
	return texts
}
