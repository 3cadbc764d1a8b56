package api_test

import (
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	_ "warder/api/warder/v1" // registers the files
)

// services yields each service of warder.v1.
func services(t *testing.T) []protoreflect.ServiceDescriptor {
	t.Helper()
	var all []protoreflect.ServiceDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("warder.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			all = append(all, file.Services().Get(i))
		}
		return true
	})
	if len(all) != 9 {
		t.Fatalf("%d services, want 9", len(all))
	}
	return all
}

func methods(t *testing.T, visit func(protoreflect.MethodDescriptor)) {
	t.Helper()
	for _, service := range services(t) {
		for i := range service.Methods().Len() {
			visit(service.Methods().Get(i))
		}
	}
}

// TestNoGet: Connect serves a method without side effects by GET too, with the
// request in the URL, where logs keep it. No method of ours is one: each leaves a
// record in the audit log.
func TestNoGet(t *testing.T) {
	methods(t, func(method protoreflect.MethodDescriptor) {
		options := method.Options().(*descriptorpb.MethodOptions)
		if options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
			t.Errorf("%s is marked NO_SIDE_EFFECTS", method.FullName())
		}
	})
}

// TestEveryRequestFieldIsBounded walks every request: no maps, every string, byte
// field and list has a bound, every enum takes known values only.
func TestEveryRequestFieldIsBounded(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	methods(t, func(method protoreflect.MethodDescriptor) { walk(t, method.Input(), seen) })
}

func walk(t *testing.T, message protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) {
	t.Helper()
	if seen[message.FullName()] || message.ParentFile().Package() != "warder.v1" {
		return
	}
	seen[message.FullName()] = true
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		if problem := unbounded(field); problem != "" {
			t.Errorf("%s: %s", field.FullName(), problem)
		}
		if field.Message() != nil {
			walk(t, field.Message(), seen)
		}
	}
}

func unbounded(field protoreflect.FieldDescriptor) string {
	rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	switch {
	case field.IsMap():
		return "is a map"
	case field.IsList() && rules.GetRepeated().GetMaxItems() == 0:
		return "a list without max_items"
	case field.IsList():
		return unboundedValue(field, rules.GetRepeated().GetItems())
	}
	return unboundedValue(field, rules)
}

func unboundedValue(field protoreflect.FieldDescriptor, rules *validate.FieldRules) string {
	switch field.Kind() {
	case protoreflect.StringKind:
		s := rules.GetString()
		fixed := s.HasPattern() && !strings.ContainsAny(s.GetPattern(), "*+")
		if s.GetMaxLen() == 0 && s.GetMaxBytes() == 0 && !fixed {
			return "a string without a bound"
		}
	case protoreflect.BytesKind:
		if b := rules.GetBytes(); b.GetMaxLen() == 0 && b.GetLen() == 0 {
			return "bytes without a bound"
		}
	case protoreflect.EnumKind:
		if !rules.GetEnum().GetDefinedOnly() {
			return "an enum that takes unknown values"
		}
	}
	return ""
}
