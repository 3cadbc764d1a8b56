package daemon_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
	"warder/cluster/transport"
	"warder/daemon/rpc"
	"warder/daemon/seal"
	"warder/hsm/softtoken"
)

func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	tick, limit := time.NewTicker(20*time.Millisecond), time.After(patience)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-limit:
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

func (n *testNode) joinToken(t *testing.T, node, fingerprint string) string {
	t.Helper()
	answer, err := n.client.Cluster.CreateJoinToken(t.Context(), &warderv1.CreateJoinTokenRequest{
		NodeId: node, HsmFingerprint: fingerprint, Ttl: durationpb.New(time.Minute),
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetToken()
}

// ghost is admitted as a node by its papers alone: no daemon runs. It gives the node's certificate.
func (n *testNode) ghost(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	token, err := softtoken.Open("")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := token.NodeKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	root, err := seal.NewRootKey(t.Context(), token, 0)
	if err != nil {
		t.Fatal(err)
	}
	key, csr := newRequest(t)
	asked := seal.JoinRequest{
		Token: n.joinToken(t, name, signer.Fingerprint().String()), Node: name, Address: "127.0.0.1:1",
		Endpoint: "https://127.0.0.1:2", CSR: csr, Root: root, NodeKey: public, AuditKey: make([]byte, ed25519.PublicKeySize),
	}
	if asked.Signature, err = signer.Sign(t.Context(), asked.Transcript()); err != nil {
		t.Fatal(err)
	}
	answer, err := n.client.Cluster.JoinCluster(t.Context(), rpc.FromJoinRequest(asked))
	if err != nil {
		t.Fatal(err)
	}
	return certificateOf(t, answer.GetNodeCertificatePem(), key)
}

// asPeer connects to the node's port for members and asks it for its term, the cheapest question there is.
func (n *testNode) asPeer(t *testing.T, certificate *tls.Certificate) error {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	network, err := transport.Listen(listener, transport.TLS{
		Certificate: func() *tls.Certificate { return certificate }, Roots: func() *x509.CertPool { return n.roots },
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := network.Dial(ctx, n.cfg.Node, n.cfg.Cluster.Advertise, transport.Forward)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{0, 0, 0, 9, 3, 0, 0, 0, 0, 0, 0, 0, 1}); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

func (n *testNode) seal(t *testing.T) {
	t.Helper()
	if _, err := n.socketClient(t).System.Seal(t.Context(), &warderv1.SealRequest{}); err != nil {
		t.Fatal(err)
	}
}

func (n *testNode) unseal(t *testing.T) {
	t.Helper()
	if _, err := n.socketClient(t).System.Unseal(t.Context(), &warderv1.UnsealRequest{}); err != nil {
		t.Fatal(err)
	}
}

// TestASealedNodeRefusesWhoWasEvicted: the certificate of an evicted node is good for a year, and a sealed node cannot
// read who is a member.
func TestASealedNodeRefusesWhoWasEvicted(t *testing.T) {
	n := startNode(t)
	stays, goes := n.ghost(t, "stays"), n.ghost(t, "goes")
	for _, one := range []*tls.Certificate{stays, goes} {
		if err := n.asPeer(t, one); err != nil {
			t.Fatalf("a member: %v", err)
		}
	}
	if _, err := n.client.Cluster.RemoveMember(t.Context(), &warderv1.RemoveMemberRequest{NodeId: "goes"}); err != nil {
		t.Fatal(err)
	}
	if err := n.asPeer(t, goes); err == nil {
		t.Error("an unsealed node answers an evicted one")
	}
	eventually(t, "a sealed node refuses the evicted one", func() error {
		n.seal(t)
		defer n.unseal(t)
		if err := n.asPeer(t, stays); err != nil {
			t.Fatalf("a sealed node refuses a member: %v", err)
		}
		if err := n.asPeer(t, goes); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
}

// TestCertificatesOfOneUseOnly: no caller passes as a node towards members, and no node as a caller.
func TestCertificatesOfOneUseOnly(t *testing.T) {
	n := startNode(t)
	if err := n.asPeer(t, n.operator.certificate); err == nil {
		t.Error("an operator passes as a node")
	}
	if err := n.asPeer(t, n.workload(t, "default", "node").certificate); err == nil {
		t.Error("a workload passes as a node")
	}
	got := n.post(t, n.caller(t, n.ghost(t, "two")), "/warder.v1.ClusterService/ListMembers", `{}`)
	if got.reason != "CERTIFICATE_UNKNOWN" {
		t.Errorf("a node calls as somebody: %d %s", got.status, got.reason)
	}
}

// join makes the node a member through another.
func (n *testNode) join(t *testing.T, through *testNode) error {
	t.Helper()
	local := n.socketClient(t)
	status, err := local.System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = local.System.JoinCluster(t.Context(), &warderv1.SystemServiceJoinClusterRequest{
		Token:     through.joinToken(t, n.cfg.Node, status.GetHsm().GetNodeKeyFingerprint()),
		Endpoints: []string{"https://" + through.cfg.API.Advertise}, CaCertificatePem: through.authority,
	})
	return err
}

func (n *testNode) applied(t *testing.T) *warderv1.GetStatusResponse {
	t.Helper()
	status, err := n.socketClient(t).System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func (n *testNode) awaitVoters(t *testing.T, want int) {
	t.Helper()
	eventually(t, "all nodes vote", func() error {
		members, err := n.client.Cluster.ListMembers(t.Context(), &warderv1.ListMembersRequest{})
		voters := 0
		for _, member := range members.GetMembers() {
			if member.GetVoter() {
				voters++
			}
		}
		if err == nil && voters != want {
			err = fmt.Errorf("%d vote", voters)
		}
		return err
	})
}

// TestASealedNodeComesBack: a node that cannot use its HSM when it starts finds its cluster, and follows it.
func TestASealedNodeComesBack(t *testing.T) {
	one, two := startNode(t), newTestNode(t, "two")
	run := two.launch(t)
	if err := two.join(t, one); err != nil {
		t.Fatalf("join: %v\n%s", err, two.output)
	}
	one.awaitVoters(t, 2)
	if err := run.end(); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(two.cfg.DataDir, "software-token")
	if err := os.Rename(token, token+".away"); err != nil {
		t.Fatal(err)
	}
	again := two.launch(t)
	eventually(t, "the sealed node follows", func() error {
		behind, ahead := two.applied(t), one.applied(t)
		if !behind.GetSealed() {
			t.Fatal("a node without its HSM is not sealed")
		}
		if behind.GetLeaderId() == "" || behind.GetAppliedIndex() < ahead.GetAppliedIndex() {
			return errors.New("it is behind")
		}
		return nil
	})
	if err := again.end(); err != nil {
		t.Error(err)
	}
}

// TestAFoundingThatFailsIsRepeated: the home cannot be written, so that the cluster must not be.
func TestAFoundingThatFailsIsRepeated(t *testing.T) {
	n := newTestNode(t, "one")
	run := n.launch(t)
	obstacle := filepath.Join(n.cfg.DataDir, "node.json.new")
	if err := os.Mkdir(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.init(t); err == nil {
		t.Fatal("a cluster was founded that its node will not remember")
	}
	select {
	case err := <-run.ended:
		if err == nil || !strings.Contains(err.Error(), "operator init") {
			t.Errorf("the node ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the node runs on without a home")
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	again := n.launch(t)
	n.found(t)
	if keys, err := filepath.Glob(filepath.Join(n.cfg.DataDir, "software-token", "root-*")); err != nil || len(keys) != 1 {
		t.Errorf("the token holds the root keys %v, %v; want one", keys, err)
	}
	if err := again.end(); err != nil {
		t.Error(err)
	}
}

// TestAJoinThatCannotStartIsResumed: the node was admitted, and its port is taken.
func TestAJoinThatCannotStartIsResumed(t *testing.T) {
	one, two := startNode(t), newTestNode(t, "two")
	taken, err := net.Listen("tcp", two.cfg.Cluster.Listen)
	if err != nil {
		t.Fatal(err)
	}
	run := two.launch(t)
	if err := two.join(t, one); err == nil {
		t.Fatal("it joined without a port")
	}
	select {
	case err := <-run.ended:
		if err == nil {
			t.Error("the node ended without a reason")
		}
	case <-time.After(patience):
		t.Fatal("the node runs on: it takes no join any more, and is no member")
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	again := two.launch(t)
	eventually(t, "the node is a member", func() error {
		if two.applied(t).GetSealed() {
			return errors.New("sealed")
		}
		return nil
	})
	if err := again.end(); err != nil {
		t.Error(err)
	}
}

// TestALostHomeLosesNothingElse: without node.json a node does not know its cluster; its data may be the only copy.
func TestALostHomeLosesNothingElse(t *testing.T) {
	n := newTestNode(t, "one")
	run := n.launch(t)
	n.found(t)
	if err := run.end(); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(n.cfg.DataDir, "node.json")
	if err := os.Rename(home, home+".lost"); err != nil {
		t.Fatal(err)
	}
	again := n.launch(t)
	if err := n.init(t); err == nil {
		t.Error("a second cluster was founded in the place of the first")
	}
	if err := again.end(); err != nil {
		t.Error(err)
	}
	if err := os.Rename(home+".lost", home); err != nil {
		t.Fatal(err)
	}
	last := n.launch(t)
	eventually(t, "the node is what it was", func() error {
		_, err := n.client.Cluster.ListMembers(t.Context(), &warderv1.ListMembersRequest{})
		return err
	})
	if err := last.end(); err != nil {
		t.Error(err)
	}
}

// TestRefusedJoinsLeaveNoKeys: each attempt makes a root key.
func TestRefusedJoinsLeaveNoKeys(t *testing.T) {
	one, two := startNode(t), newTestNode(t, "two")
	run := two.launch(t)
	for range 3 {
		_, err := two.socketClient(t).System.JoinCluster(t.Context(), &warderv1.SystemServiceJoinClusterRequest{
			Token: "wjt1.nobody.knows", Endpoints: []string{"https://" + one.cfg.API.Advertise}, CaCertificatePem: one.authority,
		})
		if err == nil {
			t.Fatal("a token that nobody made was taken")
		}
	}
	if err := run.end(); err != nil {
		t.Error(err)
	}
	if keys, err := filepath.Glob(filepath.Join(two.cfg.DataDir, "software-token", "root-*")); err != nil || len(keys) != 0 {
		t.Errorf("the token holds the root keys %v, %v; want none", keys, err)
	}
}

// TestALeaderNeverHeardOf: a member that was away while another joined does not know it, and must follow it.
func TestALeaderNeverHeardOf(t *testing.T) {
	one, two, three, four := startNode(t), newTestNode(t, "two"), newTestNode(t, "three"), newTestNode(t, "four")
	runs := map[string]*running{}
	admit := func(n *testNode, voters int) {
		runs[n.cfg.Node] = n.launch(t)
		if err := n.join(t, one); err != nil {
			t.Fatalf("join: %v\n%s", err, n.output)
		}
		one.awaitVoters(t, voters)
	}
	admit(two, 2)
	admit(three, 3)
	if err := runs["three"].end(); err != nil {
		t.Fatal(err)
	}
	admit(four, 4)
	eventually(t, "the new member leads", func() error {
		if leader := four.applied(t).GetLeaderId(); leader != "four" {
			_, err := one.client.Cluster.StepDown(t.Context(), &warderv1.StepDownRequest{})
			return errors.Join(errors.New("led by "+leader), err)
		}
		return nil
	})
	again := three.launch(t)
	eventually(t, "the one that was away is up to date", func() error {
		status := three.applied(t)
		if status.GetLeaderId() != "four" || status.GetAppliedIndex() < four.applied(t).GetAppliedIndex() || len(status.GetProblems()) > 0 {
			return errors.New(status.String())
		}
		return nil
	})
	for _, run := range []*running{again, runs["two"], runs["four"]} {
		if err := run.end(); err != nil {
			t.Error(err)
		}
	}
}

// TestARemovedNodeServesNoLonger: not with what it has in memory, and not with its old disk.
func TestARemovedNodeServesNoLonger(t *testing.T) {
	one, two := startNode(t), newTestNode(t, "two")
	run := two.launch(t)
	if err := two.join(t, one); err != nil {
		t.Fatalf("join: %v\n%s", err, two.output)
	}
	one.awaitVoters(t, 2)
	const list = "/warder.v1.ClusterService/ListMembers"
	if got := two.post(t, one.operator, list, `{}`); got.status != http.StatusOK {
		t.Fatalf("a member: %d %s", got.status, got.body)
	}
	if _, err := one.client.Cluster.RemoveMember(t.Context(), &warderv1.RemoveMemberRequest{NodeId: "two"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the removed node refuses", func() error {
		if got := two.post(t, one.operator, list, `{}`); got.reason != "STALE" {
			return fmt.Errorf("it answers %d %s", got.status, got.reason)
		}
		return nil
	})
	// It does not know of a token that was made without it, and does not hold it to be wrong: whoever asked it must ask another.
	fresh := one.joinToken(t, "three", "sha256:"+strings.Repeat("0", 64))
	if got := two.post(t, two.caller(t, nil), "/warder.v1.ClusterService/JoinCluster", fmt.Sprintf(`{"token":%q}`, fresh)); got.reason != "NO_LEADER" {
		t.Errorf("a token that it cannot know: %d %s", got.status, got.body)
	}
	if err := run.end(); err != nil {
		t.Fatal(err)
	}
	again := two.launch(t)
	eventually(t, "it has opened the keyring that it has", func() error {
		if two.applied(t).GetSealed() {
			return errors.New("sealed")
		}
		return nil
	})
	for range 50 {
		if got := two.post(t, one.operator, list, `{}`); got.status == http.StatusOK {
			t.Fatal("it serves from its old disk")
		}
	}
	if err := one.asPeer(t, two.certificateOnDisk(t)); err == nil {
		t.Error("a member answers it")
	}
	if got := one.post(t, one.operator, list, `{}`); got.status != http.StatusOK || strings.Contains(string(got.body), `"two"`) {
		t.Errorf("the cluster: %d %s", got.status, got.body)
	}
	if err := again.end(); err != nil {
		t.Error(err)
	}
}

// certificateOnDisk is what somebody with the node's disk has.
func (n *testNode) certificateOnDisk(t *testing.T) *tls.Certificate {
	t.Helper()
	home, err := seal.LoadHome(n.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(home.Certificate, home.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// TestTheSameDiskIsOpenOnce: a second daemon on a node's data says so, and changes nothing.
func TestTheSameDiskIsOpenOnce(t *testing.T) {
	n := startNode(t)
	twin := newTestNode(t, "one")
	twin.cfg.DataDir = n.cfg.DataDir
	select {
	case err := <-twin.launch(t).ended:
		if err == nil {
			t.Error("the second daemon ended without a reason")
		}
		t.Log(err)
	case <-time.After(patience):
		t.Fatal("two daemons run on one disk")
	}
	if got := n.post(t, n.operator, "/warder.v1.ClusterService/ListMembers", `{}`); got.status != http.StatusOK {
		t.Errorf("the first: %d %s", got.status, got.body)
	}
}
