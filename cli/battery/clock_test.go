//go:build battery

package battery_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/wire"
	"warder/cli/battery/work"
)

// clockBound is the towns' clock_skew_bound: what tokens are given of leeway too.
const clockBound = 2 * time.Second

// TestClock sets one node's clock while callers are at work: far ahead, far behind, ahead and then a step backwards. The
// node says so and serves nobody, the others go on, and nothing has happened when its clock is right again.
func TestClock(t *testing.T) {
	binary := town.BuildSkewable(t)
	cases := []struct {
		name  string
		steps []time.Duration
	}{
		{"a step backwards", []time.Duration{time.Hour, -time.Hour}},
		{"five minutes ahead", []time.Duration{5 * time.Minute}},
		{"five minutes behind", []time.Duration{-5 * time.Minute}},
		{"thirty days ahead", []time.Duration{30 * 24 * time.Hour}},
	}
	for _, role := range []string{"leader", "follower"}[:times(1, 2)] {
		t.Run(role, func(t *testing.T) {
			at := town.New(t, town.Plan{Binary: binary, Prepare: town.Skewable, Config: func(testing.TB, *town.Node) string {
				return "dev: true\nclock_skew_bound: " + clockBound.String() + "\n"
			}})
			crew := work.Start(t, at)
			crew.Await(t, 20)
			for _, one := range cases[:times(1, len(cases))] {
				odd := at.Leader(t)
				if role == "follower" {
					odd = at.Others(odd)[0]
				}
				for _, ahead := range one.steps {
					t.Logf("%s, %s: %s", role, one.name, ahead)
					skewed(t, at, crew, odd, ahead)
				}
				odd.Skew(t, 0)
				at.Ready(t, odd)
				crew.Await(t, 20)
			}
			restarted(t, at, crew)
			crew.Finish(t)
		})
	}
}

// skewed sets a node's clock, and sees what it and the others do about it.
func skewed(t testing.TB, at *town.Town, crew *work.Crew, odd *town.Node, ahead time.Duration) {
	t.Helper()
	others := at.Dial(t, at.Others(odd)...)
	token := issued(t, others)
	began := time.Now()
	odd.Skew(t, ahead)
	refusesByClock(t, at, odd)
	crew.Await(t, 30)
	lives(t, others, token, began)
}

// refusesByClock waits until a node says that its clock is wrong, to its operator and to everybody, and refuses callers.
func refusesByClock(t testing.TB, at *town.Town, odd *town.Node) {
	t.Helper()
	one := at.Dial(t, odd)
	town.Eventually(t, "the node says that its clock is wrong", time.Minute, func() error {
		return errors.Join(unready(t, odd), told(at, odd))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := one.Credentials.ListCredentials(ctx, &warderv1.ListCredentialsRequest{Namespace: "default"})
	if got := reason.Of(err); got != warderv1.Reason_REASON_STALE {
		t.Errorf("a node whose clock is wrong answers %v (%v); want STALE", got, err)
	}
}

func unready(t testing.TB, n *town.Node) error {
	p, err := wire.Open(t.Context(), n.API, from(1), nil)
	if err != nil {
		return err
	}
	defer p.Close()
	status, err := p.Get("/readyz")
	if err == nil && status == http.StatusOK {
		err = errors.New("/readyz says that it is")
	}
	return err
}

// told gives an error unless the node's status names its clock as a problem. It is asked on its machine: a node whose
// clock is behind takes a new certificate for one of a time to come.
func told(at *town.Town, n *town.Node) error {
	text, err := at.Try("operator", "status", "--socket", n.Socket())
	if err == nil && !strings.Contains(text, "clock") {
		err = fmt.Errorf("its status is %s", text)
	}
	return err
}

// shortLived is the life of a token that is watched to its end.
const shortLived = 8 * time.Second

func issued(t testing.TB, c *client.Client) *warderv1.IssueTokenResponse {
	t.Helper()
	answer, err := c.Tokens.IssueToken(t.Context(), &warderv1.IssueTokenRequest{Ttl: durationpb.New(shortLived), Grants: []*warderv1.Grant{{
		Actions: []string{"credential.reveal"}, Resource: &warderv1.Resource{Type: "credential", Namespace: "default", Name: "any"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// lives sees that a token lives on honest nodes as long as it should, by this machine's clock, and no longer.
func lives(t testing.TB, c *client.Client, token *warderv1.IssueTokenResponse, began time.Time) {
	t.Helper()
	for active := true; active; {
		answer, err := c.Tokens.InspectToken(t.Context(), &warderv1.InspectTokenRequest{Token: token.GetToken()})
		age := time.Since(began)
		switch {
		case err != nil:
			t.Fatalf("inspecting a token: %v", err)
		case !answer.GetActive() && age < shortLived-time.Second: // its times are in whole seconds
			t.Fatalf("a token of %s died after %s", shortLived, age)
		case answer.GetActive() && age > shortLived+clockBound+2*time.Second:
			t.Fatalf("a token of %s lives after %s", shortLived, age)
		}
		active = answer.GetActive()
		town.Pass(t, 200*time.Millisecond)
	}
}

// restarted starts a node whose clock is wrong from the beginning: it does not serve before it is right.
func restarted(t testing.TB, at *town.Town, crew *work.Crew) {
	t.Helper()
	odd := at.Others(at.Leader(t))[0]
	odd.Kill()
	odd.Skew(t, 5*time.Minute)
	odd.Start(t)
	refusesByClock(t, at, odd)
	crew.Await(t, 20)
	odd.Skew(t, 0)
	at.Ready(t, odd)
}
