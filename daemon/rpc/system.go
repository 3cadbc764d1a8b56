package rpc

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/audit"
	"warder/daemon/seal"
	"warder/hsm"
	"warder/keystore/keyring"
)

// systemService answers warder.v1.SystemService on a node that belongs to a cluster.
type systemService struct{ *Server }

// ErrMember says that the node has a cluster already.
var ErrMember = errors.New("the node belongs to a cluster already")

func (s systemService) InitCluster(context.Context, *warderv1.InitClusterRequest) (*warderv1.InitClusterResponse, error) {
	return nil, ErrMember
}

func (s systemService) JoinCluster(context.Context, *warderv1.SystemServiceJoinClusterRequest) (*warderv1.SystemServiceJoinClusterResponse, error) {
	return nil, ErrMember
}

func (s systemService) Unseal(ctx context.Context, _ *warderv1.UnsealRequest) (*warderv1.UnsealResponse, error) {
	if err := s.Keeper.Unseal(ctx); err != nil {
		return nil, &sealedError{err}
	}
	if err := s.Reload(ctx); err != nil {
		return nil, err
	}
	return &warderv1.UnsealResponse{Sealed: s.Keeper.Sealed()}, nil
}

func (s systemService) Seal(context.Context, *warderv1.SealRequest) (*warderv1.SealResponse, error) {
	s.Keeper.Seal()
	s.Keys.Forget()
	s.Credentials.Forget()
	return &warderv1.SealResponse{Sealed: s.Keeper.Sealed()}, nil
}

// sealedError tells an operator at the node's socket why it stays sealed: the words of the HSM's errors name the
// module, the token and what to do, and no secret.
type sealedError struct{ cause error }

func (e *sealedError) Error() string { return "the node stays sealed: " + e.cause.Error() }
func (e *sealedError) Unwrap() error { return e.cause }

func (s systemService) GetStatus(ctx context.Context, _ *warderv1.GetStatusRequest) (*warderv1.GetStatusResponse, error) {
	leader, _ := s.Cluster.Leader()
	servers, err := s.Cluster.Members(ctx)
	if err != nil {
		return nil, err
	}
	answer := &warderv1.GetStatusResponse{
		NodeId: s.Home.Node, ClusterId: s.Home.ClusterID, ClusterName: s.Home.ClusterName, TrustDomain: s.Home.TrustDomain,
		Version: s.Version, Initialised: true, Sealed: s.Keeper.Sealed(), LeaderId: leader, Members: uint32(min(len(servers), 1<<10)),
		AppliedIndex: s.Store.Applied(), Staleness: durationpb.New(s.Cluster.Staleness().Round(time.Millisecond)),
		AuditMode: warderv1.AuditMode_AUDIT_MODE_ENFORCED, DevMode: s.Dev, StartedAt: timestamp(s.Started),
		Now: timestamp(s.Clock()), Problems: s.Problems(), Commitment: s.Home.Commitment, Role: warderv1.NodeRole_NODE_ROLE_FOLLOWER,
	}
	at, hash := s.Store.StateHash()
	answer.StateIndex, answer.StateHash = at, hash[:]
	for _, server := range servers {
		switch {
		case server.ID == s.Home.Node && s.Cluster.IsLeader():
			answer.Role = warderv1.NodeRole_NODE_ROLE_LEADER
		case server.ID == s.Home.Node && !server.Voter:
			answer.Role = warderv1.NodeRole_NODE_ROLE_LEARNER
		}
	}
	switch {
	case s.Audit.Healthy() != nil:
		answer.AuditMode = warderv1.AuditMode_AUDIT_MODE_FAILED
	case s.Audit.Mode() == audit.Relaxed:
		answer.AuditMode = warderv1.AuditMode_AUDIT_MODE_RELAXED
	}
	token, err := s.Keeper.Token()
	answer.Hsm = HSMStatus(ctx, token, errors.Join(err, s.Keeper.Health()))
	if answer.Hsm != nil {
		answer.Hsm.RootKeyFingerprint = s.Keeper.Root()
	}
	answer.Keyring, err = s.keyringStatus(ctx)
	return answer, err
}

// HSMStatus describes a token, which may be nil where it could not be opened.
func HSMStatus(ctx context.Context, token hsm.Token, fault error) *warderv1.HsmStatus {
	status := &warderv1.HsmStatus{Healthy: fault == nil}
	if fault != nil {
		status.Detail = fault.Error()
	}
	if token == nil {
		return status
	}
	info := token.Info()
	status.Module, status.TokenLabel, status.Serial, status.Software = info.Module, info.Label, info.Serial, info.Software
	status.CustodyCapable, status.OaepHash = info.CustodyCapable, toWire(hashes(), info.OAEP)
	if status.Detail == "" {
		status.Detail = info.Detail
	}
	if key, err := token.NodeKey(ctx); err == nil {
		status.NodeKeyFingerprint = key.Fingerprint().String()
	}
	return status
}

func (s *Server) keyringStatus(ctx context.Context) (*warderv1.KeyringStatus, error) {
	sealed, _, err := s.Store.SealedKeyring()
	if err != nil || sealed == nil {
		return nil, err
	}
	header, err := keyring.Inspect(sealed)
	if err != nil {
		return nil, err
	}
	status := &warderv1.KeyringStatus{Epoch: header.Epoch, Recipients: uint32(min(len(header.Recipients), keyring.MaxRecipients))}
	ring, err := s.ring()
	if errors.Is(err, keyring.ErrSealed) {
		return status, nil // it knows no more
	}
	if err != nil {
		return nil, err
	}
	status.ActiveDataKey, status.DataKeys = ring.Active(), uint32(min(len(ring.DataKeys()), 1<<10))
	rotation, err := s.Keeper.Status(ctx)
	if errors.Is(err, seal.ErrNoRotation) || err == nil && rotation.Running() {
		return status, nil
	}
	if err != nil {
		return nil, err
	}
	if rotation.Kind == seal.RotateRoot {
		status.RootRotatedAt = timestamp(rotation.Finished)
	} else {
		status.DataRotatedAt = timestamp(rotation.Finished)
	}
	return status, nil
}
