package codec

import (
	"encoding/base64"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	warderv1 "warder/api/warder/v1"
)

// writePlain writes the answers that are given most often as protojson does with every field written out, but for the
// space that protojson puts here and there, and says whether it did. It leaves to protojson what it does not know how to
// spell: text that needs escapes, an enum's value without a name, a time out of range (TestWritePlain).
func writePlain(answer proto.Message) ([]byte, bool) {
	w := &plainWriter{}
	switch m := answer.(type) {
	case *warderv1.RevealCredentialResponse:
		w.room(m)
		w.revealCredential(m)
	case *warderv1.IssueTokenResponse:
		w.room(m)
		w.issueToken(m)
	case *warderv1.SignWithCredentialResponse:
		w.room(m)
		w.signWithCredential(m)
	case *warderv1.SignWithKeyResponse:
		w.room(m)
		w.signWithKey(m)
	case *warderv1.PutCredentialResponse:
		w.room(m)
		w.putCredential(m)
	default:
		return nil, false
	}
	return w.out, !w.odd
}

func (w *plainWriter) revealCredential(m *warderv1.RevealCredentialResponse) {
	w.literal(`{"fields":[`)
	for i, secret := range m.GetFields() {
		w.comma(i)
		w.text(`{"name":`, secret.GetName())
		w.bytes(`,"value":`, secret.GetValue())
		w.literal(`}`)
	}
	w.number(`],"version":`, uint64(m.GetVersion()))
	w.enum(`,"state":`, warderv1.VersionState_name, int32(m.GetState()))
	w.literal(`}`)
}

func (w *plainWriter) issueToken(m *warderv1.IssueTokenResponse) {
	w.text(`{"token":`, m.GetToken())
	w.text(`,"id":`, m.GetId())
	w.time(`,"expiresAt":`, m.GetExpiresAt())
	w.literal(`}`)
}

func (w *plainWriter) signWithCredential(m *warderv1.SignWithCredentialResponse) {
	w.literal(`{`)
	if request := m.GetRequest(); request != nil {
		w.literal(`"request":`)
		w.httpRequest(request)
		w.literal(`,`)
	}
	w.enum(`"endpointClass":`, warderv1.EndpointClass_name, int32(m.GetEndpointClass()))
	w.number(`,"version":`, uint64(m.GetVersion()))
	w.literal(`}`)
}

func (w *plainWriter) httpRequest(m *warderv1.HttpRequest) {
	w.enum(`{"method":`, warderv1.HttpMethod_name, int32(m.GetMethod()))
	w.text(`,"url":`, m.GetUrl())
	w.literal(`,"headers":[`)
	for i, header := range m.GetHeaders() {
		w.comma(i)
		w.text(`{"name":`, header.GetName())
		w.text(`,"value":`, header.GetValue())
		w.literal(`}`)
	}
	w.bytes(`],"body":`, m.GetBody())
	w.literal(`}`)
}

func (w *plainWriter) signWithKey(m *warderv1.SignWithKeyResponse) {
	w.bytes(`{"signature":`, m.GetSignature())
	w.enum(`,"algorithm":`, warderv1.KeyAlgorithm_name, int32(m.GetAlgorithm()))
	w.number(`,"version":`, uint64(m.GetVersion()))
	w.enum(`,"custody":`, warderv1.KeyCustody_name, int32(m.GetCustody()))
	w.literal(`}`)
}

func (w *plainWriter) putCredential(m *warderv1.PutCredentialResponse) {
	w.literal(`{`)
	if stored := m.GetCredential(); stored != nil {
		w.literal(`"credential":`)
		w.credential(stored)
	}
	w.literal(`}`)
}

func (w *plainWriter) credential(m *warderv1.Credential) {
	w.text(`{"namespace":`, m.GetNamespace())
	w.text(`,"name":`, m.GetName())
	w.text(`,"profile":`, m.GetProfile())
	w.literal(`,"versions":[`)
	for i, version := range m.GetVersions() {
		w.comma(i)
		w.credentialVersion(version)
	}
	w.number(`],"activeVersion":`, uint64(m.GetActiveVersion()))
	w.time(`,"createdAt":`, m.GetCreatedAt())
	w.number(`,"revision":"`, m.GetRevision()) // 64 bits are a string: some readers know no such number
	w.literal(`"}`)
}

func (w *plainWriter) credentialVersion(m *warderv1.CredentialVersion) {
	w.number(`{"number":`, uint64(m.GetNumber()))
	w.enum(`,"state":`, warderv1.VersionState_name, int32(m.GetState()))
	w.time(`,"createdAt":`, m.GetCreatedAt())
	w.time(`,"retiredAt":`, m.GetRetiredAt())
	w.time(`,"destroyAt":`, m.GetDestroyAt())
	w.literal(`,"fieldNames":[`)
	for i, name := range m.GetFieldNames() {
		w.comma(i)
		w.text("", name)
	}
	w.literal(`]}`)
}

// plainWriter appends JSON (RFC 8259). Once something is odd, what it wrote is of no use.
type plainWriter struct {
	out []byte
	odd bool
}

// room makes room for the whole of nearly every message at once: growing would leave copies of what is secret.
func (w *plainWriter) room(m proto.Message) {
	const names = 256 // and what else a message's own size does not tell
	w.out = make([]byte, 0, proto.Size(m)*3/2+names)
}

func (w *plainWriter) literal(text string) { w.out = append(w.out, text...) }

// comma goes before each item of a list but the first.
func (w *plainWriter) comma(at int) {
	if at > 0 {
		w.literal(`,`)
	}
}

// text writes a literal, and a string after it.
func (w *plainWriter) text(literal, value string) {
	w.out = append(append(w.out, literal...), '"')
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			w.odd = true
			return
		}
	}
	w.out = append(append(w.out, value...), '"')
}

func (w *plainWriter) bytes(literal string, value []byte) {
	w.out = append(append(w.out, literal...), '"')
	w.out = append(base64.StdEncoding.AppendEncode(w.out, value), '"')
}

func (w *plainWriter) number(literal string, value uint64) {
	w.out = strconv.AppendUint(append(w.out, literal...), value, 10)
}

func (w *plainWriter) enum(literal string, names map[int32]string, value int32) {
	name, known := names[value]
	w.odd = w.odd || !known
	w.text(literal, name)
}

// The seconds of the years 1 to 9999, which is what a Timestamp may hold.
const (
	firstSecond = -62135596800
	lastSecond  = 253402300799
)

// time writes a literal and a time after it (RFC 3339), or neither where there is no time. Fractions of a second have
// 0, 3, 6 or 9 digits.
func (w *plainWriter) time(literal string, at *timestamppb.Timestamp) {
	if at == nil {
		return
	}
	seconds, nanos := at.GetSeconds(), at.GetNanos()
	if seconds < firstSecond || seconds > lastSecond || nanos < 0 || nanos >= int32(time.Second) {
		w.odd = true
		return
	}
	layout := "2006-01-02T15:04:05.000000000Z"
	switch {
	case nanos == 0:
		layout = "2006-01-02T15:04:05Z"
	case nanos%1_000_000 == 0:
		layout = "2006-01-02T15:04:05.000Z"
	case nanos%1_000 == 0:
		layout = "2006-01-02T15:04:05.000000Z"
	}
	w.out = append(append(w.out, literal...), '"')
	w.out = append(time.Unix(seconds, int64(nanos)).UTC().AppendFormat(w.out, layout), '"')
}
