package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	warderv1 "warder/api/warder/v1"
)

// TestStoppingRefusesNobodyForGood stops the node while callers' requests are on their way. None may be told that it is not
// permitted what it is.
func TestStoppingRefusesNobodyForGood(t *testing.T) {
	n := newTestNode(t, "one")
	run := n.launch(t)
	n.found(t)
	n.must(t, n.operator, "/warder.v1.CredentialService/PutCredential", `{"namespace":"default","name":"one","profile":"binance","fields":[{"name":"api_key","value":"eA=="},{"name":"secret","value":"eA=="}]}`)
	order := `{"namespace":"default","name":"one","request":{"method":"HTTP_METHOD_POST","url":"https://api.binance.com/api/v3/order?symbol=LTCBTC&side=BUY&type=MARKET&quantity=1"}}`
	bot := n.workload(t, "default", "bot")
	bot.http.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	_, err := n.client.Policies.PutPolicy(t.Context(), &warderv1.PutPolicyRequest{Namespace: "default", Name: "some", Text: `permit (principal, action in [Action::"credential.sign", Action::"token.issue"], resource);`})
	if err != nil {
		t.Fatal(err)
	}
	bot = n.withToken(t, bot, strings.Replace(fmt.Sprintf(issueReveal, ""), "credential.reveal", "credential.sign", 1))
	for range 6 {
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 48 {
			all.Go(func() {
				for ctx.Err() == nil {
					request := n.request(t.Context(), bot, "/warder.v1.CredentialService/SignWithCredential", []byte(order))
					if i%2 == 0 {
						request.Header.Set("Warder-Consistency", "linearizable")
					}
					response, err := bot.http.Do(request)
					if err != nil {
						continue // the node is down
					}
					text := make([]byte, 4096)
					length, _ := response.Body.Read(text) // a refusal's beginning holds its reason
					response.Body.Close()
					if why := reasonIn(text[:length]); why == "PERMISSION_DENIED" || strings.HasPrefix(why, "CERTIFICATE") || strings.HasPrefix(why, "TOKEN") || why == "INTERNAL" {
						t.Errorf("a permitted request while the node stops: %d %s", response.StatusCode, text[:length])
						return
					}
				}
			})
		}
		n.serves(t)
		if err := run.end(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the node ended with %v", err)
		}
		stop()
		all.Wait()
		run = n.launch(t)
		n.serves(t)
	}
	if err := run.end(); err != nil {
		t.Errorf("the node ended with %v", err)
	}
}

// TestANodeIsAskedUntilItsEnd: whoever watches a node asks it while its parts close, by the socket, which outlives the
// member. An answer takes none of what has been let go.
func TestANodeIsAskedUntilItsEnd(t *testing.T) {
	n := newTestNode(t, "one")
	run := n.launch(t)
	n.found(t)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.cfg.DataDir, "warder.sock"))
	}
	watcher := &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 4}}
	defer watcher.CloseIdleConnections()
	var all sync.WaitGroup
	var answers atomic.Int64
	watch := func(method, path, body string) {
		for {
			request, err := http.NewRequestWithContext(t.Context(), method, "http://socket"+path, strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			request.Header.Set("Content-Type", "application/json")
			response, err := watcher.Do(request)
			if err != nil {
				return // it has ended
			}
			_ = response.Body.Close()
			answers.Add(1)
		}
	}
	for range 4 {
		all.Go(func() { watch(http.MethodGet, "/readyz", "") })
		all.Go(func() { watch(http.MethodPost, "/warder.v1.SystemService/GetStatus", "{}") })
	}
	n.serves(t)
	if err := run.end(); err != nil {
		t.Errorf("the node ended with %v", err)
	}
	all.Wait()
	if text := n.output.String(); answers.Load() == 0 || strings.Contains(text, "panic") {
		t.Errorf("%d answers, and the node said: %s", answers.Load(), text)
	}
}
