package work

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/work/history"
)

const (
	thinkOfDeleter = 250 * time.Millisecond
	remembered     = 16 // deleted credentials that are asked for again
)

// deletes lets a caller create credentials, delete most of them through other nodes, and ask for them again and again.
func (c *Crew) deletes(ctx context.Context, o *office) {
	var gone []string
	c.work(ctx, thinkOfDeleter, func(turn int) {
		name := fmt.Sprintf("passing-%d", turn)
		if c.create(o.anyone(), name, name).Outcome != history.Done || turn%8 == 0 {
			return
		}
		at := o.anyone()
		_, op := ask(at, history.Op{Kind: history.Write, Key: name}, at.Credentials.DeleteCredential,
			&warderv1.DeleteCredentialRequest{Namespace: namespace, Name: name}, warderv1.Reason_REASON_NOT_FOUND, warderv1.Reason_REASON_CONFLICT)
		c.add(op)
		gone = append(gone, name)
		if len(gone) > remembered {
			gone = gone[1:]
		}
		c.read(o.anyone(), gone[rand.IntN(len(gone))], true)
		c.read(o.anyone(), gone[rand.IntN(len(gone))], false)
	})
}
