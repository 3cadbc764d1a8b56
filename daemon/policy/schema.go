package policy

import (
	"fmt"
	"strings"

	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"warder/daemon/identity"
)

// entityType is the Cedar entity type of a principal's kind.
func entityType(k identity.Kind) string {
	switch k {
	case identity.Operator:
		return "Operator"
	case identity.Workload:
		return "Workload"
	case identity.Device:
		return "Device"
	case identity.Node:
		return "Node"
	}
	return ""
}

const entitySchema = `entity Namespace { namespace: String };
entity Group in [Namespace];
entity Operator, Workload, Node in [Group, Namespace] { namespace: String, name: String };
entity Device in [Group, Namespace] { namespace: String, name: String };
entity Cluster, Audit in [Namespace] { namespace: String };
entity Identity, Policy, Credential, Key, Token in [Namespace] { namespace: String, name: String };
`

// Schema returns the Cedar schema that policies are validated against, in Cedar's
// own syntax, for an editor or another validator.
func Schema() string {
	var b strings.Builder
	b.WriteString(entitySchema)
	for spec := range Actions() {
		spec.writeSchema(&b)
	}
	return b.String()
}

func (s ActionSpec) writeSchema(b *strings.Builder) {
	principals := make([]string, len(s.Principals))
	for i, k := range s.Principals {
		principals[i] = entityType(k)
	}
	resources := make([]string, len(s.Resources))
	for i, r := range s.Resources {
		resources[i] = string(r)
	}
	context := make([]string, len(s.Context))
	for i, a := range s.Context {
		mark := ""
		if a.Optional {
			mark = "?"
		}
		context[i] = fmt.Sprintf("%s%s: %s", a.Name, mark, a.Type)
	}
	fmt.Fprintf(b, "action %q appliesTo { principal: [%s], resource: [%s], context: { %s } };\n",
		s.Name, strings.Join(principals, ", "), strings.Join(resources, ", "), strings.Join(context, ", "))
}

// checker validates statements against the schema.
type checker struct {
	schema    *resolved.Schema
	validator *validate.Validator
	actions   []string
	types     []string
	members   []string // attributes of entities and of any context
}

func newChecker() (*checker, error) {
	var text schema.Schema
	if err := text.UnmarshalCedar([]byte(Schema())); err != nil {
		return nil, fmt.Errorf("policy schema made from the action table: %w", err)
	}
	s, err := text.Resolve()
	if err != nil {
		return nil, fmt.Errorf("policy schema made from the action table: %w", err)
	}
	c := &checker{schema: s, validator: validate.New(s), members: []string{"namespace", "name"}}
	for spec := range Actions() {
		c.actions = append(c.actions, string(spec.Name))
		for _, a := range spec.Context {
			c.members = append(c.members, a.Name)
		}
	}
	for name := range s.Entities {
		c.types = append(c.types, string(name))
	}
	return c, nil
}
