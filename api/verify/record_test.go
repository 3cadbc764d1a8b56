package verify_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"warder/api/verify"
)

var update = flag.Bool("update", false, "write testdata again")

func fullRecord() verify.Record {
	return verify.Record{
		Time: time.Date(2026, 11, 23, 23, 0, 0, 123456789, time.UTC), RequestID: "01JDB3V7F8", Node: "node-1",
		Principal: "workload:desk/bot-1", Authn: "mtls", Certificate: verify.CertificateHash{0xde, 0xad, 31: 1},
		TokenID: "tok_Az-09", Method: "warder.v1.CredentialService/Sign", Action: "credential.sign",
		Resource: verify.Resource{Type: "credential", Namespace: "desk", Name: "binance-main"},
		Decision: verify.Deny, Reason: "policy_denied", Policies: []string{"desk/deny-withdraw", "desk/limit"}, PolicyRevision: 42,
		Inputs: []verify.Input{
			{Name: "amount", Kind: verify.Number, Number: -7},
			{Name: "endpoint", Kind: verify.Text, Text: "POST /sapi/v1/capital/withdraw/apply"},
			{Name: "reduce_only", Kind: verify.Flag, Flag: true},
		},
		Remote: netip.MustParseAddrPort("[2001:db8::7]:4711"),
	}
}

// vector is one row of testdata/records.json.
type vector struct {
	Name     string        `json:"name"`
	Record   verify.Record `json:"record"`
	Leaf     string        `json:"leaf"`      // hexadecimal
	LeafHash string        `json:"leaf_hash"` // base64
}

func TestVectors(t *testing.T) {
	path := filepath.Join("testdata", "records.json")
	if *update {
		writeVectors(t, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		leaf, err := v.Record.MarshalBinary()
		if err != nil || hex.EncodeToString(leaf) != v.Leaf || verify.LeafHash(leaf).String() != v.LeafHash {
			t.Errorf("%s: %x, %v", v.Name, leaf, err)
		}
		var back verify.Record
		if err := back.UnmarshalBinary(leaf); err != nil || !reflect.DeepEqual(back, v.Record) {
			t.Errorf("%s: decoded %+v, %v", v.Name, back, err)
		}
	}
}

func TestCheckpointVector(t *testing.T) {
	path := filepath.Join("testdata", "checkpoint.txt")
	c := sign(t, leaves(t, 5))
	if *update {
		if err := os.WriteFile(path, c.Note, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.Note, want) {
		t.Errorf("checkpoint is\n%s", c.Note)
	}
}

func writeVectors(t *testing.T, path string) {
	t.Helper()
	unix := record(1)
	unix.Authn = "unix"
	v4 := record(2)
	v4.Remote = netip.MustParseAddrPort("192.0.2.1:65535")
	var vectors []vector
	for _, row := range []struct {
		name   string
		record verify.Record
	}{{"every field, denied", fullRecord()}, {"least, over the unix socket", unix}, {"IPv4", v4}} {
		leaf, err := row.record.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		vectors = append(vectors, vector{row.name, row.record, hex.EncodeToString(leaf), verify.LeafHash(leaf).String()})
	}
	text, err := json.MarshalIndent(vectors, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestEveryFieldIsBounded tries each string at its longest, one byte longer, and with bytes outside its alphabet.
// It walks the struct, so that a field added without a bound fails.
func TestEveryFieldIsBounded(t *testing.T) {
	bounds := map[string]int{"RequestID": 64, "Node": 63, "Principal": 160, "Authn": 32, "TokenID": 64, "Method": 128,
		"Action": 64, "Reason": 64, "Resource.Type": 64, "Resource.Namespace": 63, "Resource.Name": 64}
	seen := 0
	each := func(name string, set func(*verify.Record, string)) {
		limit, known := bounds[name]
		if !known {
			t.Errorf("field %s has no bound in this test", name)
			return
		}
		seen++
		try := func(value string, ok bool) {
			r := fullRecord()
			set(&r, value)
			_, err := r.MarshalBinary()
			if (err == nil) != ok || err != nil && !errors.Is(err, verify.ErrBadRecord) {
				t.Errorf("%s with %d bytes: %v", name, len(value), err)
			}
			if err != nil && len(value) > 3 && strings.Contains(err.Error(), value) {
				t.Errorf("%s: the message holds the value", name)
			}
		}
		try(strings.Repeat("a", limit), true)
		try(strings.Repeat("a", limit+1), false)
		for _, outside := range []string{"a b", "a\x00", "a\n", "aé", "a=", "a+b", "a\x7f", "a\"b"} {
			try(outside, false)
		}
	}
	typ := reflect.TypeFor[verify.Record]()
	for i := range typ.NumField() {
		switch f := typ.Field(i); {
		case f.Type.Kind() == reflect.String:
			each(f.Name, func(r *verify.Record, s string) { reflect.ValueOf(r).Elem().Field(i).SetString(s) })
		case f.Name == "Resource":
			for j := range f.Type.NumField() {
				each("Resource."+f.Type.Field(j).Name, func(r *verify.Record, s string) {
					reflect.ValueOf(r).Elem().Field(i).Field(j).SetString(s)
				})
			}
		}
	}
	if seen != len(bounds) {
		t.Errorf("%d string fields seen, %d are listed", seen, len(bounds))
	}
}

func TestListsAndValuesAreBounded(t *testing.T) {
	many := func(n int) (ids []string, inputs []verify.Input) {
		for i := range n {
			ids = append(ids, fmt.Sprintf("%03d%s", i, strings.Repeat("p", 197)))
			inputs = append(inputs, verify.Input{Name: fmt.Sprintf("%03d%s", i, strings.Repeat("n", 61)), Kind: verify.Text, Text: strings.Repeat("~", 128)})
		}
		return ids, inputs
	}
	largest := fullRecord()
	largest.Policies, largest.Inputs = many(32)
	if leaf, err := largest.MarshalBinary(); err != nil || len(leaf) > verify.MaxRecord {
		t.Errorf("largest record: %d bytes, %v", len(leaf), err)
	}
	for name, change := range map[string]func(*verify.Record){
		"33 policies":              func(r *verify.Record) { r.Policies, _ = many(33) },
		"33 inputs":                func(r *verify.Record) { _, r.Inputs = many(33) },
		"policies out of order":    func(r *verify.Record) { r.Policies = []string{"b", "a"} },
		"policy twice":             func(r *verify.Record) { r.Policies = []string{"a", "a"} },
		"policy too long":          func(r *verify.Record) { r.Policies = []string{strings.Repeat("a", 201)} },
		"inputs out of order":      func(r *verify.Record) { r.Inputs[0].Name = "z" },
		"input text too long":      func(r *verify.Record) { r.Inputs[1].Text = strings.Repeat("a", 129) },
		"input text not printable": func(r *verify.Record) { r.Inputs[1].Text = "a\tb" },
		"input of no kind":         func(r *verify.Record) { r.Inputs[1].Kind = 9 },
		"input of two kinds":       func(r *verify.Record) { r.Inputs[1].Number = 1 },
		"zone":                     func(r *verify.Record) { r.Remote = netip.MustParseAddrPort("[fe80::1%eth0]:1") },
		"IPv4 mapped":              func(r *verify.Record) { r.Remote = netip.MustParseAddrPort("[::ffff:192.0.2.1]:1") },
		"before 1970":              func(r *verify.Record) { r.Time = time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC) },
		"after 2261":               func(r *verify.Record) { r.Time = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		r := fullRecord()
		change(&r)
		if _, err := r.MarshalBinary(); !errors.Is(err, verify.ErrBadRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := verify.Inputs(map[string]any{"x": []byte("secret")}); !errors.Is(err, verify.ErrBadRecord) {
		t.Errorf("bytes as an input: %v", err)
	}
}

// FuzzRecord: whatever decodes, encodes to the same bytes, and nothing panics or exceeds the bound.
func FuzzRecord(f *testing.F) {
	full, least := fullRecord(), record(1)
	for _, r := range []verify.Record{full, least} {
		leaf, err := r.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(leaf)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r verify.Record
		if err := r.UnmarshalBinary(data); err != nil {
			if !errors.Is(err, verify.ErrBadRecord) {
				t.Fatalf("error is not ErrBadRecord: %v", err)
			}
			return
		}
		again, err := r.MarshalBinary()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x decodes, and encodes to %x, %v", data, again, err)
		}
	})
}

// FuzzCheckpoint: no bytes but the signed ones open.
func FuzzCheckpoint(f *testing.F) {
	c := sign(f, leaves(f, 3))
	f.Add(c.Note)
	f.Fuzz(func(t *testing.T, data []byte) {
		opened, err := verify.OpenCheckpoint(data, keys(t)...)
		if err == nil && (opened.Size != c.Size || opened.Root != c.Root || opened.Origin != c.Origin) {
			t.Fatalf("opened %q", data)
		}
	})
}

// FuzzAnchor: whatever decodes, encodes to the same bytes.
func FuzzAnchor(f *testing.F) {
	a := anchor(sign(f, leaves(f, 3)))
	a.Note = []byte("signed")
	value, err := a.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Fuzz(func(t *testing.T, data []byte) {
		var a verify.Anchor
		if a.UnmarshalBinary(data) != nil {
			return
		}
		again, err := a.MarshalBinary()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x decodes, and encodes to %x, %v", data, again, err)
		}
	})
}
