package work

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/work/history"
)

const thinkOfEnrolling = 3 * time.Second

// enrolments lets several devices redeem the same token at every node at once.
func (c *Crew) enrolments(ctx context.Context, o *office) {
	strangers, err := o.lines(nil, "")
	if err != nil {
		c.complain(err)
		return
	}
	c.work(ctx, thinkOfEnrolling, func(turn int) {
		at, name := o.anyone(), fmt.Sprintf("device-%d", turn)
		token, op := ask(at, history.Op{Kind: "invite", Key: name}, at.Devices.CreateEnrolmentToken, &warderv1.CreateEnrolmentTokenRequest{
			Namespace: namespace, Name: name, Ttl: durationpb.New(time.Minute),
		})
		if op.Outcome != history.Done {
			return
		}
		var all sync.WaitGroup
		for _, stranger := range strangers {
			for range 2 {
				all.Go(func() { c.redeem(stranger, name, token.GetToken()) })
			}
		}
		all.Wait()
	})
}

func (c *Crew) redeem(at *line, name, token string) {
	_, csr, err := newKey()
	if err != nil {
		c.complain(err)
		return
	}
	_, op := ask(at, history.Op{Kind: history.Use, Key: "enrolment of " + name, Limit: 1}, at.Devices.EnrolDevice,
		&warderv1.EnrolDeviceRequest{Token: token, Csr: csr}, warderv1.Reason_REASON_UNAUTHENTICATED, warderv1.Reason_REASON_CONFLICT)
	c.add(op)
}
