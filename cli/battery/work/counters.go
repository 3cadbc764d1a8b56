package work

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/work/history"
)

const (
	thinkOfCounting = 1500 * time.Millisecond
	maxUses         = 6
)

// counters lets callers at every node use up tokens with few uses, all at the same time.
func (c *Crew) counters(ctx context.Context, o *office) {
	c.work(ctx, thinkOfCounting, func(int) {
		uses := 1 + rand.IntN(maxUses)
		issuer, err := o.lines(o.counting, "")
		if err != nil {
			c.complain(err)
			return
		}
		defer hangUp(issuer)
		at := issuer[rand.IntN(len(issuer))]
		issued, op := ask(at, history.Op{Kind: "issue", Key: "a token"}, at.Tokens.IssueToken, tokenRequest(grant("credential.sign", "credential", broker), uint32(uses)))
		if op.Outcome == history.Done {
			c.use(o, issued, uses)
		}
	})
}

// use tries to use a token more often than it may be: some times at every node at once.
func (c *Crew) use(o *office, issued *warderv1.IssueTokenResponse, uses int) {
	users, err := o.lines(o.counting, issued.GetToken())
	if err != nil {
		c.complain(err)
		return
	}
	defer hangUp(users)
	var all sync.WaitGroup
	for _, at := range users {
		all.Go(func() {
			for range uses/len(users) + 2 {
				op := history.Op{Kind: history.Use, Key: fmt.Sprintf("token %s", issued.GetId()), Limit: uses}
				_, op = ask(at, op, at.Credentials.SignWithCredential, orderRequest(broker), warderv1.Reason_REASON_TOKEN_USED_UP)
				c.add(op)
			}
		})
	}
	all.Wait()
}
