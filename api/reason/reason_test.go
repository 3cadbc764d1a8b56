package reason_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/reason"
	warderv1 "warder/api/warder/v1"
)

// TestTableIsTotal: each reason of the enum has a row, and no row is of no reason.
func TestTableIsTotal(t *testing.T) {
	rows := 0
	for row := range reason.Rows() {
		rows++
		if _, known := warderv1.Reason_name[int32(row.Reason)]; !known {
			t.Errorf("a row has reason %d, which the enum has not", row.Reason)
		}
		if row.Code == 0 || row.Meaning == "" || row.Next == "" {
			t.Errorf("the row of %s is not whole", row.Reason)
		}
	}
	if want := len(warderv1.Reason_name) - 1; rows != want {
		t.Errorf("the table has %d rows, the enum %d reasons", rows, want)
	}
	if reason.Known(warderv1.Reason_REASON_UNSPECIFIED) {
		t.Error("the zero reason has a row")
	}
}

// TestDocument holds docs/reasons.md to the table, row by row and in order.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	var want []string
	for row := range reason.Rows() {
		want = append(want, documentRow(row))
	}
	for i := range max(len(got), len(want)) {
		if g, w := at(got, i), at(want, i); g != w {
			t.Errorf("docs/reasons.md row %d:\n has  %s\n want %s", i+1, g, w)
		}
	}
}

func documentRow(row reason.Row) string {
	name := strings.TrimPrefix(row.Reason.String(), "REASON_")
	return fmt.Sprintf("| `%s` | %d | `%s` | %s | %s | %s |", name, row.Reason, row.Code, row.Retry, row.Meaning, row.Next)
}

func at(rows []string, i int) string {
	if i < len(rows) {
		return rows[i]
	}
	return "nothing"
}

func TestErrorCarriesItsReason(t *testing.T) {
	err := reason.With(&warderv1.ErrorInfo{
		Reason:     warderv1.Reason_REASON_RATE_LIMITED,
		IncidentId: "i-1",
		RetryAfter: durationpb.New(3e9),
	}, "too many requests")
	if err.Code() != connect.CodeResourceExhausted || err.Message() != "too many requests" {
		t.Errorf("got %v %q", err.Code(), err.Message())
	}
	info, ok := reason.Info(fmt.Errorf("wrapped: %w", err))
	if !ok || info.GetReason() != warderv1.Reason_REASON_RATE_LIMITED || info.GetIncidentId() != "i-1" {
		t.Fatalf("got %v", info)
	}
	if info.GetHint() == "" || info.GetRetryAfter().AsDuration() != 3e9 {
		t.Errorf("got %v", info)
	}
}

func TestUnknownReasonIsInternal(t *testing.T) {
	err := reason.New(warderv1.Reason(9999), "something")
	if err.Code() != connect.CodeInternal || reason.Of(err) != warderv1.Reason_REASON_INTERNAL {
		t.Errorf("got %v %v", err.Code(), reason.Of(err))
	}
	if got := reason.Of(fmt.Errorf("plain")); got != warderv1.Reason_REASON_UNSPECIFIED {
		t.Errorf("a plain error has reason %v", got)
	}
}
