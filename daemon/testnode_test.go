package daemon_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/daemon"
	"warder/daemon/config"
	"warder/keystore/kv"
)

const trustDomain = "test.warder.internal"

// testNode is a whole node: its own storage, single-node cluster, TLS and software token, started by the daemon's own
// entry and founded by its local socket.
type testNode struct {
	cfg       config.Config
	roots     *x509.CertPool
	authority string // its roots in PEM
	output    *lockedBuffer
	operator  caller
	client    *client.Client
	through   func(kv.Log) kv.Log // nil: nothing
}

// caller is who asks: with a certificate, or without any.
type caller struct {
	certificate *tls.Certificate
	token       string
	http        *http.Client
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func startNode(t testing.TB) *testNode {
	t.Helper()
	n := newTestNode(t, "one")
	run := n.launch(t)
	t.Cleanup(func() {
		if err := run.end(); err != nil {
			t.Errorf("the node ended with %v\n%s", err, n.output)
		}
	})
	n.found(t)
	return n
}

// newTestNode is a node that does not run, and belongs to no cluster.
func newTestNode(t testing.TB, name string) *testNode {
	t.Helper()
	cfg, err := config.Config{
		Node: name, DataDir: t.TempDir(), TrustDomain: trustDomain, Dev: true, API: config.API{Listen: []string{freeAddress(t)}},
		Cluster: config.Cluster{Listen: freeAddress(t)}, Metrics: config.Metrics{Listen: freeAddress(t)},
		Limits: config.Limits{ConnectionsPerAddress: 1024},
	}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	return &testNode{cfg: cfg, output: &lockedBuffer{}, roots: x509.NewCertPool()}
}

// running is a node's daemon at work.
type running struct {
	stop  context.CancelFunc
	ended chan error
}

// launch starts the node's daemon. The test ends it, or waits for its end.
func (n *testNode) launch(t testing.TB) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	run := &running{stop: stop, ended: make(chan error, 1)}
	go func() {
		run.ended <- daemon.Run(ctx, n.cfg, daemon.Through(daemon.Program{Stdout: n.output, Stderr: n.output, Version: "test"}, n.through))
	}()
	t.Cleanup(stop)
	return run
}

func (r *running) end() error {
	r.stop()
	err := <-r.ended
	r.ended <- nil
	return err
}

// patience bounds what a test waits for that ends by itself: RSA keys and syncs take long on a machine at work.
const patience = time.Minute

// socketClient asks the node's local socket.
func (n *testNode) socketClient(t testing.TB) *client.Client {
	t.Helper()
	socket := filepath.Join(n.cfg.DataDir, "warder.sock")
	for deadline := time.Now().Add(patience); ; {
		if _, err := os.Stat(socket); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("no socket: %v\n%s", err, n.output)
		}
		time.Sleep(time.Millisecond) // another goroutine's listener: there is nothing to wait on
	}
	local, err := client.Dial(client.Config{Endpoints: []string{"unix://" + socket}, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Close)
	return local
}

func (n *testNode) found(t testing.TB) {
	t.Helper()
	if err := n.init(t); err != nil {
		t.Fatalf("init: %v\n%s", err, n.output)
	}
}

// init asks the node to found a cluster.
func (n *testNode) init(t testing.TB) error {
	t.Helper()
	key, request := newRequest(t)
	answer, err := n.socketClient(t).System.InitCluster(t.Context(), &warderv1.InitClusterRequest{
		ClusterName: "test", TrustDomain: trustDomain, OperatorNamespace: "system", OperatorName: "admin", OperatorCsr: request,
	})
	if err != nil {
		return err
	}
	n.authority = answer.GetCaCertificatePem()
	if !n.roots.AppendCertsFromPEM([]byte(answer.GetCaCertificatePem())) {
		t.Fatal("the CA certificate does not parse")
	}
	n.operator = n.caller(t, certificateOf(t, answer.GetOperatorCertificatePem(), key))
	n.client, err = client.Dial(client.Config{
		Endpoints: []string{"https://" + n.cfg.API.Advertise}, CA: n.roots, TrustDomain: trustDomain,
		Certificate: client.StaticCertificate(*n.operator.certificate),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.client.Close)
	return nil
}

func newRequest(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, request
}

func certificateOf(t testing.TB, chain string, key *ecdsa.PrivateKey) *tls.Certificate {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair([]byte(chain), pemKey(der))
	if err != nil {
		t.Fatal(err)
	}
	return &certificate
}

func (n *testNode) caller(t testing.TB, certificate *tls.Certificate) caller {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // the server's name is not what these tests are about
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if certificate == nil {
					return &tls.Certificate{}, nil
				}
				return certificate, nil
			},
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return caller{certificate: certificate, http: &http.Client{Transport: transport, Timeout: patience}}
}

// workload registers a workload and gives it as a caller.
func (n *testNode) workload(t testing.TB, namespace, name string) caller {
	t.Helper()
	key, request := newRequest(t)
	answer, err := n.client.Identities.CreateIdentity(t.Context(), &warderv1.CreateIdentityRequest{
		Principal: &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, Namespace: namespace, Name: name}, Csr: request,
	})
	if err != nil {
		t.Fatal(err)
	}
	return n.caller(t, certificateOf(t, answer.GetCertificate().GetChainPem(), key))
}

// withToken gives the caller with a token for one grant.
func (n *testNode) withToken(t testing.TB, who caller, body string) caller {
	t.Helper()
	answer := n.post(t, who, "/warder.v1.TokenService/IssueToken", body)
	if answer.status != http.StatusOK {
		t.Fatalf("issue a token: %d %s", answer.status, answer.body)
	}
	var issued struct{ Token string }
	if err := json.Unmarshal(answer.body, &issued); err != nil {
		t.Fatal(err)
	}
	who.token = issued.Token
	return who
}

// answer is what came back over plain HTTP.
type answer struct {
	status          int
	reason          string // without REASON_; empty where the answer is no refusal
	header, trailer http.Header
	body            []byte
}

// request makes a request of one RPC, with a body of JSON and the caller's token.
func (n *testNode) request(ctx context.Context, who caller, procedure string, body []byte) *http.Request {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+n.cfg.API.Advertise+procedure, bytes.NewReader(body))
	if err != nil {
		panic(err) // of an address that no node has
	}
	request.Header.Set("Content-Type", "application/json")
	if who.token != "" {
		request.Header.Set("Authorization", "Bearer "+who.token)
	}
	return request
}

// ask sends a request and reads the whole answer.
func (c caller) ask(t testing.TB, request *http.Request) answer {
	t.Helper()
	response, err := c.http.Do(request)
	if err != nil {
		t.Fatalf("%s: %v", request.URL.Path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s: %v", request.URL.Path, err)
	}
	return answer{response.StatusCode, reasonIn(text), response.Header, response.Trailer, text}
}

// post asks one RPC with a JSON body, as curl would.
func (n *testNode) post(t testing.TB, who caller, procedure, body string) answer {
	t.Helper()
	return n.send(t, who, procedure, "application/json", []byte(body))
}

func (n *testNode) send(t testing.TB, who caller, procedure, contentType string, body []byte) answer {
	t.Helper()
	if strings.HasSuffix(procedure, "/TailAudit") && contentType == "application/json" {
		contentType = "application/connect+json"
		body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
	}
	request := n.request(t.Context(), who, procedure, body)
	request.Header.Set("Content-Type", contentType)
	return who.ask(t, request)
}

// reasonIn finds the reason in an answer's JSON, also at the end of a stream.
func reasonIn(text []byte) string {
	const mark = `"reason":"REASON_`
	_, after, found := bytes.Cut(text, []byte(mark))
	if !found {
		return ""
	}
	reason, _, _ := bytes.Cut(after, []byte(`"`))
	return string(reason)
}

// records tells how many records the audit log has, by the metrics page, which leaves none itself.
func (n *testNode) records(t testing.TB) int {
	t.Helper()
	for line := range strings.Lines(n.metrics(t)) {
		if text, ok := strings.CutPrefix(line, "warder_audit_records "); ok {
			count, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(count)
		}
	}
	t.Fatal("the metrics page does not tell the audit log's size")
	return 0
}

// counted tells how many requests the metrics page has counted, in all.
func (n *testNode) counted(t testing.TB) int {
	t.Helper()
	sum := 0.0
	for line := range strings.Lines(n.metrics(t)) {
		if !strings.HasPrefix(line, "warder_requests_total{") {
			continue
		}
		count, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += count
	}
	return int(sum)
}

func (n *testNode) metrics(t testing.TB) string {
	t.Helper()
	response, err := http.Get(fmt.Sprintf("http://%s/metrics", n.cfg.Metrics.Listen)) //nolint:noctx // a test's own page
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
