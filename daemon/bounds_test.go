package daemon_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"warder/api/verify"
	warderv1 "warder/api/warder/v1"
)

// TestACallersOwnDeadlineIsNoFaultOfTheLog asks with next to no time: the answer is the deadline's, or it was in time,
// and there is one record of it.
func TestACallersOwnDeadlineIsNoFaultOfTheLog(t *testing.T) {
	n, bot := prepared(t)
	reading := n.withToken(t, bot, fmt.Sprintf(issueReveal, ""))
	for _, procedure := range []string{reveal, "/warder.v1.CredentialService/GetCredential"} {
		for _, ms := range []string{"0", "1", "2", "3"} {
			before := n.records(t)
			request := n.request(t.Context(), reading, procedure, []byte(askOne))
			request.Header.Set("Connect-Timeout-Ms", ms)
			got := reading.ask(t, request)
			late := got.reason == "DEADLINE_EXCEEDED" || strings.Contains(string(got.body), `"code":"deadline_exceeded"`)
			inTime := got.status == http.StatusOK || got.reason == "TOKEN_SCOPE"
			if !late && !inTime {
				t.Errorf("%s within %s ms: %d %s", procedure, ms, got.status, got.body)
			}
			if left := n.records(t) - before; left != 1 {
				t.Errorf("%s within %s ms: %d records; want 1", procedure, ms, left)
			}
		}
	}
}

// TestGuessingAnAdmissionIsBounded tries enrolment tokens from one address faster than it may: the rest are not looked at.
func TestGuessingAnAdmissionIsBounded(t *testing.T) {
	n := startNode(t)
	_, csr := newRequest(t)
	encoded, err := json.Marshal(csr)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"token":"wet1.%s.%s","csr":%s}`, strings.Repeat("A", 26), strings.Repeat("A", 43), encoded)
	stranger := n.caller(t, nil)
	var limited, looked atomic.Int32
	var guessing sync.WaitGroup
	for range 16 {
		guessing.Go(func() {
			for limited.Load() == 0 && looked.Load() < 20000 {
				if n.post(t, stranger, "/warder.v1.DeviceService/EnrolDevice", body).reason == "RATE_LIMITED" {
					limited.Add(1)
				} else {
					looked.Add(1)
				}
			}
		})
	}
	guessing.Wait()
	if limited.Load() == 0 {
		t.Errorf("%d guesses were looked at", looked.Load())
	}
}

// TestATokenIsItsOwnNamespaces holds operators of a namespace to the tokens and principals of that namespace, and each
// refusal to its record.
func TestATokenIsItsOwnNamespaces(t *testing.T) {
	n, bot := prepared(t)
	reading := n.withToken(t, bot, fmt.Sprintf(issueReveal, ""))
	operator := func(namespace string) caller {
		key, request := newRequest(t)
		made, err := n.client.Identities.CreateIdentity(t.Context(), &warderv1.CreateIdentityRequest{
			Principal: &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_OPERATOR, Namespace: namespace, Name: "local"}, Csr: request,
		})
		if err != nil {
			t.Fatal(err)
		}
		n.permit(t, namespace, "operators", fmt.Sprintf(`permit (principal == Operator::"%s/local", action, resource);`, namespace))
		return n.caller(t, certificateOf(t, made.GetCertificate().GetChainPem(), key))
	}
	here, elsewhere := operator("default"), operator("other")
	inspect := fmt.Sprintf(`{"token":%q}`, reading.token)
	const test = `{"principal":{"kind":"PRINCIPAL_KIND_WORKLOAD","namespace":"default","name":"bot"},"action":"credential.reveal","resource":{"type":"credential","namespace":%q,"name":"one"}}`
	for name, try := range map[string]struct {
		who                     caller
		procedure, body, reason string
		decision                string
	}{
		"inspected at home":         {here, "TokenService/InspectToken", inspect, "", "allow"},
		"inspected elsewhere":       {elsewhere, "TokenService/InspectToken", inspect, "PERMISSION_DENIED", "deny"},
		"inspected over all":        {n.operator, "TokenService/InspectToken", inspect, "", "allow"},
		"no token at all":           {here, "TokenService/InspectToken", `{"token":"aaaaaaaaaaaaaaaaaaaaaaaa"}`, "TOKEN_INVALID", "allow"},
		"a policy tested at home":   {here, "PolicyService/TestPolicy", fmt.Sprintf(test, "default"), "", "allow"},
		"of a principal elsewhere":  {elsewhere, "PolicyService/TestPolicy", fmt.Sprintf(test, "other"), "NAMESPACE_FOREIGN", "deny"},
		"a token issued to a token": {reading, "TokenService/IssueToken", fmt.Sprintf(issueReveal, ""), "TOKEN_SCOPE", "deny"},
	} {
		before := n.records(t)
		n.want(t, name, try.who, "/warder.v1."+try.procedure, try.body, try.reason)
		if left := n.records(t) - before; left != 1 {
			t.Errorf("%s: %d records; want 1", name, left)
		}
		if got := n.lastDecision(t); got != try.decision {
			t.Errorf("%s: the record says %s; want %s", name, got, try.decision)
		}
	}
}

// lastDecision is what the newest record but this question's own says.
func (n *testNode) lastDecision(t *testing.T) string {
	t.Helper()
	newest := uint64(n.records(t) - 1) //nolint:gosec // counts are small
	answer, err := n.client.Audit.ListAuditEntries(t.Context(), &warderv1.ListAuditEntriesRequest{Start: newest, Count: 1})
	if err != nil || len(answer.GetLeaves()) == 0 {
		t.Fatalf("the newest record: %v, %v", answer, err)
	}
	var record verify.Record
	if err := record.UnmarshalBinary(answer.GetLeaves()[0]); err != nil {
		t.Fatal(err)
	}
	return record.Decision.String()
}

// socketStatus asks the node's local socket how it is.
func (n *testNode) socketStatus(t *testing.T) error {
	t.Helper()
	_, err := n.socketClient(t).System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
	return err
}

// answered says whether a stranger's request came to an end, by an answer or without one.
func answered(stranger *tls.Conn) bool {
	_ = stranger.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := stranger.Read(make([]byte, 1))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// TestStrangersHoldLittle lets callers that nobody knows begin bodies and not end them: they get what one address may hold
// and no more, small requests still find room, and all of it is given back when they go.
func TestStrangersHoldLittle(t *testing.T) {
	n := newTestNode(t, "one")
	n.cfg.Limits.MemoryPerAddress = 1_200_000 // two bodies of 510,000 bytes and no third
	n.launch(t)
	n.found(t)
	var strangers []*tls.Conn
	begin := func(came int) {
		conn, err := tls.Dial("tcp", n.cfg.API.Advertise, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // as in every test here
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		head := "POST " + reveal + " HTTP/1.1\r\nHost: warder\r\nContent-Type: application/json\r\nContent-Length: 510000\r\n\r\n"
		_, _ = io.WriteString(conn, head+strings.Repeat(" ", came)) // who finds no room is hung up on
		strangers = append(strangers, conn)
	}
	begin(509_000)
	begin(509_000)
	large := fmt.Sprintf(`{"namespace":"default","name":"large","text":%q}`, strings.Repeat("/", 300_000))
	ask := func() answer {
		return n.post(t, n.operator, "/warder.v1.PolicyService/PutPolicy", large)
	}
	eventually(t, "two strangers hold their share", func() error {
		got := ask()
		strangers = slices.DeleteFunc(strangers, answered)
		if held := len(strangers); held < 2 {
			begin(509_000) // in the place of one that this question kept out
			return fmt.Errorf("%d strangers hold", held)
		}
		if got.reason != "OVERLOADED" {
			return fmt.Errorf("%d %s", got.status, got.reason)
		}
		return nil
	})
	before := n.records(t)
	const counter = `warder_requests_total{method="unknown",reason="overloaded"}`
	counted := n.counted(t)
	got := ask()
	after := got.header.Get("Retry-After")
	if got.status != http.StatusTooManyRequests && got.status != http.StatusServiceUnavailable || got.reason != "OVERLOADED" || after == "" {
		t.Errorf("with no room: %d %s, Retry-After %q", got.status, got.body, after)
	}
	if now := n.counted(t) - counted; now != 1 || n.gauge(t, counter) == "0" {
		t.Errorf("the metrics count %d requests more; want 1", now)
	}
	if left := n.records(t) - before; left != 1 {
		t.Errorf("%d records; want 1", left)
	}
	n.want(t, "a small request", n.operator, "/warder.v1.ClusterService/ListMembers", `{}`, "")
	begin(125_000)
	const tail = "/warder.v1.AuditService/TailAudit"
	eventually(t, "a stream finds no room", func() error {
		if got := n.post(t, n.operator, tail, `{}`); got.reason != "OVERLOADED" {
			return fmt.Errorf("%d %s", got.status, got.body)
		}
		return nil
	})
	if err := n.socketStatus(t); err != nil {
		t.Errorf("the local socket, which has room of its own: %v", err)
	}
	for _, conn := range strangers {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "what they held is given back", func() error {
		if got := ask(); got.reason == "OVERLOADED" {
			return errors.New(string(got.body))
		}
		return nil
	})
}
