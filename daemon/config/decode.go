package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decode turns text into a Config without defaults, and tells the line of each key by its dotted path.
func decode(text []byte) (Config, map[string]int, error) {
	var c Config
	root, err := document(text)
	if err != nil {
		return c, nil, err
	}
	d := decoder{lines: map[string]int{}}
	d.value(root, "", reflect.ValueOf(&c).Elem())
	if err := errors.Join(d.problems...); err != nil {
		return Config{}, nil, fmt.Errorf("%w:\n%w", ErrInvalid, err)
	}
	return c, d.lines, nil
}

// document parses exactly one YAML document.
func document(text []byte) (*yaml.Node, error) {
	y := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := y.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it holds no keys: start from `warder server --example-config`", ErrInvalid)
	} else if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrInvalid, syntax(err))
	}
	var more yaml.Node
	if err := y.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it holds more than one document: remove everything from the second `---` on", ErrInvalid)
	}
	return doc.Content[0], nil
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// syntax keeps the line of a parser's error and drops the rest, which may quote the file.
func syntax(err error) string {
	if line := yamlLine.FindStringSubmatch(err.Error()); line != nil {
		return "line " + line[1] + ": not valid YAML: check quotes, colons and indentation (spaces, no tabs)"
	}
	return "not valid YAML: check quotes, colons and indentation (spaces, no tabs)"
}

// decoder fills a struct from nodes, strictly, and collects what is wrong.
type decoder struct {
	lines    map[string]int
	problems []error
}

func (d *decoder) problem(n *yaml.Node, path, format string, args ...any) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, &problem{n.Line, path, fmt.Sprintf(format, args...)})
	}
}

// maxProblems bounds the message for a file that is something else altogether.
const maxProblems = 20

// problem is one thing to correct.
type problem struct {
	line int // 0 when unknown
	path string
	text string
}

// Error gives "line 3: hsm.pin: ...".
func (p *problem) Error() string {
	var b strings.Builder
	if p.line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.line)
	}
	if p.path != "" {
		b.WriteString(p.path + ": ")
	}
	return b.String() + p.text
}

var durationType = reflect.TypeFor[time.Duration]()

func (d *decoder) value(n *yaml.Node, path string, into reflect.Value) {
	d.lines[path] = n.Line
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.problem(n, path, "anchors and aliases are not supported: write the value out")
		return
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.problem(n, path, "tags (!...) are not supported: write the value plainly")
		return
	}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return // "key:" with nothing behind it means the default
	case into.Type() == durationType:
		d.duration(n, path, into)
	case into.Kind() == reflect.Struct:
		d.mapping(n, path, into)
	case into.Kind() == reflect.Slice:
		d.sequence(n, path, into)
	case n.Kind != yaml.ScalarNode:
		d.problem(n, path, "want a single value")
	default:
		d.scalar(n, path, into)
	}
}

func (d *decoder) duration(n *yaml.Node, path string, into reflect.Value) {
	v, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || n.Value == "0" {
		d.problem(n, path, "want a duration with its unit, such as 500ms, 5s or 2m")
		return
	}
	into.SetInt(int64(v))
}

func (d *decoder) scalar(n *yaml.Node, path string, into reflect.Value) {
	switch into.Kind() {
	case reflect.String:
		if n.Tag != "!!str" {
			d.problem(n, path, "want text: put it in double quotes")
			return
		}
		into.SetString(n.Value)
	case reflect.Bool:
		if n.Value != "true" && n.Value != "false" || n.Tag != "!!bool" {
			d.problem(n, path, "want true or false")
			return
		}
		into.SetBool(n.Value == "true")
	default:
		v, err := strconv.ParseInt(n.Value, 10, into.Type().Bits())
		if n.Tag != "!!int" || err != nil {
			d.problem(n, path, "want a whole number")
			return
		}
		into.SetInt(v)
	}
}

func (d *decoder) sequence(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n, path, "want a list: one line for each, with a dash in front")
		return
	}
	items := reflect.MakeSlice(into.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, fmt.Sprintf("%s[%d]", path, i), items.Index(i))
	}
	into.Set(items)
}

func (d *decoder) mapping(n *yaml.Node, path string, into reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "want keys with values")
		return
	}
	fields := keysOf(into.Type())
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		index := slices.Index(fields, key.Value)
		if key.Kind != yaml.ScalarNode || index < 0 {
			d.problem(key, path, "%s", unknown(key, fields))
			continue
		}
		if line, twice := seen[key.Value]; twice {
			d.problem(key, join(path, key.Value), "is here twice, first on line %d: remove one", line)
			continue
		}
		seen[key.Value] = key.Line
		d.value(value, join(path, key.Value), into.Field(index))
		d.lines[join(path, key.Value)] = key.Line
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// keysOf gives a struct's keys in the order of its fields.
func keysOf(t reflect.Type) []string {
	keys := make([]string, t.NumField())
	for i := range keys {
		keys[i] = t.Field(i).Tag.Get("yaml")
	}
	return keys
}

// unknown says which key was meant. The key itself is repeated only when it looks like one.
func unknown(key *yaml.Node, known []string) string {
	if key.Kind != yaml.ScalarNode || !plainKey.MatchString(key.Value) {
		return "unknown key: want one of " + strings.Join(known, ", ")
	}
	best, distance := "", 3
	for _, k := range known {
		if n := editDistance(strings.ToLower(key.Value), k); n < distance || n == distance && best == "" && n <= len(k)/2 {
			best, distance = k, n
		}
	}
	if best == "" {
		return fmt.Sprintf("unknown key %q: want one of %s", key.Value, strings.Join(known, ", "))
	}
	return fmt.Sprintf("unknown key %q: did you mean %q?", key.Value, best)
}

var plainKey = regexp.MustCompile(`^[A-Za-z][A-Za-z_-]{0,31}$`)

// editDistance is the number of bytes to insert, delete or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
