package rpc

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
	"warder/api/warder/v1/warderv1connect"
	"warder/keystore/keyring"
)

// TestTheTableIsTotal takes rows away, adds one and empties one: each refuses to start, and is named.
func TestTheTableIsTotal(t *testing.T) {
	if err := checkTotal(methods()); err != nil {
		t.Fatal(err)
	}
	for procedure := range methods() {
		table := methods()
		delete(table, procedure)
		if err := checkTotal(table); err == nil || !strings.Contains(err.Error(), procedure) {
			t.Errorf("without a row for %s: %v", procedure, err)
		}
	}
	table := methods()
	table["/warder.v1.KeyService/Invented"] = table[warderv1connect.KeyServiceGetKeyProcedure]
	if err := checkTotal(table); err == nil || !strings.Contains(err.Error(), "Invented") {
		t.Errorf("with a row of no RPC: %v", err)
	}
	table = methods()
	table[warderv1connect.KeyServiceGetKeyProcedure] = method{caller: byCertificate, resolve: storedKey}
	if err := checkTotal(table); err == nil || !strings.Contains(err.Error(), "GetKey") {
		t.Errorf("with a row without an action: %v", err)
	}
}

// TestAdmissionsAreTwo pins which methods a caller without a certificate of this cluster reaches.
func TestAdmissionsAreTwo(t *testing.T) {
	var open []string
	for procedure, row := range methods() {
		if row.caller == byAdmission {
			open = append(open, procedure)
		}
	}
	if len(open) != 2 {
		t.Errorf("admission tokens open %v; want joining and enrolling alone", open)
	}
}

// TestEveryErrorHasOneReason holds the table of errors to the table of reasons: a wrapped error keeps its row, every
// reason is known, no error is named twice, and what is in no row is INTERNAL.
func TestEveryErrorHasOneReason(t *testing.T) {
	seen := map[error]bool{}
	for _, row := range errorTable() {
		if seen[row.match] {
			t.Errorf("%v has two rows", row.match)
		}
		seen[row.match] = true
		if !reason.Known(row.reason) {
			t.Errorf("%v has the reason %v, which the table of reasons does not hold", row.match, row.reason)
		}
		if got := reasonOf(fmt.Errorf("around it: %w", row.match)); got != row.reason {
			t.Errorf("%v, wrapped: %v; want %v", row.match, got, row.reason)
		}
	}
	for _, fault := range []error{errors.New("a fault that nobody thought of"), keyring.ErrDamaged, keyring.ErrUnknownKey} {
		if got := reasonOf(fault); got != warderv1.Reason_REASON_INTERNAL {
			t.Errorf("%v: %v; want INTERNAL", fault, got)
		}
	}
}

func TestHostsTakeNoTricks(t *testing.T) {
	for _, bad := range [][2]string{
		{"", "https://a:1"}, {"a", "https://a:1"}, {"a:0", "https://a:1"}, {"a:99999", "https://a:1"}, {"*.a:1", "https://a:1"},
		{"a:1", "http://a:1"}, {"a:1", "https://a:1/path"}, {"a:1", "https://user@a:1"}, {"a:1", "https://a:1?q"}, {"a:1", "https://"},
		{"A:1", "https://a:1"}, {"-a:1", "https://a:1"}, {"a b:1", "https://a:1"},
	} {
		if hosts, err := Hosts(bad[0], bad[1]); err == nil {
			t.Errorf("%q and %q are taken for %v", bad[0], bad[1], hosts)
		}
	}
	hosts, err := Hosts("10.0.0.1:8444", "https://warder.example.org:8443")
	if err != nil || len(hosts) != 2 {
		t.Errorf("a good pair: %v, %v", hosts, err)
	}
}

func TestPagesJoinUp(t *testing.T) {
	items := []string{"e", "a", "d", "b", "c"}
	var got []string
	for token := ""; ; {
		some, next, err := page(append([]string(nil), items...), 2, token, func(s string) string { return s })
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, some...)
		if token = next; token == "" {
			break
		}
	}
	if strings.Join(got, "") != "abcde" {
		t.Errorf("the pages hold %v", got)
	}
	if _, _, err := page(items, 2, "not base64!", func(s string) string { return s }); !errors.Is(err, ErrField) {
		t.Errorf("a page token that no list gave: %v", err)
	}
}
