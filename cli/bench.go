package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

// load is what a benchmark does.
type load struct {
	concurrency               int
	duration                  time.Duration
	credential, key, url, ops string
	metrics                   []string
}

func (a *app) bench() *cobra.Command {
	l := load{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Put load on a running cluster and measure it",
		Long: `Put load on a running cluster and measure it: operations in a second, latency, and the servers' CPU time for
each operation, when --metrics names every node's metrics page.

The workers are spread over the endpoints. The context's caller must be allowed what is measured: secret-read and
broker-sign need --credential, device-sign needs --key.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runBench(cmd.Context(), l) },
	}
	f := cmd.Flags()
	f.IntVar(&l.concurrency, "concurrency", 16, "workers, 1 to 1024")
	f.DurationVar(&l.duration, "duration", 5*time.Second, "how long each operation is measured")
	f.StringVar(&l.credential, "credential", "", "credential to read and to sign with")
	f.StringVar(&l.key, "key", "", "key to sign with (ecdsa-p256-sha256)")
	f.StringVar(&l.url, "url", defaultBenchURL, "broker request (GET) to have signed")
	f.StringVar(&l.ops, "operations", "", "secret-read,token-issue,broker-sign,device-sign (default: all that the flags allow)")
	f.StringSliceVar(&l.metrics, "metrics", nil, "a node's metrics page, as http://host:port/metrics; once for each node")
	return cmd
}

const defaultBenchURL = "https://api.binance.com/api/v3/account?recvWindow=5000"

// operation is one thing that is measured.
type operation struct {
	name  string
	grant *warderv1.Grant // what its token is for; nil where it needs none
	call  func(ctx context.Context, c *client.Client) error
}

// operations are those that the flags allow.
func (l load) operations(namespace string) []operation {
	all := []operation{}
	credentialNS, credential := split(l.credential, namespace)
	keyNS, key := split(l.key, namespace)
	if credential != "" {
		all = append(all, secretRead(credentialNS, credential))
	}
	all = append(all, tokenIssue(namespace, credential, key))
	if credential != "" {
		all = append(all, brokerSign(credentialNS, credential, l.url))
	}
	if key != "" {
		all = append(all, deviceSign(keyNS, key))
	}
	return all
}

func grantOf(action, kind, namespace, name string) *warderv1.Grant {
	return &warderv1.Grant{Actions: []string{action}, Resource: &warderv1.Resource{Type: kind, Namespace: namespace, Name: name}}
}

func secretRead(namespace, name string) operation {
	return operation{"secret-read", grantOf("credential.reveal", "credential", namespace, name), func(ctx context.Context, c *client.Client) error {
		_, err := c.Credentials.RevealCredential(ctx, &warderv1.RevealCredentialRequest{Namespace: namespace, Name: name})
		return err
	}}
}

func tokenIssue(namespace, credential, key string) operation {
	grant := grantOf("credential.sign", "credential", namespace, credential)
	if credential == "" {
		grant = grantOf("key.sign", "key", namespace, key)
	}
	return operation{"token-issue", nil, func(ctx context.Context, c *client.Client) error {
		_, err := c.Tokens.IssueToken(ctx, &warderv1.IssueTokenRequest{Grants: []*warderv1.Grant{grant}, Ttl: minute()})
		return err
	}}
}

func brokerSign(namespace, name, url string) operation {
	return operation{"broker-sign", grantOf("credential.sign", "credential", namespace, name), func(ctx context.Context, c *client.Client) error {
		_, err := c.Credentials.SignWithCredential(ctx, &warderv1.SignWithCredentialRequest{
			Namespace: namespace, Name: name, Request: &warderv1.HttpRequest{Method: warderv1.HttpMethod_HTTP_METHOD_GET, Url: url},
		})
		return err
	}}
}

func deviceSign(namespace, name string) operation {
	digest := sha256.Sum256([]byte("warder bench"))
	return operation{"device-sign", grantOf("key.sign", "key", namespace, name), func(ctx context.Context, c *client.Client) error {
		_, err := c.Keys.SignWithKey(ctx, &warderv1.SignWithKeyRequest{
			Namespace: namespace, Name: name, Algorithm: warderv1.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256,
			Input: &warderv1.SignWithKeyRequest_Digest{Digest: digest[:]},
		})
		return err
	}}
}

// chosen are the operations asked for, in the order of the list.
func (l load) chosen(namespace string) ([]operation, error) {
	possible := l.operations(namespace)
	if l.credential == "" && l.key == "" {
		return nil, local("nothing to measure", "name what there is: --credential, --key, or both")
	}
	if l.ops == "" {
		return possible, nil
	}
	var chosen []operation
	for name := range strings.SplitSeq(l.ops, ",") {
		i := slices.IndexFunc(possible, func(o operation) bool { return o.name == name })
		if i < 0 {
			return nil, localf("operations are secret-read, token-issue, broker-sign (with --credential) and device-sign (with --key)",
				"operation %q cannot be measured with these flags", name)
		}
		chosen = append(chosen, possible[i])
	}
	return chosen, nil
}

func (a *app) runBench(ctx context.Context, l load) error {
	if l.concurrency < 1 || l.concurrency > 1024 || l.duration <= 0 {
		return local("--concurrency or --duration is out of range", "give 1 to 1024 workers and a time above zero")
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	operations, err := l.chosen(s.Namespace)
	if err != nil {
		return err
	}
	var results []result
	for _, o := range operations {
		if a.flags.format != "json" {
			a.tell("%s: %d workers, %s", o.name, l.concurrency, l.duration)
		}
		measured, err := a.measure(ctx, s, l, o)
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		results = append(results, measured)
	}
	return a.showResults(results)
}
