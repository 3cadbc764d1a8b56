package rpc

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"warder/api/verify"
	warderv1 "warder/api/warder/v1"
	"warder/daemon/audit"
	"warder/daemon/identity"
)

// defaultEntries is how many entries one answer holds where the request names no number.
const defaultEntries = 1000

// auditService answers warder.v1.AuditService.
type auditService struct{ *Server }

func (s auditService) TailAudit(ctx context.Context, request *warderv1.TailAuditRequest, stream *connect.ServerStream[warderv1.TailAuditResponse]) error {
	sent := uint64(0)
	send := func(entry verify.Entry) error {
		message, err := fromEntry(entry)
		if err != nil {
			return err
		}
		sent++
		return stream.Send(message)
	}
	entries := s.Audit.Range(request.GetFromIndex(), s.Audit.Size())
	if request.GetFollow() {
		entries = s.Audit.Tail(ctx, request.GetFromIndex())
	}
	for entry, err := range entries {
		if err != nil {
			return err
		}
		if err := send(entry); err != nil {
			return err
		}
		if limit := request.GetLimit(); limit > 0 && sent >= limit {
			return nil
		}
	}
	return nil
}

func (s auditService) GetAuditCheckpoint(ctx context.Context, _ *warderv1.GetAuditCheckpointRequest) (*warderv1.GetAuditCheckpointResponse, error) {
	checkpoint, err := s.Audit.SignNow()
	if err != nil {
		return nil, err
	}
	anchors, err := s.Anchors.List(ctx, s.Home.Node)
	if err != nil {
		return nil, err
	}
	return &warderv1.GetAuditCheckpointResponse{
		NodeId: s.Home.Node, Checkpoint: checkpoint.Note, PublicKey: s.Home.AuditPublicKey(), Anchors: fromAnchors(anchors),
	}, nil
}

func (s auditService) ListAuditEntries(_ context.Context, request *warderv1.ListAuditEntriesRequest) (*warderv1.ListAuditEntriesResponse, error) {
	count := int(request.GetCount())
	if count == 0 {
		count = defaultEntries
	}
	answer := &warderv1.ListAuditEntriesResponse{Start: request.GetStart(), Size: s.Audit.Size()}
	if request.GetStart() >= answer.GetSize() {
		return answer, nil
	}
	entries, err := s.Audit.Entries(request.GetStart(), count)
	if err != nil && !errors.Is(err, audit.ErrRange) {
		return nil, err
	}
	for _, entry := range entries {
		answer.Leaves = append(answer.Leaves, entry.Leaf)
	}
	return answer, nil
}

func (s auditService) ListAuditAnchors(ctx context.Context, request *warderv1.ListAuditAnchorsRequest) (*warderv1.ListAuditAnchorsResponse, error) {
	anchors, err := s.Anchors.List(ctx, request.GetNodeId())
	if err != nil {
		return nil, err
	}
	return &warderv1.ListAuditAnchorsResponse{Anchors: fromAnchors(anchors)}, nil
}

func fromAnchors(anchors []verify.Anchor) []*warderv1.AuditAnchor {
	messages := make([]*warderv1.AuditAnchor, len(anchors))
	for i, anchor := range anchors {
		messages[i] = &warderv1.AuditAnchor{
			NodeId: anchor.Origin.Node, Origin: anchor.Origin.String(), Size: anchor.Size, RootHash: anchor.Root[:], AnchoredAt: timestamp(anchor.Time), Checkpoint: anchor.Note,
		}
	}
	return messages
}

func fromEntry(entry verify.Entry) (*warderv1.TailAuditResponse, error) {
	var record audit.Record
	if err := record.UnmarshalBinary(entry.Leaf); err != nil {
		return nil, err
	}
	message := &warderv1.AuditRecord{
		Time: timestamp(record.Time), NodeId: record.Node, RequestId: record.RequestID, Authentication: record.Authn,
		Method: record.Method, Action: record.Action, Policies: record.Policies, TokenId: record.TokenID,
		Decision: warderv1.Decision_DECISION_DENY, Reason: parseReason(record.Reason),
	}
	if record.Remote.IsValid() {
		message.RemoteAddress = record.Remote.String()
	}
	if record.Decision == verify.Allow {
		message.Decision = warderv1.Decision_DECISION_ALLOW
	}
	if record.Certificate != (verify.CertificateHash{}) {
		message.CertificateSha256 = record.Certificate[:]
	}
	if principal, err := identity.ParsePrincipal(record.Principal); err == nil {
		message.Principal = fromPrincipal(principal)
	}
	if record.Resource != (verify.Resource{}) {
		message.Resource = &warderv1.Resource{Type: record.Resource.Type, Namespace: record.Resource.Namespace, Name: record.Resource.Name}
	}
	for _, input := range record.Inputs {
		message.Context = append(message.Context, toAttribute(input))
	}
	return &warderv1.TailAuditResponse{Index: entry.Index, Record: message}, nil
}

func toAttribute(input verify.Input) *warderv1.ContextAttribute {
	attribute := &warderv1.ContextAttribute{Name: input.Name}
	switch input.Kind {
	case verify.Text:
		attribute.Value = &warderv1.ContextAttribute_StringValue{StringValue: input.Text}
	case verify.Number:
		attribute.Value = &warderv1.ContextAttribute_IntValue{IntValue: input.Number}
	case verify.Flag:
		attribute.Value = &warderv1.ContextAttribute_BoolValue{BoolValue: input.Flag}
	}
	return attribute
}
