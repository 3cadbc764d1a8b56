package rpc

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strconv"

	warderv1 "warder/api/warder/v1"
	"warder/cluster"
	"warder/daemon/seal"
	"warder/hsm"
	"warder/keystore/kv"
)

// clusterService answers warder.v1.ClusterService.
type clusterService struct{ *Server }

func (s clusterService) ListMembers(ctx context.Context, _ *warderv1.ListMembersRequest) (*warderv1.ListMembersResponse, error) {
	members, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	return &warderv1.ListMembersResponse{Members: members}, nil
}

// members joins what consensus says of the nodes with what their records do.
func (s *Server) members(ctx context.Context) ([]*warderv1.Member, error) {
	var records []seal.Member
	err := s.DB.View(ctx, func(tx *kv.Tx) (err error) {
		records, err = seal.Members(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	servers, err := s.Cluster.Members(ctx)
	if err != nil {
		return nil, err
	}
	members := []*warderv1.Member{}
	for _, server := range servers {
		member := &warderv1.Member{Id: server.ID, ClusterAddress: server.Addr, Voter: server.Voter, Role: warderv1.NodeRole_NODE_ROLE_FOLLOWER}
		switch {
		case server.Leader:
			member.Role = warderv1.NodeRole_NODE_ROLE_LEADER
		case !server.Voter:
			member.Role = warderv1.NodeRole_NODE_ROLE_LEARNER
		}
		for _, record := range records {
			if record.Node == server.ID {
				member.RootKeyFingerprint, member.AuditPublicKey = record.RootFingerprint(), record.AuditKey
				member.JoinedAt, member.ApiAddress = timestamp(record.Admitted), record.Endpoint
			}
		}
		members = append(members, member)
	}
	return members, nil
}

func (s clusterService) CreateJoinToken(ctx context.Context, request *warderv1.CreateJoinTokenRequest) (*warderv1.CreateJoinTokenResponse, error) {
	fingerprint, err := hsm.ParseFingerprint(request.GetHsmFingerprint())
	if err != nil {
		return nil, err
	}
	text, expires, err := s.Keeper.CreateJoinToken(ctx, request.GetNodeId(), fingerprint, request.GetTtl().AsDuration())
	if err != nil {
		return nil, err
	}
	return &warderv1.CreateJoinTokenResponse{Token: text, ExpiresAt: timestamp(expires)}, nil
}

func hashes() []pair[warderv1.OaepHash, hsm.Hash] {
	return []pair[warderv1.OaepHash, hsm.Hash]{
		{warderv1.OaepHash_OAEP_HASH_SHA1, hsm.SHA1}, {warderv1.OaepHash_OAEP_HASH_SHA256, hsm.SHA256},
	}
}

// JoinCluster admits a node: its HSM signed the request, its token is used up, the keyring is sealed to it as well, its
// TLS key is certified, and it receives the log.
func (s clusterService) JoinCluster(ctx context.Context, request *warderv1.JoinClusterRequest) (*warderv1.JoinClusterResponse, error) {
	asked, err := toJoinRequest(request)
	if err != nil {
		return nil, err
	}
	hosts, err := Hosts(asked.Address, asked.Endpoint)
	if err != nil {
		return nil, err
	}
	certificate, err := s.Authority.IssueNode(ctx, asked.CSR, asked.Node, hosts, asked.Fingerprint())
	if err != nil {
		return nil, err
	}
	if _, err := s.Keeper.Admit(ctx, asked); err != nil {
		return nil, err
	}
	if err := s.Cluster.Admit(ctx, asked.Node, asked.Address); err != nil {
		return nil, err
	}
	members, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	roots, err := s.Authority.RootsPEM(ctx)
	if err != nil {
		return nil, err
	}
	return &warderv1.JoinClusterResponse{
		ClusterId: s.Home.ClusterID, ClusterName: s.Home.ClusterName, TrustDomain: s.Home.TrustDomain,
		CaCertificatePem: string(roots), NodeCertificatePem: string(certificate.PEM), Members: members,
		Commitment: s.Home.Commitment,
	}, nil
}

func toJoinRequest(request *warderv1.JoinClusterRequest) (seal.JoinRequest, error) {
	hash, err := toDomain(hashes(), request.GetRootKeyHash())
	return seal.JoinRequest{
		Token: request.GetToken(), Node: request.GetNodeId(), Address: request.GetClusterAddress(), Endpoint: request.GetApiAddress(),
		CSR: request.GetCsr(), Root: seal.RootKey{Public: request.GetRootKey(), Hash: string(hash)}, NodeKey: request.GetNodeKey(),
		TransportKey: request.GetTransportKey(), AuditKey: request.GetAuditPublicKey(), Signature: request.GetSignature(),
	}, err
}

// Hosts gives the names and addresses that a node's certificate is for: those of its two listeners, from a host:port
// and an https URL.
func Hosts(clusterAddress, endpoint string) ([]string, error) {
	host, port, err := net.SplitHostPort(clusterAddress)
	if err != nil || !validPort(port) || !validHost(host) {
		return nil, errAddress
	}
	parsed, err := url.Parse(endpoint)
	if err != nil || parsed.Scheme != "https" || parsed.Host == "" || parsed.Path != "" || parsed.RawQuery != "" || parsed.User != nil {
		return nil, errAddress
	}
	if !validHost(parsed.Hostname()) || parsed.Port() != "" && !validPort(parsed.Port()) {
		return nil, errAddress
	}
	if parsed.Hostname() == host {
		return []string{host}, nil
	}
	return []string{host, parsed.Hostname()}, nil
}

func validPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && port > 0
}

// validHost takes an address, or a name of letters, digits, dots and dashes (RFC 1123, section 2.1).
func validHost(host string) bool {
	if net.ParseIP(host) != nil {
		return true
	}
	for _, c := range host {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return host != "" && len(host) <= 253 && host[0] != '-' && host[0] != '.'
}

// errRemoveSelf says that a node cannot do the second half of its own removal.
var errRemoveSelf = errors.New("a node does not remove itself: ask another member's endpoint")

// RemoveMember evicts a node: it leaves consensus first, so that it can no longer vote, then its entry leaves the
// sealing, and the data keys that it knew are rotated. A removal that was cut short between the two is repeated: Evict
// says where there is nothing left to remove.
func (s clusterService) RemoveMember(ctx context.Context, request *warderv1.RemoveMemberRequest) (*warderv1.RemoveMemberResponse, error) {
	if request.GetNodeId() == s.Home.Node {
		return nil, errRemoveSelf
	}
	if err := s.Cluster.Remove(ctx, request.GetNodeId()); err != nil && !errors.Is(err, cluster.ErrNotMember) {
		return nil, err
	}
	if err := s.Keeper.Evict(ctx, request.GetNodeId()); err != nil {
		return nil, err
	}
	_, err := s.Keeper.Start(ctx, seal.RotateData, "")
	if err != nil && !errors.Is(err, seal.ErrRotating) {
		return nil, err
	}
	status, err := s.rotation(ctx)
	if err != nil {
		return nil, err
	}
	return &warderv1.RemoveMemberResponse{Rotation: status}, nil
}

func (s clusterService) StepDown(ctx context.Context, _ *warderv1.StepDownRequest) (*warderv1.StepDownResponse, error) {
	if err := s.Cluster.StepDown(ctx); err != nil {
		return nil, err
	}
	return &warderv1.StepDownResponse{}, nil
}

func (s clusterService) RotateRoot(ctx context.Context, request *warderv1.RotateRootRequest) (*warderv1.RotateRootResponse, error) {
	if _, err := s.Keeper.Start(ctx, seal.RotateRoot, request.GetNodeId()); err != nil {
		return nil, err
	}
	status, err := s.rotation(ctx)
	if err != nil {
		return nil, err
	}
	return &warderv1.RotateRootResponse{Rotation: status}, nil
}

func (s clusterService) RotateData(ctx context.Context, _ *warderv1.RotateDataRequest) (*warderv1.RotateDataResponse, error) {
	if _, err := s.Keeper.Start(ctx, seal.RotateData, ""); err != nil {
		return nil, err
	}
	status, err := s.rotation(ctx)
	if err != nil {
		return nil, err
	}
	return &warderv1.RotateDataResponse{Rotation: status}, nil
}

func (s clusterService) GetRotation(ctx context.Context, _ *warderv1.GetRotationRequest) (*warderv1.GetRotationResponse, error) {
	status, err := s.rotation(ctx)
	if err != nil {
		return nil, err
	}
	return &warderv1.GetRotationResponse{Rotation: status}, nil
}

func (s *Server) rotation(ctx context.Context) (*warderv1.RotationStatus, error) {
	rotation, err := s.Keeper.Status(ctx)
	if err != nil {
		return nil, err
	}
	status := &warderv1.RotationStatus{
		Id: strconv.FormatUint(rotation.ID, 10), Kind: warderv1.RotationKind_ROTATION_KIND_ROOT, Phase: fromPhase(rotation.Phase),
		StartedAt: timestamp(rotation.Started), UpdatedAt: timestamp(rotation.Finished), WaitingFor: rotation.Waiting,
		Done: uint64(max(rotation.Done, 0)), Total: uint64(max(rotation.Total, 0)), Detail: string(rotation.Phase),
	}
	if rotation.Kind == seal.RotateData {
		status.Kind = warderv1.RotationKind_ROTATION_KIND_DATA
	}
	return status, nil
}

func fromPhase(phase seal.Phase) warderv1.RotationPhase {
	switch phase {
	case seal.PhaseCollect, seal.PhaseDistribute:
		return warderv1.RotationPhase_ROTATION_PHASE_PREPARED
	case seal.PhaseVerify, seal.PhaseActivate, seal.PhaseDrop:
		return warderv1.RotationPhase_ROTATION_PHASE_CONFIRMING
	case seal.PhaseReseal:
		return warderv1.RotationPhase_ROTATION_PHASE_REWRITING
	case seal.PhaseDone:
		return warderv1.RotationPhase_ROTATION_PHASE_DONE
	}
	return warderv1.RotationPhase_ROTATION_PHASE_UNSPECIFIED
}

// FromJoinRequest writes a join request as it is sent.
func FromJoinRequest(asked seal.JoinRequest) *warderv1.JoinClusterRequest {
	return &warderv1.JoinClusterRequest{
		Token: asked.Token, NodeId: asked.Node, ClusterAddress: asked.Address, ApiAddress: asked.Endpoint, Csr: asked.CSR,
		RootKey: asked.Root.Public, RootKeyHash: toWire(hashes(), hsm.Hash(asked.Root.Hash)), NodeKey: asked.NodeKey,
		TransportKey: asked.TransportKey, AuditPublicKey: asked.AuditKey, Signature: asked.Signature,
	}
}
