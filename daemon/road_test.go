package daemon_test

import (
	"bytes"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	warderv1 "warder/api/warder/v1"
)

// withoutCertificate is the whole list of methods that a caller without a certificate of this cluster reaches: each is
// guarded by a single-use token of its own. What is on the socket alone is not reached at all.
func withoutCertificate() []string {
	return []string{"ClusterService/JoinCluster", "DeviceService/EnrolDevice"}
}

// TestEveryRequestLeavesOneRecord walks the table of RPCs with callers of every kind: whatever becomes of a request, it
// leaves exactly one record, and nobody gets an answer that is not theirs.
func TestEveryRequestLeavesOneRecord(t *testing.T) {
	n := startNode(t)
	mallory := n.workload(t, "default", "mallory")
	disabled := n.workload(t, "default", "disabled")
	_, err := n.client.Identities.DisableIdentity(t.Context(), &warderv1.DisableIdentityRequest{
		Principal: &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, Namespace: "default", Name: "disabled"},
	})
	if err != nil {
		t.Fatal(err)
	}
	bodies := requests(t, "default")
	callers := []struct {
		name    string
		who     caller
		reasons []string // that may be given; nothing is allowed
	}{
		{"no certificate", n.caller(t, nil), []string{"UNAUTHENTICATED"}},
		{"a disabled identity", disabled, []string{"CERTIFICATE_UNKNOWN", "UNAUTHENTICATED"}},
		{"a workload without rights", mallory, []string{"PERMISSION_DENIED", "TOKEN_SCOPE", "UNAUTHENTICATED"}},
	}
	for _, c := range callers {
		for _, procedure := range procedures(t, bodies) {
			before := n.records(t)
			got := n.post(t, c.who, "/warder.v1."+procedure, bodies[procedure])
			if after := n.records(t); after != before+1 {
				t.Errorf("%s, %s: %d records; want 1", procedure, c.name, after-before)
			}
			if !slices.Contains(c.reasons, got.reason) {
				t.Errorf("%s, %s: %d %s; want a refusal with one of %v", procedure, c.name, got.status, got.body, c.reasons)
			}
			if c.name == "no certificate" && slices.Contains(withoutCertificate(), procedure) && !bytes.Contains(got.body, []byte("token")) {
				t.Errorf("%s is guarded by a token, and does not say so: %s", procedure, got.body)
			}
		}
	}
	for _, odd := range []string{"/warder.v1.KeyService/Nothing", "/warder.v1.Nothing/GetKey", "/warder.v1.KeyService/GetKey/", "/warder.v1./GetKey"} {
		before := n.records(t)
		got := n.post(t, n.operator, odd, `{}`)
		if after := n.records(t); got.status == http.StatusOK || after != before+1 {
			t.Errorf("%s: status %d and %d records; want a refusal and 1", odd, got.status, after-before)
		}
	}
}

// TestCanaryIsNowhere sends a canary secret and a canary name through every RPC, allowed and refused. Afterwards the
// secret is in no file, log line, metric, audit record or refusal; the name is in the audit log alone.
func TestCanaryIsNowhere(t *testing.T) {
	n := startNode(t)
	mallory := n.workload(t, "default", "mallory")
	bodies := requests(t, "default")
	for _, procedure := range procedures(t, bodies) {
		refused := n.post(t, mallory, "/warder.v1."+procedure, bodies[procedure])
		noCanary(t, procedure+", refused", refused.body, canarySecret)
		before := n.records(t)
		got := n.post(t, n.operator, "/warder.v1."+procedure, bodies[procedure])
		if after := n.records(t); after != before+1 {
			t.Errorf("%s by an operator: %d records; want 1", procedure, after-before)
		}
		if got.reason == "INTERNAL" || got.reason == "AUDIT_UNAVAILABLE" {
			t.Errorf("%s by an operator: %s", procedure, got.body)
		}
		if got.reason != "" {
			noCanary(t, procedure+", an error", got.body, canarySecret)
		}
		broken := n.post(t, n.operator, "/warder.v1."+procedure, `{"namespace":"`+canarySecret)
		noCanary(t, procedure+", a broken body", broken.body, canarySecret)
	}
	noCanary(t, "the log", []byte(n.output.String()), canarySecret, canaryName)
	noCanary(t, "the metrics", []byte(n.metrics(t)), canarySecret, canaryName)
	read := 0
	err := filepath.WalkDir(n.cfg.DataDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		read += len(text)
		noCanary(t, path, text, canarySecret)
		if !strings.Contains(path, "/audit/") {
			noCanary(t, path, text, canaryName)
		}
		return nil
	})
	if err != nil || read < 1<<16 {
		t.Fatalf("read %d bytes of the node's files: %v", read, err)
	}
}

func noCanary(t *testing.T, where string, text []byte, canaries ...string) {
	t.Helper()
	for _, canary := range canaries {
		if bytes.Contains(text, []byte(canary)) {
			t.Errorf("%s holds %q", where, canary)
		}
	}
}
