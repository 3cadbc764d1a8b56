package codec_test

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"warder/api/codec"
	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
)

// TestCrowdedRequests: what has more parts than any request is refused before they are made; how large it is else does not
// matter.
func TestCrowdedRequests(t *testing.T) {
	checker, err := codec.NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	const maxBytes = 512 << 10
	text := func(s string) []byte { return []byte(s) }
	for name, try := range map[string]struct {
		data    []byte
		json    bool
		message proto.Message
		refused bool
	}{
		"empty grants":            {bytes.Repeat([]byte{0x0a, 0}, 250_000), false, &warderv1.IssueTokenRequest{}, true},
		"a few too many":          {bytes.Repeat([]byte{0x0a, 0}, codec.MaxParts+1), false, &warderv1.IssueTokenRequest{}, true},
		"actions in a grant":      {append([]byte{0x0a, 0x90, 0xa1, 0x0f}, bytes.Repeat([]byte{0x0a, 0}, 125_000)...), false, &warderv1.IssueTokenRequest{}, true},
		"as many as may be":       {bytes.Repeat([]byte{0x0a, 0}, codec.MaxParts), false, &warderv1.IssueTokenRequest{}, false},
		"one long text":           {append([]byte{0x1a, 0x80, 0x80, 0x10}, bytes.Repeat([]byte{0x0a}, 1<<18)...), false, &warderv1.PutPolicyRequest{}, false},
		"JSON, empty grants":      {text(`{"grants":[` + strings.Repeat("{},", 150_000) + `{}]}`), true, &warderv1.IssueTokenRequest{}, true},
		"JSON, after a quotation": {text(`{"x":"\"","grants":[` + strings.Repeat("{},", 150_000) + `{}]}`), true, &warderv1.IssueTokenRequest{}, true},
		"JSON, one long text":     {text(`{"text":"` + strings.Repeat(`{\",[`, 50_000) + `"}`), true, &warderv1.PutPolicyRequest{}, false},
	} {
		form := codec.Binary(maxBytes)
		if try.json {
			form = codec.JSON(maxBytes)
		}
		if err := form.Unmarshal(try.data, try.message); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := reason.Of(checker.Check(try.message)) == warderv1.Reason_REASON_TOO_LARGE; got != try.refused {
			t.Errorf("%s: refused as too large: %v", name, got)
		}
	}
}

// FuzzParts: what is counted before a message is decoded is no less than what it then has, in either form.
func FuzzParts(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0x0a, 0}, 9))
	f.Add([]byte("\x0a\x08\x0a\x00\x0a\x00\x0a\x00\x0a\x00\x12\x02\x08\x01"))
	f.Add([]byte(`{"grants":[{},{"actions":["\"{",""],"maxUses":"1"}],"ttl":"3s"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		const few = 8
		wire, text := &warderv1.IssueTokenRequest{}, &warderv1.IssueTokenRequest{}
		if proto.Unmarshal(data, wire) == nil && codec.PartsLeft(data, wire.ProtoReflect().Descriptor(), few, 16) >= 0 && parts(wire.ProtoReflect()) > few {
			t.Errorf("%d parts in %x", parts(wire.ProtoReflect()), data)
		}
		if protojson.Unmarshal(data, text) == nil && parts(text.ProtoReflect()) > codec.TextParts(data) {
			t.Errorf("%d parts in %s", parts(text.ProtoReflect()), data)
		}
	})
}

// parts counts the fields and elements of a message and of all in it.
func parts(m protoreflect.Message) int {
	count := 0
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsList():
			for i := range value.List().Len() {
				count++
				if field.Message() != nil {
					count += parts(value.List().Get(i).Message())
				}
			}
		case field.Message() != nil:
			count += 1 + parts(value.Message())
		default:
			count++
		}
		return true
	})
	return count
}
