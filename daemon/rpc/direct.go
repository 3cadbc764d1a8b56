package rpc

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"warder/api/codec"
	"warder/api/warder/v1/warderv1connect"
)

// maxDirect bounds the body of a direct request, in bytes: room for it is made before it has come.
const maxDirect = 16 << 10

// serveDirect gives the methods that are called with each piece of work a handler of their own for Connect's plain unary
// protocol, a POST of one whole message (https://connectrpc.com/docs/protocol). It travels the same road by the same
// function, and costs a fraction of Connect's. Whatever is not that plain goes to Connect's handler of the service: other
// protocols, other spellings of a content type, compression, a body of unknown or unusual length.
func (s *Server) serveDirect(mux *http.ServeMux, credentials, keys, tokens http.Handler) {
	handleDirect(s, mux, warderv1connect.CredentialServiceRevealCredentialProcedure, credentialService{s}.RevealCredential, credentials)
	handleDirect(s, mux, warderv1connect.CredentialServicePutCredentialProcedure, credentialService{s}.PutCredential, credentials)
	handleDirect(s, mux, warderv1connect.CredentialServiceSignWithCredentialProcedure, credentialService{s}.SignWithCredential, credentials)
	handleDirect(s, mux, warderv1connect.KeyServiceSignWithKeyProcedure, keyService{s}.SignWithKey, keys)
	handleDirect(s, mux, warderv1connect.TokenServiceIssueTokenProcedure, tokenService{s}.IssueToken, tokens)
}

// handler is the end of the road of one method.
type handler[Q, A any] func(context.Context, *Q) (*A, error)

func handleDirect[Q, A any](s *Server, mux *http.ServeMux, procedure string, end handler[Q, A], otherwise http.Handler) {
	refusals := connect.NewErrorWriter()
	mux.HandleFunc(procedure, func(w http.ResponseWriter, r *http.Request) {
		form := directForm(r)
		timeout, bounded := directTimeout(r.Header)
		if form == nil || !bounded {
			otherwise.ServeHTTP(w, r)
			return
		}
		body := make([]byte, r.ContentLength)
		if n, err := io.ReadFull(r.Body, body); err != nil { // Connect has the words for what did not arrive
			r.Body = brokenBody{bytes.NewReader(body[:n]), err}
			otherwise.ServeHTTP(w, r)
			return
		}
		ctx, cancel := r.Context(), func() {}
		if timeout > 0 {
			ctx, cancel = context.WithTimeout(ctx, timeout)
		}
		defer cancel()
		body, err := answerDirect(ctx, s, procedure, r.Header, form, body, end)
		if err != nil {
			_ = refusals.Write(w, r, err) // the caller went away: there is nobody left to tell
			return
		}
		w.Header()["Content-Type"] = r.Header["Content-Type"]
		_, _ = w.Write(body) // as above
		clear(body)          // it may hold secrets
	})
}

func answerDirect[Q, A any](ctx context.Context, s *Server, procedure string, header http.Header, form connect.Codec, body []byte, end handler[Q, A]) ([]byte, error) {
	message := new(Q)
	err := form.Unmarshal(body, message)
	clear(body) // the message shares nothing with it
	if err != nil {
		return nil, err
	}
	answer, err := travelled(ctx, s, procedure, header, message, func() (*A, error) { return end(ctx, message) })
	if err != nil {
		return nil, err
	}
	return form.Marshal(answer)
}

// directTimeout reads the time that the caller gives, 0 for none; false where Connect is to say what is wrong with it.
func directTimeout(header http.Header) (time.Duration, bool) {
	given, present := header["Connect-Timeout-Ms"]
	if !present {
		return 0, true
	}
	if len(given) != 1 || len(given[0]) == 0 || len(given[0]) > 10 {
		return 0, false
	}
	ms, err := strconv.ParseUint(given[0], 10, 64)
	return time.Duration(ms) * time.Millisecond, err == nil && ms > 0
}

// directForm gives the form that a direct request's message has, or nil where Connect is to serve it.
func directForm(r *http.Request) connect.Codec {
	header := r.Header
	if r.Method != http.MethodPost || r.ContentLength < 0 || r.ContentLength > maxDirect || len(header["Content-Type"]) != 1 {
		return nil
	}
	version, versioned := header["Connect-Protocol-Version"]
	if _, encoded := header["Content-Encoding"]; encoded || versioned && !slices.Equal(version, []string{"1"}) {
		return nil
	}
	switch header["Content-Type"][0] {
	case "application/json":
		return codec.JSON(MaxMessage)
	case "application/proto":
		return codec.Binary(MaxMessage)
	}
	return nil
}

// brokenBody is a body that ended before its time: what came of it, and then the error.
type brokenBody struct {
	came io.Reader
	err  error
}

// Read implements io.Reader.
func (b brokenBody) Read(p []byte) (int, error) {
	if n, err := b.came.Read(p); err == nil {
		return n, nil
	}
	return 0, b.err
}

// Close implements io.Closer; the server closes the body that it gave.
func (b brokenBody) Close() error { return nil }
