package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/identity"
	"warder/daemon/pki"
	"warder/daemon/policy"
	"warder/daemon/rpc"
	"warder/daemon/seal"
	"warder/daemon/token"
	"warder/hsm"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// adminGroup is the group that the bootstrap policy speaks of.
const adminGroup = "admins"

// founding is a new cluster before it exists.
type founding struct {
	request   *warderv1.InitClusterRequest
	hardware  hardwareKeys
	own       identityKeys
	ring      *keyring.Keyring
	ca        *pki.CA
	custody   *seal.Custody
	operator  identity.Principal
	certified pki.Certificate
	home      seal.Home
}

// initCluster makes this node the first of a new cluster, and the request's operator its first.
func (n *node) initCluster(ctx context.Context, request *warderv1.InitClusterRequest) (*warderv1.InitClusterResponse, error) {
	if !n.becoming.TryLock() {
		return nil, errBecoming
	}
	defer n.becoming.Unlock()
	if _, err := seal.LoadHome(n.cfg.DataDir); !errors.Is(err, seal.ErrNoHome) {
		return nil, errors.Join(rpc.ErrMember, err)
	}
	if request.GetTrustDomain() != n.cfg.TrustDomain {
		return nil, fmt.Errorf("%w: the cluster's trust domain must be the one in this node's configuration, %s", rpc.ErrField, n.cfg.TrustDomain)
	}
	if err := n.clearLeftovers(); err != nil {
		return nil, err
	}
	hardware, err := n.hardware.take(ctx)
	if err != nil {
		return nil, err
	}
	f, err := n.prepare(ctx, hardware, request)
	if err != nil {
		return nil, errors.Join(err, f.discard(ctx, hardware), hardware.Close())
	}
	if err := n.found(ctx, hardware, f); err != nil {
		return nil, err
	}
	return &warderv1.InitClusterResponse{
		ClusterId: f.home.ClusterID, CaCertificatePem: string(f.home.Roots), OperatorCertificatePem: string(f.certified.PEM),
		Commitment: f.home.Commitment,
	}, nil
}

// prepare makes every key and certificate of the new cluster; nothing is stored but in the HSM, and there last. What
// was made is given with an error too.
func (n *node) prepare(ctx context.Context, hardware hsm.Token, request *warderv1.InitClusterRequest) (*founding, error) {
	f := &founding{request: request}
	var err error
	if f.operator, err = operatorOf(request); err != nil {
		return f, err
	}
	if f.ca, err = pki.NewCA(request.GetTrustDomain(), request.GetClusterName(), time.Now()); err != nil {
		return f, err
	}
	if f.certified, err = f.ca.Issue(request.GetOperatorCsr(), f.operator, pki.DefaultTTL, time.Now()); err != nil {
		return f, err
	}
	if f.own, err = newIdentityKeys(); err != nil {
		return f, err
	}
	if f.ring, err = keyring.New(rand.Reader); err != nil {
		return f, err
	}
	if f.hardware, err = newHardwareKeys(ctx, hardware); err != nil {
		return f, err
	}
	if err := n.prepareHome(ctx, f); err != nil {
		return f, err
	}
	f.custody, err = seal.NewCustody(ctx, hardware)
	return f, err
}

// discard destroys what a founding that failed has made in the HSM.
func (f *founding) discard(ctx context.Context, token hsm.Token) error {
	if f.hardware.root.Public == nil {
		return nil
	}
	return discardRoot(ctx, token, f.hardware)
}

func operatorOf(request *warderv1.InitClusterRequest) (identity.Principal, error) {
	namespace, err := identity.ParseName(request.GetOperatorNamespace())
	if err != nil {
		return identity.Principal{}, fmt.Errorf("the operator's namespace: %w", err)
	}
	name, err := identity.ParseName(request.GetOperatorName())
	if err != nil {
		return identity.Principal{}, fmt.Errorf("the operator's name: %w", err)
	}
	if namespace.String() != policy.System {
		return identity.Principal{}, fmt.Errorf("%w: the first operator must be of the namespace %s, which has rights everywhere", rpc.ErrField, policy.System)
	}
	return identity.Principal{Kind: identity.Operator, Namespace: namespace, Name: name}, nil
}

func (n *node) prepareHome(ctx context.Context, f *founding) error {
	hosts, err := rpc.Hosts(n.cfg.Cluster.Advertise, n.endpoint())
	if err != nil {
		return err
	}
	own, err := f.ca.IssueNode(f.own.request, n.cfg.Node, hosts, f.hardware.node.Fingerprint(), time.Now())
	if err != nil {
		return err
	}
	private, err := f.own.pem()
	if err != nil {
		return err
	}
	id, err := newClusterID()
	if err != nil {
		return err
	}
	commitment := f.ring.Commitment()
	f.home = seal.Home{
		ClusterID: id, ClusterName: f.request.GetClusterName(), TrustDomain: f.request.GetTrustDomain(), Node: n.cfg.Node,
		Commitment: commitment[:], Roots: f.ca.PEM(), Certificate: own.PEM, PrivateKey: private, AuditSeed: f.own.auditSeed,
	}
	return f.home.SignPin(ctx, f.hardware.node)
}

// found starts the first member, writes the cluster's first records in one batch, and makes the node remember where it
// belongs. From the home's writing on, the cluster exists. A node that fails in between ends: started anew it belongs to
// no cluster, and can be asked again.
func (n *node) found(ctx context.Context, hardware hsm.Token, f *founding) error {
	if err := n.markFounding(); err != nil {
		return errors.Join(err, f.discard(ctx, hardware), hardware.Close())
	}
	m, err := n.openMember(f.home, hardware, true)
	if err != nil {
		return errors.Join(err, f.discard(ctx, hardware), hardware.Close())
	}
	m.holder.Set(f.ring)
	n.begin(m)
	if err := n.establish(ctx, m, f); err != nil {
		if _, lost := seal.LoadHome(n.cfg.DataDir); errors.Is(lost, seal.ErrNoHome) {
			err = errors.Join(err, f.discard(ctx, hardware))
		}
		err = fmt.Errorf("%w: the node stops; start it, and repeat `warder operator init`", err)
		n.giveUp(err)
		return err
	}
	if err := n.settle(ctx, m); err != nil { // the operator needs the answer all the same
		n.logger.Warn("the new cluster does not serve yet", "error", err)
	}
	return nil
}

func (n *node) establish(ctx context.Context, m *member, f *founding) error {
	if err := await(ctx, "wait to lead the new cluster", m.raft.IsLeader); err != nil {
		return err
	}
	if err := m.db.Update(ctx, func(tx *kv.Tx) error { return n.writeFirst(tx, m, f) }); err != nil {
		return fmt.Errorf("write the cluster's first records: %w", err)
	}
	if err := ctx.Err(); err != nil { // nobody is left to take the operator's certificate
		return err
	}
	return f.home.Save(n.cfg.DataDir)
}

func (n *node) settle(ctx context.Context, m *member) error {
	if err := n.unmarkFounding(); err != nil { // the next start does it
		return err
	}
	if err := await(ctx, "open the new keyring", func() bool { return m.keeper.Epoch() > 0 }); err != nil {
		return err
	}
	return m.server.Reload(ctx)
}

func (n *node) writeFirst(tx *kv.Tx, m *member, f *founding) error {
	self := seal.Member{
		Node: n.cfg.Node, Address: n.cfg.Cluster.Advertise, Endpoint: n.endpoint(), NodeKey: f.hardware.nodeSPKI,
		TransportKey: f.hardware.transport, AuditKey: f.own.auditPublic(), Root: f.hardware.root, Admitted: time.Now().UTC(),
	}
	if err := seal.Found(tx, f.ring, f.home.ClusterID, self, f.custody); err != nil {
		return err
	}
	if err := f.ca.Store(tx); err != nil {
		return err
	}
	if err := token.Found(tx, time.Now()); err != nil {
		return err
	}
	if err := policy.Found(tx, time.Now()); err != nil {
		return err
	}
	_, err := m.registry.CreateTx(tx, f.operator, []identity.Name{identity.MustName(adminGroup)}, f.certified.Key)
	return err
}
