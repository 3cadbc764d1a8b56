package rpc

import (
	"context"
	"net/http"

	"warder/daemon/policy"
	"warder/daemon/ratelimit"
)

// laneOf says in which lane a request is worked on, by what is known of it before its caller is: who floods a lane with
// what it may not do is held by the rates.
func laneOf(call *Call, row method, header http.Header) ratelimit.Lane {
	_, fresh := header[ConsistencyHeader]
	switch {
	case call.Socket || row.limit == ratelimit.Admin || urgent(row.action):
		return ratelimit.Reserved
	case row.action == policy.KeySign:
		return ratelimit.Hardware
	case row.limit != ratelimit.Read || fresh:
		return ratelimit.Cluster
	}
	return ratelimit.Local
}

// urgent is what an operator needs on a node that is overloaded, beside administration: to see how it is, and to take
// away a right or a secret.
func urgent(action policy.Action) bool {
	switch action {
	case policy.SystemStatus, policy.ClusterRead, policy.TokenRevoke, policy.CredentialDelete, policy.KeyDestroy:
		return true
	}
	return false
}

// enter takes the request's place among those that are worked on. It is asked once the message has come whole, so that
// a slow caller holds no place, and before anything of it is looked at, so that turning away costs little.
func (s *Server) enter(ctx context.Context, call *Call, row method, header http.Header) error {
	lane := laneOf(call, row, header)
	if err := s.Lanes.Enter(ctx, lane); err != nil {
		return err
	}
	call.lane = lane
	return nil
}

// leave gives the request's place back, where it has one.
func (s *Server) leave(call *Call) {
	if call.lane != 0 {
		s.Lanes.Leave(call.lane)
		call.lane = 0
	}
}
