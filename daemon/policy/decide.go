package policy

import (
	"fmt"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

// Decide weighs a request. It is a pure function: no clock, no store, no order of
// policies changes it. It allows when a permit of the resource's namespace or of
// [System] applies, no forbid does, and nothing erred. What it returns may be shared:
// it must not be changed.
func (s *Set) Decide(r Request) Decision {
	if s == nil || s.actions == nil && s.broken == nil {
		return refuse("no policies are loaded")
	}
	if s.broken != nil {
		return refuse("the stored policies do not compile: " + s.broken.Error())
	}
	var room [maxQuestion]byte
	question := s.question(room[:0], r)
	if question == nil {
		return s.weigh(r)
	}
	verdict, known := s.decided.find(question)
	if !known {
		if verdict = s.weigh(r); len(verdict.Errors) == 0 {
			s.decided.add(question, verdict)
		}
	}
	return verdict
}

func (s *Set) weigh(r Request) Decision {
	q, err := s.newQuery(r)
	if err != nil {
		return refuse(err.Error())
	}
	return q.weigh(candidates{partitions: s.consulted(r), keys: q.keys})
}

// consulted are the partitions a request is weighed against: the resource's own
// namespace and System. No other policy is reachable from here.
func (s *Set) consulted(r Request) [2]*partition {
	own := s.namespaces[r.Resource.Namespace]
	if own == s.system {
		return [2]*partition{own}
	}
	return [2]*partition{own, s.system}
}

func refuse(why string) Decision { return Decision{Errors: []string{why}} }

// query is a request in Cedar's terms. Its two entities are made when a policy asks for one: most look no further than
// at who and what they name.
type query struct {
	request             types.Request
	keys                []scopeKey
	parents             []types.EntityUID // of the principal
	principal, resource entity
}

// entity is one that may be asked for.
type entity struct {
	namespace, name string
	made            bool
	full            types.Entity
}

// Get satisfies types.EntityGetter: a decision knows two entities.
func (q *query) Get(uid types.EntityUID) (types.Entity, bool) {
	switch uid {
	case q.request.Principal: // also of a device that renews itself: one entity, with all its parents
		return q.principal.of(uid, q.parents), true
	case q.request.Resource:
		var parents []types.EntityUID
		if uid.Type != types.EntityType(Namespace) {
			parents = []types.EntityUID{types.NewEntityUID("Namespace", types.String(q.resource.namespace))}
		}
		return q.resource.of(uid, parents), true
	}
	return types.Entity{}, false
}

func (e *entity) of(uid types.EntityUID, parents []types.EntityUID) types.Entity {
	if !e.made {
		e.full = types.Entity{UID: uid, Parents: types.NewEntityUIDSet(parents...), Attributes: attributes(e.namespace, e.name)}
		e.made = true
	}
	return e.full
}

func (q *query) weigh(policies cedar.PolicyIterator) Decision {
	verdict, diagnostic := cedar.Authorize(policies, q, q.request)
	var d Decision
	for _, e := range diagnostic.Errors {
		d.Errors = append(d.Errors, fmt.Sprintf("policy %s: %s", e.PolicyID, e.Message))
	}
	for _, reason := range diagnostic.Reasons {
		d.Policies = append(d.Policies, string(reason.PolicyID))
	}
	slices.Sort(d.Errors)
	slices.Sort(d.Policies)
	d.Allow = verdict == cedar.Allow && len(d.Errors) == 0
	return d
}

// newQuery checks a request against the action table and puts it in Cedar's terms.
func (s *Set) newQuery(r Request) (*query, error) {
	spec, ok := s.actions[r.Action]
	if !ok {
		return nil, fmt.Errorf("action %q is not in the table", r.Action)
	}
	if err := spec.admits(r); err != nil {
		return nil, err
	}
	context, err := spec.context(r.Context)
	if err != nil {
		return nil, err
	}
	q := &query{}
	q.setPrincipal(r)
	q.resource = entity{namespace: r.Resource.Namespace.String(), name: r.Resource.Name.String()}
	q.request.Resource = types.NewEntityUID(types.EntityType(r.Resource.Type), types.String(r.Resource.id()))
	q.request.Action = types.NewEntityUID("Action", types.String(r.Action))
	q.request.Context = context
	return q, nil
}

// admits checks the request's principal and resource against the row.
func (s ActionSpec) admits(r Request) error {
	if !slices.Contains(s.Principals, r.Principal.Kind) {
		return fmt.Errorf("a %s can never have %s", entityType(r.Principal.Kind), s.Name)
	}
	if r.Principal.Namespace.String() == "" || r.Principal.Name.String() == "" {
		return fmt.Errorf("the principal has no name")
	}
	if !slices.Contains(s.Resources, r.Resource.Type) {
		return fmt.Errorf("%s is not asked on a %s", s.Name, r.Resource.Type)
	}
	return r.Resource.check()
}

func (r Resource) check() error {
	switch {
	case r.Namespace.String() == "":
		return fmt.Errorf("the %s has no namespace", r.Type)
	case r.Type.single() != (r.Name.String() == ""):
		return fmt.Errorf("the %s has a name where it must not, or none where it must", r.Type)
	case (r.Type == Cluster || r.Type == Audit) && r.Namespace.String() != System:
		return fmt.Errorf("the %s is of the namespace %s only", r.Type, System)
	}
	return nil
}

func (q *query) setPrincipal(r Request) {
	kind := types.EntityType(entityType(r.Principal.Kind))
	uid := types.NewEntityUID(kind, types.String(r.Principal.Namespace.String()+"/"+r.Principal.Name.String()))
	parents := make([]types.EntityUID, 0, 1+len(r.Groups))
	parents = append(parents, types.NewEntityUID("Namespace", types.String(r.Principal.Namespace.String())))
	for _, g := range r.Groups {
		parents = append(parents, types.NewEntityUID("Group", types.String(r.Principal.Namespace.String()+"/"+g.String())))
	}
	q.keys = make([]scopeKey, 0, len(parents)+3)
	q.keys = append(q.keys, scopeKey{}, scopeKey{kind: kind}, scopeKey{entity: uid})
	for i, p := range parents {
		if !slices.Contains(parents[:i], p) { // a group named twice is one group
			q.keys = append(q.keys, scopeKey{entity: p})
		}
	}
	q.request.Principal, q.parents = uid, parents
	q.principal = entity{namespace: r.Principal.Namespace.String(), name: r.Principal.Name.String()}
}

func attributes(namespace, name string) types.Record {
	m := types.RecordMap{"namespace": types.String(namespace)}
	if name != "" {
		m["name"] = types.String(name)
	}
	return types.NewRecord(m)
}

// context checks a request's context against the row: nothing missing, nothing
// undeclared, each of its type.
func (s ActionSpec) context(given map[string]any) (types.Record, error) {
	m := make(types.RecordMap, len(given))
	for _, a := range s.Context {
		v, ok := given[a.Name]
		if !ok && a.Optional {
			continue
		}
		if !ok {
			return types.Record{}, fmt.Errorf("the context of %s lacks %s", s.Name, a.Name)
		}
		value := a.Type.value(v)
		if value == nil {
			return types.Record{}, fmt.Errorf("the context of %s: %s is not a %s", s.Name, a.Name, a.Type)
		}
		m[types.String(a.Name)] = value
	}
	if len(given) == 0 {
		return types.Record{}, nil
	}
	if len(m) != len(given) {
		return types.Record{}, fmt.Errorf("the context of %s has an attribute that is not declared", s.Name)
	}
	return types.NewRecord(m), nil
}

func (t ContextType) value(v any) types.Value {
	switch v := v.(type) {
	case string:
		if t == TypeString {
			return types.String(v)
		}
	case int64:
		if t == TypeLong {
			return types.Long(v)
		}
	case bool:
		if t == TypeBool {
			return types.Boolean(v)
		}
	}
	return nil
}
