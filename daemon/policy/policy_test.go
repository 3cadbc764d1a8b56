package policy_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"warder/daemon/identity"
	"warder/daemon/policy"
)

func name(t testing.TB, s string) identity.Name {
	t.Helper()
	n, err := identity.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func doc(t testing.TB, path, text string) policy.Document {
	t.Helper()
	ns, id, _ := strings.Cut(path, "/")
	return policy.Document{Namespace: name(t, ns), ID: name(t, id), Text: text}
}

func compile(t testing.TB, docs ...policy.Document) *policy.Set {
	t.Helper()
	set, err := policy.Compile(docs)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func principal(t testing.TB, kind identity.Kind, path string) identity.Principal {
	t.Helper()
	ns, id, _ := strings.Cut(path, "/")
	return identity.Principal{Kind: kind, Namespace: name(t, ns), Name: name(t, id)}
}

func resource(t testing.TB, kind policy.ResourceType, path string) policy.Resource {
	t.Helper()
	ns, id, named := strings.Cut(path, "/")
	r := policy.Resource{Type: kind, Namespace: name(t, ns)}
	if named {
		r.Name = name(t, id)
	}
	return r
}

func signContext(more map[string]any) map[string]any {
	m := map[string]any{"broker": "binance", "class": "trade", "host": "api.binance.com", "method": "POST"}
	for k, v := range more {
		m[k] = v
	}
	return m
}

func sign(t testing.TB, who, what string, more map[string]any) policy.Request {
	return policy.Request{
		Principal: principal(t, identity.Workload, who), Action: policy.CredentialSign,
		Resource: resource(t, policy.Credential, what), Context: signContext(more),
	}
}

func TestDecide(t *testing.T) {
	set := compile(t,
		doc(t, "trading/bots", `
@id("bots-trade")
permit (principal in Group::"trading/bots", action == Action::"credential.sign", resource in Namespace::"trading")
when { context.class == "trade" || context.class == "read" };
forbid (principal, action == Action::"credential.sign", resource)
when { context has qty && context.qty > 150000000 };
`),
		doc(t, "system/boot", policy.Bootstrap()))
	bot := sign(t, "trading/bot", "trading/binance", map[string]any{"qty": int64(100000000)})
	bot.Groups = []identity.Name{name(t, "bots")}

	with := func(change func(*policy.Request)) policy.Request {
		r := bot
		r.Context = signContext(map[string]any{"qty": int64(100000000)})
		change(&r)
		return r
	}
	admin := policy.Request{Principal: principal(t, identity.Operator, "system/root"), Groups: []identity.Name{name(t, "admins")},
		Action: policy.ClusterRemove, Resource: resource(t, policy.Cluster, "system")}
	device := policy.Request{Principal: principal(t, identity.Device, "plant/pump"), Action: policy.DeviceRenew,
		Resource: resource(t, policy.Device, "plant/pump")}
	otherDevice := device
	otherDevice.Resource = resource(t, policy.Device, "plant/valve")
	foreignAdmin := admin
	foreignAdmin.Principal = principal(t, identity.Operator, "trading/root")

	cases := []struct {
		name    string
		request policy.Request
		allow   bool
		decided []string
		errors  bool
	}{
		{"in the group", bot, true, []string{"trading/bots/bots-trade"}, false},
		{"not in the group", with(func(r *policy.Request) { r.Groups = nil }), false, nil, false},
		{"same group name of another namespace", with(func(r *policy.Request) { r.Principal = principal(t, identity.Workload, "other/bot") }), false, nil, false},
		{"another class", with(func(r *policy.Request) { r.Context["class"] = "withdraw" }), false, nil, false},
		{"over the limit", with(func(r *policy.Request) { r.Context["qty"] = int64(150000001) }), false, []string{"trading/bots#1"}, false},
		{"foreign resource", with(func(r *policy.Request) { r.Resource = resource(t, policy.Credential, "other/binance") }), false, nil, false},
		{"context incomplete", with(func(r *policy.Request) { delete(r.Context, "host") }), false, nil, true},
		{"context undeclared", with(func(r *policy.Request) { r.Context["ip"] = "::1" }), false, nil, true},
		{"context of a wrong type", with(func(r *policy.Request) { r.Context["qty"] = "1" }), false, nil, true},
		{"context of a wrong Go type", with(func(r *policy.Request) { r.Context["qty"] = 1 }), false, nil, true},
		{"unknown action", with(func(r *policy.Request) { r.Action = "credential.steal" }), false, nil, true},
		{"resource of a wrong type", with(func(r *policy.Request) { r.Resource = resource(t, policy.Key, "trading/binance") }), false, nil, true},
		{"resource without a name", with(func(r *policy.Request) { r.Resource = resource(t, policy.Credential, "trading") }), false, nil, true},
		{"principal without a name", with(func(r *policy.Request) { r.Principal.Name = identity.Name{} }), false, nil, true},
		{"kind that can never have it", with(func(r *policy.Request) { r.Principal.Kind = identity.Node }), false, nil, true},
		{"admin", admin, true, []string{"system/boot/admins-may-do-everything"}, false},
		{"admin of another namespace", foreignAdmin, false, nil, false},
		{"device renews itself", device, true, []string{"system/boot/devices-renew-themselves"}, false},
		{"device renews another", otherDevice, false, nil, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := set.Decide(c.request)
			if d.Allow != c.allow || !slices.Equal(d.Policies, c.decided) || (len(d.Errors) > 0) != c.errors {
				t.Errorf("got %+v", d)
			}
		})
	}
}

func TestNothingLoadedDenies(t *testing.T) {
	request := sign(t, "trading/bot", "trading/binance", nil)
	broken := policy.Broken(errors.New("bad"))
	for _, set := range []*policy.Set{nil, {}, broken, compile(t)} {
		if d := set.Decide(request); d.Allow {
			t.Errorf("%+v", d)
		}
	}
	if broken.Err() == nil || len(broken.Decide(request).Errors) == 0 {
		t.Error("a broken set does not say so")
	}
}

// An evaluation error must deny: here an overflow, which no schema can rule out.
func TestEvaluationErrorDenies(t *testing.T) {
	set := compile(t, doc(t, "trading/p", `
permit (principal, action, resource);
forbid (principal, action == Action::"credential.sign", resource) when { context has qty && context.qty * 2 > 10 };`))
	small := set.Decide(sign(t, "trading/bot", "trading/binance", map[string]any{"qty": int64(1)}))
	if !small.Allow {
		t.Errorf("small: %+v", small)
	}
	over := set.Decide(sign(t, "trading/bot", "trading/binance", map[string]any{"qty": int64(1) << 62}))
	if over.Allow || len(over.Errors) != 1 || !strings.HasPrefix(over.Errors[0], "policy trading/p#1: ") {
		t.Errorf("overflow: %+v", over)
	}
}

// The generated matrix: a policy that permits everything, stored in namespace a, and
// every action on every resource type of namespace b.
func TestForeignNamespaceIsUnreachable(t *testing.T) {
	const all = `permit (principal, action, resource);`
	set := compile(t, doc(t, "a/all", all))
	system := compile(t, doc(t, "system/all", all))
	asked := 0
	for spec := range policy.Actions() {
		for _, kind := range spec.Principals {
			for _, resourceType := range spec.Resources {
				path := "b/x"
				switch resourceType {
				case policy.Cluster, policy.Audit:
					path = "system"
				case policy.Namespace:
					path = "b"
				}
				r := policy.Request{Principal: principal(t, kind, "a/x"), Action: spec.Name, Resource: resource(t, resourceType, path), Context: rowContext(spec)}
				asked++
				if d := set.Decide(r); d.Allow || len(d.Errors) > 0 {
					t.Errorf("%s on %s: %+v", spec.Name, r.Resource, d)
				}
				if d := system.Decide(r); !d.Allow {
					t.Errorf("%s on %s by a system policy: %+v", spec.Name, r.Resource, d)
				}
			}
		}
	}
	if asked < 50 {
		t.Errorf("only %d requests", asked)
	}
}

func rowContext(spec policy.ActionSpec) map[string]any {
	m := map[string]any{}
	for _, a := range spec.Context {
		switch a.Type {
		case policy.TypeString:
			m[a.Name] = "x"
		case policy.TypeLong:
			m[a.Name] = int64(1)
		case policy.TypeBool:
			m[a.Name] = true
		}
	}
	return m
}

func TestInvalid(t *testing.T) {
	cases := []struct{ name, text, at, message, hint string }{
		{"not Cedar", "permit (principal, action,\n resorce);", "2:9", "resource", ""},
		{"empty", "", "1:1", "holds 1 to 256 statements", ""},
		{"comment only", "// nothing", "1:1", "holds 1 to 256 statements", ""},
		{"unknown action", "permit (principal, action ==\n  Action::\"credential.sing\", resource);", "2:11", `no action "credential.sing"`, "credential.sign"},
		{"unknown action in a list", `permit (principal, action in [Action::"key.sign", Action::"key.sgin"], resource);`, "1:59", `"key.sgin"`, "key.sign"},
		{"unknown type", `permit (principal == User::"a/b", action, resource);`, "1:22", "no entity type User", ""},
		{"unknown type in a condition", `permit (principal, action, resource) when { resource is Secret };`, "1:57", "no entity type Secret", ""},
		{"lower-case type", `permit (principal is workload, action, resource);`, "1:22", "no entity type workload", "Workload"},
		{"unknown attribute", "permit (principal, action == Action::\"credential.sign\", resource)\nwhen { context.clas == \"trade\" };", "2:16", "clas", "class"},
		{"unknown attribute of the resource", `permit (principal, action == Action::"key.read", resource is Key) when { resource.owner == "x" };`, "1:83", "owner", ""},
		{"attribute that not all have", `permit (principal, action, resource) when { resource.name == "x" };`, "1:54", "name", "narrow the scope"},
		{"type mismatch", `permit (principal, action == Action::"credential.sign", resource) when { context has qty && context.qty < "5" };`, "1:67", "but saw String", ""},
		{"incomparable", `permit (principal, action == Action::"credential.sign", resource) when { context.class == 5 };`, "1:67", "", ""},
		{"unguarded optional", `permit (principal, action == Action::"credential.sign", resource) when { context.qty < 5 };`, "1:82", "optional attribute", "context has qty"},
		{"never applies", `permit (principal is Device, action == Action::"credential.sign", resource);`, "1:1", "applicable action", "table of actions"},
		{"id without a namespace", `permit (principal == Workload::"bot", action, resource);`, "1:32", "can never match", "namespace/name"},
		{"id in capitals", `permit (principal == Workload::"trading/Bot", action, resource);`, "1:32", "can never match", ""},
		{"foreign resource", `permit (principal, action, resource in Namespace::"other");`, "1:51", "says nothing about", "system"},
		{"foreign credential", `permit (principal, action, resource == Credential::"other/x");`, "1:52", "says nothing about", "system"},
		{"duplicate id", "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);", "2:2", "used twice", ""},
		{"bad id", `@id("A b") permit (principal, action, resource);`, "1:2", "@id", ""},
		{"nested", "permit (principal, action, resource) when { " + strings.Repeat("(", 100), "1:108", "nest", ""},
		{"too many terms", "permit (principal, action, resource) when { 1" + strings.Repeat("+1", 3000) + " == 1 };", "1:1", "terms", "split"},
		{"in a comment first", "// credential.sing\npermit (principal, action == /* x */ Action::\"key.reed\", resource);", "2:46", "key.reed", "key.read"},
		{"word in a comment", "permit (principal, // \"credential.sing\"\naction == Action::\"credential.sing\", resource);", "2:19", "credential.sing", ""},
		{"second statement", "permit (principal, action, resource);\npermit (principal is Robot, action, resource);", "2:22", "Robot", ""},
		{"long", "//" + strings.Repeat("x", policy.MaxTextBytes), "1:1", "bytes", "split"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := policy.Compile([]policy.Document{doc(t, "trading/p", c.text)})
			var invalid *policy.InvalidError
			if !errors.As(err, &invalid) || !errors.Is(err, policy.ErrInvalid) || len(invalid.Problems) == 0 {
				t.Fatalf("got %v", err)
			}
			p := invalid.Problems[0]
			if at := fmt.Sprintf("%d:%d", p.Line, p.Column); at != c.at || !strings.Contains(p.Message, c.message) || !strings.Contains(p.Hint, c.hint) {
				t.Errorf("got %s, want %s: %s (%s)", p, c.at, c.message, c.hint)
			}
		})
	}
}

func TestDuplicateNamesAndLimits(t *testing.T) {
	const all = `permit (principal, action, resource);`
	if _, err := policy.Compile([]policy.Document{doc(t, "a/p", all), doc(t, "a/p", all)}); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("duplicate: %v", err)
	}
	if _, err := policy.Compile([]policy.Document{doc(t, "a/p", all), doc(t, "b/p", all)}); err != nil {
		t.Errorf("one name in two namespaces: %v", err)
	}
	if _, err := policy.Compile(make([]policy.Document, policy.MaxDocuments+1)); !errors.Is(err, policy.ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
}

// Every row of the table can be permitted for each of its principals and resources.
func TestEveryRowCanBePermitted(t *testing.T) {
	seen := map[policy.Action]bool{}
	for spec := range policy.Actions() {
		if seen[spec.Name] || spec.Doc == "" || len(spec.Principals) == 0 || len(spec.Resources) == 0 {
			t.Errorf("row %s is incomplete or double", spec.Name)
		}
		seen[spec.Name] = true
		text := fmt.Sprintf(`permit (principal, action == Action::%q, resource);`, spec.Name)
		if _, err := policy.Compile([]policy.Document{doc(t, "a/p", text)}); err != nil {
			t.Error(err)
		}
		if _, ok := policy.Lookup(spec.Name); !ok {
			t.Errorf("%s is not found", spec.Name)
		}
	}
	if _, ok := policy.Lookup("x"); ok {
		t.Error("found an action that is none")
	}
}

// The index and a full scan agree on thousands of random requests over random sets.
func TestIndexAgreesWithScan(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	allowed, asked := 0, 0
	for range 25 {
		set := compile(t, randomDocs(t, rng)...)
		for range 200 {
			r := randomRequest(t, rng)
			indexed, scanned := set.Decide(r), set.Scan(r)
			if indexed.Allow != scanned.Allow || !slices.Equal(indexed.Policies, scanned.Policies) || !slices.Equal(indexed.Errors, scanned.Errors) {
				t.Fatalf("%+v: index %+v, scan %+v", r, indexed, scanned)
			}
			asked++
			if indexed.Allow {
				allowed++
			}
		}
	}
	if allowed < asked/20 || allowed > asked*19/20 {
		t.Errorf("%d of %d allowed: the requests prove little", allowed, asked)
	}
}

// Adding a forbid never widens access, whatever it says and wherever it is stored.
func TestForbidNeverWidens(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	denied := 0
	for range 15 {
		docs := randomDocs(t, rng)
		before := compile(t, docs...)
		after := compile(t, append(docs, doc(t, pick(rng, "a", "b", "system")+"/more", pick(rng,
			`forbid (principal, action, resource);`,
			`forbid (principal in Group::"a/g", action == Action::"credential.sign", resource) when { context has qty && context.qty * 2 > 10 };`,
			`forbid (principal is Workload, action, resource is Credential) unless { resource.name == "c" };`)))...)
		for range 200 {
			r := randomRequest(t, rng)
			if before.Decide(r).Allow {
				continue
			}
			denied++
			if d := after.Decide(r); d.Allow {
				t.Fatalf("a forbid allowed %+v: %+v", r, d)
			}
		}
	}
	if denied < 500 {
		t.Errorf("only %d denied", denied)
	}
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func randomDocs(t *testing.T, rng *rand.Rand) []policy.Document {
	var docs []policy.Document
	for i := range 20 {
		ns := pick(rng, "a", "b", "system")
		var text strings.Builder
		for range 1 + rng.IntN(4) {
			scope := pick(rng, "principal", "principal is Workload", `principal == Workload::"a/x"`, `principal == Workload::"b/y"`,
				`principal in Workload::"a/y"`, `principal in Group::"a/g"`, `principal in Group::"b/h"`, `principal is Workload in Group::"a/h"`,
				`principal in Namespace::"a"`, `principal == Operator::"a/x"`, `principal is Operator in Namespace::"b"`)
			when := pick(rng, "", ` when { context has qty && context.qty + 1 > 5 }`, ` when { resource.name == "c" }`, ` unless { context.class == "trade" }`)
			fmt.Fprintf(&text, "%s (%s, action == Action::\"credential.sign\", resource)%s;\n", pick(rng, "permit", "permit", "permit", "forbid"), scope, when)
		}
		docs = append(docs, doc(t, fmt.Sprintf("%s/p%d", ns, i), text.String()))
	}
	return docs
}

func randomRequest(t *testing.T, rng *rand.Rand) policy.Request {
	r := sign(t, pick(rng, "a", "b", "c")+"/"+pick(rng, "x", "y", "z"), pick(rng, "a", "b", "c")+"/"+pick(rng, "c", "d"), nil)
	r.Principal.Kind = pick(rng, identity.Workload, identity.Workload, identity.Operator)
	r.Context["class"] = pick(rng, "trade", "read")
	if rng.IntN(2) == 0 {
		r.Context["qty"] = pick(rng, int64(1), 10, 1<<63-1)
	}
	for range rng.IntN(3) {
		r.Groups = append(r.Groups, name(t, pick(rng, "g", "h", "i")))
	}
	return r
}

func FuzzCompile(f *testing.F) {
	f.Add(policy.Bootstrap())
	f.Add(`permit (principal, action, resource) when { context.x };`)
	f.Add(`@id("`)
	f.Fuzz(func(t *testing.T, text string) {
		set, err := policy.Compile([]policy.Document{doc(t, "a/p", text)})
		if (set == nil) == (err == nil) {
			t.Fatal("a set or an error, not both")
		}
		if err == nil {
			set.Decide(sign(t, "a/bot", "a/c", map[string]any{"qty": int64(1)}))
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			docs := []policy.Document{doc(b, "system/boot", policy.Bootstrap())}
			for i := range n {
				docs = append(docs, doc(b, fmt.Sprintf("trading/p%d", i), fmt.Sprintf(
					`permit (principal == Workload::"trading/bot%d", action == Action::"credential.sign", resource == Credential::"trading/c%d") when { context.class == "trade" };`, i, i)))
			}
			set := compile(b, docs...)
			r := sign(b, "trading/bot5", "trading/c5", map[string]any{"qty": int64(1)}) // of an order: it is weighed each time
			r.Groups = []identity.Name{name(b, "bots")}
			if !set.Decide(r).Allow {
				b.Fatal("denied")
			}
			b.ReportAllocs()
			for b.Loop() {
				set.Decide(r)
			}
		})
	}
}
