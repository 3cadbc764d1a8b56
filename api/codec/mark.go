package codec

import (
	"regexp"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A mark is an unknown field in an otherwise empty message: number markField,
// whose bytes are one of the letters below and a word for people. A caller
// could send the same field; it would be refused all the same.
const markField = protowire.MaxValidNumber

const (
	markTooLarge  = 'L'
	markMalformed = 'M'
	markUnknown   = 'U'
)

func mark(m proto.Message, kind byte, word string) {
	proto.Reset(m)
	value := append([]byte{kind}, word...)
	field := protowire.AppendTag(nil, markField, protowire.BytesType)
	m.ProtoReflect().SetUnknown(protowire.AppendBytes(field, value))
}

// markJSON keeps of protojson's error only the field's name or the position:
// its text quotes the body, and the body may hold secrets.
func markJSON(m proto.Message, err error) {
	if found := unknownField.FindStringSubmatch(err.Error()); found != nil {
		mark(m, markUnknown, found[1])
		return
	}
	mark(m, markMalformed, position.FindString(err.Error()))
}

var (
	unknownField = regexp.MustCompile(`unknown field "([A-Za-z0-9_\[\]./-]{1,64})"`)
	position     = regexp.MustCompile(`line [0-9]+:[0-9]+`)
)

// readMark returns the mark of a message's own unknown fields.
func readMark(unknown protoreflect.RawFields) (kind byte, word string) {
	for len(unknown) > 0 {
		number, wireType, n := protowire.ConsumeTag(unknown)
		if n < 0 {
			return markMalformed, ""
		}
		value, m := protowire.ConsumeBytes(unknown[n:])
		if number == markField && wireType == protowire.BytesType && m > 1 {
			return value[0], string(value[1:])
		}
		if number == markField && wireType == protowire.BytesType && m > 0 && len(value) == 1 {
			return value[0], ""
		}
		skip := protowire.ConsumeFieldValue(number, wireType, unknown[n:])
		if skip < 0 {
			return markMalformed, ""
		}
		unknown = unknown[n+skip:]
	}
	return 0, ""
}

// hasUnknown tells whether the message, or one inside it, has unknown fields.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		found = slices.ContainsFunc(messagesOf(field, value), hasUnknown)
		return !found
	})
	return found
}

// messagesOf returns the messages that a field holds. warder.v1 has no maps.
func messagesOf(field protoreflect.FieldDescriptor, value protoreflect.Value) []protoreflect.Message {
	if field.Message() == nil || field.IsMap() {
		return nil
	}
	if !field.IsList() {
		return []protoreflect.Message{value.Message()}
	}
	list := value.List()
	messages := make([]protoreflect.Message, list.Len())
	for i := range messages {
		messages[i] = list.Get(i).Message()
	}
	return messages
}
