package codec

import (
	"context"
	"errors"
	"fmt"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
)

// Checker holds requests to the rules that the .proto files write beside each field.
// It is safe for concurrent use.
type Checker struct{ rules protovalidate.Validator }

// NewChecker compiles the rules of the given messages, or of each message when it
// first meets it. Rules that do not compile are an error of the build, told here.
func NewChecker(messages ...proto.Message) (*Checker, error) {
	rules, err := protovalidate.New(protovalidate.WithMessages(messages...), protovalidate.WithFailFast())
	if err != nil {
		return nil, fmt.Errorf("compile the rules of warder.v1: %w", err)
	}
	return &Checker{rules: rules}, nil
}

// Check returns nil or a refusal with its reason: TOO_LARGE, UNKNOWN_FIELD or
// INVALID_ARGUMENT. The refusal names the field and its rule, never its value.
func (c *Checker) Check(request proto.Message) error {
	if acceptPlain(request) {
		return nil
	}
	return c.judge(request)
}

func (c *Checker) judge(request proto.Message) error {
	if err := checkShape(request); err != nil {
		return err
	}
	err := c.rules.Validate(request)
	if err == nil {
		return nil
	}
	var broken *protovalidate.ValidationError
	if errors.As(err, &broken) && len(broken.Violations) > 0 {
		violation := broken.Violations[0].Proto
		field := protovalidate.FieldPathString(violation.GetField())
		return refuse(warderv1.Reason_REASON_INVALID_ARGUMENT, field, fmt.Sprintf("%s: %s", nameOr(field, "request"), violation.GetMessage()))
	}
	return reason.New(warderv1.Reason_REASON_INTERNAL, "the request's rules could not be evaluated")
}

func checkShape(request proto.Message) error {
	m := request.ProtoReflect()
	kind, word := readMark(m.GetUnknown())
	switch {
	case kind == markTooLarge:
		return refuse(warderv1.Reason_REASON_TOO_LARGE, "", "the request is larger than this server takes")
	case kind == markMalformed:
		return refuse(warderv1.Reason_REASON_INVALID_ARGUMENT, "", "the request does not parse"+atPosition(word))
	case kind == markUnknown:
		return refuse(warderv1.Reason_REASON_UNKNOWN_FIELD, word, fmt.Sprintf("%s has no field %q", m.Descriptor().Name(), word))
	case hasUnknown(m):
		return refuse(warderv1.Reason_REASON_UNKNOWN_FIELD, "", fmt.Sprintf("%s has a field that this server does not know", m.Descriptor().Name()))
	}
	return nil
}

func refuse(why warderv1.Reason, field, message string) error {
	return reason.With(&warderv1.ErrorInfo{Reason: why, Field: field}, message)
}

func nameOr(field, otherwise string) string {
	if field == "" {
		return otherwise
	}
	return field
}

func atPosition(word string) string {
	if word == "" {
		return ""
	}
	return " (" + word + ")"
}

// Interceptor checks each request. Place it inside the one that authenticates.
func (c *Checker) Interceptor() connect.Interceptor { return interceptor{c} }

type interceptor struct{ checker *Checker }

func (i interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		if err := i.check(request.Any()); err != nil {
			return nil, err
		}
		return next(ctx, request)
	}
}

func (i interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (i interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return next(ctx, checkedConn{conn, i})
	}
}

func (i interceptor) check(message any) error {
	request, err := protoMessage(message)
	if err != nil {
		return reason.New(warderv1.Reason_REASON_INTERNAL, err.Error())
	}
	return i.checker.Check(request)
}

// checkedConn checks each message that a stream receives.
type checkedConn struct {
	connect.StreamingHandlerConn
	interceptor interceptor
}

func (c checkedConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	return c.interceptor.check(message)
}
