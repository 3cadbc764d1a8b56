package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"warder/daemon/identity"
	"warder/daemon/policy"
)

// keptRequest is one of the few whose decision is kept, so that most are asked more than once.
func keptRequest(t *testing.T, rng *rand.Rand) policy.Request {
	r := policy.Request{
		Principal: identity.Principal{Kind: pick(rng, identity.Workload, identity.Device), Namespace: name(t, pick(rng, "a", "b")), Name: name(t, pick(rng, "x", "y"))},
		Resource:  policy.Resource{Namespace: name(t, pick(rng, "a", "b")), Name: name(t, pick(rng, "c", "d"))},
	}
	for range rng.IntN(3) {
		r.Groups = append(r.Groups, name(t, pick(rng, "g", "h")))
	}
	switch rng.IntN(3) {
	case 0:
		r.Action, r.Resource.Type = policy.CredentialReveal, policy.Credential
	case 1:
		r.Action, r.Resource.Type = policy.KeySign, policy.Key
		r.Context = map[string]any{"purpose": pick(rng, "order", "telemetry"), "custody": pick(rng, "hsm", "sealed"), "algorithm": "ed25519"}
	case 2:
		r.Action, r.Resource.Type = policy.TokenIssue, policy.Token
		r.Context = map[string]any{"bound": rng.IntN(2) == 0, "ttl": pick(rng, int64(60), 3600)}
	}
	return r
}

// TestKeptDecisionsAgreeWithScan: what was decided once is what a full scan decides, also of requests that a row does not
// admit, and after a policy was added.
func TestKeptDecisionsAgreeWithScan(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	texts := []string{
		`permit (principal == Workload::"a/x", action, resource);`,
		`permit (principal in Group::"b/g", action == Action::"credential.reveal", resource);`,
		`permit (principal is Device, action == Action::"key.sign", resource) when { context.custody == "hsm" };`,
		`permit (principal, action == Action::"token.issue", resource) when { context.ttl <= 60 && context.bound };`,
		`forbid (principal, action == Action::"key.sign", resource) when { context.purpose == "order" && context.algorithm like "ed*" };`,
		`forbid (principal, action == Action::"credential.reveal", resource) when { resource has name && resource.name == "d" };`,
	}
	var docs []policy.Document
	allowed, asked := 0, 0
	for round := range 12 {
		docs = append(docs, doc(t, fmt.Sprintf("%s/p%d", pick(rng, "a", "b", "system"), round), texts[round%len(texts)]))
		set := compile(t, docs...)
		for range 500 {
			r := keptRequest(t, rng)
			if rng.IntN(20) == 0 {
				r.Context = map[string]any{pick(rng, "ttl", "odd", "custody"): pick[any](rng, "x", int64(1), true, 1.5)}
			}
			kept, scanned := set.Decide(r), set.Scan(r)
			if kept.Allow != scanned.Allow || !slices.Equal(kept.Policies, scanned.Policies) || !slices.Equal(kept.Errors, scanned.Errors) {
				t.Fatalf("%+v: %+v, scan %+v", r, kept, scanned)
			}
			asked++
			if kept.Allow {
				allowed++
			}
		}
	}
	if allowed < asked/20 || allowed > asked*19/20 {
		t.Errorf("%d of %d allowed: the requests prove little", allowed, asked)
	}
}

// TestQuestionsDiffer: two requests that differ in anything are kept apart.
func TestQuestionsDiffer(t *testing.T) {
	set := compile(t)
	base := func() policy.Request {
		return policy.Request{
			Principal: identity.Principal{Kind: identity.Workload, Namespace: name(t, "a"), Name: name(t, "bc")}, Action: policy.KeySign,
			Resource: policy.Resource{Type: policy.Key, Namespace: name(t, "a"), Name: name(t, "k")},
			Context:  map[string]any{"purpose": "order", "custody": "hsm", "algorithm": "x"},
		}
	}
	seen := map[string]string{string(set.Question(base())): "the base"}
	for what, change := range map[string]func(r *policy.Request){
		"kind":            func(r *policy.Request) { r.Principal.Kind = identity.Device },
		"namespace":       func(r *policy.Request) { r.Principal.Namespace = name(t, "ab") },
		"names shifted":   func(r *policy.Request) { r.Principal.Namespace, r.Principal.Name = name(t, "ab"), name(t, "c") },
		"action":          func(r *policy.Request) { r.Action = policy.KeyCreate },
		"type":            func(r *policy.Request) { r.Resource.Type = policy.Namespace },
		"resource":        func(r *policy.Request) { r.Resource.Name = name(t, "kk") },
		"resource's":      func(r *policy.Request) { r.Resource.Namespace = name(t, "b") },
		"a group":         func(r *policy.Request) { r.Groups = []identity.Name{name(t, "g")} },
		"two groups":      func(r *policy.Request) { r.Groups = []identity.Name{name(t, "g"), name(t, "h")} },
		"one group of it": func(r *policy.Request) { r.Groups = []identity.Name{name(t, "gh")} },
		"a fact":          func(r *policy.Request) { r.Context["custody"] = "sealed" },
		"a fact's type":   func(r *policy.Request) { r.Context["custody"] = int64(1) },
		"a fact's truth":  func(r *policy.Request) { r.Context["custody"] = true },
		"a fact less":     func(r *policy.Request) { delete(r.Context, "custody") },
		"facts shifted":   func(r *policy.Request) { r.Context["purpose"], r.Context["custody"] = "orderhsm", "" },
	} {
		r := base()
		change(&r)
		question := set.Question(r)
		if other, twice := seen[string(question)]; twice || question == nil {
			t.Errorf("%s is the question of %s", what, other)
		}
		seen[string(question)] = what
	}
	for what, change := range map[string]func(r *policy.Request){
		"a name once":        func(r *policy.Request) { *r = policy.Request{Action: policy.CredentialWrite} },
		"an unknown action":  func(r *policy.Request) { r.Action = "key.steal" },
		"an unknown fact":    func(r *policy.Request) { r.Context["odd"] = "x" },
		"a fact of no type":  func(r *policy.Request) { r.Context["custody"] = 1.5 },
		"a long fact":        func(r *policy.Request) { r.Context["custody"] = strings.Repeat("x", 600) },
		"very many groups":   func(r *policy.Request) { r.Groups = make([]identity.Name, 1<<16) },
		"a long row's facts": func(r *policy.Request) { *r = sign(t, "a/x", "a/c", map[string]any{"qty": int64(1)}) },
	} {
		r := base()
		change(&r)
		if set.Question(r) != nil {
			t.Errorf("a request with %s is kept", what)
		}
	}
}
