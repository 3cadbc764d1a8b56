package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
)

func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// TokenSource issues a token and renews it before it ends. Its Token method is
// what Config.Token wants:
//
//	source := client.NewTokenSource(issuer, grants, 5*time.Minute)
//	bot, err := client.Dial(client.Config{…, Token: source.Token})
type TokenSource struct {
	issuer *Client
	grants []*warderv1.Grant
	ttl    time.Duration

	mu      sync.Mutex // guards the rest
	token   string
	renewAt time.Time
	endsAt  time.Time
}

// NewTokenSource makes a source of tokens that the issuer's own certificate asks for.
func NewTokenSource(issuer *Client, grants []*warderv1.Grant, ttl time.Duration) *TokenSource {
	return &TokenSource{issuer: issuer, grants: grants, ttl: ttl}
}

// Token returns the current token. After two thirds of its life it asks for a
// new one; when that fails and the current one still holds, it returns that.
func (s *TokenSource) Token(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.renewAt) {
		return s.token, nil
	}
	reply, err := s.issuer.Tokens.IssueToken(context.WithValue(ctx, noToken{}, true), &warderv1.IssueTokenRequest{
		Grants: s.grants, Ttl: durationpb.New(s.ttl),
	})
	if err != nil && now.Before(s.endsAt) {
		return s.token, nil
	}
	if err != nil {
		return "", fmt.Errorf("issue a token: %w", err)
	}
	s.token, s.endsAt = reply.GetToken(), reply.GetExpiresAt().AsTime()
	s.renewAt = now.Add(s.endsAt.Sub(now) * 2 / 3)
	return s.token, nil
}

// Forget drops the current token, so that the next call asks for a new one.
func (s *TokenSource) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.renewAt, s.endsAt = "", time.Time{}, time.Time{}
}
