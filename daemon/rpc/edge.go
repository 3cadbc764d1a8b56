package rpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"warder/daemon/authn/mtls"
	"warder/daemon/gateway"
	"warder/daemon/policy"
	"warder/daemon/ratelimit"
)

// connection is what stays the same for all requests of one connection: who stands at its other end. The
// authenticator looks again, on each request, at all of it that can change.
type connection struct {
	peer atomic.Pointer[mtls.Peer]
}

type connectionKey struct{}

// ConnContext is for http.Server: it gives each connection a place to keep its verified peer.
func ConnContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// peer is one request's view of its connection.
type peer struct {
	connection *connection
	state      *tls.ConnectionState
}

// peerOf gives the request's connection, or nil where it has none that could have shown a certificate.
func peerOf(ctx context.Context) *peer {
	if call := callOf(ctx); call.from.connection != nil {
		return &call.from
	}
	return nil
}

// authenticate verifies the chain once for a connection, and on every request all that can change since.
func (p *peer) authenticate(authenticator *mtls.Authenticator, now time.Time) (mtls.Authenticated, error) {
	verified := p.connection.peer.Load()
	if verified == nil {
		var err error
		if verified, err = authenticator.Verify(p.state, now); err != nil {
			return mtls.Authenticated{}, err
		}
		p.connection.peer.Store(verified)
	}
	return authenticator.Check(verified, now)
}

// Edge is the first step of the road: it gives each request its call, and holds back every answer of an RPC that no
// audit record stands for.
func (s *Server) Edge(next http.Handler, socket bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		remote, _ := netip.ParseAddrPort(r.RemoteAddr) // zero on the unix socket
		came := &arrival{Context: r.Context(), call: Call{
			ID: gateway.RequestID(r.Context()), Procedure: unknownProcedure, Remote: remote, Socket: socket, Authentication: "none",
		}}
		if found, ok := r.Context().Value(connectionKey{}).(*connection); ok && r.TLS != nil {
			came.call.from = peer{connection: found, state: r.TLS}
		}
		if s.isProcedure(r.URL.Path) {
			came.witness = witness{ResponseWriter: w, server: s, call: &came.call, ctx: came, began: time.Now()}
			defer came.witness.begin() // also of a handler that panicked, or answered nothing
			w = &came.witness
			came.body = body{ReadCloser: r.Body, server: s, ctx: came}
			r.Body = &came.body
		}
		if path.Clean(r.URL.Path) != r.URL.Path { // the multiplexer would send the caller elsewhere
			http.NotFound(w, r)
			return
		}
		next.ServeHTTP(w, r.WithContext(came))
	})
}

// arrival is a request's context with its call, its body, and the witness of its answer: what the edge makes, in one piece.
type arrival struct {
	context.Context //nolint:containedctx // the request's own, of which this is the child
	call            Call
	body            body
	witness         witness
}

// Value implements context.Context.
func (a *arrival) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return &a.call
	}
	return a.Context.Value(key)
}

// unknownProcedure stands in the audit log for a path that is no RPC's: the path itself is the caller's own words.
const unknownProcedure = "unknown"

func (s *Server) isProcedure(asked string) bool {
	return strings.HasPrefix(asked, "/warder.v1.") || path.Clean(asked) != asked
}

// body gives the caller the words for what the gateway has no room for.
type body struct {
	io.ReadCloser
	server *Server
	ctx    context.Context //nolint:containedctx // the request's own, and lives as long
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, ratelimit.ErrOverloaded) {
		callOf(b.ctx).turnedAway = err
		err = b.server.refuse(b.ctx, err)
	}
	return n, err
}

// witness sees to it that no answer leaves without an audit record: what never reached the road (a body that is no
// message, a method that is not served) is recorded here as a denial before its answer's first byte.
type witness struct {
	http.ResponseWriter
	server  *Server
	call    *Call
	ctx     context.Context //nolint:containedctx // the request's own, and lives as long
	began   time.Time
	started bool
	barred  bool
}

func (w *witness) WriteHeader(status int) {
	if !w.begin() {
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *witness) Write(body []byte) (int, error) {
	if !w.begin() {
		return len(body), nil
	}
	return w.ResponseWriter.Write(body)
}

// begin records what the road did not; where that fails, the answer is replaced by a bare refusal.
func (w *witness) begin() bool {
	if w.started {
		return !w.barred
	}
	w.started = true
	if w.call.recorded {
		return true
	}
	ctx, refused := context.WithoutCancel(w.ctx), cmp.Or(w.call.turnedAway, errMethodUnknown) // who hangs up is recorded too
	if err := w.server.record(ctx, w.call, "", policy.Decision{}, refused); err != nil {
		refused, w.barred = err, true
		http.Error(w.ResponseWriter, errAudit.Error(), http.StatusServiceUnavailable)
	}
	if !w.call.observed {
		w.server.Observe(w.call.Procedure, reasonText(reasonOf(refused)), time.Since(w.began))
	}
	return !w.barred
}

// Unwrap lets http.ResponseController find what the server's own writer can do.
func (w *witness) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush sends what a stream has written so far.
func (w *witness) Flush() {
	if w.begin() {
		_ = http.NewResponseController(w.ResponseWriter).Flush() // an unflushable writer sends at its end
	}
}
