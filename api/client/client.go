package client

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"warder/api/warder/v1/warderv1connect"
)

// Client calls a cluster. It is safe for concurrent use. Its fields are not to be changed.
type Client struct {
	System      warderv1connect.SystemServiceClient
	Cluster     warderv1connect.ClusterServiceClient
	Identities  warderv1connect.IdentityServiceClient
	Policies    warderv1connect.PolicyServiceClient
	Credentials warderv1connect.CredentialServiceClient
	Keys        warderv1connect.KeyServiceClient
	Devices     warderv1connect.DeviceServiceClient
	Tokens      warderv1connect.TokenServiceClient
	Audit       warderv1connect.AuditServiceClient

	config    Config
	endpoints []*endpoint
	wire      *wire
	good      atomic.Uint32 // the index of the endpoint that last answered
}

// Dial makes a client. It checks the configuration and makes no connection yet.
func Dial(config Config) (*Client, error) {
	config = config.withDefaults()
	endpoints, err := config.endpoints()
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	c := &Client{config: config, endpoints: endpoints, wire: newWire(config)}
	const base = "https://endpoint.invalid" // each attempt's own endpoint takes its place
	options := connect.WithClientOptions(
		connect.WithInterceptors(&road{client: c}),
		connect.WithAcceptCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(config.MaxResponse),
	)
	c.System = warderv1connect.NewSystemServiceClient(c.wire, base, options)
	c.Cluster = warderv1connect.NewClusterServiceClient(c.wire, base, options)
	c.Identities = warderv1connect.NewIdentityServiceClient(c.wire, base, options)
	c.Policies = warderv1connect.NewPolicyServiceClient(c.wire, base, options)
	c.Credentials = warderv1connect.NewCredentialServiceClient(c.wire, base, options)
	c.Keys = warderv1connect.NewKeyServiceClient(c.wire, base, options)
	c.Devices = warderv1connect.NewDeviceServiceClient(c.wire, base, options)
	c.Tokens = warderv1connect.NewTokenServiceClient(c.wire, base, options)
	c.Audit = warderv1connect.NewAuditServiceClient(c.wire, base, options)
	return c, nil
}

// Close gives up the idle connections. Calls that are under way end by their contexts.
func (c *Client) Close() { c.wire.close() }

// Endpoints returns the endpoints as they were given.
func (c *Client) Endpoints() []string {
	texts := make([]string, len(c.endpoints))
	for i, e := range c.endpoints {
		texts[i] = e.text
	}
	return texts
}

// pinned is the context key of At.
type pinned struct{}

// At returns a context whose calls go to this one endpoint only, for what is a
// node's own: its status, its audit log. The endpoint must be one of Endpoints.
func At(ctx context.Context, endpoint string) context.Context {
	return context.WithValue(ctx, pinned{}, endpoint)
}

// linearizable is the context key of Linearizable.
type linearizable struct{}

// Linearizable returns a context whose calls show everything that was acknowledged, anywhere in the cluster, before
// they were made. The node asks a majority first. Other calls may show a state as old as the nodes' staleness bound.
func Linearizable(ctx context.Context) context.Context {
	return context.WithValue(ctx, linearizable{}, true)
}

// pin returns the index of the endpoint that the context asks for, or -1.
func (c *Client) pin(ctx context.Context) (int, error) {
	text, asked := ctx.Value(pinned{}).(string)
	if !asked {
		return -1, nil
	}
	for i, e := range c.endpoints {
		if e.text == text {
			return i, nil
		}
	}
	return -1, fmt.Errorf("endpoint %q is not one of this client's", text)
}

// deadline bounds a call that has no deadline of its own.
func (c *Client) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.config.Timeout)
}

// attemptTime is the time of one attempt. A change that cannot be repeated gets
// all that is left: to cut it short would only make its outcome unknown.
func (c *Client) attemptTime(ctx context.Context, spec connect.Spec) (context.Context, context.CancelFunc) {
	if !repeatable(spec) {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.config.AttemptTimeout)
}

func repeatable(spec connect.Spec) bool {
	return spec.IdempotencyLevel != connect.IdempotencyUnknown
}

// wait sleeps, or returns the context's error.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
