package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	warderv1 "warder/api/warder/v1"
	"warder/daemon/config"
	"warder/daemon/policy"
	"warder/daemon/seal"
)

// devDomain is the trust domain of development nodes.
const devDomain = "dev.warder.internal"

const devWarning = `
  ######################################################################
  #  DEVELOPMENT NODE: its keys are in files, not in an HSM, and there  #
  #  is one copy of the data. Never put a real credential into it.      #
  ######################################################################
`

// runDev runs a single node with a software token, founded on the way, with a context for the command line beside it.
// Without a folder its data lives as long as it does.
func runDev(ctx context.Context, dir string, program Program) error {
	if dir == "" {
		made, err := os.MkdirTemp("", "warder-dev-")
		if err != nil {
			return fmt.Errorf("make a folder for the development node: %w", err)
		}
		defer func() { _ = os.RemoveAll(made) }() // what stays behind is in the system's temporary folder
		dir = made
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("the data folder: %w", err)
	}
	cfg, err := config.Config{
		Node: "dev", DataDir: absolute, TrustDomain: devDomain, Dev: true, Metrics: config.Metrics{Listen: "127.0.0.1:8445"},
		Log: config.Log{Level: "warn"},
	}.Complete()
	if err != nil {
		return err
	}
	logger, err := newLogger(cfg.Log, program.Stderr)
	if err != nil {
		return err
	}
	fmt.Fprint(program.Stderr, devWarning)
	n := newNode(cfg, program, logger)
	return n.run(ctx, n.readyDev)
}

// readyDev founds the development cluster where there is none yet, and says how to talk to it.
func (n *node) readyDev(ctx context.Context) error {
	client := n.path("client")
	if _, err := seal.LoadHome(n.cfg.DataDir); err != nil {
		if err := n.foundDev(ctx, client); err != nil {
			return err
		}
	}
	fmt.Fprintf(n.program.Stdout, `The development node runs at %s (metrics: http://%s/metrics).

  export WARDER_CONTEXT=%s
  warder status

Ctrl-C stops it.
`, n.endpoint(), n.cfg.Metrics.Listen, filepath.Join(client, "context.yaml"))
	return nil
}

func (n *node) foundDev(ctx context.Context, client string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the operator's key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fmt.Errorf("make the operator's certificate request: %w", err)
	}
	answer, err := n.initCluster(ctx, &warderv1.InitClusterRequest{
		ClusterName: "dev", TrustDomain: devDomain, OperatorNamespace: policy.System, OperatorName: "admin", OperatorCsr: request,
	})
	if err != nil {
		return fmt.Errorf("found the development cluster: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the operator's key: %w", err)
	}
	if err := os.MkdirAll(client, 0o700); err != nil {
		return fmt.Errorf("make the client's folder: %w", err)
	}
	files := map[string]string{
		"key.pem":         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"certificate.pem": answer.GetOperatorCertificatePem(),
		"ca.pem":          answer.GetCaCertificatePem(),
		"context.yaml": fmt.Sprintf("endpoints: [%q]\ntrust_domain: %s\nnamespace: default\nca: ca.pem\ncertificate: certificate.pem\nkey: key.pem\n",
			n.endpoint(), devDomain),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(client, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write the client's context: %w", err)
		}
	}
	return nil
}
