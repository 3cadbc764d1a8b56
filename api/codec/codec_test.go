package codec_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"warder/api/codec"
	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
	"warder/api/warder/v1/warderv1connect"
)

const maxBytes = 4096

// policies answers PutPolicy and counts how often it was reached.
type policies struct {
	warderv1connect.UnimplementedPolicyServiceHandler
	reached int
}

func (p *policies) PutPolicy(_ context.Context, request *warderv1.PutPolicyRequest) (*warderv1.PutPolicyResponse, error) {
	p.reached++
	return &warderv1.PutPolicyResponse{Policy: &warderv1.Policy{Namespace: request.GetNamespace()}}, nil
}

func serve(t *testing.T) (*httptest.Server, *policies) {
	t.Helper()
	checker, err := codec.NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	handler := &policies{}
	mux := http.NewServeMux()
	options := append(codec.HandlerOptions(maxBytes), connect.WithInterceptors(checker.Interceptor()))
	mux.Handle(warderv1connect.NewPolicyServiceHandler(handler, options...))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server, handler
}

func TestJSONRefusals(t *testing.T) {
	const secret = "canary-7f3a"
	tests := map[string]struct {
		body, status string
		want         string
	}{
		"good":           {`{"namespace":"a","name":"b","text":"permit"}`, "200", `"namespace"`},
		"unknown field":  {`{"namespace":"a","name":"b","txt":"x"}`, "400", "has no field \\\"txt\\\""},
		"wrong type":     {`{"namespace":"a","name":"b","text":{"` + secret + `":1}}`, "400", "does not parse"},
		"bad base":       {`{"namespace":"a","name":"b","expectedRevision":"` + secret + `"}`, "400", "does not parse"},
		"cut off":        {`{"namespace":"a","na`, "400", "does not parse"},
		"duplicate":      {`{"namespace":"a","namespace":"b"}`, "400", "does not parse"},
		"upper-case":     {`{"namespace":"A","name":"b","text":"x"}`, "400", "namespace"},
		"double dash":    {`{"namespace":"a--b","name":"b","text":"x"}`, "400", "namespace"},
		"no text":        {`{"namespace":"a","name":"b"}`, "400", "text"},
		"too large":      {`{"namespace":"a","name":"b","text":"` + strings.Repeat("x", maxBytes) + `"}`, "429", "larger"},
		"far too large":  {`{"namespace":"a","name":"b","text":"` + strings.Repeat("x", 3*maxBytes) + `"}`, "429", "larger"},
		"deep nesting":   {strings.Repeat(`{"a":`, 50) + "1" + strings.Repeat("}", 50), "400", ""},
		"empty message":  {`{}`, "400", "namespace"},
		"empty body":     {``, "400", "namespace"},
		"secret as name": {`{"` + secret + strings.Repeat("x", 100) + `":1}`, "400", "does not parse"},
	}
	server, handler := serve(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := handler.reached
			response, err := http.Post(server.URL+warderv1connect.PolicyServicePutPolicyProcedure, "application/json", strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			body, _ := io.ReadAll(response.Body)
			if !strings.HasPrefix(response.Status, test.status) || !strings.Contains(string(body), test.want) {
				t.Errorf("got %s %s, want %s and %q", response.Status, body, test.status, test.want)
			}
			if strings.Contains(string(body), secret) {
				t.Errorf("the refusal quotes the body: %s", body)
			}
			if reached := handler.reached > before; reached != (test.status == "200") {
				t.Errorf("handler reached: %v", reached)
			}
		})
	}
}

func TestBinaryRefusals(t *testing.T) {
	good, err := proto.Marshal(&warderv1.PutPolicyRequest{Namespace: "a", Name: "b", Text: "x"})
	if err != nil {
		t.Fatal(err)
	}
	unknown := protowire.AppendVarint(protowire.AppendTag(bytes.Clone(good), 999, protowire.VarintType), 1)
	large := append(bytes.Clone(good), bytes.Repeat([]byte{0}, maxBytes)...)
	tests := map[string]struct {
		body []byte
		want warderv1.Reason
	}{
		"good":          {good, warderv1.Reason_REASON_UNSPECIFIED},
		"unknown field": {unknown, warderv1.Reason_REASON_UNKNOWN_FIELD},
		"cut off":       {good[:len(good)-1], warderv1.Reason_REASON_INVALID_ARGUMENT},
		"too large":     {large, warderv1.Reason_REASON_TOO_LARGE},
	}
	server, _ := serve(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			client := connect.NewClient[warderv1.PutPolicyRequest, warderv1.PutPolicyResponse](
				server.Client(), server.URL+warderv1connect.PolicyServicePutPolicyProcedure, connect.WithCodec(raw(test.body)))
			_, err := client.CallUnary(t.Context(), connect.NewRequest(&warderv1.PutPolicyRequest{}))
			if got := reason.Of(err); got != test.want || (err == nil) != (test.want == 0) {
				t.Errorf("got %v (%v), want %v", got, err, test.want)
			}
		})
	}
}

// raw is a codec that sends fixed bytes.
type raw []byte

func (raw) Name() string                       { return "proto" }
func (r raw) Marshal(any) ([]byte, error)      { return r, nil }
func (raw) Unmarshal(data []byte, m any) error { return proto.Unmarshal(data, m.(proto.Message)) }

// TestRulesCompile compiles the rules of each message of the package.
func TestRulesCompile(t *testing.T) {
	var messages []proto.Message
	protoregistry.GlobalTypes.RangeMessages(func(kind protoreflect.MessageType) bool {
		if kind.Descriptor().ParentFile().Package() == "warder.v1" {
			messages = append(messages, kind.New().Interface())
		}
		return true
	})
	checker, err := codec.NewChecker(messages...)
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range messages {
		if got := reason.Of(checker.Check(message)); got == warderv1.Reason_REASON_INTERNAL {
			t.Errorf("the rules of %T cannot be evaluated", message)
		}
	}
}

// TestNestedUnknownField: a field that hides inside a nested message is found.
func TestNestedUnknownField(t *testing.T) {
	checker, err := codec.NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	principal := &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, Namespace: "a", Name: "b"}
	request := &warderv1.GetIdentityRequest{Principal: principal}
	if err := checker.Check(request); err != nil {
		t.Fatal(err)
	}
	principal.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 77, protowire.VarintType), 1))
	if got := reason.Of(checker.Check(request)); got != warderv1.Reason_REASON_UNKNOWN_FIELD {
		t.Errorf("got %v", got)
	}
}

func FuzzCheck(f *testing.F) {
	checker, err := codec.NewChecker()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("\x0a\x01a\x12\x01b\x1a\x01x"))
	f.Add([]byte("\xfa\xff\xff\xff\x0f\x01L"))
	f.Fuzz(func(t *testing.T, data []byte) {
		request := &warderv1.SignWithCredentialRequest{}
		if proto.Unmarshal(data, request) != nil {
			return
		}
		if got := reason.Of(checker.Check(request)); got == warderv1.Reason_REASON_INTERNAL {
			t.Errorf("a request's rules could not be evaluated: %x", data)
		}
	})
}

func BenchmarkCheckSign(b *testing.B) {
	checker, err := codec.NewChecker()
	if err != nil {
		b.Fatal(err)
	}
	request := &warderv1.SignWithCredentialRequest{Namespace: "trading", Name: "binance-main", Request: &warderv1.HttpRequest{
		Method: warderv1.HttpMethod_HTTP_METHOD_POST, Url: "https://api.binance.com/api/v3/order?symbol=LTCBTC",
		Headers: []*warderv1.HttpHeader{{Name: "Content-Type", Value: "application/x-www-form-urlencoded"}},
	}}
	for b.Loop() {
		if err := checker.Check(request); err != nil {
			b.Fatal(err)
		}
	}
}
