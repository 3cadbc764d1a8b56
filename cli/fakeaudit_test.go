package cli_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warder/api/verify"
	warderv1 "warder/api/warder/v1"
	"warder/api/warder/v1/warderv1connect"
)

// fakeAudit is an audit log of a few entries with a signed checkpoint and an anchor.
type fakeAudit struct {
	warderv1connect.UnimplementedAuditServiceHandler
	public ed25519.PublicKey

	mu         sync.Mutex // guards the rest
	leaves     [][]byte
	checkpoint verify.Checkpoint
	anchor     verify.Checkpoint
}

func newFakeAudit(t testing.TB) *fakeAudit {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	a := &fakeAudit{public: public}
	origin := verify.Origin{Node: "n1", Log: [8]byte{1}}
	var tree verify.Tree
	for i := range 6 {
		leaf := auditLeaf(t, i)
		a.leaves = append(a.leaves, leaf)
		tree.Append(verify.LeafHash(leaf), nil)
		c := verify.Checkpoint{Origin: origin, Size: tree.Size(), Root: tree.Root(), Time: time.Unix(1000, 0)}
		must(t, verify.SignCheckpoint(&c, private))
		switch i {
		case 2:
			a.anchor = c
		case 4:
			a.checkpoint = c
		}
	}
	return a
}

func auditLeaf(t testing.TB, i int) []byte {
	t.Helper()
	r := verify.Record{
		Time: time.Unix(int64(1000+i), 0).UTC(), RequestID: fmt.Sprintf("r-%d", i), Node: "n1", Method: "warder.v1.X/Y", Decision: verify.Allow,
	}
	leaf, err := r.MarshalBinary()
	must(t, err)
	return leaf
}

// tamper changes an entry after it was anchored.
func (a *fakeAudit) tamper(t testing.TB) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaves[1] = auditLeaf(t, 99)
}

func (a *fakeAudit) GetAuditCheckpoint(context.Context, *warderv1.GetAuditCheckpointRequest) (*warderv1.GetAuditCheckpointResponse, error) {
	return &warderv1.GetAuditCheckpointResponse{NodeId: "n1", Checkpoint: a.checkpoint.Note, PublicKey: a.public}, nil
}

func (a *fakeAudit) ListAuditAnchors(context.Context, *warderv1.ListAuditAnchorsRequest) (*warderv1.ListAuditAnchorsResponse, error) {
	return &warderv1.ListAuditAnchorsResponse{Anchors: []*warderv1.AuditAnchor{{
		NodeId: "n1", Size: a.anchor.Size, RootHash: a.anchor.Root[:], AnchoredAt: timestamppb.New(a.anchor.Time),
		Checkpoint: a.anchor.Note, Origin: a.anchor.Origin.String(),
	}}}, nil
}

// ListAuditEntries gives two at a time, whatever is asked for.
func (a *fakeAudit) ListAuditEntries(_ context.Context, r *warderv1.ListAuditEntriesRequest) (*warderv1.ListAuditEntriesResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	size := uint64(len(a.leaves))
	from := min(r.GetStart(), size)
	return &warderv1.ListAuditEntriesResponse{Start: from, Leaves: a.leaves[from:min(from+2, size)], Size: size}, nil
}

func (a *fakeAudit) TailAudit(_ context.Context, r *warderv1.TailAuditRequest, stream *connect.ServerStream[warderv1.TailAuditResponse]) error {
	record := &warderv1.AuditRecord{
		Time: timestamppb.New(time.Unix(0, 0)), NodeId: "n1", RequestId: "r-1", Action: "credential.sign", Decision: warderv1.Decision_DECISION_DENY,
		Reason:    warderv1.Reason_REASON_PERMISSION_DENIED,
		Principal: &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_WORKLOAD, Namespace: "trading", Name: "bot"},
		Resource:  &warderv1.Resource{Type: "credential", Namespace: "trading", Name: "main"},
	}
	return stream.Send(&warderv1.TailAuditResponse{Index: r.GetFromIndex(), Record: record})
}
