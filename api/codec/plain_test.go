package codec_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"warder/api/codec"
	warderv1 "warder/api/warder/v1"
)

// plainRequests are requests in the spelling that is read without protojson.
func plainRequests() []string {
	return []string{
		`{"namespace":"default","name":"static"}`,
		` { "namespace" : "default" , "name":"static","version":12 } ` + "\r\n\t",
		`{"grants":[{"actions":["credential.reveal","credential.sign"],"resource":{"type":"credential","namespace":"default","name":"x"}},{}],"ttl":"60s","maxUses":7}`,
		`{"namespace":"default","name":"hmac","request":{"method":"HTTP_METHOD_POST","url":"https://api.binance.com/api/v3/order?symbol=LTCBTC","headers":[{"name":"A","value":"b"},{}],"body":"AAE="}}`,
		`{"namespace":"default","name":"k","algorithm":"KEY_ALGORITHM_ED25519","message":"AAECAw=="}`,
		`{"namespace":"default","name":"k","digest":"AAECAw==","algorithm":"KEY_ALGORITHM_ECDSA_P256_SHA256"}`,
		`{"namespace":"default","name":"c","profile":"binance","fields":[{"name":"api_key","value":"c2VjcmV0"},{"name":"secret","value":"AAAA"}]}`,
		`{}`, `{"grants":[],"ttl":"0s"}`, `{"request":{},"name":""}`, `{"digest":"AB=="}`,
	}
}

// oddRequests are left to protojson, which takes some of them.
func oddRequests() []string {
	return []string{
		`{"namespace":"a","namespace":"b"}`, `{"namespace":null}`, `{"namespace":"\u0061"}`, `{"namespace":"é"}`, `{"namespace":"a` + "\x7f" + `"}`,
		`{"namespace":"a",}`, `{,}`, `{"namespace" "a"}`, `{"namespace":"a"}{}`, `{"namespace":"a"`, `[]`, `"a"`, ``, `{"Namespace":"a"}`, `{"name ":"a"}`,
		`{"version":01}`, `{"version":1.0}`, `{"version":1e1}`, `{"version":-1}`, `{"version":"1"}`, `{"version":4294967296}`, `{"version":+1}`, `{"version":}`,
		`{"max_uses":1}`, `{"ttl":"1.5s"}`, `{"ttl":"060s"}`, `{"ttl":"+60s"}`, `{"ttl":"s"}`, `{"ttl":"60"}`, `{"ttl":"99999999999s"}`, `{"ttl":60}`, `{"ttl":"-0s"}`,
		`{"grants":[{}{}]}`, `{"grants":[{},]}`, `{"grants":{}}`, `{"grants":[null]}`, `{"grants":[{"actions":[1]}]}`,
		`{"digest":"AA==","message":"AA=="}`, `{"digest":""}`, `{"digest":"AA"}`, `{"digest":"_-=="}`, `{"digest":"A==="}`, `{"algorithm":2}`,
		`{"algorithm":"ED25519"}`, `{"algorithm":"KEY_ALGORITHM_NONE"}`, `{"fields":[{"name":"a","value":"AAAA","value":"AAAA"}]}`, "{\"name\":\"a\n\"}",
	}
}

func hotMessages() []proto.Message {
	return []proto.Message{
		&warderv1.RevealCredentialRequest{}, &warderv1.IssueTokenRequest{}, &warderv1.SignWithCredentialRequest{},
		&warderv1.SignWithKeyRequest{}, &warderv1.PutCredentialRequest{},
	}
}

// readAlike fails the test where a request is read as something else than protojson reads, and says how many kinds of
// request it was read as.
func readAlike(t *testing.T, data []byte) int {
	t.Helper()
	read := 0
	for _, plain := range hotMessages() {
		// What was there before must be gone after.
		if err := protojson.Unmarshal([]byte(`{"name":"left over"}`), plain); err != nil {
			proto.Reset(plain)
		}
		if !codec.ReadPlain(data, plain) {
			continue
		}
		read++
		want := plain.ProtoReflect().New().Interface()
		if err := (protojson.UnmarshalOptions{RecursionLimit: 16}).Unmarshal(data, want); err != nil {
			t.Errorf("%T: %q was read, and protojson refuses it: %v", plain, data, err)
		} else if !proto.Equal(plain, want) {
			t.Errorf("%T: %q was read as %v; protojson reads %v", plain, data, plain, want)
		}
	}
	return read
}

func TestReadPlain(t *testing.T) {
	for _, text := range plainRequests() {
		if readAlike(t, []byte(text)) == 0 {
			t.Errorf("%s was left to protojson", text)
		}
	}
	for _, text := range oddRequests() {
		if readAlike(t, []byte(text)) > 0 {
			t.Errorf("%q was not left to protojson", text)
		}
	}
}

// TestReadPlainPieces cuts plain requests and joins the pieces of two, at every place.
func TestReadPlainPieces(t *testing.T) {
	all := append(plainRequests(), oddRequests()...)
	for _, one := range plainRequests() {
		for cut := range len(one) {
			readAlike(t, []byte(one[:cut]))
			for _, junk := range []string{`"`, `{`, `}`, `[`, `]`, `,`, `:`, `0`, `\`, " ", "\x00", "null"} {
				readAlike(t, []byte(one[:cut]+junk+one[cut:]))
				readAlike(t, []byte(one[:cut]+junk+one[cut+1:]))
			}
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		first, second := rapid.SampledFrom(all).Draw(r, "first"), rapid.SampledFrom(all).Draw(r, "second")
		joined := first[:rapid.IntRange(0, len(first)).Draw(r, "to")] + second[rapid.IntRange(0, len(second)).Draw(r, "from"):]
		readAlike(t, []byte(joined))
	})
}

func FuzzReadPlain(f *testing.F) {
	for _, text := range append(plainRequests(), oddRequests()...) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) { readAlike(t, data) })
}

// TestWritePlain: an answer is written byte for byte as protojson writes it, but for protojson's spaces, or left to it.
func TestWritePlain(t *testing.T) {
	text := rapid.OneOf(rapid.StringMatching(`[ -~]{0,20}`), rapid.StringMatching(`[a-z]{1,5}`), rapid.String())
	word := rapid.StringMatching(`[a-z]{1,5}`)
	moment := rapid.Custom(func(r *rapid.T) *timestamppb.Timestamp {
		return &timestamppb.Timestamp{
			Seconds: rapid.OneOf(rapid.Int64Range(0, 1<<33), rapid.Int64Range(-62135596801, -62135596799), rapid.Int64Range(253402300798, 253402300801), rapid.Int64()).Draw(r, "seconds"),
			Nanos:   rapid.OneOf(rapid.SampledFrom([]int32{0, 1, 1000, 1_000_000, 123_000_000, 100, 999_999_999, 1_000_000_000, -1}), rapid.Int32Range(0, 999_999_999)).Draw(r, "nanos"),
		}
	})
	value := rapid.SliceOfN(rapid.Byte(), 0, 40)
	taken := 0
	rapid.Check(t, func(r *rapid.T) {
		text := text
		if rapid.Bool().Draw(r, "words alone") {
			text = word
		}
		some := func(message *timestamppb.Timestamp) *timestamppb.Timestamp {
			if rapid.Bool().Draw(r, "absent") {
				return nil
			}
			return message
		}
		small := rapid.Int32Range(-1, 9)
		reveal := &warderv1.RevealCredentialResponse{Version: rapid.Uint32().Draw(r, "version"), State: warderv1.VersionState(small.Draw(r, "state"))}
		request := &warderv1.HttpRequest{Method: warderv1.HttpMethod(small.Draw(r, "method")), Url: text.Draw(r, "url"), Body: value.Draw(r, "body")}
		version := &warderv1.CredentialVersion{
			Number: rapid.Uint32().Draw(r, "number"), State: warderv1.VersionState(small.Draw(r, "state")), CreatedAt: some(moment.Draw(r, "created")),
			RetiredAt: some(moment.Draw(r, "retired")), DestroyAt: some(moment.Draw(r, "ends")), FieldNames: rapid.SliceOfN(text, 0, 3).Draw(r, "names"),
		}
		stored := &warderv1.Credential{
			Namespace: text.Draw(r, "namespace"), Name: text.Draw(r, "name"), Profile: text.Draw(r, "profile"), Revision: rapid.Uint64().Draw(r, "revision"),
			ActiveVersion: rapid.Uint32().Draw(r, "active"), CreatedAt: some(moment.Draw(r, "made")),
		}
		for range rapid.IntRange(0, 3).Draw(r, "count") {
			reveal.Fields = append(reveal.Fields, &warderv1.SecretField{Name: text.Draw(r, "name"), Value: value.Draw(r, "value")})
			request.Headers = append(request.Headers, &warderv1.HttpHeader{Name: text.Draw(r, "name"), Value: text.Draw(r, "value")})
			stored.Versions = append(stored.Versions, version, nil)
		}
		for _, answer := range []proto.Message{
			reveal, &warderv1.IssueTokenResponse{Token: text.Draw(r, "token"), Id: text.Draw(r, "id"), ExpiresAt: some(moment.Draw(r, "expires"))},
			&warderv1.SignWithCredentialResponse{Request: request, EndpointClass: warderv1.EndpointClass(small.Draw(r, "class")), Version: 1},
			&warderv1.SignWithKeyResponse{
				Signature: value.Draw(r, "signature"), Algorithm: warderv1.KeyAlgorithm(small.Draw(r, "algorithm")),
				Version: rapid.Uint32().Draw(r, "version"), Custody: warderv1.KeyCustody(small.Draw(r, "custody")),
			},
			&warderv1.PutCredentialResponse{Credential: stored}, &warderv1.PutCredentialResponse{}, &warderv1.SignWithCredentialResponse{},
			&warderv1.RevealCredentialResponse{}, &warderv1.IssueTokenResponse{}, &warderv1.SignWithKeyResponse{}, &warderv1.GetStatusResponse{},
		} {
			plain, ok := codec.WritePlain(answer)
			if !ok {
				continue
			}
			taken++
			spaced, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(answer)
			if err != nil {
				t.Fatalf("%T was written, and protojson refuses it: %v", answer, err)
			}
			var want bytes.Buffer
			if err := json.Compact(&want, spaced); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(plain, want.Bytes()) {
				t.Fatalf("%T was written as %s; protojson writes %s", answer, plain, want.Bytes())
			}
		}
	})
	if taken < 50 { // of 20 rounds, which the short form is
		t.Errorf("%d answers were written; the others were left to protojson", taken)
	}
}

func BenchmarkReadPlain(b *testing.B) {
	body, request := []byte(plainRequests()[0]), &warderv1.RevealCredentialRequest{}
	b.ReportAllocs()
	for b.Loop() {
		if !codec.ReadPlain(body, request) {
			b.Fatal("left to protojson")
		}
	}
}

func BenchmarkWritePlain(b *testing.B) {
	answer := &warderv1.RevealCredentialResponse{
		Version: 1, State: warderv1.VersionState_VERSION_STATE_ACTIVE,
		Fields: []*warderv1.SecretField{{Name: "secret", Value: []byte(strings.Repeat("x", 256))}},
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := codec.WritePlain(answer); !ok {
			b.Fatal("left to protojson")
		}
	}
}
