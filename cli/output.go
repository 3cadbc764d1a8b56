package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	warderv1 "warder/api/warder/v1"
)

// show prints an answer: as JSON whole, else by table.
func (a *app) show(message proto.Message, table func(*table)) error {
	if a.flags.format == "json" {
		return a.printMessage(message)
	}
	t := newTable()
	table(t)
	_, err := a.env.Stdout.Write(t.bytes())
	return err
}

// printMessage prints a message as the API's JSON, indented.
func (a *app) printMessage(message proto.Message) error {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(message)
	if err != nil {
		return err
	}
	var out bytes.Buffer // protojson varies its spaces on purpose
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = a.env.Stdout.Write(out.Bytes())
	return err
}

// printLine prints a message in one line, for streams.
func (a *app) printLine(message proto.Message) error {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(message)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = a.env.Stdout.Write(out.Bytes())
	return err
}

func (a *app) printJSON(value any) error {
	encoder := json.NewEncoder(a.env.Stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// say prints a line for people: nothing in JSON.
func (a *app) say(format string, args ...any) {
	if a.flags.format != "json" {
		_, _ = fmt.Fprintf(a.env.Stdout, format+"\n", args...)
	}
}

// tell writes a line to stderr: progress and errors.
func (a *app) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(a.env.Stderr, format+"\n", args...) // there is nowhere left to tell a failure
}

// table is aligned columns.
type table struct {
	out    bytes.Buffer
	writer *tabwriter.Writer
}

func newTable() *table {
	t := &table{}
	t.writer = tabwriter.NewWriter(&t.out, 0, 0, 2, ' ', 0)
	return t
}

// row adds a line; what is empty shows as a dash.
func (t *table) row(cells ...any) {
	texts := make([]string, len(cells))
	for i, cell := range cells {
		texts[i] = printable(fmt.Sprint(cell))
	}
	_, _ = fmt.Fprintln(t.writer, strings.Join(texts, "\t")) // into memory
}

// printable keeps what a server sent from moving the cursor.
func printable(text string) string {
	if text == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, text)
}

func (t *table) bytes() []byte {
	_ = t.writer.Flush() // into memory
	return t.out.Bytes()
}

// word is an enum's value without its prefix, in lower case with dashes.
func word[E interface {
	fmt.Stringer
	~int32
}](value E, prefix string,
) string {
	if value == 0 {
		return ""
	}
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(value.String(), prefix)), "_", "-")
}

// parseEnum is the inverse of word.
func parseEnum(what, text, prefix string, values map[string]int32) (int32, error) {
	number := values[prefix+strings.ToUpper(strings.ReplaceAll(text, "-", "_"))]
	if number != 0 {
		return number, nil
	}
	var known []string
	for i := int32(1); i < int32(len(values)); i++ {
		for name, value := range values {
			if value == i {
				known = append(known, strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, prefix)), "_", "-"))
			}
		}
	}
	return 0, localf("use one of: "+strings.Join(known, ", "), "%s %q is not known", what, text)
}

func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

func principalText(p *warderv1.Principal) string {
	if p == nil {
		return ""
	}
	return word(p.GetKind(), "PRINCIPAL_KIND_") + ":" + slashed(p.GetNamespace(), p.GetName())
}

func resourceText(r *warderv1.Resource) string {
	if r.GetType() == "" {
		return ""
	}
	return r.GetType() + ":" + slashed(r.GetNamespace(), r.GetName())
}

func slashed(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}
