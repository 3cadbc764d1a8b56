package town

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

// TrustDomain is the trust domain of every town.
const TrustDomain = "town.warder.internal"

// Plan is what a town is to be like. Its zero value is three nodes on loopback with software tokens.
type Plan struct {
	// Nodes is how many nodes the cluster has; 3.
	Nodes int
	// Binary is the program; BinaryEnv's by default.
	Binary string
	// Prepare may change a node before its configuration is written: its Data, addresses, Wrap and Env.
	Prepare func(t testing.TB, number int, n *Node)
	// RoundTrip is the nodes' cluster.round_trip; 30ms.
	RoundTrip string
	// Config gives lines for a node's configuration; by default a software token.
	Config func(t testing.TB, n *Node) string
}

// BinaryEnv names the environment variable that holds the path of the program under test.
const BinaryEnv = "WARDER_BATTERY_BINARY"

// Town is a cluster of processes and its operator.
type Town struct {
	Nodes []*Node
	// Client asks any node, as the first operator.
	Client *client.Client
	Dir    string
	binary string
	plan   Plan
	built  int // nodes so far, those that are gone included
}

// New founds a cluster and waits until all its nodes vote and serve. On failure the nodes' last words are logged.
func New(t testing.TB, plan Plan) *Town {
	t.Helper()
	if plan.Nodes == 0 {
		plan.Nodes = 3
	}
	if plan.Binary == "" {
		plan.Binary = os.Getenv(BinaryEnv)
	}
	if plan.Config == nil {
		plan.Config = func(testing.TB, *Node) string { return "dev: true\n" }
	}
	town := &Town{Dir: t.TempDir(), binary: plan.Binary, plan: plan}
	for range plan.Nodes {
		town.Nodes = append(town.Nodes, town.build(t))
	}
	town.found(t)
	return town
}

func (town *Town) build(t testing.TB) *Node {
	t.Helper()
	number, plan := town.built, town.plan
	town.built++
	id := "n" + strconv.Itoa(town.built)
	dir := filepath.Join(town.Dir, id)
	n := &Node{
		ID: id, Dir: dir, Data: filepath.Join(dir, "data"), API: FreeAddress(t), Peer: FreeAddress(t), Metrics: FreeAddress(t), Binary: plan.Binary,
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if plan.Prepare != nil {
		plan.Prepare(t, number, n)
	}
	n.configure(t, plan, plan.Config(t, n))
	n.Start(t)
	t.Cleanup(func() { n.bury(t) })
	return n
}

// configure writes the node's configuration.
func (n *Node) configure(t testing.TB, plan Plan, lines string) {
	t.Helper()
	text := fmt.Sprintf("node: %s\ndata_dir: %s\ntrust_domain: %s\napi:\n  listen: [%q]\ncluster:\n  listen: %s\n  round_trip: %s\nmetrics:\n  listen: %s\nlog:\n  level: info\n%s",
		n.ID, n.Data, TrustDomain, n.API, n.Peer, cmp.Or(plan.RoundTrip, "30ms"), n.Metrics, lines)
	if err := os.WriteFile(filepath.Join(n.Dir, "warder.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// bury ends the node with the test.
func (n *Node) bury(t testing.TB) {
	if t.Failed() {
		t.Logf("node %s in %s said at last:\n%s", n.ID, n.Dir, n.Log())
	}
	n.Resume()
	n.Kill()
}

func (town *Town) found(t testing.TB) {
	t.Helper()
	first := town.Nodes[0]
	args := []string{"operator", "init", "--context", town.ContextFile(), "--socket", first.Socket(), "--cluster-trust-domain", TrustDomain}
	for _, n := range town.Nodes {
		args = append(args, "--endpoint", n.Endpoint())
	}
	town.Warder(t, args...)
	for _, n := range town.Nodes[1:] {
		town.Join(t, n)
	}
	town.Client = town.Dial(t, town.Nodes...)
	Eventually(t, "all nodes vote", time.Minute, func() error { return town.vote(t, len(town.Nodes)) })
	for _, n := range town.Nodes {
		town.Ready(t, n)
	}
}

// Join makes a running node without a cluster a member.
func (town *Town) Join(t testing.TB, n *Node) {
	t.Helper()
	town.Warder(t, "operator", "join", "--context", town.ContextFile(), "--socket", n.Socket())
}

func (town *Town) vote(t testing.TB, want int) error {
	members, err := town.Client.Cluster.ListMembers(t.Context(), &warderv1.ListMembersRequest{})
	if err != nil {
		return err
	}
	voters := 0
	for _, member := range members.GetMembers() {
		if member.GetVoter() {
			voters++
		}
	}
	if voters != want {
		return fmt.Errorf("%d voters; want %d", voters, want)
	}
	return nil
}

// ContextFile is the operator's context for the command line.
func (town *Town) ContextFile() string { return filepath.Join(town.Dir, "operator", "context.yaml") }

// Warder runs the program with the operator's context, and fails the test where it fails.
func (town *Town) Warder(t testing.TB, args ...string) string {
	t.Helper()
	out, err := town.Try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try runs the program with the operator's context.
func (town *Town) Try(args ...string) (string, error) {
	command := exec.Command(town.binary, args...)
	command.Env = append(os.Environ(), "WARDER_CONTEXT="+town.ContextFile())
	out, err := command.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("warder %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Roots are the cluster's CA certificates.
func (town *Town) Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(town.Dir, "operator", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return roots
}

// Certificate is the first operator's.
func (town *Town) Certificate(t testing.TB) tls.Certificate {
	t.Helper()
	dir := filepath.Join(town.Dir, "operator")
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// Dial gives a client of the first operator that asks these nodes.
func (town *Town) Dial(t testing.TB, nodes ...*Node) *client.Client {
	t.Helper()
	certificate := town.Certificate(t)
	return town.DialAs(t, &certificate, nodes...)
}

// DialAs gives a client with a certificate of its own that asks these nodes.
func (town *Town) DialAs(t testing.TB, certificate *tls.Certificate, nodes ...*Node) *client.Client {
	t.Helper()
	var endpoints []string
	for _, n := range nodes {
		endpoints = append(endpoints, n.Endpoint())
	}
	dialled, err := client.Dial(client.Config{
		Endpoints: endpoints, CA: town.Roots(t), TrustDomain: TrustDomain, Certificate: client.StaticCertificate(*certificate), Timeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dialled.Close)
	return dialled
}

// Leader finds the node that leads.
func (town *Town) Leader(t testing.TB) *Node {
	t.Helper()
	var found *Node
	Eventually(t, "a leader", time.Minute, func() error {
		members, err := town.Client.Cluster.ListMembers(t.Context(), &warderv1.ListMembersRequest{})
		if err != nil {
			return err
		}
		for _, member := range members.GetMembers() {
			if n := town.Named(member.GetId()); n != nil && member.GetRole() == warderv1.NodeRole_NODE_ROLE_LEADER {
				found = n
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	return found
}

// Named finds a node by its id; nil where there is none.
func (town *Town) Named(id string) *Node {
	for _, n := range town.Nodes {
		if n.ID == id {
			return n
		}
	}
	return nil
}

// Others are the nodes but one.
func (town *Town) Others(one *Node) []*Node {
	var others []*Node
	for _, n := range town.Nodes {
		if n != one {
			others = append(others, n)
		}
	}
	return others
}

// Ready waits until a running node serves callers.
func (town *Town) Ready(t testing.TB, n *Node) {
	t.Helper()
	one := town.Dial(t, n)
	Eventually(t, "node "+n.ID+" serves", 2*time.Minute, func() error {
		if err := n.Ended(); err != nil {
			return Final(err)
		}
		return Serves(t, one)
	})
}
