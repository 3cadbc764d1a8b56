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
//
// It is safe for concurrent use: one caller renews while the others go on with
// the token that still holds.
type TokenSource struct {
	issuer *Client
	grants []*warderv1.Grant
	ttl    time.Duration
	renew  chan struct{} // holds one element while a caller renews

	mu      sync.Mutex // guards the rest
	token   string
	renewAt time.Time
	endsAt  time.Time
}

// NewTokenSource makes a source of tokens that the issuer's own certificate asks for.
func NewTokenSource(issuer *Client, grants []*warderv1.Grant, ttl time.Duration) *TokenSource {
	return &TokenSource{issuer: issuer, grants: grants, ttl: ttl, renew: make(chan struct{}, 1)}
}

// Token returns the current token. After two thirds of its life it asks for a
// new one; when that fails and the current one still holds, it returns that.
func (s *TokenSource) Token(ctx context.Context) (string, error) {
	token, fresh := s.current()
	if fresh {
		return token, nil
	}
	select {
	case s.renew <- struct{}{}:
	default:
		if token != "" {
			return token, nil // another caller renews it
		}
		select {
		case s.renew <- struct{}{}:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for a token: %w", ctx.Err())
		}
	}
	defer func() { <-s.renew }()
	if token, fresh = s.current(); fresh {
		return token, nil
	}
	return s.issue(ctx, token)
}

// current returns the token that still holds, or none, and whether it need not be renewed.
func (s *TokenSource) current() (token string, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !now.Before(s.endsAt) {
		return "", false
	}
	return s.token, now.Before(s.renewAt)
}

func (s *TokenSource) issue(ctx context.Context, still string) (string, error) {
	began := time.Now()
	reply, err := s.issuer.Tokens.IssueToken(context.WithValue(ctx, noToken{}, true), &warderv1.IssueTokenRequest{
		Grants: s.grants, Ttl: durationpb.New(s.ttl),
	})
	if err != nil && still != "" {
		return still, nil
	}
	if err != nil {
		return "", fmt.Errorf("issue a token: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.endsAt = reply.GetToken(), reply.GetExpiresAt().AsTime()
	s.renewAt = began.Add(s.endsAt.Sub(began) * 2 / 3)
	return s.token, nil
}

// Forget drops the current token, so that the next call asks for a new one.
func (s *TokenSource) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.renewAt, s.endsAt = "", time.Time{}, time.Time{}
}
