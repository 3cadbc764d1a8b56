package work

import (
	"context"
	"time"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/work/history"
)

const thinkOfRotation = 1200 * time.Millisecond

// rotations lets an operator rotate everything, again and again: nobody may fail for it.
func (c *Crew) rotations(ctx context.Context, o *office) {
	c.work(ctx, thinkOfRotation, func(turn int) {
		at := o.anyone()
		switch {
		case turn%12 == 4:
			ask(at, history.Op{Kind: "rotate", Key: "root keys"}, at.Cluster.RotateRoot, &warderv1.RotateRootRequest{}, inTheWay()...)
		case turn%6 == 1:
			ask(at, history.Op{Kind: "rotate", Key: "data key"}, at.Cluster.RotateData, &warderv1.RotateDataRequest{}, inTheWay()...)
		case turn%3 == 0:
			key := o.meterKeys[turn/3%len(o.meterKeys)].name
			ask(at, history.Op{Kind: "rotate", Key: key}, at.Keys.RotateKey, &warderv1.RotateKeyRequest{Namespace: namespace, Name: key}, inTheWay()...)
		default:
			c.rotateBroker(at, o.secrets.next())
		}
	})
}

func (c *Crew) rotateBroker(at *line, secret string) {
	_, op := ask(at, history.Op{Kind: history.Write, Key: broker, Value: secret}, at.Credentials.RotateCredential,
		&warderv1.RotateCredentialRequest{Namespace: namespace, Name: broker, Fields: brokerFields(secret)}, inTheWay()...)
	c.add(op)
}

// inTheWay is how a change is refused where another is under way.
func inTheWay() []warderv1.Reason { return []warderv1.Reason{warderv1.Reason_REASON_CONFLICT} }
