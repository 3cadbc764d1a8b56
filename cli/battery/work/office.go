package work

import (
	"crypto/tls"
	"crypto/x509"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work/history"
)

// The names of what the crew works with.
const (
	broker    = "broker" // the credential that orders are signed with
	bots      = "bots"   // the group that may sign orders
	meters    = "meters" // the group that may sign readings
	brokerKey = "the api key"
)

// settings are what every line needs.
type settings struct{ authorities *x509.CertPool }

// office is what the crew begins with: the nodes that it asks, and the operator's line to each.
type office struct {
	settings
	crew      *Crew
	nodes     []*town.Node
	operator  []*line
	bot       *tls.Certificate
	botToken  string
	counting  *tls.Certificate
	meter     *tls.Certificate
	meterKeys []meterKey
	secrets   *secrets
}

// open prepares policies, identities, credentials and keys on a town without faults.
func (c *Crew) open(t testing.TB) *office {
	t.Helper()
	o := &office{settings: settings{c.town.Roots(t)}, crew: c, nodes: append([]*town.Node{}, c.town.Nodes...), secrets: &secrets{}}
	own := c.town.Certificate(t)
	operator, err := o.lines(&own, "")
	if err != nil {
		t.Fatalf("%v: %v", errSetUp, err)
	}
	o.operator = operator
	t.Cleanup(func() { hangUp(operator) })
	first := operator[0]
	must(t, first.Policies.PutPolicy, &warderv1.PutPolicyRequest{Namespace: namespace, Name: "staff", Text: staffPolicy})
	o.bot = o.hired(t, "bot", bots)
	o.counting = o.hired(t, "counting", bots)
	o.storeBroker(t)
	o.installMeter(t)
	o.botToken = o.token(t, o.bot, grant("credential.sign", "credential", broker))
	return o
}

// staffPolicy is what the crew's callers may do.
const staffPolicy = `
permit (principal in Group::"work/bots", action == Action::"credential.sign", resource is Credential);
permit (principal in Group::"work/bots", action == Action::"token.issue", resource is Token);
permit (principal in Group::"work/meters", action == Action::"key.sign", resource is Key);
permit (principal in Group::"work/meters", action == Action::"key.read", resource is Key);
permit (principal in Group::"work/meters", action == Action::"token.issue", resource is Token);
`

func (o *office) hired(t testing.TB, name, group string) *tls.Certificate {
	t.Helper()
	paired := hire(o.operator[0], name, group)
	if paired == nil {
		t.Fatalf("%v: identity %s: %v", errSetUp, name, o.crew.wrong)
	}
	return paired
}

// token issues a token on the node that certified its holder.
func (o *office) token(t testing.TB, holder *tls.Certificate, grants []*warderv1.Grant) string {
	t.Helper()
	own, err := o.crew.line(o.nodes[0], o.settings, holder, "")
	if err != nil {
		t.Fatalf("%v: %v", errSetUp, err)
	}
	defer own.Close()
	return must(t, own.Tokens.IssueToken, tokenRequest(grants, 0)).GetToken()
}

// storeBroker stores the credential that orders are signed with.
func (o *office) storeBroker(t testing.TB) {
	t.Helper()
	secret := o.secrets.next()
	first := o.operator[0]
	_, op := ask(first, history.Op{Kind: history.Write, Key: broker, Value: secret}, first.Credentials.PutCredential, &warderv1.PutCredentialRequest{
		Namespace: namespace, Name: broker, Profile: "binance", Fields: brokerFields(secret),
	})
	if op.Outcome != history.Done {
		t.Fatalf("%v: %s", errSetUp, op)
	}
	o.crew.add(op)
}

// installMeter enrols a device and makes its keys: one in the HSMs' custody, where they can keep it, and one sealed.
func (o *office) installMeter(t testing.TB) {
	t.Helper()
	first := o.operator[0]
	key, csr, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	token := must(t, first.Devices.CreateEnrolmentToken, &warderv1.CreateEnrolmentTokenRequest{
		Namespace: namespace, Name: "meter", Ttl: durationpb.New(time.Minute), Groups: []string{meters},
	})
	enrolled := must(t, first.Devices.EnrolDevice, &warderv1.EnrolDeviceRequest{Token: token.GetToken(), Csr: csr})
	o.meter, err = certificate(key, enrolled.GetCertificate().GetChainPem())
	if err != nil {
		t.Fatalf("%v: %v", errSetUp, err)
	}
	o.meterKeys = makeMeterKeys(t, first)
}

// anyone is the operator at some node.
func (o *office) anyone() *line { return o.operator[rand.IntN(len(o.operator))] }

// named finds the node with an id.
func (o *office) named(id string) *town.Node {
	return o.nodes[slices.IndexFunc(o.nodes, func(n *town.Node) bool { return n.ID == id })]
}
