package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"warder/api/verify"
	warderv1 "warder/api/warder/v1"
	"warder/daemon/audit"
	"warder/daemon/identity"
	"warder/daemon/policy"
)

// maxFact bounds a fact of a request that policies see, in bytes: what the audit log can hold.
const maxFact = 128

// recordable refuses facts that the audit log has no room for, before anything is decided on them.
func recordable(facts map[string]any) error {
	for name, value := range facts {
		text, ok := value.(string)
		if !ok {
			continue
		}
		odd := strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
		if odd || len(text) > maxFact {
			return fmt.Errorf("%w: the request's %s must be at most %d printable ASCII characters", ErrField, name, maxFact)
		}
	}
	return nil
}

// record writes the decision before its effect. No record, no answer.
func (s *Server) record(ctx context.Context, call *Call, action policy.Action, verdict policy.Decision, refused error) error {
	entry := audit.Record{
		Time: s.Clock(), RequestID: call.ID, Principal: principalText(call.Principal), Authn: call.Authentication,
		TokenID: call.TokenID, Method: strings.TrimPrefix(call.Procedure, "/"), Action: string(action),
		Decision: verify.Allow, Policies: recordedPolicies(verdict.Policies), Certificate: call.Peer.CertSHA256, Remote: call.Remote,
	}
	if wanted := call.target.resource; wanted != (policy.Resource{}) {
		entry.Resource = verify.Resource{Type: string(wanted.Type), Namespace: wanted.Namespace.String(), Name: wanted.Name.String()}
	}
	if refused != nil {
		entry.Decision, entry.Reason = verify.Deny, reasonText(reasonOf(refused))
	}
	inputs, err := verify.Inputs(call.target.context)
	if err == nil {
		entry.Inputs = inputs
		_, err = s.Audit.Append(context.WithoutCancel(ctx), entry) // who hangs up is recorded, and once
	}
	if err != nil {
		s.Logger.Error("the audit log refuses a record", "request", call.ID, "error", err)
		return errors.Join(errAudit, err)
	}
	call.recorded = true
	return nil
}

// maxRecorded bounds the policies that a record names.
const maxRecorded = 32

// recordedPolicies names the policies that decided, ascending; of too many the last place says how many are not named.
func recordedPolicies(decided []string) []string {
	if len(decided) <= maxRecorded {
		return decided
	}
	named := append(slices.Clone(decided[:maxRecorded-1]), fmt.Sprintf("and-%d-more", len(decided)-maxRecorded+1))
	slices.Sort(named)
	return named
}

// reasonText is a reason's stable name in the audit log: "permission_denied".
func reasonText(why warderv1.Reason) string { return reasonTexts[why] }

const reasonPrefix = "REASON_"

// reasonTexts has the text of every reason: each request asks for one.
var reasonTexts = func() map[warderv1.Reason]string {
	texts := map[warderv1.Reason]string{}
	for why, name := range warderv1.Reason_name {
		texts[warderv1.Reason(why)] = strings.ToLower(strings.TrimPrefix(name, reasonPrefix))
	}
	return texts
}()

// parseReason is the inverse of reasonText.
func parseReason(text string) warderv1.Reason {
	return warderv1.Reason(warderv1.Reason_value[reasonPrefix+strings.ToUpper(text)])
}

func principalText(p identity.Principal) string {
	if p == (identity.Principal{}) {
		return ""
	}
	return p.String()
}
