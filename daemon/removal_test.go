package daemon_test

import (
	"net/http"
	"testing"
)

// TestANodeDoesNotRemoveItself: it would lose the cluster after the first half, and its entry in the keyring would stay.
func TestANodeDoesNotRemoveItself(t *testing.T) {
	one, two := startNode(t), newTestNode(t, "two")
	run := two.launch(t)
	if err := two.join(t, one); err != nil {
		t.Fatalf("join: %v\n%s", err, two.output)
	}
	one.awaitVoters(t, 2)
	const remove = "/warder.v1.ClusterService/RemoveMember"
	if got := two.post(t, one.operator, remove, `{"nodeId":"two"}`); got.reason != "ILLEGAL_STATE" {
		t.Errorf("asked of itself: %d %s", got.status, got.body)
	}
	if got := one.post(t, one.operator, remove, `{"nodeId":"two"}`); got.status != http.StatusOK {
		t.Errorf("asked of another: %d %s", got.status, got.body)
	}
	if got := one.post(t, one.operator, remove, `{"nodeId":"two"}`); got.reason != "NOT_FOUND" {
		t.Errorf("asked again: %d %s", got.status, got.body)
	}
	if err := run.end(); err != nil {
		t.Error(err)
	}
}
