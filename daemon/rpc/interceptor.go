package rpc

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
)

// observe tells how a request went, at its end.
func (s *Server) observe(ctx context.Context, began time.Time) {
	call := callOf(ctx)
	s.leave(call)
	call.observed = true
	s.Observe(call.Procedure, reasonText(call.reason), time.Since(began))
}

// interceptor puts the road before every handler, unary and streaming.
type interceptor struct{ server *Server }

func (i interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		return travelled(ctx, i.server, request.Spec().Procedure, request.Header(), request.Any(), func() (connect.AnyResponse, error) {
			return next(ctx, request)
		})
	}
}

// travelled takes a request down the road and gives the answer of the handler at its end, or the refusal that crosses
// the wire. Every request of one message and one answer comes through here.
func travelled[A any](ctx context.Context, s *Server, procedure string, header http.Header, request any, handler func() (A, error)) (answer A, err error) {
	defer s.observe(ctx, time.Now())
	message, ok := request.(proto.Message)
	if !ok {
		return answer, s.refuse(ctx, errMethodUnknown)
	}
	if err := s.travel(ctx, procedure, header, message); err != nil {
		return answer, s.refuse(ctx, err)
	}
	if answer, err = handler(); err != nil {
		var none A
		return none, s.refuse(ctx, err)
	}
	return answer, nil
}

func (i interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler lets the stream's first message travel the road before the handler sees it.
func (i interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		defer i.server.observe(ctx, time.Now())
		guarded := &guardedConn{StreamingHandlerConn: conn, ctx: ctx, server: i.server}
		if err := next(ctx, guarded); err != nil {
			return i.server.refuse(ctx, err)
		}
		return nil
	}
}

type guardedConn struct {
	connect.StreamingHandlerConn
	ctx    context.Context //nolint:containedctx // it is the stream's own, and lives as long
	server *Server
	passed bool
}

func (c *guardedConn) Receive(message any) error {
	err := c.StreamingHandlerConn.Receive(message)
	if err != nil && !c.passed && callOf(c.ctx).turnedAway == nil {
		return reason.New(warderv1.Reason_REASON_INVALID_ARGUMENT, "the stream does not begin with one whole request")
	}
	if err != nil || c.passed {
		return err
	}
	err = c.server.travel(c.ctx, c.Spec().Procedure, c.RequestHeader(), message.(proto.Message))
	c.server.leave(callOf(c.ctx)) // a stream lasts: it keeps no place from others
	if err != nil {
		return err
	}
	c.passed = true
	return nil
}

func (c *guardedConn) Send(message any) error {
	if !c.passed {
		return errMethodUnknown
	}
	if err := c.server.still(c.ctx, c.RequestHeader()); err != nil {
		return err
	}
	return c.StreamingHandlerConn.Send(message)
}
