package daemon_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	warderv1 "warder/api/warder/v1"
	"warder/cluster"
	"warder/keystore/kv"
)

// lossy is the way of changes to the cluster, on which one of them fails.
type lossy struct {
	kv.Log
	mu     sync.Mutex
	after  int                                                                                // guarded by mu: how many are let through first
	strike func(ctx context.Context, entry []byte, through kv.Log) (result []byte, err error) // guarded by mu: once; nil when it was used
}

func (l *lossy) Propose(ctx context.Context, entry []byte) ([]byte, error) {
	if strike := l.next(); strike != nil {
		return strike(ctx, entry, l.Log)
	}
	return l.Log.Propose(ctx, entry)
}

func (l *lossy) next() func(context.Context, []byte, kv.Log) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.strike == nil {
		return nil
	}
	if l.after--; l.after >= 0 {
		return nil
	}
	strike := l.strike
	l.strike = nil
	return strike
}

// arm sets the fault of a change to come.
func (l *lossy) arm(after int, strike func(context.Context, []byte, kv.Log) ([]byte, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.after, l.strike = after, strike
}

// disarm says whether the fault came about.
func (l *lossy) disarm() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	struck := l.strike == nil
	l.strike = nil
	return struck
}

// ways are how a change fails, each with the reason that its caller must be told.
func ways() map[string]struct {
	strike func(context.Context, []byte, kv.Log) ([]byte, error)
	reason string
} {
	return map[string]struct {
		strike func(context.Context, []byte, kv.Log) ([]byte, error)
		reason string
	}{
		"not done, and said so": {func(context.Context, []byte, kv.Log) ([]byte, error) { return nil, cluster.ErrNoLeader }, "NO_LEADER"},
		"not done, and not known": {func(context.Context, []byte, kv.Log) ([]byte, error) {
			return nil, cluster.ErrOutcomeUnknown
		}, "OUTCOME_UNKNOWN"},
		"done, and said to be unknown": {func(ctx context.Context, entry []byte, through kv.Log) ([]byte, error) {
			if _, err := through.Propose(ctx, entry); err != nil {
				return nil, err
			}
			return nil, cluster.ErrOutcomeUnknown
		}, "OUTCOME_UNKNOWN"},
	}
}

// issuing gives, for every method that issues something, a request for a new one each time. number makes it new.
func issuing(t testing.TB, n *testNode) map[string]func(number int) (who caller, body string) {
	t.Helper()
	csr := func() string {
		_, request := newRequest(t)
		return base64.StdEncoding.EncodeToString(request)
	}
	operator := func(format string) func(int) (caller, string) {
		return func(number int) (caller, string) {
			body := strings.ReplaceAll(strings.ReplaceAll(format, "NAME", fmt.Sprintf("issued-%d", number)), "CSR", csr())
			return n.operator, body
		}
	}
	token := func(number int) string {
		got := n.post(t, n.operator, "/warder.v1.DeviceService/CreateEnrolmentToken", fmt.Sprintf(`{"namespace":"default","name":"device-%d","ttl":"600s"}`, number))
		var made struct{ Token string }
		if err := json.Unmarshal(got.body, &made); err != nil || made.Token == "" {
			t.Fatalf("an enrolment token: %d %s", got.status, got.body)
		}
		return made.Token
	}
	const someone = `"principal":{"kind":"PRINCIPAL_KIND_WORKLOAD","namespace":"default","name":"NAME"}`
	const secret = `"fields":[{"name":"secret","value":"c2VjcmV0"}]`
	const key = `"algorithm":"KEY_ALGORITHM_ED25519","custody":"KEY_CUSTODY_SEALED","purpose":"KEY_PURPOSE_TELEMETRY","owner":{"kind":"PRINCIPAL_KIND_DEVICE","namespace":"default","name":"x"}`
	return map[string]func(int) (caller, string){
		"IdentityService/CreateIdentity":     operator(`{` + someone + `,"csr":"CSR"}`),
		"IdentityService/IssueCertificate":   operator(`{"principal":{"kind":"PRINCIPAL_KIND_WORKLOAD","namespace":"default","name":"known"},"csr":"CSR"}`),
		"CredentialService/PutCredential":    operator(`{"namespace":"default","name":"NAME","profile":"static",` + secret + `}`),
		"CredentialService/RotateCredential": operator(`{"namespace":"default","name":"known",` + secret + `}`),
		"KeyService/CreateKey":               operator(`{"namespace":"default","name":"NAME",` + key + `}`),
		"KeyService/RotateKey":               operator(`{"namespace":"default","name":"known"}`),
		"DeviceService/CreateEnrolmentToken": operator(`{"namespace":"default","name":"NAME","ttl":"60s"}`),
		"DeviceService/EnrolDevice": func(number int) (caller, string) {
			return n.caller(t, nil), fmt.Sprintf(`{"token":%q,"csr":%q}`, token(number), csr())
		},
		"DeviceService/RenewDevice": func(number int) (caller, string) {
			private, request := newRequest(t)
			got := n.post(t, n.caller(t, nil), "/warder.v1.DeviceService/EnrolDevice", fmt.Sprintf(`{"token":%q,"csr":%q}`, token(number), base64.StdEncoding.EncodeToString(request)))
			var enrolled struct{ Certificate struct{ ChainPem string } }
			if err := json.Unmarshal(got.body, &enrolled); err != nil || enrolled.Certificate.ChainPem == "" {
				t.Fatalf("enrol a device: %d %s", got.status, got.body)
			}
			return n.caller(t, certificateOf(t, enrolled.Certificate.ChainPem, private)), fmt.Sprintf(`{"csr":%q}`, csr())
		},
		"TokenService/IssueToken":        operator(`{"grants":[{"actions":["credential.reveal"],"resource":{"type":"credential","namespace":"default","name":"NAME"}}],"ttl":"60s","maxUses":3}`),
		"ClusterService/CreateJoinToken": operator(`{"nodeId":"NAME","hsmFingerprint":"sha256:` + strings.Repeat("0", 64) + `","ttl":"60s"}`),
	}
}

// issuesNothing are the other methods: they read, use, change or take away. What joining and founding issue is held by
// TestAJoinThatCannotStartIsResumed, TestRefusedJoinsLeaveNoKeys and TestAFoundingThatFailsIsRepeated.
func issuesNothing() []string {
	return []string{
		"SystemService/InitCluster", "SystemService/JoinCluster", "SystemService/Unseal", "SystemService/Seal", "SystemService/GetStatus",
		"ClusterService/ListMembers", "ClusterService/JoinCluster", "ClusterService/RemoveMember", "ClusterService/StepDown",
		"ClusterService/RotateRoot", "ClusterService/RotateData", "ClusterService/GetRotation",
		"IdentityService/GetIdentity", "IdentityService/ListIdentities", "IdentityService/SetIdentityGroups", "IdentityService/DisableIdentity",
		"IdentityService/EnableIdentity", "IdentityService/RevokeIdentity",
		"PolicyService/PutPolicy", "PolicyService/GetPolicy", "PolicyService/ListPolicies", "PolicyService/DeletePolicy", "PolicyService/TestPolicy",
		"CredentialService/ListCredentials", "CredentialService/GetCredential", "CredentialService/RevealCredential",
		"CredentialService/SignWithCredential", "CredentialService/DeleteCredential",
		"KeyService/ListKeys", "KeyService/GetKey", "KeyService/SignWithKey", "KeyService/DestroyKeyVersion",
		"TokenService/InspectToken", "TokenService/RevokeToken",
		"AuditService/TailAudit", "AuditService/GetAuditCheckpoint", "AuditService/ListAuditEntries", "AuditService/ListAuditAnchors",
	}
}

// TestAnErrorIssuesNothing fails each change that each issuing method makes, in each way. Where its caller is told that it
// failed, the cluster's state is what it was, and the request succeeds when it is made again. Where the outcome is said to be
// unknown, the state is one of two, and the request made again succeeds or conflicts. An error gives nothing away. A method
// that is in neither list here fails the test.
func TestAnErrorIssuesNothing(t *testing.T) {
	log := &lossy{}
	n := newTestNode(t, "one")
	n.cfg.Audit.AnchorInterval = 10 * time.Minute // whose changes are not ours
	n.through = func(inner kv.Log) kv.Log { log.Log = inner; return log }
	run := n.launch(t)
	n.found(t)
	cases := issuing(t, n)
	for _, procedure := range procedures(t, requests(t, "default")) {
		if _, issues := cases[procedure]; issues == slices.Contains(issuesNothing(), procedure) {
			t.Errorf("%s: say whether it issues something, and what is asked", procedure)
		}
	}
	n.workload(t, "default", "known")
	for _, made := range []string{"CredentialService/PutCredential", "KeyService/CreateKey"} {
		_, body := cases[made](0)
		n.must(t, n.operator, "/warder.v1."+made, strings.ReplaceAll(body, "issued-0", "known"))
	}
	number := 0
	for _, procedure := range slices.Sorted(maps.Keys(cases)) {
		for name, way := range ways() {
			for step := 0; ; step++ {
				number++
				who, body := cases[procedure](number)
				before := n.state(t)
				log.arm(step, way.strike)
				got := n.post(t, who, "/warder.v1."+procedure, body)
				if !log.disarm() {
					if got.reason != "" {
						t.Errorf("%s without a fault: %d %s", procedure, got.status, got.body)
					}
					break
				}
				n.failed(t, fmt.Sprintf("%s, change %d %s", procedure, step+1, name), got, way.reason, before)
				again := n.post(t, who, "/warder.v1."+procedure, body)
				if again.reason != "" && (way.reason != "OUTCOME_UNKNOWN" || again.reason == "INTERNAL" || again.reason == "OUTCOME_UNKNOWN") {
					t.Errorf("%s, change %d %s: made again: %s", procedure, step+1, name, again.body)
				}
			}
		}
	}
	for _, procedure := range slices.Sorted(maps.Keys(cases)) {
		number++
		who, body := cases[procedure](number)
		records := n.records(t)
		n.hangUp(t, log, who, "/warder.v1."+procedure, body)
		if made := n.records(t) - records; made != 1 {
			t.Errorf("%s, whose caller hangs up: %d records; want 1", procedure, made)
		}
		if again := n.post(t, who, "/warder.v1."+procedure, body); again.reason == "INTERNAL" || again.reason == "OUTCOME_UNKNOWN" {
			t.Errorf("%s, whose caller hung up: made again: %s", procedure, again.body)
		}
	}
	asked := map[string]func() answer{}
	for procedure, request := range cases {
		number++
		who, body := request(number)
		asked[procedure] = func() answer { return n.post(t, who, "/warder.v1."+procedure, body) }
	}
	before := n.gauge(t, "warder_state_applied_index")
	breakAudit(t, filepath.Join(n.cfg.DataDir, "audit"))
	for procedure, ask := range asked {
		got := ask()
		n.failed(t, procedure+", no record can be written", got, "", nil)
		if got.status != http.StatusServiceUnavailable {
			t.Errorf("%s, no record can be written: %d %s", procedure, got.status, got.body)
		}
	}
	if after := n.gauge(t, "warder_state_applied_index"); after != before {
		t.Errorf("requests that left no record changed something: the index was %s, and is %s", before, after)
	}
	if err := run.end(); err == nil {
		t.Error("a node whose audit log failed ends without a word")
	}
	run = n.launch(t)
	n.serves(t)
	for procedure, ask := range asked {
		if got := ask(); got.reason != "" {
			t.Errorf("%s, with its record: %s", procedure, got.body)
		}
	}
	if err := run.end(); err != nil {
		t.Errorf("the node ended with %v", err)
	}
}

// hangUp makes a request whose caller is gone before its first change is made, so that nobody takes the answer.
func (n *testNode) hangUp(t *testing.T, log *lossy, who caller, procedure, body string) {
	t.Helper()
	ctx, gone := context.WithCancel(t.Context())
	defer gone()
	over := make(chan struct{})
	log.arm(0, func(ctx context.Context, entry []byte, through kv.Log) ([]byte, error) {
		defer close(over)
		gone()
		<-ctx.Done() // the node has noticed
		return through.Propose(context.WithoutCancel(ctx), entry)
	})
	response, err := who.http.Do(n.request(ctx, who, procedure, []byte(body)))
	if err == nil {
		response.Body.Close()
	}
	if log.disarm() {
		<-over
	} else if err != nil {
		t.Errorf("%s makes no change, and fails: %v", procedure, err)
	}
}

// gauge is a number of the metrics page, as it is written there.
func (n *testNode) gauge(t testing.TB, name string) string {
	t.Helper()
	_, after, found := strings.Cut(n.metrics(t), "\n"+name+" ")
	if !found {
		t.Fatalf("the metrics page has no %s", name)
	}
	text, _, _ := strings.Cut(after, "\n")
	return text
}

// failed holds an answer to a reason, to giving nothing away, and, where nothing was done, to the state before.
func (n *testNode) failed(t *testing.T, what string, got answer, reason string, before []byte) {
	t.Helper()
	if got.reason != reason {
		t.Errorf("%s: %d %s; want %s", what, got.status, got.body, reason)
	}
	for _, issued := range []string{"BEGIN CERTIFICATE", `"token"`, "eyJ", "wet1.", "wjt1."} {
		if bytes.Contains(got.body, []byte(issued)) {
			t.Errorf("%s: the error holds %q: %s", what, issued, got.body)
		}
	}
	if before != nil && reason != "OUTCOME_UNKNOWN" && !bytes.Equal(n.state(t), before) {
		t.Errorf("%s: the state is another one", what)
	}
}

// state is the hash of what the cluster holds.
func (n *testNode) state(t testing.TB) []byte {
	t.Helper()
	status, err := n.socketClient(t).System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return status.GetStateHash()
}

// serves waits until a node that was started again serves callers.
func (n *testNode) serves(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // another goroutine's start: there is nothing to wait on
		status, err := n.socketClient(t).System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
		if err == nil && len(status.GetProblems()) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node does not serve: %v, %v\n%s", err, status.GetProblems(), n.output)
		}
	}
}

// breakAudit puts the device that is always full in the place of this process's open files of an audit log.
func breakAudit(t testing.TB, dir string) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	broken := 0
	for _, entry := range open {
		path, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if err != nil || filepath.Dir(path) != dir || !strings.HasSuffix(path, ".seg") {
			continue
		}
		var fd int
		if _, err := fmt.Sscan(entry.Name(), &fd); err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup2(int(full.Fd()), fd); err != nil {
			t.Fatal(err)
		}
		broken++
	}
	if broken == 0 {
		t.Fatal("no open file of the audit log was found")
	}
}
