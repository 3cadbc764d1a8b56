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

// maxDirect bounds the message of a direct request, in bytes: room for it is made before it has come.
const maxDirect = 16 << 10

// serveDirect gives the methods that are called with each piece of work a handler of their own for Connect's plain unary
// protocol, a POST of one whole message (https://connectrpc.com/docs/protocol), and for the same over gRPC. It travels the same
// road by the same function, and costs a fraction of Connect's. Whatever is not that plain goes to Connect's handler of the
// service: other protocols, other spellings of a content type, compression, a body of unknown or unusual length.
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
		form, plain := directForm(r)
		if !plain {
			otherwise.ServeHTTP(w, r)
			return
		}
		message, came := form.read(r)
		if message == nil { // Connect has the words for what did not arrive
			r.Body = replayed{io.MultiReader(bytes.NewReader(came), r.Body), r.Body}
			otherwise.ServeHTTP(w, r)
			return
		}
		ctx, cancel := r.Context(), func() {}
		if form.timeout > 0 {
			ctx, cancel = context.WithTimeout(ctx, form.timeout)
		}
		defer cancel()
		answer, err := answerDirect(ctx, s, procedure, r.Header, form.codec, message, end)
		if err != nil {
			_ = refusals.Write(w, r, err) // the caller went away: there is nobody left to tell
			return
		}
		form.write(w, r, answer)
		clear(answer) // it may hold secrets
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

// direct is the form of a request that is plain enough for a handler of our own.
type direct struct {
	codec   connect.Codec
	framed  bool          // gRPC's: the message is behind a prefix
	timeout time.Duration // that the caller gives; 0: none
}

// replayed is a body of which some was read.
type replayed struct {
	io.Reader
	io.Closer
}

// directForm gives the form of a request, or false where Connect is to serve it.
func directForm(r *http.Request) (form direct, plain bool) {
	kind := r.Header["Content-Type"]
	if _, encoded := r.Header["Content-Encoding"]; encoded || r.Method != http.MethodPost || len(kind) != 1 {
		return form, false
	}
	switch kind[0] {
	case "application/json":
		form.codec = codec.JSON(MaxMessage)
	case "application/proto":
		form.codec = codec.Binary(MaxMessage)
	case "application/grpc", "application/grpc+proto":
		form.codec, form.framed = codec.Binary(MaxMessage), true
		form.timeout, plain = grpcTimeout(r.Header)
		return form, plain && plainGRPC(r)
	default:
		return form, false
	}
	form.timeout, plain = directTimeout(r.Header)
	version, versioned := r.Header["Connect-Protocol-Version"]
	return form, plain && r.ContentLength >= 0 && r.ContentLength <= maxDirect && (!versioned || slices.Equal(version, []string{"1"}))
}

// read gives the request's message, or nil and what came in its place.
func (d direct) read(r *http.Request) (message, came []byte) {
	if d.framed {
		return readFramed(r.Body)
	}
	message = make([]byte, r.ContentLength)
	if n, err := io.ReadFull(r.Body, message); err != nil {
		return nil, message[:n]
	}
	return message, nil
}

// write sends the answer.
func (d direct) write(w http.ResponseWriter, r *http.Request, message []byte) {
	w.Header()["Content-Type"] = r.Header["Content-Type"]
	if d.framed {
		writeFramed(w, message)
		return
	}
	_, _ = w.Write(message) // the caller went away: there is nobody left to tell
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
