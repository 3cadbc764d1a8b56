package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/daemon/pki"
	"warder/daemon/rpc"
	"warder/daemon/seal"
	"warder/hsm"
)

// joinTime bounds the one call that admits a node.
const joinTime = 30 * time.Second

// joinWait bounds how long the answer to a join waits until the node serves.
const joinWait = 10 * time.Second

// joinCluster makes this node a member of the cluster that the request's endpoints belong to.
func (n *node) joinCluster(ctx context.Context, request *warderv1.SystemServiceJoinClusterRequest) (*warderv1.SystemServiceJoinClusterResponse, error) {
	if !n.becoming.TryLock() {
		return nil, errBecoming
	}
	defer n.becoming.Unlock()
	if _, err := seal.LoadHome(n.cfg.DataDir); !errors.Is(err, seal.ErrNoHome) {
		return nil, errors.Join(rpc.ErrMember, err)
	}
	if err := n.clearLeftovers(); err != nil {
		return nil, err
	}
	hardware, err := n.hardware.take(ctx)
	if err != nil {
		return nil, err
	}
	home, err := n.askToJoin(ctx, hardware, request)
	if err != nil {
		return nil, errors.Join(err, hardware.Close())
	}
	m, err := n.openMember(home, hardware, false)
	if err != nil { // the home is written: from its next start on this node is a member
		err = fmt.Errorf("the node is admitted, and stops: %w: mend that and start it", errors.Join(err, hardware.Close()))
		n.giveUp(err)
		return nil, err
	}
	n.begin(m)
	if err := m.catchUp(ctx); err != nil { // it goes on: a large state takes its time, and GetStatus says what is missing
		n.logger.Info("the node is admitted, and does not serve yet", "error", err)
	}
	return &warderv1.SystemServiceJoinClusterResponse{ClusterId: home.ClusterID, Commitment: home.Commitment}, nil
}

// catchUp waits until a new member serves, for at most joinWait.
func (m *member) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, joinWait)
	defer cancel()
	if err := await(ctx, "catch up with the cluster", func() bool { return m.keeper.Epoch() > 0 }); err != nil {
		return err
	}
	if err := await(ctx, "have its clock confirmed by the members", func() bool { return m.raft.Clock() == nil }); err != nil {
		return errors.Join(m.raft.Clock(), err)
	}
	return m.server.Reload(ctx)
}

// askToJoin shows a member this node's keys, and gives the home that its admission makes, saved: an admission that is
// answered is never lost.
func (n *node) askToJoin(ctx context.Context, token hsm.Token, request *warderv1.SystemServiceJoinClusterRequest) (seal.Home, error) {
	keys, err := newHardwareKeys(ctx, token)
	if err != nil {
		return seal.Home{}, err
	}
	home, err := n.becomeMember(ctx, keys, request)
	if err != nil { // an admission without a home is of no use, and neither is its root key
		return seal.Home{}, errors.Join(err, discardRoot(ctx, token, keys))
	}
	return home, home.Save(n.cfg.DataDir)
}

func (n *node) becomeMember(ctx context.Context, keys hardwareKeys, request *warderv1.SystemServiceJoinClusterRequest) (seal.Home, error) {
	own, err := newIdentityKeys()
	if err != nil {
		return seal.Home{}, err
	}
	asked := seal.JoinRequest{
		Token: request.GetToken(), Node: n.cfg.Node, Address: n.cfg.Cluster.Advertise, Endpoint: n.endpoint(), CSR: own.request,
		Root: keys.root, NodeKey: keys.nodeSPKI, TransportKey: keys.transport, AuditKey: own.auditPublic(),
	}
	if asked.Signature, err = keys.node.Sign(ctx, asked.Transcript()); err != nil {
		return seal.Home{}, fmt.Errorf("sign the request to join with the node's HSM key: %w", err)
	}
	answer, err := n.callJoin(ctx, own, asked, request)
	if err != nil {
		return seal.Home{}, err
	}
	return n.homeOf(ctx, answer, keys, own)
}

func (n *node) callJoin(ctx context.Context, own identityKeys, asked seal.JoinRequest, request *warderv1.SystemServiceJoinClusterRequest) (*warderv1.JoinClusterResponse, error) {
	introduction, err := selfSigned(own.private)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(request.GetCaCertificatePem())) {
		return nil, fmt.Errorf("%w: the CA certificate does not parse", rpc.ErrField)
	}
	remote, err := client.Dial(client.Config{
		Endpoints: request.GetEndpoints(), CA: roots, Certificate: client.StaticCertificate(introduction), TrustDomain: n.cfg.TrustDomain, Timeout: joinTime,
	})
	if err != nil {
		return nil, err
	}
	defer remote.Close()
	return remote.Cluster.JoinCluster(ctx, rpc.FromJoinRequest(asked))
}

// selfSigned is a certificate for a key that nobody has certified yet: the handshake proves that the caller has it.
func selfSigned(key *ecdsa.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a node that asks to join"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate to ask with: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func (n *node) homeOf(ctx context.Context, answer *warderv1.JoinClusterResponse, keys hardwareKeys, own identityKeys) (seal.Home, error) {
	private, err := own.pem()
	if err != nil {
		return seal.Home{}, err
	}
	home := seal.Home{
		ClusterID: answer.GetClusterId(), ClusterName: answer.GetClusterName(), TrustDomain: answer.GetTrustDomain(), Node: n.cfg.Node,
		Commitment: answer.GetCommitment(), Roots: []byte(answer.GetCaCertificatePem()), Certificate: []byte(answer.GetNodeCertificatePem()),
		PrivateKey: private, AuditSeed: own.auditSeed,
	}
	for _, member := range answer.GetMembers() {
		if member.GetId() != n.cfg.Node {
			home.Peers = append(home.Peers, member.GetId())
		}
	}
	if err := n.checkHome(home); err != nil {
		return seal.Home{}, err
	}
	return home, home.SignPin(ctx, keys.node)
}

// errAnswer says that a member admitted this node and answered with what it cannot be one by.
var errAnswer = errors.New("the member that admitted this node gave it an identity that is not its own")

// checkHome refuses a home that the node could not start with.
func (n *node) checkHome(home seal.Home) error {
	pair, err := tls.X509KeyPair(home.Certificate, home.PrivateKey)
	if err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	uris := pair.Leaf.URIs
	if len(uris) != 1 || uris[0].String() != pki.NodeURI(n.cfg.TrustDomain, n.cfg.Node).String() || home.TrustDomain != n.cfg.TrustDomain {
		return fmt.Errorf("%w: its certificate is not of node %s of %s", errAnswer, n.cfg.Node, n.cfg.TrustDomain)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(home.Roots) || len(home.Commitment) != sha256.Size || home.ClusterID == "" {
		return fmt.Errorf("%w: the cluster's roots, id or commitment are missing", errAnswer)
	}
	return nil
}
