package policy

import (
	"encoding/binary"
	"sync"

	"warder/daemon/identity"
)

const (
	// maxDecided bounds the decisions of one generation; two generations are kept.
	maxDecided = 4096
	// maxFacts bounds the context of a request whose decision is kept: one with more is of an order, and the next order
	// is another.
	maxFacts = 4
	// maxQuestion bounds the whole request, in bytes.
	maxQuestion = 512
)

// decided keeps the decisions of one [Set], by all that a decision depends on: the set never changes, and with it goes
// what was decided. It is safe for concurrent use.
type decided struct {
	mu         sync.RWMutex
	young, old map[string]Decision // guarded by mu
}

func newDecided() *decided { return &decided{young: map[string]Decision{}} }

func (d *decided) find(question []byte) (Decision, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if verdict, ok := d.young[string(question)]; ok {
		return verdict, true
	}
	verdict, ok := d.old[string(question)]
	return verdict, ok
}

func (d *decided) add(question []byte, verdict Decision) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.young) >= maxDecided {
		d.old, d.young = d.young, map[string]Decision{}
	}
	d.young[string(question)] = verdict
}

// question writes a request so that no two have the same bytes: each part with its length before it, and the facts in
// the order of the action's row. It gives nil for a request that is not kept, or that its row does not admit.
func (s *Set) question(room []byte, r Request) []byte {
	spec, ok := s.actions[r.Action]
	if !ok || len(r.Context) > maxFacts || r.Action == CredentialWrite { // which is asked once of each name
		return nil
	}
	q := append(room, byte(r.Principal.Kind))
	q = appendPart(q, r.Principal.Namespace.String())
	q = appendPart(q, r.Principal.Name.String())
	q = appendPart(q, string(r.Action))
	q = appendPart(q, string(r.Resource.Type))
	q = appendPart(q, r.Resource.Namespace.String())
	q = appendPart(q, r.Resource.Name.String())
	if q = appendNames(q, r.Groups); q == nil {
		return nil
	}
	return spec.appendFacts(q, r.Context)
}

func appendNames(q []byte, names []identity.Name) []byte {
	if len(names) > maxQuestion/2 {
		return nil
	}
	q = binary.BigEndian.AppendUint16(q, uint16(len(names)))
	for _, name := range names {
		q = appendPart(q, name.String())
	}
	return q
}

func (s ActionSpec) appendFacts(q []byte, given map[string]any) []byte {
	told := 0
	for at, a := range s.Context {
		fact, ok := given[a.Name]
		if !ok {
			continue
		}
		told++
		q = append(q, byte(at))
		switch fact := fact.(type) {
		case string:
			q = appendPart(append(q, 's'), fact)
		case int64:
			q = binary.BigEndian.AppendUint64(append(q, 'i'), uint64(fact))
		case bool:
			q = append(q, 'b', truth(fact))
		default:
			return nil
		}
	}
	if told != len(given) || len(q) > maxQuestion {
		return nil
	}
	return q
}

func truth(is bool) byte {
	if is {
		return 1
	}
	return 0
}

func appendPart(q []byte, part string) []byte {
	return append(binary.BigEndian.AppendUint32(q, uint32(len(part))), part...)
}
