package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// ConsistencyHeader is the header by which a caller asks for an answer that shows everything that was acknowledged,
// anywhere in the cluster, before it asked: Linearizable. Without it an answer may be as old as the staleness bound.
const (
	ConsistencyHeader = "Warder-Consistency"
	Linearizable      = "linearizable"
)

// never is how stale a node is that never knew itself up to date.
const never = 1000 * time.Hour

// Unread says which of the records that every decision needs this node has not read, or cannot read.
func (s *Server) Unread() error {
	return errors.Join(s.Registry.Problem(), s.Tokens.Problem(), s.Policies.Current().Err())
}

// Reload reads anew the records that every decision needs, so that a node which was just unsealed, founded or admitted
// answers as soon as it says that it does.
func (s *Server) Reload(ctx context.Context) error {
	return errors.Join(s.Registry.Reload(ctx), s.Tokens.Reload(ctx), s.Policies.Reload(ctx))
}

func (s *Server) behind() bool {
	return s.Registry.Behind() || s.Tokens.Behind() || s.Policies.Behind()
}

// catchUp holds the copies that decisions are made by to the bound on staleness. They follow the store a moment later
// than it is written; on a node that was suspended or cut off they would else be as old as that was long, for a moment
// after the store has caught up.
func (s *Server) catchUp(ctx context.Context) error {
	stale := min(s.Cluster.Staleness(), never) // asked first: a node that turns out to be up to date knows of its changes
	now := time.Since(s.Started)
	if !s.behind() {
		s.current.Store(int64(now - stale))
		return nil
	}
	if now-time.Duration(s.current.Load()) <= s.StalenessBound {
		return nil
	}
	return s.readNow(ctx)
}

func (s *Server) readNow(ctx context.Context) error {
	if err := s.Reload(ctx); err != nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	return nil
}

// fresh lets a caller who asks for it wait until this node, and what it decides by, shows everything acknowledged so far.
// It says whether it did.
func (s *Server) fresh(ctx context.Context, header http.Header) (bool, error) {
	switch wanted := header.Values(ConsistencyHeader); {
	case len(wanted) == 0:
		return false, nil
	case len(wanted) > 1 || wanted[0] != Linearizable:
		return false, fmt.Errorf("%w: the header %s must be %s, or absent", ErrField, ConsistencyHeader, Linearizable)
	}
	if err := s.DB.Barrier(ctx); err != nil {
		return false, err
	}
	if !s.behind() {
		return true, nil
	}
	return true, s.readNow(ctx)
}
