package rpc

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/protobuf/proto"

	"warder/daemon/identity"
	"warder/daemon/ratelimit"
	"warder/daemon/token"
)

// charge counts a caller who did not prove who it is against its address, so that nobody guesses at speed.
func (s *Server) charge(call *Call, refused error) error {
	if err := s.Limiter.AllowAddress(call.Remote.Addr(), ratelimit.Unauthenticated); err != nil && !call.Socket {
		return err
	}
	return refused
}

// authenticate finds who calls, by what the row takes.
func (s *Server) authenticate(ctx context.Context, call *Call, row method, header http.Header, message proto.Message) (*token.Claims, error) {
	switch {
	case call.Socket && (row.caller == bySocket || row.caller == bySocketOrCertificate):
		call.Authentication = "socket"
		call.Principal = identity.Principal{Kind: identity.Operator, Namespace: systemNamespace(), Name: identity.MustName("local-socket")}
		return nil, nil
	case call.Socket || row.caller == bySocket:
		return nil, errSocketOnly
	case row.caller == byAdmission:
		call.Authentication = "admission"
		// Before it is looked at: who guesses in parallel is held to the same bound.
		if err := s.charge(call, nil); err != nil {
			return nil, err
		}
		return nil, s.admit(ctx, call, message)
	}
	return s.authenticatePeer(ctx, call, row, header)
}

func (s *Server) authenticatePeer(ctx context.Context, call *Call, row method, header http.Header) (*token.Claims, error) {
	state := peerOf(ctx)
	if state == nil {
		return nil, errUnauthenticated
	}
	now := s.Clock()
	peer, err := state.authenticate(s.Authenticator, now)
	if err != nil {
		return nil, err
	}
	call.Peer, call.Principal, call.Groups, call.Authentication = peer, peer.Principal, peer.Identity.Groups, "mtls"
	raw, presented, err := bearer(header)
	if err != nil {
		return nil, err
	}
	if !presented {
		if row.token && peer.Principal.Kind != identity.Operator {
			return nil, errTokenNeeded
		}
		return nil, nil
	}
	claims, err := s.Tokens.Verify(raw, peer.CertSHA256)
	if err != nil {
		return nil, err
	}
	if claims.Subject != peer.Principal {
		return nil, fmt.Errorf("%w: it is another caller's", token.ErrNotBound)
	}
	call.TokenID, call.Authentication = claims.ID, "token"
	return &claims, nil
}

// bearer finds the request's token (RFC 6750, section 2.1). What is not exactly one is refused and not passed over: a
// token that its caller sent to be held to must not be lost on the way. The scheme has no case (RFC 9110, section 11.1).
func bearer(header http.Header) (raw string, presented bool, err error) {
	values := header.Values("Authorization")
	if len(values) == 0 {
		return "", false, nil
	}
	scheme, raw, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return "", false, fmt.Errorf("%w: send one Authorization header, of the scheme Bearer", token.ErrInvalid)
	}
	return raw, true, nil
}
