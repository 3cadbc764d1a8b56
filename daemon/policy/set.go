package policy

import (
	"iter"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"warder/daemon/identity"
)

// Set is every policy, compiled, split by namespace and indexed by the principal in
// each statement's scope. It is immutable and safe for concurrent use. The zero Set
// denies everything.
type Set struct {
	check      *checker
	actions    map[Action]ActionSpec
	system     *partition // of the namespace System, nil without a policy there
	namespaces map[identity.Name]*partition
	documents  map[documentKey]*compiled
	decided    *decided
	broken     error // set: denies everything, and says why
}

type documentKey struct{ namespace, name identity.Name }

// compiled is one document's statements.
type compiled struct {
	document   Document
	statements []statement
}

type statement struct {
	id     types.PolicyID
	policy *cedar.Policy
	scope  scopeKey
}

// scopeKey is where the index files a statement: under an entity (the principal
// itself, or a group or namespace it is in), under a principal type, or, both
// empty, under any.
type scopeKey struct {
	entity types.EntityUID
	kind   types.EntityType
}

// partition is the policies of one namespace.
type partition struct {
	all   []statement
	index map[scopeKey][]statement
}

// Compile parses, validates and indexes documents. It fails with an [InvalidError]
// (wrapping [ErrInvalid]) that lists what is wrong in the first document refused,
// or with [ErrTooMany].
func Compile(docs []Document) (*Set, error) { return compile(nil, docs) }

// compile reuses what old holds of a document whose text did not change.
func compile(old *Set, docs []Document) (*Set, error) {
	if len(docs) > MaxDocuments {
		return nil, ErrTooMany
	}
	set, err := newSet(old)
	if err != nil {
		return nil, err
	}
	for _, doc := range docs {
		one := old.find(doc)
		if one == nil {
			if one, err = set.check.document(doc); err != nil {
				return nil, err
			}
		}
		if err := set.add(one); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// newSet gives an empty set, with old's checker: it depends on the table only.
func newSet(old *Set) (*Set, error) {
	set := &Set{
		actions:    map[Action]ActionSpec{},
		namespaces: map[identity.Name]*partition{},
		documents:  map[documentKey]*compiled{},
		decided:    newDecided(),
	}
	for spec := range Actions() {
		set.actions[spec.Name] = spec
	}
	if old != nil && old.check != nil {
		set.check = old.check
		return set, nil
	}
	var err error
	set.check, err = newChecker()
	return set, err
}

// Broken returns a set that denies everything because of err.
func Broken(err error) *Set { return &Set{broken: err} }

// Err is why the set denies everything, nil when it does not.
func (s *Set) Err() error { return s.broken }

// Len is the number of statements.
func (s *Set) Len() int {
	n := 0
	for _, p := range s.namespaces {
		n += len(p.all)
	}
	return n
}

func (s *Set) find(doc Document) *compiled {
	if s == nil {
		return nil
	}
	one := s.documents[documentKey{doc.Namespace, doc.ID}]
	if one == nil || one.document != doc {
		return nil
	}
	return one
}

func (s *Set) add(one *compiled) error {
	doc := one.document
	key := documentKey{doc.Namespace, doc.ID}
	if s.documents[key] != nil {
		return &InvalidError{Policy: doc.path(), Problems: []Problem{{
			Line: 1, Column: 1, Message: "another policy of the namespace has this name", Hint: "give each policy a name of its own",
		}}}
	}
	s.documents[key] = one
	p := s.namespaces[doc.Namespace]
	if p == nil {
		p = &partition{index: map[scopeKey][]statement{}}
		s.namespaces[doc.Namespace] = p
		if doc.Namespace.String() == System {
			s.system = p
		}
	}
	p.all = append(p.all, one.statements...)
	for _, st := range one.statements {
		p.index[st.scope] = append(p.index[st.scope], st)
	}
	return nil
}

// scopeOf gives the index key of a principal scope. A scope that is both a type and
// an entity (is T in E) is filed under the entity, the narrower of the two.
func scopeOf(scope ast.IsPrincipalScopeNode) scopeKey {
	switch sc := scope.(type) {
	case ast.ScopeTypeEq:
		return scopeKey{entity: sc.Entity}
	case ast.ScopeTypeIn:
		return scopeKey{entity: sc.Entity}
	case ast.ScopeTypeIsIn:
		return scopeKey{entity: sc.Entity}
	case ast.ScopeTypeIs:
		return scopeKey{kind: sc.Type}
	}
	return scopeKey{}
}

// candidates are the statements of some partitions that can match a principal.
type candidates struct {
	partitions [2]*partition
	keys       []scopeKey
}

// All satisfies cedar.PolicyIterator.
func (c candidates) All() iter.Seq2[types.PolicyID, *cedar.Policy] {
	return func(yield func(types.PolicyID, *cedar.Policy) bool) {
		for _, p := range c.partitions {
			if p == nil {
				continue
			}
			for _, key := range c.keys {
				for _, st := range p.index[key] {
					if !yield(st.id, st.policy) {
						return
					}
				}
			}
		}
	}
}
