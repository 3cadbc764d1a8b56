//go:build battery

package battery_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
)

// pipe is one connection to a node, on which requests are written as they are: what makes requests at ten times a node's
// capacity must cost less than the node's answers.
type pipe struct {
	*tls.Conn
	answers *bufio.Reader
	request []byte
	careful bool // looks into the body of every refusal
	asked   int
}

// from gives the n-th of many addresses of this machine, so that what a node allows one address hides nothing.
func from(n int) net.IP { return net.IPv4(127, 0, 1, byte(1+n%250)) }

// open connects to a node from an address, as the holder of a certificate, or as nobody.
func open(t testing.TB, at *town.Town, n *town.Node, source net.IP, certificate *tls.Certificate) (*pipe, error) {
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dialer := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: source}}, Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", n.API)
	if err != nil {
		return nil, err
	}
	return &pipe{Conn: conn.(*tls.Conn), answers: bufio.NewReaderSize(conn, 2<<10)}, nil
}

// get asks for a path, and keeps the connection.
func (p *pipe) get(path string) (int, error) {
	p.request = []byte("GET " + path + " HTTP/1.1\r\nHost: node\r\n\r\n")
	a, err := p.ask()
	return a.status, err
}

// answered is what a node said: its status and, of a refusal, why and when to come again.
type answered struct {
	status int
	reason warderv1.Reason
	hinted bool
}

// ask makes the pipe's request once.
func (p *pipe) ask() (answered, error) {
	if _, err := p.Write(p.request); err != nil {
		return answered{}, err
	}
	got, length, err := p.head()
	if err != nil {
		return answered{}, err
	}
	p.asked++
	if got.status == http.StatusOK || !p.careful && p.asked%looks != 0 {
		_, err := p.answers.Discard(length)
		return got, err
	}
	body := make([]byte, length)
	_, err = io.ReadFull(p.answers, body)
	info := detail(body)
	got.reason, got.hinted = info.GetReason(), got.hinted && info.GetRetryAfter().AsDuration() > 0
	return got, err
}

// looks is how rarely the body of a refusal is looked into: the node is to be loaded, and not its callers. The others
// are told by their status, and by the header that says when to come again.
const looks = 16

// head reads an answer up to its body, and gives the body's length.
func (p *pipe) head() (got answered, length int, err error) {
	for first := true; ; first = false {
		line, err := p.answers.ReadSlice('\n')
		line = bytes.TrimRight(line, "\r\n")
		switch name, value, _ := bytes.Cut(line, []byte(": ")); {
		case err != nil:
			return got, 0, err
		case first && len(line) >= 12:
			got.status, err = strconv.Atoi(string(line[9:12]))
		case len(line) == 0:
			return got, length, nil
		case string(name) == "Content-Length":
			length, err = strconv.Atoi(string(value))
		case string(name) == "Retry-After":
			got.hinted = len(value) > 0
		case string(name) == "Transfer-Encoding":
			err = fmt.Errorf("an answer without a length: %s", line)
		}
		if err != nil {
			return got, 0, err
		}
	}
}

// why names a refusal: 503 or, where its body was looked into, "503 OVERLOADED".
func (a answered) why() string {
	if a.reason == 0 {
		return strconv.Itoa(a.status)
	}
	return fmt.Sprintf("%d %s", a.status, strings.TrimPrefix(a.reason.String(), "REASON_"))
}

// detail finds Warder's own words in a refusal of Connect's protocol; nil where it has none.
func detail(body []byte) *warderv1.ErrorInfo {
	var refusal struct {
		Details []struct {
			Value string `json:"value"`
		} `json:"details"`
	}
	if json.Unmarshal(body, &refusal) != nil || len(refusal.Details) == 0 {
		return nil
	}
	value, err := base64.RawStdEncoding.DecodeString(refusal.Details[0].Value)
	info := &warderv1.ErrorInfo{}
	if err != nil || proto.Unmarshal(value, info) != nil {
		return nil
	}
	return info
}

// bot is a workload with a token to read one credential.
type bot struct {
	name        string
	certificate *tls.Certificate
	token       *warderv1.IssueTokenResponse
}

const (
	floodNamespace  = "flood"
	floodCredential = "broker"
	floodPolicy     = `permit (principal in Group::"flood/bots", action == Action::"credential.reveal", resource is Credential);
permit (principal in Group::"flood/bots", action == Action::"token.issue", resource is Token);`
)

// hireBots prepares callers that may read a credential.
func hireBots(t testing.TB, at *town.Town, count int) []*bot {
	t.Helper()
	c, ctx := at.Client, client.Linearizable(t.Context())
	_, err := c.Policies.PutPolicy(ctx, &warderv1.PutPolicyRequest{Namespace: floodNamespace, Name: "bots", Text: floodPolicy})
	if err == nil {
		_, err = c.Credentials.PutCredential(ctx, &warderv1.PutCredentialRequest{Namespace: floodNamespace, Name: floodCredential, Profile: "binance",
			Fields: []*warderv1.SecretField{{Name: "api_key", Value: []byte("key")}, {Name: "secret", Value: []byte("secret")}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []*bot
	for i := range count {
		all = append(all, hireBot(t, at, fmt.Sprintf("bot-%d", i)))
	}
	return all
}

func botNamed(name string) *warderv1.Principal {
	return &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, Namespace: floodNamespace, Name: name}
}

func hireBot(t testing.TB, at *town.Town, name string) *bot {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := at.Client.Identities.CreateIdentity(t.Context(), &warderv1.CreateIdentityRequest{Principal: botNamed(name), Groups: []string{"bots"}, Csr: csr, Ttl: durationpb.New(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	b := &bot{name: name, certificate: &tls.Certificate{PrivateKey: key}}
	for block, rest := pem.Decode([]byte(made.GetCertificate().GetChainPem())); block != nil; block, rest = pem.Decode(rest) {
		b.certificate.Certificate = append(b.certificate.Certificate, block.Bytes)
	}
	own := at.DialAs(t, b.certificate, at.Nodes...)
	b.token, err = own.Tokens.IssueToken(client.Linearizable(t.Context()), &warderv1.IssueTokenRequest{Ttl: durationpb.New(time.Hour), Grants: []*warderv1.Grant{{
		Actions: []string{"credential.reveal"}, Resource: &warderv1.Resource{Type: "credential", Namespace: floodNamespace, Name: floodCredential}}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pipe connects a bot to a node, ready to read its credential.
func (b *bot) pipe(t testing.TB, at *town.Town, n *town.Node, source net.IP) (*pipe, error) {
	p, err := open(t, at, n, source, b.certificate)
	if err != nil {
		return nil, err
	}
	body := fmt.Sprintf(`{"namespace":%q,"name":%q}`, floodNamespace, floodCredential)
	p.request = fmt.Appendf(nil, "POST /warder.v1.CredentialService/RevealCredential HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"+
		"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", b.token.GetToken(), len(body), body)
	return p, nil
}

// many does something a number of times, some at once, and fails the test where one fails.
func many[A any](t testing.TB, count int, do func(i int) (A, error)) []A {
	t.Helper()
	all, errs, next := make([]A, count), make([]error, count), make(chan int)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for i := range next {
				all[i], errs[i] = do(i)
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	workers.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("number %d of %d: %v", i, count, err)
		}
	}
	return all
}

// tally is what came of many requests.
type tally struct {
	mu       sync.Mutex
	times    []time.Duration // guarded by mu: of those that were granted
	refused  map[string]int  // guarded by mu: by status and reason
	unhinted int             // guarded by mu: refusals for now that do not say until when
	lost     int             // guarded by mu: without an answer
	took     time.Duration
	cpu      float64 // that the node took meanwhile, in seconds
}

func (a *tally) note(got answered, err error, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.lost++
	case got.status == http.StatusOK:
		a.times = append(a.times, took)
	default:
		a.refused[got.why()]++
		if !got.hinted {
			a.unhinted++
		}
	}
}

// rate is how many were granted in a second.
func (a *tally) rate() float64 { return float64(len(a.times)) / a.took.Seconds() }

func (a *tally) answers() int {
	sum := len(a.times)
	for _, count := range a.refused {
		sum += count
	}
	return sum
}

// String gives the figures.
func (a *tally) String() string {
	slices.Sort(a.times)
	at := func(q float64) time.Duration {
		if len(a.times) == 0 {
			return 0
		}
		return a.times[min(int(q*float64(len(a.times))), len(a.times)-1)].Round(10 * time.Microsecond)
	}
	var refusals []string
	for _, why := range slices.Sorted(maps.Keys(a.refused)) {
		refusals = append(refusals, fmt.Sprintf("%d %s", a.refused[why], why))
	}
	return fmt.Sprintf("%.0f granted a second, median %s, p99 %s, p99.9 %s; %.0f answered a second; refused: %v; no answer: %d; server CPU for each answer %.0f us",
		a.rate(), at(0.5), at(0.99), at(0.999), float64(a.answers())/a.took.Seconds(), refusals, a.lost, a.cpu*1e6/float64(max(1, a.answers())))
}

// closed lets each pipe ask again as soon as it is answered: what a node can do.
func closed(t testing.TB, n *town.Node, pipes []*pipe, long time.Duration) *tally {
	t.Helper()
	all := &tally{refused: map[string]int{}, cpu: -gauge(t, n, "process_cpu_seconds_total")}
	var askers sync.WaitGroup
	began := time.Now()
	for _, p := range pipes {
		askers.Go(func() {
			for time.Since(began) < long {
				asked := time.Now()
				got, err := p.ask()
				all.note(got, err, time.Since(asked))
				if err != nil {
					return
				}
			}
		})
	}
	askers.Wait()
	all.took = time.Since(began)
	all.cpu += gauge(t, n, "process_cpu_seconds_total")
	return all
}

// flood makes requests at a rate, answered or not, on whichever pipes are free, until the returned function is called.
// It also gives how many found no free pipe: those never left.
func flood(t testing.TB, n *town.Node, pipes []*pipe, rate float64) func() (*tally, int) {
	t.Helper()
	all := &tally{refused: map[string]int{}, cpu: -gauge(t, n, "process_cpu_seconds_total")}
	arrivals, stop := make(chan time.Time), make(chan struct{})
	began, unsent := time.Now(), 0
	var askers, clock sync.WaitGroup
	for _, p := range pipes {
		askers.Go(func() {
			for due := range arrivals {
				got, err := p.ask()
				all.note(got, err, time.Since(due))
				if err != nil {
					return
				}
			}
		})
	}
	clock.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for sent := 0; ; {
			select {
			case <-stop:
				close(arrivals)
				return
			case <-tick.C:
			}
			for due := int(rate * time.Since(began).Seconds()); sent < due; sent++ {
				select {
				case arrivals <- time.Now():
				default:
					unsent += due - sent // no pipe is free, and none will be at once
					sent = due - 1
				}
			}
		}
	})
	return func() (*tally, int) {
		close(stop)
		clock.Wait()
		all.took = time.Since(began)
		askers.Wait()
		all.cpu += gauge(t, n, "process_cpu_seconds_total")
		return all, unsent
	}
}
