package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/rpc"
	"warder/daemon/seal"
	"warder/hsm"
)

// serveBootstrap lets the local socket initialise a cluster or join one, and nothing else.
func (n *node) serveBootstrap() {
	handler := rpc.NewBootstrap(rpc.BootstrapConfig{
		Init: n.initCluster, Join: n.joinCluster, Status: n.bootstrapStatus, Logger: n.logger,
	})
	n.socket.Store(&handler)
	n.logger.Info("the node belongs to no cluster yet: run `warder operator init` or `warder operator join` on this machine",
		"socket", n.path(socketName))
}

// bootstrapStatus tells what can be told of a node without a cluster: its name and its HSM.
func (n *node) bootstrapStatus(ctx context.Context) (*warderv1.GetStatusResponse, error) {
	status := &warderv1.GetStatusResponse{
		NodeId: n.cfg.Node, TrustDomain: n.cfg.TrustDomain, Version: n.program.Version, Sealed: true, DevMode: n.cfg.Dev,
		Role: warderv1.NodeRole_NODE_ROLE_LEARNER, StartedAt: timestamppb.New(n.started), Now: timestamppb.Now(),
		Problems: []string{"the node belongs to no cluster yet"},
	}
	token, err := n.hardware.open(ctx)
	status.Hsm = rpc.HSMStatus(ctx, token, err)
	if err != nil {
		status.Problems = append(status.Problems, "the HSM cannot be used: "+err.Error())
	}
	return status, nil
}

// identityKeys are the keys that a node makes for itself when it becomes a member.
type identityKeys struct {
	private   *ecdsa.PrivateKey // of its TLS certificate
	request   []byte            // PKCS #10 for it
	auditSeed []byte
}

func newIdentityKeys() (identityKeys, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identityKeys{}, fmt.Errorf("make the node's TLS key: %w", err)
	}
	request, err := nodeRequest(&tls.Certificate{PrivateKey: private})
	if err != nil {
		return identityKeys{}, err
	}
	seed := make([]byte, ed25519.SeedSize)
	_, err = rand.Read(seed)
	return identityKeys{private: private, request: request, auditSeed: seed}, err
}

func (k identityKeys) auditPublic() []byte {
	return ed25519.NewKeyFromSeed(k.auditSeed).Public().(ed25519.PublicKey)
}

func (k identityKeys) pem() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encode the node's TLS key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// hardwareKeys are the public halves of a node's keys in its HSM.
type hardwareKeys struct {
	node      hsm.Signer
	nodeSPKI  []byte
	root      seal.RootKey
	transport []byte // DER SubjectPublicKeyInfo; empty where the token cannot keep device keys
}

func newHardwareKeys(ctx context.Context, token hsm.Token) (hardwareKeys, error) {
	node, err := token.NodeKey(ctx)
	if err != nil {
		return hardwareKeys{}, fmt.Errorf("the node's key in the HSM: %w", err)
	}
	keys := hardwareKeys{node: node}
	if keys.nodeSPKI, err = x509.MarshalPKIXPublicKey(node.Public()); err != nil {
		return hardwareKeys{}, fmt.Errorf("encode the node's HSM key: %w", err)
	}
	if keys.root, err = seal.NewRootKey(ctx, token, 0); err != nil {
		return hardwareKeys{}, fmt.Errorf("make the node's root key: %w", err)
	}
	if !token.Info().CustodyCapable {
		return keys, nil
	}
	transport, err := token.TransportKey(ctx)
	if err != nil {
		return hardwareKeys{}, fmt.Errorf("the node's transport key: %w", err)
	}
	keys.transport, err = x509.MarshalPKIXPublicKey(transport)
	return keys, err
}

// endpoint is where callers reach this node.
func (n *node) endpoint() string { return "https://" + n.cfg.API.Advertise }

func newClusterID() (string, error) {
	var id [16]byte
	_, err := rand.Read(id[:])
	return hex.EncodeToString(id[:]), err
}

// clearLeftovers removes what an init or join that was cut short left behind: the home is written last, so that without
// one nothing here was ever acknowledged.
func (n *node) clearLeftovers() error {
	for _, folder := range []string{stateFolder, raftFolder, "audit"} {
		if err := os.RemoveAll(n.path(folder)); err != nil {
			return fmt.Errorf("remove what a former attempt left: %w", err)
		}
	}
	return nil
}

// errBecoming says that an init or join is under way.
var errBecoming = errors.New("the node is becoming a member already: wait for that to end")

// leaderWait bounds how long a new member waits to be told of its leader.
const leaderWait = 20 * time.Second

// await waits until done says so, for at most leaderWait.
func await(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}
