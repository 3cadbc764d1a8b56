package policy

import (
	"iter"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
)

type scan struct{ partitions [2]*partition }

func (c scan) All() iter.Seq2[types.PolicyID, *cedar.Policy] {
	return func(yield func(types.PolicyID, *cedar.Policy) bool) {
		for _, p := range c.partitions {
			if p == nil {
				continue
			}
			for _, st := range p.all {
				if !yield(st.id, st.policy) {
					return
				}
			}
		}
	}
}

// Scan decides without the index, over every statement of the consulted namespaces.
func (s *Set) Scan(r Request) Decision {
	q, err := s.newQuery(r)
	if err != nil {
		return refuse(err.Error())
	}
	return q.weigh(scan{s.consulted(r)})
}

// Question is what a decision is kept by; nil where none is.
func (s *Set) Question(r Request) []byte { return s.question(nil, r) }
