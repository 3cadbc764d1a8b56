package work

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"warder/api/client"
	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work/history"
)

// patience is how long a caller waits for an answer.
const patience = 4 * time.Second

// idHeader names the answer's header that names its audit record.
const idHeader = "X-Request-Id"

// line is one caller's way to one node. Each request over it is one attempt.
type line struct {
	*client.Client
	crew *Crew
	node string
}

// line opens a caller's way to a node. The certificate may be nil, the token empty.
func (c *Crew) line(n *town.Node, roots settings, certificate *tls.Certificate, token string) (*line, error) {
	config := client.Config{
		Endpoints: []string{n.Endpoint()}, CA: roots.authorities, TrustDomain: town.TrustDomain,
		Timeout: patience, AttemptTimeout: patience, Retry: client.Retry{Attempts: 1},
	}
	if certificate != nil {
		config.Certificate = client.StaticCertificate(*certificate)
	}
	if token != "" {
		config.Token = func(context.Context) (string, error) { return token, nil }
	}
	dialled, err := client.Dial(config)
	if err != nil {
		return nil, err
	}
	return &line{Client: dialled, crew: c, node: n.ID}, nil
}

// lines opens a caller's ways to every node.
func (o *office) lines(certificate *tls.Certificate, token string) ([]*line, error) {
	var all []*line
	for _, n := range o.nodes {
		one, err := o.crew.line(n, o.settings, certificate, token)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func hangUp(lines []*line) {
	for _, one := range lines {
		one.Close()
	}
}

// ask makes one request and says what came of it: the answer, nil where it failed, and the operation with its times, its
// node and its outcome. Reasons that are not expected of it, nor what a fault excuses, are wrong.
func ask[Q, A any](l *line, op history.Op, call func(context.Context, *Q) (*A, error), request *Q, expected ...warderv1.Reason) (*A, history.Op) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if op.Fresh {
		ctx = client.Linearizable(ctx)
	}
	ctx, info := connect.NewClientContext(ctx)
	op.Node, op.Call = l.node, l.crew.log.Now()
	answer, err := call(ctx, request)
	op.Return = l.crew.log.Now()
	if err == nil {
		op.Outcome = history.Done
		l.crew.answer(l.node, info.ResponseHeader().Get(idHeader))
		return answer, op
	}
	op.Outcome, op.Reason = outcome(err)
	l.crew.failed(l.node, op, err, expected)
	return nil, op
}

// unreachable stands for a reason where no connection was made.
const unreachable = "UNREACHABLE"

// outcome says what a caller knows after an error.
func outcome(err error) (history.Outcome, string) {
	why := client.Reason(err)
	name := ""
	if why != warderv1.Reason_REASON_UNSPECIFIED {
		name = strings.TrimPrefix(why.String(), "REASON_")
	}
	switch {
	case errors.Is(err, client.ErrUnreachable):
		return history.Refused, unreachable
	case name == "" || why == warderv1.Reason_REASON_INTERNAL || why == warderv1.Reason_REASON_CANCELED || reason.Lookup(why).Retry == reason.IfIdempotent:
		return history.Unknown, name
	}
	return history.Refused, name
}

// failed notes an error: its request's id, where it was answered, and whether it may be.
func (c *Crew) failed(node string, op history.Op, err error, expected []warderv1.Reason) {
	why := client.Reason(err)
	var remote *connect.Error
	if errors.As(err, &remote) && recordable(why) {
		c.answer(node, remote.Meta().Get(idHeader))
	}
	c.mu.Lock()
	c.refusals[op.Reason]++
	fine := c.tolerated[why]
	c.mu.Unlock()
	for _, one := range expected {
		fine = fine || one == why
	}
	if !fine {
		c.complain(fmt.Errorf("%s: not a reason for it: %w", op, err))
	}
}

// recordable says whether a refusal must have a record: not the one by a node that can record nothing.
func recordable(why warderv1.Reason) bool {
	return why != warderv1.Reason_REASON_AUDIT_UNAVAILABLE && why != warderv1.Reason_REASON_UNSPECIFIED
}

// answer notes the id of a request that a node answered.
func (c *Crew) answer(node, id string) {
	if id == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered[node] = append(c.answered[node], id)
}

// weather is the reasons that faults excuse; none at all stands for a connection that failed.
func weather() map[warderv1.Reason]bool {
	excused := map[warderv1.Reason]bool{}
	for _, one := range []warderv1.Reason{
		warderv1.Reason_REASON_UNSPECIFIED, warderv1.Reason_REASON_SEALED, warderv1.Reason_REASON_STALE, warderv1.Reason_REASON_NO_LEADER,
		warderv1.Reason_REASON_OUTCOME_UNKNOWN, warderv1.Reason_REASON_OVERLOADED, warderv1.Reason_REASON_HSM_UNAVAILABLE,
		warderv1.Reason_REASON_STORAGE_FULL, warderv1.Reason_REASON_AUDIT_UNAVAILABLE, warderv1.Reason_REASON_SHUTTING_DOWN,
		warderv1.Reason_REASON_DEADLINE_EXCEEDED, warderv1.Reason_REASON_CANCELED,
	} {
		excused[one] = true
	}
	return excused
}

// must makes a request that has to succeed while the crew begins.
func must[Q, A any](t testing.TB, call func(context.Context, *Q) (*A, error), request *Q) *A {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := call(client.Linearizable(ctx), request)
	if err != nil {
		t.Fatalf("%v: %v", errSetUp, err)
	}
	return answer
}
