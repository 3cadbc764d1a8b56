package codec

import (
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// maxDepth bounds the nesting of a request; the deepest message of warder.v1 has four levels.
const maxDepth = 16

// HandlerOptions returns what every handler of warder.v1 is made with: strict
// codecs that take messages of up to maxBytes and of a bounded number of parts, and no compression, neither of
// answers (they hold secrets beside the caller's own words) nor of requests (a
// small body could grow large).
//
// A body over maxBytes is still read up to twice that, so that its refusal can
// say TOO_LARGE with a detail; past it Connect hangs up with resource_exhausted.
func HandlerOptions(maxBytes int) []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithCodec(binary{max: maxBytes}),
		connect.WithCodec(text{name: "json", max: maxBytes}),
		connect.WithCodec(text{name: "json; charset=utf-8", max: maxBytes}),
		connect.WithCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(2 * maxBytes),
	}
}

// JSON gives the codec of HandlerOptions for application/json, for a handler that is not Connect's.
func JSON(maxBytes int) connect.Codec { return text{name: "json", max: maxBytes} }

// Binary gives the codec of HandlerOptions for application/proto.
func Binary(maxBytes int) connect.Codec { return binary{max: maxBytes} }

// binary is protobuf's wire format.
type binary struct{ max int }

func (binary) Name() string { return "proto" }

func (binary) Marshal(message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(m)
}

func (binary) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m)
}

func (c binary) Unmarshal(data []byte, message any) error {
	m, err := protoMessage(message)
	if err != nil {
		return err
	}
	if len(data) > c.max || crowded(data, m.ProtoReflect().Descriptor()) {
		mark(m, markTooLarge, "")
		return nil
	}
	options := proto.UnmarshalOptions{RecursionLimit: maxDepth}
	if err := options.Unmarshal(data, m); err != nil {
		mark(m, markMalformed, "")
	}
	return nil
}

// text is protobuf's JSON mapping, with every field of an answer written out.
type text struct {
	name string
	max  int
}

func (c text) Name() string { return c.name }

func (text) Marshal(message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	if plain, ok := writePlain(m); ok {
		return plain, nil
	}
	return protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
}

func (c text) Unmarshal(data []byte, message any) error {
	m, err := protoMessage(message)
	if err != nil {
		return err
	}
	if len(data) > c.max || crowdedText(data) {
		mark(m, markTooLarge, "")
		return nil
	}
	if len(data) == 0 || readPlain(data, m) {
		return nil
	}
	options := protojson.UnmarshalOptions{DiscardUnknown: false, RecursionLimit: maxDepth}
	if err := options.Unmarshal(data, m); err != nil {
		markJSON(m, err)
	}
	return nil
}

func protoMessage(message any) (proto.Message, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("codec: %T is not a protobuf message", message)
	}
	return m, nil
}
