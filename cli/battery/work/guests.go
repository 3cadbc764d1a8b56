package work

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/work/history"
)

// StalenessBound is how old the answers of a node may be, by the nodes' default configuration. The slack is what the
// callers' clock may differ from the nodes'.
const (
	StalenessBound = 5 * time.Second
	slack          = 250 * time.Millisecond
)

const (
	thinkOfGuest = 120 * time.Millisecond
	stay         = 1500 * time.Millisecond // until a guest's rights are taken away
	linger       = 2 * time.Second         // that it goes on asking after the bound
	persistence  = 20 * time.Second        // that an operator tries to take them away
)

// guests lets workloads use rights at every node while an operator takes these away: by the token, the identity or the
// policy that they hang on.
func (c *Crew) guests(ctx context.Context, o *office) {
	for way, take := range ways() {
		c.work(ctx, time.Second, func(turn int) {
			visitor := o.admit(fmt.Sprintf("guest-%s-%d", way, turn), way, take)
			if visitor != nil {
				visitor.visit(ctx)
			}
		})
	}
}

// taking takes a guest's rights away, by a request to one node.
type taking func(*guest, *line) history.Op

// ways are what a guest's rights hang on.
func ways() map[string]taking {
	return map[string]taking{byToken: revokeToken, "identity": revokeIdentity, "policy": deletePolicy}
}

// byToken is the way that leaves the guest its right to other tokens.
const byToken = "token"

// guest is one workload with a policy and a token of its own.
type guest struct {
	office      *office
	name, way   string
	take        taking
	certificate *tls.Certificate
	token       *warderv1.IssueTokenResponse
}

// admit registers a guest; nil where something failed.
func (o *office) admit(name, way string, take taking) *guest {
	at := o.anyone()
	g := &guest{office: o, name: name, way: way, take: take, certificate: hire(at, name)}
	if g.certificate == nil {
		return nil
	}
	who := fmt.Sprintf("principal == Workload::%q", namespace+"/"+name)
	_, op := ask(at, history.Op{Kind: "permit", Key: name}, at.Policies.PutPolicy, &warderv1.PutPolicyRequest{Namespace: namespace, Name: name, Text: fmt.Sprintf(
		"permit (%s, action == Action::\"credential.sign\", resource is Credential);\npermit (%s, action == Action::\"token.issue\", resource is Token);", who, who)})
	if op.Outcome != history.Done {
		return nil
	}
	own, err := o.crew.line(o.named(at.node), o.settings, g.certificate, "")
	if err != nil {
		o.crew.complain(err)
		return nil
	}
	defer own.Close()
	issued, op := ask(own, history.Op{Kind: "issue", Key: name}, own.Tokens.IssueToken, tokenRequest(grant("credential.sign", "credential", broker), 0))
	g.token = issued
	if op.Outcome != history.Done {
		return nil
	}
	return g
}

// visit lets the guest use its rights, has them taken away, and lets it try on for longer than any node may still allow it.
func (g *guest) visit(ctx context.Context) {
	asking, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	all.Go(func() { g.stay(asking) })
	if pause(ctx, stay) && g.taken(ctx, g.office.operator) {
		pause(ctx, StalenessBound+linger)
	}
}

// stay lets the guest sign and ask for tokens at every node.
func (g *guest) stay(ctx context.Context) {
	signing, err := g.office.lines(g.certificate, g.token.GetToken())
	if err != nil {
		g.office.crew.complain(err)
		return
	}
	defer hangUp(signing)
	bare, err := g.office.lines(g.certificate, "")
	if err != nil {
		g.office.crew.complain(err)
		return
	}
	defer hangUp(bare)
	var all sync.WaitGroup
	for i := range signing {
		all.Go(func() { g.use(ctx, signing[i], bare[i]) })
	}
	all.Wait()
}

// use signs, and with the certificate alone asks for tokens, in turns.
func (g *guest) use(ctx context.Context, signing, bare *line) {
	c := g.office.crew
	for turn := 0; pause(ctx, thinkOfGuest); turn++ {
		op := history.Op{Kind: history.Exercise, Key: g.name + " signs", Fresh: turn%3 == 0}
		_, op = ask(signing, op, signing.Credentials.SignWithCredential, orderRequest(broker), denials()...)
		c.add(op)
		if turn%4 == 1 {
			op := history.Op{Kind: history.Exercise, Key: g.name + " gets tokens", Fresh: turn%8 == 1}
			if g.way == byToken {
				op.Key = g.name + " gets other tokens" // which nobody takes away
			}
			_, op = ask(bare, op, bare.Tokens.IssueToken, tokenRequest(grant("credential.sign", "credential", broker), 0), denials()...)
			c.add(op)
		}
	}
}

// denials are how a right that was taken away is refused, and one that a node does not know of yet.
func denials() []warderv1.Reason {
	return []warderv1.Reason{
		warderv1.Reason_REASON_TOKEN_REVOKED, warderv1.Reason_REASON_CERTIFICATE_UNKNOWN, warderv1.Reason_REASON_CERTIFICATE_WRONG_KEY,
		warderv1.Reason_REASON_PERMISSION_DENIED,
	}
}

// taken takes the guest's rights away through one of some nodes, and says whether that was acknowledged.
func (g *guest) taken(ctx context.Context, through []*line) bool {
	for began := g.office.crew.log.Now(); g.office.crew.log.Now() < began+persistence; {
		op := g.take(g, through[rand.IntN(len(through))])
		g.note(op)
		if op.Outcome == history.Done {
			return true
		}
		if !pause(ctx, thinkOfGuest) {
			return false
		}
	}
	return false
}

// note adds a revocation to the history of each right that it ends.
func (g *guest) note(op history.Op) {
	op.Kind, op.Key = history.Revoke, g.name+" signs"
	g.office.crew.add(op)
	if g.way != byToken {
		op.Key = g.name + " gets tokens"
		g.office.crew.add(op)
	}
}

func revokeToken(g *guest, at *line) history.Op {
	_, op := ask(at, history.Op{Kind: history.Revoke, Key: g.name}, at.Tokens.RevokeToken,
		&warderv1.RevokeTokenRequest{Id: g.token.GetId(), ExpiresAt: timestamppb.New(g.token.GetExpiresAt().AsTime())})
	return op
}

func revokeIdentity(g *guest, at *line) history.Op {
	_, op := ask(at, history.Op{Kind: history.Revoke, Key: g.name}, at.Identities.RevokeIdentity,
		&warderv1.RevokeIdentityRequest{Principal: workload(g.name)}, warderv1.Reason_REASON_NOT_FOUND, warderv1.Reason_REASON_CONFLICT)
	return op
}

func deletePolicy(g *guest, at *line) history.Op {
	_, op := ask(at, history.Op{Kind: history.Revoke, Key: g.name}, at.Policies.DeletePolicy,
		&warderv1.DeletePolicyRequest{Namespace: namespace, Name: g.name}, warderv1.Reason_REASON_NOT_FOUND, warderv1.Reason_REASON_CONFLICT)
	return op
}
