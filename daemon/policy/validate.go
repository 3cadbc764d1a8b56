package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"warder/daemon/identity"
)

const (
	maxNesting  = 64   // brackets within brackets: the parser and the evaluator recurse
	maxProblems = 8    // reported at once
	maxNodes    = 4096 // of one statement's conditions: each is checked for every action
)

// document parses and validates one document.
func (c *checker) document(doc Document) (*compiled, error) {
	refused := func(p ...Problem) error { return &InvalidError{Policy: doc.path(), Problems: p} }
	if p, ok := bounds(doc.Text); !ok {
		return nil, refused(p)
	}
	list, err := cedar.NewPolicyListFromBytes("", []byte(doc.Text))
	if err != nil {
		return nil, refused(parseProblem(err))
	}
	if len(list) == 0 || len(list) > MaxStatements {
		return nil, refused(Problem{Line: 1, Column: 1,
			Message: fmt.Sprintf("a policy holds 1 to %d statements, this one %d", MaxStatements, len(list))})
	}
	out := &compiled{document: doc, statements: make([]statement, 0, len(list))}
	var problems []Problem
	for n, p := range list {
		one := &inspection{checker: c, doc: doc, number: n, policy: p, text: statementText(doc.Text, list, n)}
		out.statements = append(out.statements, one.statement(out.statements))
		problems = append(problems, one.problems...)
	}
	if len(problems) > 0 {
		return nil, refused(problems[:min(len(problems), maxProblems)]...)
	}
	return out, nil
}

// bounds checks size and nesting before the parser, which recurses, sees the text.
func bounds(text string) (Problem, bool) {
	if len(text) > MaxTextBytes {
		return Problem{Line: 1, Column: 1, Message: fmt.Sprintf("the text is %d bytes, the most is %d", len(text), MaxTextBytes),
			Hint: "split it into several policies"}, false
	}
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth = max(depth-1, 0)
		}
		if depth > maxNesting {
			line, column := position(text, i)
			return Problem{Line: line, Column: column, Message: fmt.Sprintf("brackets nest deeper than %d", maxNesting)}, false
		}
	}
	return Problem{}, true
}

var parsePosition = regexp.MustCompile(`(?s)^parse error at (?:[^\s:]*:)?(\d+):(\d+):? (.*)$`)

func parseProblem(err error) Problem {
	message := strings.TrimPrefix(err.Error(), "parser error: ")
	if m := parsePosition.FindStringSubmatch(message); m != nil {
		line, _ := strconv.Atoi(m[1])
		column, _ := strconv.Atoi(m[2])
		return Problem{Line: line, Column: column, Message: m[3]}
	}
	return Problem{Line: 1, Column: 1, Message: message}
}

// source is a statement's text and where it begins in the document.
type source struct {
	document   string
	start, end int
}

func statementText(text string, list cedar.PolicyList, n int) source {
	s := source{document: text, start: list[n].Position().Offset, end: len(text)}
	if n+1 < len(list) {
		s.end = list[n+1].Position().Offset
	}
	return s
}

// position turns a byte offset into a line and a column, in characters from 1.
func position(text string, offset int) (line, column int) {
	before := text[:offset]
	start := strings.LastIndexByte(before, '\n') + 1
	return strings.Count(before, "\n") + 1, len([]rune(before[start:])) + 1
}

// find gives the position of a word (an identifier or the inside of a string) in the
// statement, or that of the statement. Cedar keeps no positions inside a statement,
// so the word is looked for; comments are passed over.
func (s source) find(word string) (line, column int) {
	text := s.document[s.start:s.end]
	for _, loc := range tokens.FindAllStringIndex(text, -1) {
		token := text[loc[0]:loc[1]]
		if strings.Trim(token, `"`) == word && word != "" {
			return position(s.document, s.start+loc[0])
		}
	}
	return position(s.document, s.start)
}

// clause narrows a statement to its nth condition.
func (s source) clause(n int) source {
	text := s.document[s.start:s.end]
	for _, loc := range tokens.FindAllStringIndex(text, -1) {
		if token := text[loc[0]:loc[1]]; token != "when" && token != "unless" {
			continue
		}
		if n--; n < 0 {
			s.start += loc[0]
			break
		}
	}
	return s
}

var tokens = regexp.MustCompile(`//[^\n]*|"(?:[^"\\]|\\.)*"|[A-Za-z_][A-Za-z0-9_]*`)

// inspection looks at one statement.
type inspection struct {
	*checker
	doc      Document
	number   int
	policy   *cedar.Policy
	text     source
	problems []Problem
}

func (in *inspection) report(word, message, hint string) { in.reportIn(in.text, word, message, hint) }

func (in *inspection) reportIn(within source, word, message, hint string) {
	line, column := within.find(word)
	p := Problem{Line: line, Column: column, Message: message, Hint: hint}
	same := func(q Problem) bool { return q.Line == line && q.Column == column }
	if !slices.ContainsFunc(in.problems, same) { // the first word on a place is the most precise
		in.problems = append(in.problems, p)
	}
}

func (in *inspection) statement(before []statement) statement {
	tree := (*ast.Policy)(in.policy.AST())
	id := in.id()
	if slices.ContainsFunc(before, func(s statement) bool { return s.id == id }) {
		in.report("id", fmt.Sprintf("the id of %s is used twice", id), "give each statement an @id of its own")
	}
	if in.nodes(tree) > maxNodes {
		in.report("", fmt.Sprintf("the statement has more than %d terms", maxNodes), "split it into several")
	} else {
		in.entities(tree)
		in.conditions(tree)
	}
	return statement{id: id, policy: in.policy, scope: scopeOf(tree.Principal)}
}

// nodes counts the terms of a statement's conditions.
func (in *inspection) nodes(tree *ast.Policy) int {
	n := 0
	for _, cond := range tree.Conditions {
		ast.Inspect(ast.NewNode(cond.Body), func(ast.IsNode) bool {
			n++
			return true
		})
	}
	return n
}

// conditions validates the scope, and then each condition by itself, so that what is
// wrong in one is reported at that one at the least.
func (in *inspection) conditions(tree *ast.Policy) {
	alone := *tree
	alone.Conditions = nil
	if err := in.validator.Policy("", &alone); err != nil {
		in.schemaErrors(err, in.text)
		return
	}
	for n := range tree.Conditions {
		alone.Conditions = tree.Conditions[n : n+1]
		if err := in.validator.Policy("", &alone); err != nil {
			in.schemaErrors(err, in.text.clause(n))
		}
	}
}

// id maps @id, or the statement's number, to an id unique in the whole set.
func (in *inspection) id() types.PolicyID {
	given, ok := in.policy.Annotations()["id"]
	if !ok {
		return types.PolicyID(fmt.Sprintf("%s#%d", in.doc.path(), in.number))
	}
	if _, err := identity.ParseName(string(given)); err != nil {
		in.report("id", "an @id is 1 to 63 of a-z, 0-9 and single hyphens inside", "such as @id(\"bots-may-trade\")")
	}
	return types.PolicyID(in.doc.path() + "/" + string(given))
}

// entities checks every entity that the statement names: its type, the form of its
// id, and that a policy outside System names no resource of another namespace.
func (in *inspection) entities(p *ast.Policy) {
	for _, scope := range []ast.IsScopeNode{p.Principal, p.Action, p.Resource} {
		switch sc := scope.(type) {
		case ast.ScopeTypeEq:
			in.entity(sc.Entity)
		case ast.ScopeTypeIn:
			in.entity(sc.Entity)
		case ast.ScopeTypeIsIn:
			in.entityType(sc.Type)
			in.entity(sc.Entity)
		case ast.ScopeTypeIs:
			in.entityType(sc.Type)
		case ast.ScopeTypeInSet:
			for _, uid := range sc.Entities {
				in.entity(uid)
			}
		}
	}
	in.resourceScope(p.Resource)
	for _, cond := range p.Conditions {
		ast.Inspect(ast.NewNode(cond.Body), func(n ast.IsNode) bool {
			in.node(n)
			return true
		})
	}
}

func (in *inspection) node(n ast.IsNode) {
	switch n := n.(type) {
	case ast.NodeValue:
		if uid, ok := n.Value.(types.EntityUID); ok {
			in.entity(uid)
		}
	case ast.NodeTypeIs:
		in.entityType(n.EntityType)
	case ast.NodeTypeIsIn:
		in.entityType(n.EntityType)
	}
}

func (in *inspection) entityType(t types.EntityType) {
	if !slices.Contains(in.types, string(t)) {
		in.report(string(t), fmt.Sprintf("there is no entity type %s", t), nearest(string(t), in.types))
	}
}

func (in *inspection) entity(uid types.EntityUID) {
	id := string(uid.ID)
	if uid.Type == "Action" {
		if !slices.Contains(in.actions, id) {
			in.report(id, fmt.Sprintf("there is no action %q", id), nearest(id, in.actions))
		}
		return
	}
	in.entityType(uid.Type)
	if ResourceType(uid.Type).single() {
		if _, err := identity.ParseName(id); err != nil {
			in.report(id, fmt.Sprintf("%s is not the id of a %s", uid, uid.Type), `write `+string(uid.Type)+`::"namespace"`)
		}
		return
	}
	namespace, name, _ := strings.Cut(id, "/")
	_, err1 := identity.ParseName(namespace)
	_, err2 := identity.ParseName(name)
	if err1 != nil || err2 != nil {
		in.report(id, fmt.Sprintf("%s can never match: it is no id", uid), `write `+string(uid.Type)+`::"namespace/name"`)
	}
}

// resourceScope refuses a resource of another namespace in the scope of a policy
// that is never consulted for it.
func (in *inspection) resourceScope(scope ast.IsResourceScopeNode) {
	var uid types.EntityUID
	switch sc := scope.(type) {
	case ast.ScopeTypeEq:
		uid = sc.Entity
	case ast.ScopeTypeIn:
		uid = sc.Entity
	case ast.ScopeTypeIsIn:
		uid = sc.Entity
	default:
		return
	}
	own := in.doc.Namespace.String()
	namespace, _, _ := strings.Cut(string(uid.ID), "/")
	if own != System && namespace != own {
		in.report(string(uid.ID), fmt.Sprintf("a policy of the namespace %s says nothing about %s", own, uid),
			"store it in that namespace, or in "+System)
	}
}

var quoted = regexp.MustCompile("`([^`]+)`")

// schemaErrors reports what Cedar's validator found, each at the word it names.
func (in *inspection) schemaErrors(err error, within source) {
	for _, e := range flatten(err) {
		message := e.Error()
		if len(in.problems) > 0 && (strings.Contains(message, "unrecognized") || strings.Contains(message, "applicable action")) {
			continue // said already, with a better place and hint
		}
		word := ""
		if m := quoted.FindStringSubmatch(message); m != nil {
			word = m[1][strings.LastIndexByte(m[1], '.')+1:]
		}
		in.reportIn(within, word, message, in.hint(message, word))
	}
}

func (in *inspection) hint(message, word string) string {
	switch {
	case strings.Contains(message, "not found") && slices.Contains(in.members, word):
		return "not all that the statement is about have it: narrow the scope to an action, or to a type with is"
	case strings.Contains(message, "not found"):
		return nearest(word, in.members)
	case strings.Contains(message, "optional attribute"):
		return fmt.Sprintf("write: context has %s && …", word)
	case strings.Contains(message, "applicable action"):
		return "no action joins these principals and resources: see the table of actions"
	}
	return ""
}

func flatten(err error) []error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}
