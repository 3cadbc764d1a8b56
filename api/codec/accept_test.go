package codec_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"warder/api/codec"
	warderv1 "warder/api/warder/v1"
)

// rulesOfPlain is the digest of the messages that acceptPlain knows, rules and all. When it changes, hold accept.go
// against the .proto files, and only then write the new one here.
const rulesOfPlain = "97c53626bdae983b"

func TestRulesOfPlain(t *testing.T) {
	digest, seen := sha256.New(), map[protoreflect.FullName]bool{}
	var add func(m protoreflect.MessageDescriptor)
	add = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(protodesc.ToDescriptorProto(m))
		if err != nil {
			t.Fatal(err)
		}
		digest.Write(text)
		for i := range m.Fields().Len() {
			if inner := m.Fields().Get(i).Message(); inner != nil {
				add(inner)
			}
		}
	}
	for _, m := range hotMessages() {
		add(m.ProtoReflect().Descriptor())
	}
	if got := hex.EncodeToString(digest.Sum(nil)[:8]); got != rulesOfPlain {
		t.Errorf("the rules are now %s: hold accept.go against them", got)
	}
}

func newChecker(t testing.TB) *codec.Checker {
	t.Helper()
	checker, err := codec.NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	return checker
}

// acceptAlike fails the test where a request is accepted that its rules refuse, and says whether it is.
func acceptAlike(t rapid.TB, checker *codec.Checker, m proto.Message) bool {
	t.Helper()
	if !codec.AcceptPlain(m) {
		return false
	}
	if err := checker.Judge(m); err != nil {
		t.Fatalf("%T %v was accepted: %v", m, m, err)
	}
	return true
}

// edge is a text at the edge of a rule: of one kind of characters, and of a length about a bound.
func edge(most int, of string) *rapid.Generator[string] {
	return rapid.Custom(func(r *rapid.T) string {
		text := strings.Repeat(rapid.SampledFrom(strings.Split(of, "")).Draw(r, "most of it"), rapid.SampledFrom([]int{0, 1, 2, 5, most - 1, most, most + 1}).Draw(r, "length"))
		if rapid.IntRange(0, 3).Draw(r, "odd") > 0 {
			return text
		}
		at := rapid.IntRange(0, len(text)).Draw(r, "at")
		return text[:at] + rapid.SampledFrom([]string{"-", "--", "_", "A", "0", "é", "\n", "\x00", " ", ".", "\"", "\x7f", "\xff"}).Draw(r, "odd one") + text[at:]
	})
}

// mostly is what keeps the rules, and now and then something at their edge, so that most messages differ from a good one
// in one thing.
func mostly[T any](r *rapid.T, good T, edge *rapid.Generator[T], what string) T {
	if rapid.IntRange(0, 9).Draw(r, "leave the "+what) > 0 {
		return good
	}
	return edge.Draw(r, what)
}

func sized(sizes ...int) *rapid.Generator[[]byte] {
	return rapid.Map(rapid.SampledFrom(sizes), func(n int) []byte { return make([]byte, n) })
}

func edgeIssue(r *rapid.T) *warderv1.IssueTokenRequest {
	name := edge(63, "a9z")
	good := &warderv1.Resource{Type: "credential", Namespace: "default", Name: "x"}
	issue := &warderv1.IssueTokenRequest{
		MaxUses: mostly(r, 0, rapid.SampledFrom([]uint32{1, 1_000_000, 1_000_001}), "uses"),
		Ttl: mostly(r, &durationpb.Duration{Seconds: 60}, rapid.SampledFrom([]*durationpb.Duration{
			nil, {}, {Seconds: 4, Nanos: 1}, {Seconds: 5}, {Seconds: 4}, {Seconds: 3600}, {Seconds: 3600, Nanos: 1}, {Seconds: 3601}, {Seconds: -5}, {Seconds: 5, Nanos: -1},
		}), "ttl"),
	}
	for range mostly(r, 1, rapid.SampledFrom([]int{0, 2, 16, 17}), "grants") {
		grant := &warderv1.Grant{Resource: mostly(r, good, rapid.SampledFrom([]*warderv1.Resource{
			nil, {}, {Type: "credential"}, {Type: name.Draw(r, "type"), Namespace: name.Draw(r, "namespace"), Name: name.Draw(r, "name")},
		}), "resource")}
		for i := range mostly(r, 1, rapid.SampledFrom([]int{0, 2, 16, 17}), "actions") {
			grant.Actions = append(grant.Actions, mostly(r, "a-b.c-d"+strings.Repeat("x", i), rapid.SampledFrom([]string{
				"a.b", "a", ".a", "a.", "a-.b", "a.b.c", "a1.b", "A.b", "a--b.c", strings.Repeat("a", 61) + ".a", strings.Repeat("a", 62) + ".a",
			}), "action"))
		}
		if mostly(r, false, rapid.Bool(), "an action twice") {
			grant.Actions = append(grant.Actions, grant.Actions...)
		}
		issue.Grants = append(issue.Grants, grant)
	}
	return issue
}

func edgeSign(r *rapid.T) *warderv1.SignWithCredentialRequest {
	name := edge(63, "a9z")
	request := &warderv1.HttpRequest{
		Method: mostly(r, 1, rapid.Map(rapid.Int32Range(-1, 7), func(n int32) warderv1.HttpMethod { return warderv1.HttpMethod(n) }), "method"),
		Body:   mostly(r, nil, sized(1, 262144, 262145), "body"),
		Url: mostly(r, "https://a", rapid.SampledFrom([]string{
			"", "https://", "http://a", "HTTPS://a", "https://" + strings.Repeat("a", 16376), "https://" + strings.Repeat("a", 16377), "https://é\n",
		}), "url"),
	}
	header := &warderv1.HttpHeader{Name: mostly(r, "A", edge(128, "aA0!#$%&'*+.^_`|~-"), "name"), Value: mostly(r, "b", edge(8192, "a \t~"), "value")}
	for range mostly(r, 1, rapid.SampledFrom([]int{0, 64, 65}), "headers") {
		request.Headers = append(request.Headers, header)
	}
	return &warderv1.SignWithCredentialRequest{
		Namespace: mostly(r, "a", name, "namespace"), Name: mostly(r, "a", name, "name"), Request: mostly(r, request, rapid.Just[*warderv1.HttpRequest](nil), "request"),
	}
}

func edgeKey(r *rapid.T) *warderv1.SignWithKeyRequest {
	name := edge(63, "a9z")
	key := &warderv1.SignWithKeyRequest{
		Namespace: mostly(r, "a", name, "namespace"), Name: mostly(r, "a", name, "name"),
		Algorithm: mostly(r, 1, rapid.Map(rapid.Int32Range(-1, 4), func(n int32) warderv1.KeyAlgorithm { return warderv1.KeyAlgorithm(n) }), "algorithm"),
	}
	switch rapid.IntRange(0, 4).Draw(r, "input") {
	case 0, 1:
		key.Input = &warderv1.SignWithKeyRequest_Digest{Digest: mostly(r, make([]byte, 32), sized(0, 31, 33), "digest")}
	case 2, 3:
		key.Input = &warderv1.SignWithKeyRequest_Message{Message: sized(0, 1, 65536, 65537).Draw(r, "message")}
	}
	return key
}

func edgePut(r *rapid.T) *warderv1.PutCredentialRequest {
	name := edge(63, "a9z")
	put := &warderv1.PutCredentialRequest{Namespace: mostly(r, "a", name, "namespace"), Name: mostly(r, "a", name, "name"), Profile: mostly(r, "a", name, "profile")}
	for range mostly(r, 1, rapid.SampledFrom([]int{0, 16, 17}), "fields") {
		put.Fields = append(put.Fields, &warderv1.SecretField{
			Name: mostly(r, "secret", edge(63, "a_0"), "name"), Value: mostly(r, []byte{1}, sized(0, 16384, 16385), "value"),
		})
	}
	return put
}

func TestAcceptPlain(t *testing.T) {
	checker, accepted := newChecker(t), map[string]int{}
	requests := rapid.Custom(func(r *rapid.T) []proto.Message {
		name := edge(63, "a9z")
		reveal := &warderv1.RevealCredentialRequest{Namespace: mostly(r, "a", name, "namespace"), Name: name.Draw(r, "name"), Version: 1}
		return []proto.Message{edgeIssue(r), edgeSign(r), edgeKey(r), edgePut(r), reveal, &warderv1.GetCredentialRequest{Namespace: "a", Name: "b"}}
	})
	rapid.Check(t, func(r *rapid.T) {
		for _, m := range requests.Draw(r, "requests") {
			acceptAlike(r, checker, m)
		}
	})
	const made = 200 // the same in every run, so that what they prove is no matter of luck
	for seed := range made {
		for _, m := range requests.Example(seed) {
			if acceptAlike(t, checker, m) {
				accepted[string(m.ProtoReflect().Descriptor().Name())]++
			}
		}
	}
	for _, text := range plainRequests()[:7] {
		taken := false
		for _, m := range hotMessages() {
			if protojson.Unmarshal([]byte(text), m) == nil && acceptAlike(t, checker, m) {
				taken = true
				hideUnknown(t, m)
			}
		}
		if !taken && !strings.Contains(text, "{}") && !strings.Contains(text, "AAECAw==") {
			t.Errorf("%s is not accepted", text)
		}
	}
	for _, m := range hotMessages() {
		kind := string(m.ProtoReflect().Descriptor().Name())
		if n := accepted[kind]; n < made/10 || n > made*19/20 {
			t.Errorf("%d of %d %s were accepted: they prove little", n, made, kind)
		}
	}
	if accepted["GetCredentialRequest"] > 0 {
		t.Error("a message was accepted that nobody looked at")
	}
}

// hideUnknown puts an unknown field into each message inside an accepted one: it is accepted no more.
func hideUnknown(t *testing.T, m proto.Message) {
	t.Helper()
	var hide func(inner protoreflect.Message)
	hide = func(inner protoreflect.Message) {
		inner.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 777, protowire.VarintType), 1))
		if codec.AcceptPlain(m) {
			t.Errorf("%v is accepted with an unknown field in its %s", m, inner.Descriptor().Name())
		}
		inner.SetUnknown(nil)
		inner.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
			switch {
			case field.IsList() && field.Message() != nil:
				for i := range value.List().Len() {
					hide(value.List().Get(i).Message())
				}
			case field.Message() != nil:
				hide(value.Message())
			}
			return true
		})
	}
	hide(m.ProtoReflect())
}

func FuzzAcceptPlain(f *testing.F) {
	checker := newChecker(f)
	for _, text := range plainRequests() {
		for _, m := range hotMessages() {
			if protojson.Unmarshal([]byte(text), m) == nil {
				data, err := proto.Marshal(m)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range hotMessages() {
			if proto.Unmarshal(data, m) == nil {
				acceptAlike(t, checker, m)
			}
		}
	})
}
