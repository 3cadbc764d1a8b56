package codec

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxParts bounds the fields and elements of a request, of all its messages together: an element of two bytes becomes a
// hundred in memory, and they are held before anybody knows the caller. No request that may be made has a tenth of them.
const maxParts = 4096

// crowded reports whether protobuf's wire form of a message has more parts than a request may have. What does not parse
// counts as far as it does.
func crowded(data []byte, of protoreflect.MessageDescriptor) bool {
	return len(data) > 2*maxParts && partsLeft(data, of, maxParts, maxDepth) < 0 // the least part has two bytes
}

// partsLeft gives how many parts more a message may have after these, negative when they are too many.
func partsLeft(data []byte, of protoreflect.MessageDescriptor, left, depth int) int {
	for len(data) > 0 && left >= 0 {
		number, form, n := protowire.ConsumeTag(data)
		if n < 0 {
			return left
		}
		size := protowire.ConsumeFieldValue(number, form, data[n:])
		if size < 0 {
			return left
		}
		value := data[n : n+size]
		data = data[n+size:]
		left--
		field := of.Fields().ByNumber(number)
		if form != protowire.BytesType || field == nil || depth == 0 {
			continue
		}
		inner, _ := protowire.ConsumeBytes(value)
		switch {
		case field.Message() != nil:
			left = partsLeft(inner, field.Message(), left, depth-1)
		case field.IsPacked():
			left -= len(inner)
		}
	}
	return left
}

// crowdedText is crowded for JSON.
func crowdedText(data []byte) bool { return len(data) > maxParts && textParts(data) > maxParts }

// textParts counts what begins or separates fields and elements outside of strings.
func textParts(data []byte) (parts int) {
	quoted, escaped := false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == ',' || c == '{' || c == '[':
			parts++
		}
	}
	return parts
}
