//go:build battery

package battery_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/wire"
)

// from gives the n-th of many addresses of this machine, so that what a node allows one address hides nothing.
func from(n int) net.IP { return net.IPv4(127, 0, 1, byte(1+n%250)) }

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
func (b *bot) pipe(t testing.TB, at *town.Town, n *town.Node, source net.IP) (*wire.Pipe, error) {
	p, err := wire.Open(t.Context(), n.API, source, b.certificate)
	if err != nil {
		return nil, err
	}
	body := fmt.Sprintf(`{"namespace":%q,"name":%q}`, floodNamespace, floodCredential)
	p.Request = wire.Post("/warder.v1.CredentialService/RevealCredential", b.token.GetToken(), body)
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
	unhinted int             // guarded by mu: refusals that pass, and do not say when
	lost     int             // guarded by mu: without an answer
	took     time.Duration
	cpu      float64 // that the node took meanwhile, in seconds
}

func (a *tally) note(got wire.Answer, err error, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.lost++
	case got.Status == http.StatusOK:
		a.times = append(a.times, took)
	default:
		a.refused[got.Why()]++
		if !got.Hinted {
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
func closed(t testing.TB, n *town.Node, pipes []*wire.Pipe, long time.Duration) *tally {
	t.Helper()
	all := &tally{refused: map[string]int{}, cpu: -n.Gauge(t, "process_cpu_seconds_total")}
	var askers sync.WaitGroup
	began := time.Now()
	for _, p := range pipes {
		askers.Go(func() {
			for time.Since(began) < long {
				asked := time.Now()
				got, err := p.Ask()
				all.note(got, err, time.Since(asked))
				if err != nil {
					return
				}
			}
		})
	}
	askers.Wait()
	all.took = time.Since(began)
	all.cpu += n.Gauge(t, "process_cpu_seconds_total")
	return all
}

// flood makes requests at a rate, answered or not, on whichever pipes are free, until the returned function is called.
// It also gives how many found no free pipe: those never left.
func flood(t testing.TB, n *town.Node, pipes []*wire.Pipe, rate float64) func() (*tally, int) {
	t.Helper()
	all := &tally{refused: map[string]int{}, cpu: -n.Gauge(t, "process_cpu_seconds_total")}
	arrivals, stop := make(chan time.Time), make(chan struct{})
	began, unsent := time.Now(), 0
	var askers, clock sync.WaitGroup
	for _, p := range pipes {
		askers.Go(func() {
			for due := range arrivals {
				got, err := p.Ask()
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
		all.cpu += n.Gauge(t, "process_cpu_seconds_total")
		return all, unsent
	}
}
