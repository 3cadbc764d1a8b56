package codec

import (
	"bytes"
	"encoding/base64"
	"math"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
)

// readPlain reads the requests that come most often, in the spelling that nearly every caller gives them: printable
// ASCII without escapes, names in camel case, whole numbers, enums by name, padded base64, no null. It says whether it
// did. What it does not take is not refused but left to protojson, with all that is then said of it, so that a request
// means one thing whoever reads it: what is read here is what protojson would have read (FuzzReadPlain).
func readPlain(data []byte, request proto.Message) bool {
	r := &plainReader{rest: data}
	switch m := request.(type) {
	case *warderv1.RevealCredentialRequest:
		m.Reset()
		r.revealCredential(m)
	case *warderv1.IssueTokenRequest:
		m.Reset()
		r.issueToken(m)
	case *warderv1.SignWithCredentialRequest:
		m.Reset()
		r.signWithCredential(m)
	case *warderv1.SignWithKeyRequest:
		m.Reset()
		r.signWithKey(m)
	case *warderv1.PutCredentialRequest:
		m.Reset()
		r.putCredential(m)
	default:
		return false
	}
	r.space()
	return !r.odd && len(r.rest) == 0
}

func (r *plainReader) revealCredential(m *warderv1.RevealCredentialRequest) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "namespace":
			m.Namespace = r.text()
			return 1
		case "name":
			m.Name = r.text()
			return 2
		case "version":
			m.Version = r.number()
			return 3
		}
		return unknown
	})
}

func (r *plainReader) issueToken(m *warderv1.IssueTokenRequest) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "grants":
			r.list(func() {
				grant := &warderv1.Grant{}
				m.Grants = append(m.Grants, grant)
				r.grant(grant)
			})
			return 1
		case "ttl":
			m.Ttl = &durationpb.Duration{Seconds: r.seconds()}
			return 2
		case "maxUses":
			m.MaxUses = r.number()
			return 3
		}
		return unknown
	})
}

func (r *plainReader) grant(m *warderv1.Grant) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "actions":
			r.list(func() { m.Actions = append(m.Actions, r.text()) })
			return 1
		case "resource":
			m.Resource = &warderv1.Resource{}
			r.resource(m.Resource)
			return 2
		}
		return unknown
	})
}

func (r *plainReader) resource(m *warderv1.Resource) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "type":
			m.Type = r.text()
			return 1
		case "namespace":
			m.Namespace = r.text()
			return 2
		case "name":
			m.Name = r.text()
			return 3
		}
		return unknown
	})
}

func (r *plainReader) signWithCredential(m *warderv1.SignWithCredentialRequest) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "namespace":
			m.Namespace = r.text()
			return 1
		case "name":
			m.Name = r.text()
			return 2
		case "request":
			m.Request = &warderv1.HttpRequest{}
			r.httpRequest(m.Request)
			return 3
		}
		return unknown
	})
}

func (r *plainReader) httpRequest(m *warderv1.HttpRequest) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "method":
			m.Method = warderv1.HttpMethod(r.enum(warderv1.HttpMethod_value))
			return 1
		case "url":
			m.Url = r.text()
			return 2
		case "headers":
			r.list(func() {
				header := &warderv1.HttpHeader{}
				m.Headers = append(m.Headers, header)
				r.httpHeader(header)
			})
			return 3
		case "body":
			m.Body = r.bytes()
			return 4
		}
		return unknown
	})
}

func (r *plainReader) httpHeader(m *warderv1.HttpHeader) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "name":
			m.Name = r.text()
			return 1
		case "value":
			m.Value = r.text()
			return 2
		}
		return unknown
	})
}

func (r *plainReader) signWithKey(m *warderv1.SignWithKeyRequest) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "namespace":
			m.Namespace = r.text()
			return 1
		case "name":
			m.Name = r.text()
			return 2
		case "algorithm":
			m.Algorithm = warderv1.KeyAlgorithm(r.enum(warderv1.KeyAlgorithm_value))
			return 3
		case "digest":
			m.Input = &warderv1.SignWithKeyRequest_Digest{Digest: r.bytes()}
			return 4
		case "message":
			m.Input = &warderv1.SignWithKeyRequest_Message{Message: r.bytes()}
			return 4 // the two are one choice
		}
		return unknown
	})
}

func (r *plainReader) putCredential(m *warderv1.PutCredentialRequest) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "namespace":
			m.Namespace = r.text()
			return 1
		case "name":
			m.Name = r.text()
			return 2
		case "profile":
			m.Profile = r.text()
			return 3
		case "fields":
			r.list(func() {
				secret := &warderv1.SecretField{}
				m.Fields = append(m.Fields, secret)
				r.secretField(secret)
			})
			return 4
		}
		return unknown
	})
}

func (r *plainReader) secretField(m *warderv1.SecretField) {
	r.object(func(name []byte) field {
		switch string(name) {
		case "name":
			m.Name = r.text()
			return 1
		case "value":
			m.Value = r.bytes()
			return 2
		}
		return unknown
	})
}

// field is a member's place among those of its object, so that none is taken twice.
type field uint

const unknown field = 0

// plainReader takes JSON (RFC 8259) from the front of rest. Once something is odd, it is odd for good and takes nothing.
type plainReader struct {
	rest []byte
	odd  bool
}

func (r *plainReader) space() {
	r.rest = bytes.TrimLeft(r.rest, " \t\r\n")
}

// next takes a character, after space, if it is the next.
func (r *plainReader) next(c byte) bool {
	r.space()
	if r.odd || len(r.rest) == 0 || r.rest[0] != c {
		return false
	}
	r.rest = r.rest[1:]
	return true
}

func (r *plainReader) must(c byte) {
	if !r.next(c) {
		r.odd = true
	}
}

// object takes an object; member takes the value of the member of that name, and says which it is.
func (r *plainReader) object(member func(name []byte) field) {
	r.must('{')
	if r.next('}') {
		return
	}
	for seen := uint(0); !r.odd; {
		name := r.raw()
		r.must(':')
		which := member(name)
		if which == unknown || seen&(1<<which) != 0 {
			r.odd = true
		}
		seen |= 1 << which
		if !r.next(',') {
			break
		}
	}
	r.must('}')
}

// list takes a list; item takes one of it.
func (r *plainReader) list(item func()) {
	r.must('[')
	if r.next(']') {
		return
	}
	for !r.odd {
		item()
		if !r.next(',') {
			break
		}
	}
	r.must(']')
}

// raw takes a string and gives what is between its quotes.
func (r *plainReader) raw() []byte {
	r.must('"')
	for i, c := range r.rest {
		switch {
		case r.odd:
			return nil
		case c == '"':
			text := r.rest[:i]
			r.rest = r.rest[i+1:]
			return text
		case c < ' ' || c > '~' || c == '\\':
			r.odd = true
		}
	}
	r.odd = true
	return nil
}

func (r *plainReader) text() string { return string(r.raw()) }

// bytes takes base64 with its padding (RFC 4648, section 4), of one byte at least.
func (r *plainReader) bytes() []byte {
	text := r.raw()
	value := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(value, text)
	if err != nil || n == 0 {
		r.odd = true
	}
	return value[:n:n]
}

func (r *plainReader) enum(values map[string]int32) int32 {
	value, known := values[string(r.raw())]
	r.odd = r.odd || !known
	return value
}

// number takes a whole number of 32 bits.
func (r *plainReader) number() uint32 {
	r.space()
	digits := 0
	for digits < len(r.rest) && r.rest[digits] >= '0' && r.rest[digits] <= '9' {
		digits++
	}
	text := r.rest[:digits]
	r.rest = r.rest[digits:]
	return uint32(r.whole(text, math.MaxUint32))
}

// seconds takes a duration of whole seconds: "60s".
func (r *plainReader) seconds() int64 {
	text, unit := bytes.CutSuffix(r.raw(), []byte("s"))
	r.odd = r.odd || !unit
	return int64(r.whole(text, math.MaxInt32))
}

// whole reads digits without zeros before them, of a number of at most limit.
func (r *plainReader) whole(digits []byte, limit uint64) uint64 {
	if len(digits) > 10 || len(digits) > 1 && digits[0] == '0' || len(digits) > 0 && digits[0] == '+' {
		r.odd = true
		return 0
	}
	value, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil || value > limit {
		r.odd = true
		return 0
	}
	return value
}
