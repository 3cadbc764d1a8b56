package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"warder/daemon/ratelimit"
)

// RequestHeader names the header of an answer that identifies the request in the logs.
const RequestHeader = "X-Request-Id"

type requestKey struct{}

// RequestID gives the request's id: 26 characters of A-Z and 2-7, random, never taken from the caller.
func RequestID(ctx context.Context) string {
	if id, ok := ctx.Value(requestKey{}).(*string); ok {
		return *id
	}
	return ""
}

// edge is what every request passes first: an id, health, limits, and the net under a handler that panics.
func (g *Gateway) edge(next http.Handler, memory *ratelimit.Pool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := rand.Text()
		mark(w.Header(), id)
		r, held := g.limit(id, w, r, memory)
		defer held.done()
		switch r.URL.Path {
		case "/healthz":
			answerHealth(w, r, g.cfg.Live)
			return
		case "/readyz":
			answerHealth(w, r, g.ready)
			return
		}
		guarded := &answer{ResponseWriter: w}
		if g.cfg.Stream(r) {
			guarded.piece = g.cfg.Limits.RequestTimeout
		}
		defer g.catch(guarded, r)
		next.ServeHTTP(guarded, r)
	})
}

// mark sets the headers that every answer has. They share an array, and none of them can grow into the next: every
// request allocates it.
func mark(header http.Header, id string) {
	values := [...]string{id, "no-store", "nosniff"}
	header[RequestHeader] = values[0:1:1]
	header["Cache-Control"] = values[1:2:2]
	header["X-Content-Type-Options"] = values[2:3:3]
}

// limit bounds the body's size, the time in which it must arrive, and the request's time. A stream has no deadline
// of its own, and ends when the gateway stops.
func (g *Gateway) limit(id string, w http.ResponseWriter, r *http.Request, memory *ratelimit.Pool) (*http.Request, *parcel) {
	control := http.NewResponseController(w)
	deadline := time.Now().Add(g.cfg.Limits.RequestTimeout)
	answerBy := deadline.Add(time.Second) // so that a refusal still goes out
	held := &parcel{ReadCloser: r.Body, writer: w, memory: memory}
	var ctx context.Context
	if g.cfg.Stream(r) {
		stream, cancel := g.untilStopped(context.WithValue(r.Context(), requestKey{}, &id))
		ctx, held.term = stream, ender(cancel)
		answerBy = time.Time{}
	} else {
		own := &term{Context: r.Context(), id: id, deadline: deadline}
		ctx, held.term = own, own
	}
	// A writer without deadlines is a test's recorder: the context still bounds it.
	_ = control.SetWriteDeadline(answerBy)
	r = r.WithContext(ctx)
	held.open(r)
	if r.Body == http.NoBody {
		_ = control.SetReadDeadline(time.Time{})
		if held.refused == nil {
			return r, held
		}
	} else {
		_ = control.SetReadDeadline(deadline)
		held.ReadCloser = http.MaxBytesReader(w, r.Body, g.cfg.Limits.BodyBytes)
	}
	r.Body = held
	return r, held
}

// untilStopped gives a context that also ends when the gateway stops; its own goroutine ends with it.
func (g *Gateway) untilStopped(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	go func() {
		select {
		case <-g.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// answer knows whether anything was sent.
type answer struct {
	http.ResponseWriter
	begun bool
	piece time.Duration // how long each piece of a stream may take to be taken; 0: the answer has a deadline as a whole
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	a.begun = a.begun || status >= http.StatusOK
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	defer a.within()()
	return a.ResponseWriter.Write(b)
}

// within bounds the time of one write to a stream: who follows and does not read is let go. Between two writes a stream
// may rest as long as it likes.
func (a *answer) within() (done func()) {
	if a.piece == 0 {
		return func() {}
	}
	control := http.NewResponseController(a.ResponseWriter)
	_ = control.SetWriteDeadline(time.Now().Add(a.piece)) // a writer without deadlines is a test's recorder
	return func() { _ = control.SetWriteDeadline(time.Time{}) }
}

// Flush implements http.Flusher, which streams look for. An answer that is no stream goes out with its end: to send a gRPC
// message before its trailers is a write more for each.
func (a *answer) Flush() {
	if a.piece == 0 {
		return
	}
	a.begun = true
	defer a.within()()
	_ = http.NewResponseController(a.ResponseWriter).Flush() // an unflushable writer sends at its end
}

// Unwrap lets http.ResponseController find what the server's own writer can do.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// catch turns a panic into an answer with the id under which the log tells more. What was panicked with may hold a
// secret, so the log has its type, and its text only when the runtime wrote it.
func (g *Gateway) catch(w *answer, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if cause == http.ErrAbortHandler { //nolint:errorlint // net/http compares it this way too
		panic(cause)
	}
	id := w.Header().Get(RequestHeader)
	g.cfg.Logger.Error("a handler panicked", slog.String("incident", id), slog.String("method", r.Method),
		slog.String("cause", describe(cause)), slog.String("stack", string(debug.Stack())))
	if w.begun {
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = fmt.Fprintf(w, `{"code":"internal","message":"internal error, incident %s"}`+"\n", id)
}

func describe(cause any) string {
	if err, ok := cause.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", cause)
}

// ready adds to the configured answer that a stopping gateway is not.
func (g *Gateway) ready() error {
	if g.stopping.Load() {
		return errors.New("the node is stopping")
	}
	if g.cfg.Ready == nil {
		return nil
	}
	return g.cfg.Ready()
}

// answerHealth answers 200 "ok" or 503 and why.
func answerHealth(w http.ResponseWriter, r *http.Request, check func() error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "use GET", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if check != nil {
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, err)
			return
		}
	}
	_, _ = fmt.Fprintln(w, "ok")
}
