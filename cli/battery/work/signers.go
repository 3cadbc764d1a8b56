package work

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/work/history"
)

const thinkOfSigner = 150 * time.Millisecond

// secrets are all that the broker's credential ever held, the newest last. Which of them a signature shows is a read of
// the credential, as a register.
type secrets struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (s *secrets) next() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, fmt.Sprintf("secret number %d", len(s.all)))
	return s.all[len(s.all)-1]
}

// signed finds the secret by which a signed URL was signed; "" where it is none of them.
func (s *secrets) signed(url string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, query, _ := strings.Cut(url, "?")
	payload, signature, _ := strings.Cut(query, "&signature=")
	given, err := hex.DecodeString(signature)
	if err != nil {
		return ""
	}
	for i := len(s.all) - 1; i >= 0; i-- {
		mac := hmac.New(sha256.New, []byte(s.all[i]))
		mac.Write([]byte(payload))
		if hmac.Equal(mac.Sum(nil), given) {
			return s.all[i]
		}
	}
	return ""
}

func brokerFields(secret string) []*warderv1.SecretField {
	return []*warderv1.SecretField{{Name: "api_key", Value: []byte(brokerKey)}, {Name: "secret", Value: []byte(secret)}}
}

// orderRequest is an order that a bot wants signed.
func orderRequest(credential string) *warderv1.SignWithCredentialRequest {
	return &warderv1.SignWithCredentialRequest{Namespace: namespace, Name: credential, Request: &warderv1.HttpRequest{
		Method: warderv1.HttpMethod_HTTP_METHOD_POST, Url: "https://api.binance.com/api/v3/order?symbol=LTCBTC&side=BUY&type=MARKET&quantity=1",
	}}
}

// errSignature says that a signature does not verify.
var errSignature = errors.New("the signature is of no key that the signer has ever had")

// signers lets a bot sign orders, and a device sign readings, at every node; both verify what they get.
func (c *Crew) signers(ctx context.Context, o *office) {
	bots, err := o.lines(o.bot, o.botToken)
	if err != nil {
		c.complain(err)
		return
	}
	for i, at := range bots {
		c.work(ctx, thinkOfSigner, func(turn int) { c.sign(at, o.secrets, (turn+i)%2 == 0) })
	}
	for _, n := range o.nodes {
		for _, key := range o.meterKeys {
			own := &signingMeter{office: o, key: key, node: n, public: map[uint32][]byte{}}
			c.work(ctx, 2*thinkOfSigner, own.sign)
		}
	}
}

// sign has an order signed, and finds by which secret.
func (c *Crew) sign(at *line, known *secrets, fresh bool) {
	answer, op := ask(at, history.Op{Kind: history.Read, Key: broker, Fresh: fresh}, at.Credentials.SignWithCredential, orderRequest(broker))
	if op.Outcome == history.Done {
		op.Value = known.signed(answer.GetRequest().GetUrl())
		if op.Value == "" {
			c.complain(fmt.Errorf("%s: %w", op, errSignature))
		}
	}
	c.add(op)
}
