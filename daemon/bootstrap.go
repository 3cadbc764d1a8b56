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
	if keys.transport, err = transportKey(ctx, token); err != nil {
		return hardwareKeys{}, err
	}
	if keys.root, err = seal.NewRootKey(ctx, token, 0); err != nil { // the last: what fails before leaves none behind
		return hardwareKeys{}, fmt.Errorf("make the node's root key: %w", err)
	}
	return keys, nil
}

func transportKey(ctx context.Context, token hsm.Token) ([]byte, error) {
	if !token.Info().CustodyCapable {
		return nil, nil
	}
	public, err := token.TransportKey(ctx)
	if err != nil {
		return nil, fmt.Errorf("the node's transport key: %w", err)
	}
	return x509.MarshalPKIXPublicKey(public)
}

// endpoint is where callers reach this node.
func (n *node) endpoint() string { return "https://" + n.cfg.API.Advertise }

func newClusterID() (string, error) {
	var id [16]byte
	_, err := rand.Read(id[:])
	return hex.EncodeToString(id[:]), err
}

// foundingMark is the name of a file that is there while this node founds a cluster.
const foundingMark = "founding"

// errNoIdentity says that the data directory is a member's and has lost what makes it one.
var errNoIdentity = errors.New("the data directory holds a member's data and no node.json: restore that file from a copy, or move its folders state, raft and audit away")

// markFounding is written before anything else that founding stores, and taken away when the home is.
func (n *node) markFounding() error {
	file, err := os.OpenFile(n.path(foundingMark), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(file.Sync(), file.Close())
	}
	if err != nil {
		return fmt.Errorf("begin to found a cluster: %w", err)
	}
	return nil
}

func (n *node) unmarkFounding() error {
	if err := os.Remove(n.path(foundingMark)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("end the founding of the cluster: %w", err)
	}
	return nil
}

// clearLeftovers removes what an init that was cut short left behind: the home is written last, so that nothing of it
// was ever acknowledged. Data that no init left is a member's: it is not touched.
func (n *node) clearLeftovers() error {
	_, err := os.Stat(n.path(foundingMark))
	begun := err == nil
	for _, folder := range []string{stateFolder, raftFolder, "audit"} {
		if _, err := os.Stat(n.path(folder)); !errors.Is(err, os.ErrNotExist) && !begun {
			return errors.Join(errNoIdentity, err)
		}
		if err := os.RemoveAll(n.path(folder)); err != nil {
			return fmt.Errorf("remove what a former attempt left: %w", err)
		}
	}
	return nil
}

// discardRoot destroys the root key of an init or join that came to nothing, also when the caller is gone.
func discardRoot(ctx context.Context, token hsm.Token, keys hardwareKeys) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTime)
	defer cancel()
	return token.DestroyKey(ctx, keys.root.Fingerprint())
}

// discardTime bounds the destruction of a key.
const discardTime = 10 * time.Second

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
