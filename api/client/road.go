package client

import (
	"context"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"

	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
)

// road is the way of each call: it chooses the endpoint, reads the error, and
// decides whether and where to try again.
type road struct{ client *Client }

// WrapUnary implements connect.Interceptor.
func (r *road) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		pin, err := r.client.pin(ctx)
		if err != nil {
			return nil, err
		}
		ctx, cancel := r.client.deadline(ctx)
		defer cancel()
		call := &call{client: r.client, pin: pin, request: request, next: next}
		return call.run(ctx)
	}
}

// call is one call with its attempts.
type call struct {
	client   *Client
	pin      int // the endpoint's index, or -1 for any
	request  connect.AnyRequest
	next     connect.UnaryFunc
	attempts int
	refused  int // attempts in a row that ended with "another node"
}

func (c *call) run(ctx context.Context) (connect.AnyResponse, error) {
	at := c.start()
	var before *Error
	for {
		response, failure := c.attempt(ctx, at)
		if failure == nil {
			c.keep(at)
			return response, nil
		}
		if before != nil && ctx.Err() != nil && !failure.sent {
			failure = before // it says more than that the time ran out
		}
		before = failure
		delay, again := c.again(failure)
		if !again && !failure.local() {
			c.keep(at) // a refusal is an answer
		}
		if !again || ctx.Err() != nil {
			return nil, c.final(failure)
		}
		if wait(ctx, delay) != nil {
			return nil, c.final(failure)
		}
		at = c.following(at, failure)
	}
}

func (c *call) attempt(ctx context.Context, at int) (connect.AnyResponse, *Error) {
	c.attempts++
	ctx, cancel := c.client.attemptTime(ctx, c.request.Spec())
	defer cancel()
	ctx, a := withAttempt(ctx, c.client.endpoints[at])
	response, err := c.next(ctx, c.request)
	if err == nil {
		return response, nil
	}
	failure := newError(err, c.request.Spec().Procedure, a)
	failure.Attempts = c.attempts
	return nil, failure
}

func (c *call) start() int {
	if c.pin >= 0 {
		return c.pin
	}
	return int(c.client.good.Load()) % len(c.client.endpoints)
}

// keep makes later calls begin where this one was answered.
func (c *call) keep(at int) {
	if c.pin < 0 && int(c.client.good.Load()) != at {
		c.client.good.Store(uint32(at)) //nolint:gosec // at most 64 endpoints
	}
}

// places is how many endpoints the call may use.
func (c *call) places() int {
	if c.pin >= 0 {
		return 1
	}
	return len(c.client.endpoints)
}

// following is the next endpoint. Who asks too often waits where it is.
func (c *call) following(at int, failure *Error) int {
	if c.pin >= 0 || failure.Reason == warderv1.Reason_REASON_RATE_LIMITED {
		return at
	}
	return (at + 1) % len(c.client.endpoints)
}

// again decides whether another attempt is allowed and worth it, and after what wait.
func (c *call) again(failure *Error) (time.Duration, bool) {
	if limit := c.client.config.Retry.Attempts; limit > 0 && c.attempts >= limit {
		return 0, false
	}
	switch failure.retry() {
	case reason.Never:
		return 0, false
	case reason.IfIdempotent:
		return c.backoff(failure), repeatable(c.request.Spec())
	case reason.Elsewhere:
		c.refused++
		return c.backoff(failure), c.refused < c.places()
	}
	return c.backoff(failure), true
}

// backoff is no wait while there are endpoints that were not tried, and then an
// exponential one with full jitter; a server's own word counts for more.
func (c *call) backoff(failure *Error) time.Duration {
	if failure.RetryAfter > 0 {
		return failure.RetryAfter
	}
	if c.attempts < c.places() {
		return 0
	}
	settings := c.client.config.Retry
	round := min((c.attempts-c.places())/c.places(), 16)
	ceiling := min(settings.Base<<round, settings.Max)
	return ceiling/2 + rand.N(ceiling/2+1) //nolint:gosec // jitter, not a secret
}

// final is the error that the caller gets.
func (c *call) final(failure *Error) error {
	if failure.retry() == reason.IfIdempotent && failure.sent && !repeatable(c.request.Spec()) {
		return failure.lost()
	}
	return failure
}

// WrapStreamingClient implements connect.Interceptor. A stream goes to one
// endpoint and is not resumed: only its reader knows where it was.
func (r *road) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		at, err := r.client.pin(ctx)
		if err != nil || at < 0 {
			at = int(r.client.good.Load()) % len(r.client.endpoints)
		}
		ctx, a := withAttempt(ctx, r.client.endpoints[at])
		return &streamConn{StreamingClientConn: next(ctx, spec), attempt: a, refused: err}
	}
}

// WrapStreamingHandler implements connect.Interceptor; a client has no handlers.
func (r *road) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// streamConn gives a stream's errors their type.
type streamConn struct {
	connect.StreamingClientConn
	attempt *attempt
	refused error
}

func (s *streamConn) Send(message any) error {
	if s.refused != nil {
		return s.refused
	}
	return s.StreamingClientConn.Send(message)
}

func (s *streamConn) Receive(message any) error {
	err := s.StreamingClientConn.Receive(message)
	if err == nil || isEnd(err) {
		return err
	}
	return newError(err, s.Spec().Procedure, s.attempt)
}
