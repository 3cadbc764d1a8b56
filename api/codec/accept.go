package codec

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
)

// acceptPlain says of the requests that come most often that they keep every rule of the .proto files and have no
// unknown field. It never refuses: what it does not accept is judged as every other request is, and what it accepts
// would have been accepted (TestAcceptPlain, which also fails when a rule changes, and FuzzAcceptPlain).
func acceptPlain(request proto.Message) bool {
	switch m := request.(type) {
	case *warderv1.RevealCredentialRequest:
		return known(m) && isName(m.GetNamespace()) && isName(m.GetName())
	case *warderv1.IssueTokenRequest:
		return acceptIssueToken(m)
	case *warderv1.SignWithCredentialRequest:
		return known(m) && isName(m.GetNamespace()) && isName(m.GetName()) && acceptHTTPRequest(m.GetRequest())
	case *warderv1.SignWithKeyRequest:
		return known(m) && isName(m.GetNamespace()) && isName(m.GetName()) && isNamed(warderv1.KeyAlgorithm_name, int32(m.GetAlgorithm())) && acceptInput(m)
	case *warderv1.PutCredentialRequest:
		return acceptPutCredential(m)
	}
	return false
}

func acceptIssueToken(m *warderv1.IssueTokenRequest) bool {
	if !known(m) || !upTo(len(m.GetGrants()), 16) || !acceptLife(m.GetTtl()) || m.GetMaxUses() > 1_000_000 {
		return false
	}
	for _, grant := range m.GetGrants() {
		if grant == nil || !known(grant) || !acceptActions(grant.GetActions()) || !acceptResource(grant.GetResource()) {
			return false
		}
	}
	return true
}

// acceptLife accepts 5 s to an hour, in whole seconds.
func acceptLife(m *durationpb.Duration) bool {
	return m != nil && known(m) && m.GetNanos() == 0 && m.GetSeconds() >= 5 && m.GetSeconds() <= 3600
}

func acceptActions(actions []string) bool {
	if !upTo(len(actions), 16) {
		return false
	}
	for i, action := range actions {
		of, what, dotted := strings.Cut(action, ".")
		if len(action) > 63 || !dotted || !isWord(of) || !isWord(what) {
			return false
		}
		for _, other := range actions[:i] {
			if other == action {
				return false
			}
		}
	}
	return true
}

func acceptResource(m *warderv1.Resource) bool {
	return m != nil && known(m) && isName(m.GetType()) &&
		(m.GetNamespace() == "" || isName(m.GetNamespace())) && (m.GetName() == "" || isName(m.GetName()))
}

func acceptHTTPRequest(m *warderv1.HttpRequest) bool {
	if m == nil || !known(m) || !isNamed(warderv1.HttpMethod_name, int32(m.GetMethod())) || len(m.GetHeaders()) > 64 ||
		!strings.HasPrefix(m.GetUrl(), "https://") || len(m.GetUrl()) > 16384 || len(m.GetBody()) > 262144 {
		return false
	}
	for _, header := range m.GetHeaders() {
		if header == nil || !known(header) || !isToken(header.GetName()) || !isHeaderValue(header.GetValue()) {
			return false
		}
	}
	return true
}

func acceptInput(m *warderv1.SignWithKeyRequest) bool {
	switch input := m.GetInput().(type) {
	case *warderv1.SignWithKeyRequest_Digest:
		return input != nil && len(input.Digest) == 32
	case *warderv1.SignWithKeyRequest_Message:
		return input != nil && upTo(len(input.Message), 65536)
	}
	return false
}

func acceptPutCredential(m *warderv1.PutCredentialRequest) bool {
	if !known(m) || !isName(m.GetNamespace()) || !isName(m.GetName()) || !isName(m.GetProfile()) || !upTo(len(m.GetFields()), 16) {
		return false
	}
	for _, secret := range m.GetFields() {
		if secret == nil || !known(secret) || !isFieldName(secret.GetName()) || !upTo(len(secret.GetValue()), 16384) {
			return false
		}
	}
	return true
}

// known says that a message itself has no unknown field.
func known(m proto.Message) bool { return len(m.ProtoReflect().GetUnknown()) == 0 }

// upTo says that there is one at least, and no more than most.
func upTo(n, most int) bool { return n > 0 && n <= most }

// isNamed says that an enum's value is one of those that it names, and not the first, which stands for none.
func isNamed(names map[int32]string, value int32) bool {
	_, named := names[value]
	return named && value != 0
}

// isName is ^[a-z0-9]+(-[a-z0-9]+)*$ of at most 63.
func isName(text string) bool {
	return len(text) <= 63 && dashed(text, func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' })
}

// isWord is ^[a-z]+(-[a-z]+)*$.
func isWord(text string) bool {
	return dashed(text, func(c byte) bool { return c >= 'a' && c <= 'z' })
}

// dashed says that a text is of some characters, one at least, with single dashes between them.
func dashed(text string, of func(c byte) bool) bool {
	dash := true // the character before
	for i := range len(text) {
		c := text[i]
		if !of(c) && (c != '-' || dash) {
			return false
		}
		dash = c == '-'
	}
	return !dash
}

// isFieldName is ^[a-z][a-z0-9_]*$ of at most 63.
func isFieldName(text string) bool {
	for i := range len(text) {
		c := text[i]
		if (c < 'a' || c > 'z') && (i == 0 || (c < '0' || c > '9') && c != '_') {
			return false
		}
	}
	return upTo(len(text), 63)
}

// isToken is a token of RFC 9110, section 5.6.2, of at most 128.
func isToken(text string) bool {
	for i := range len(text) {
		c := text[i]
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alphanumeric && !strings.Contains("!#$%&'*+.^_`|~-", text[i:i+1]) {
			return false
		}
	}
	return upTo(len(text), 128)
}

// isHeaderValue is ^[\t\x20-\x7e]*$ of at most 8192.
func isHeaderValue(text string) bool {
	for i := range len(text) {
		if c := text[i]; c != '\t' && (c < ' ' || c > '~') {
			return false
		}
	}
	return len(text) <= 8192
}
