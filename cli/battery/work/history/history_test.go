package history_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warder/cli/battery/work/history"
)

const bound = 5 * time.Second

// at gives an operation its times, in seconds.
func at(op history.Op, call, end float64) history.Op {
	op.Call, op.Return = time.Duration(call*float64(time.Second)), time.Duration(end*float64(time.Second))
	if op.Outcome == "" {
		op.Outcome = history.Done
	}
	return op
}

func write(value string, call, end float64) history.Op {
	return at(history.Op{Kind: history.Write, Key: "x", Value: value, Node: "n1"}, call, end)
}

func read(value string, call, end float64) history.Op {
	return at(history.Op{Kind: history.Read, Key: "x", Value: value, Node: "n2", Fresh: true}, call, end)
}

func old(op history.Op) history.Op {
	op.Fresh = false
	return op
}

func unknown(op history.Op) history.Op {
	op.Outcome, op.Reason = history.Unknown, "OUTCOME_UNKNOWN"
	return op
}

func refused(op history.Op, reason string) history.Op {
	op.Outcome, op.Reason = history.Refused, reason
	return op
}

func use(call, end float64) history.Op {
	return at(history.Op{Kind: history.Use, Key: "token", Limit: 2, Node: "n1"}, call, end)
}

func exercise(node string, call, end float64) history.Op {
	return at(history.Op{Kind: history.Exercise, Key: "right", Node: node}, call, end)
}

func revoke(call, end float64) history.Op {
	return at(history.Op{Kind: history.Revoke, Key: "right", Node: "n1"}, call, end)
}

func fresh(op history.Op) history.Op {
	op.Fresh = true
	return op
}

func registers(ops []history.Op) []error   { return history.Registers(ops) }
func stale(ops []history.Op) []error       { return history.Stale(ops, bound) }
func counters(ops []history.Op) []error    { return history.Counters(ops) }
func permissions(ops []history.Op) []error { return history.Permissions(ops, bound) }

// TestHistories shows of each check what passes it, and what it finds.
func TestHistories(t *testing.T) {
	used := func(call, end float64) history.Op { return refused(use(call, end), history.UsedUp) }
	for _, one := range []struct {
		name  string
		check func([]history.Op) []error
		ops   []history.Op
		wrong string // in the first finding; "" where there is none
	}{
		{"reads follow writes", registers, []history.Op{write("a", 0, 1), read("a", 2, 3), write("b", 4, 6), read("a", 5, 6), read("b", 6.5, 7)}, ""},
		{"a lost write", registers, []history.Op{write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)}, "not linearizable: none explains the read of x \"a\""},
		{"a lost first write", registers, []history.Op{write("a", 0, 1), read("", 4, 5)}, "not linearizable"},
		{"two readers who disagree", registers, []history.Op{write("a", 0, 1), write("b", 2, 9), read("b", 3, 4), read("a", 5, 6)}, "not linearizable"},
		{"a deletion", registers, []history.Op{write("a", 0, 1), write("", 2, 3), read("", 4, 5)}, ""},
		{"a deletion undone", registers, []history.Op{write("a", 0, 1), write("", 2, 3), read("", 4, 5), read("a", 6, 7)}, "not linearizable"},
		{"a write that may have been done, and was", registers, []history.Op{write("a", 0, 1), unknown(write("b", 2, 3)), read("a", 4, 5), read("b", 6, 7)}, ""},
		{"and was not", registers, []history.Op{write("a", 0, 1), unknown(write("b", 2, 3)), read("a", 4, 5), read("a", 6, 7)}, ""},
		{"and was, and was not", registers, []history.Op{write("a", 0, 1), unknown(write("b", 2, 3)), read("b", 4, 5), read("a", 6, 7)}, "not linearizable"},
		{"a refused write that was done", registers, []history.Op{write("a", 0, 1), refused(write("b", 2, 3), "NO_LEADER"), read("b", 4, 5)}, "not linearizable"},
		{"an old answer is not asked to be linearizable", registers, []history.Op{write("a", 0, 1), old(read("", 4, 5))}, ""},

		{"an answer as old as may be", stale, []history.Op{write("a", 0, 1), write("b", 2, 3), old(read("a", 7, 7.5))}, ""},
		{"an answer that is too old", stale, []history.Op{write("a", 0, 1), write("b", 2, 3), old(read("a", 8.5, 9))}, "not the value of any moment since 3.5s"},
		{"nothing there, within the bound", stale, []history.Op{write("a", 0, 1), old(read("", 5, 6))}, ""},
		{"nothing there, after the bound", stale, []history.Op{write("a", 0, 1), old(read("", 7, 8))}, "not the value"},
		{"a linearizable answer that is old", stale, []history.Op{write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)}, "not the value"},
		{"a deletion that comes back", stale, []history.Op{write("a", 0, 1), write("", 2, 3), old(read("a", 9, 10))}, "not the value"},
		{"a value of the future", stale, []history.Op{old(read("a", 1, 2)), write("a", 3, 4)}, "not the value"},
		{"a value that nobody wrote", stale, []history.Op{write("a", 0, 1), old(read("c", 2, 3))}, "not the value"},
		{"a value whose write was refused", stale, []history.Op{refused(write("b", 0, 1), "NO_LEADER"), old(read("b", 2, 3))}, "not the value"},
		{"a value whose write may come late", stale, []history.Op{unknown(write("b", 0, 1)), write("c", 2, 3), old(read("b", 20, 21))}, ""},

		{"as many uses as there are", counters, []history.Op{use(0, 1), use(0, 1), used(0, 2), used(3, 4)}, ""},
		{"a token spent once too often", counters, []history.Op{use(0, 1), use(0, 1), use(2, 3)}, "not linearizable"},
		{"a token refused while it has uses", counters, []history.Op{use(0, 1), used(2, 3)}, "not linearizable"},
		{"a use that may have been taken", counters, []history.Op{unknown(use(0, 1)), use(1, 2), used(3, 4)}, ""},
		{"a use that was refused for another cause", counters, []history.Op{refused(use(0, 1), "STALE"), use(1, 2), used(3, 4)}, ""},
		{"one winner", counters, []history.Op{use(0, 1), refused(use(0, 1), history.Refusal), use(0, 1)}, ""},

		{"nothing after a revocation", permissions, []history.Op{exercise("n1", 0, 1), revoke(2, 3), refused(exercise("n1", 3.1, 3.2), "TOKEN_REVOKED"), exercise("n2", 7.9, 8.1)}, ""},
		{"a success where it was revoked", permissions, []history.Op{revoke(2, 3), exercise("n1", 3.1, 3.2)}, "after the revoke"},
		{"a success after the bound", permissions, []history.Op{revoke(2, 3), exercise("n2", 8.1, 8.2)}, "after the revoke"},
		{"a linearizable success elsewhere", permissions, []history.Op{revoke(2, 3), fresh(exercise("n2", 3.1, 3.2))}, "after the revoke"},
		{"a success while it is revoked", permissions, []history.Op{revoke(2, 3), exercise("n1", 2.9, 3.2), fresh(exercise("n2", 2.5, 4))}, ""},
		{"a revocation that may have been done", permissions, []history.Op{unknown(revoke(2, 3)), fresh(exercise("n2", 9, 10))}, ""},
		{"and comes undone", permissions, []history.Op{unknown(revoke(2, 3)), fresh(refused(exercise("n2", 4, 5), "TOKEN_REVOKED")), fresh(exercise("n2", 9, 10))}, "not linearizable"},
		{"a refusal before anything was revoked", permissions, []history.Op{fresh(refused(exercise("n2", 0, 1), "TOKEN_REVOKED")), revoke(2, 3)}, "not linearizable"},
		{"a refusal that says nothing", permissions, []history.Op{fresh(refused(exercise("n2", 0, 1), "CERTIFICATE_UNKNOWN")), fresh(exercise("n2", 1, 2)), revoke(2, 3)}, ""},
	} {
		t.Run(one.name, func(t *testing.T) {
			found := one.check(one.ops)
			switch {
			case one.wrong == "" && len(found) > 0:
				t.Errorf("found %v", found)
			case one.wrong != "" && (len(found) == 0 || !strings.Contains(found[0].Error(), one.wrong)):
				t.Errorf("found %v; want %q", found, one.wrong)
			}
		})
	}
}

// TestAnswers shows which records are missing, and which are too many.
func TestAnswers(t *testing.T) {
	answered := map[string][]string{"n1": {"a", "b"}, "n2": {"c"}, "gone": {"d"}}
	for name, one := range map[string]struct {
		recorded map[string]map[string]int
		wrong    string
	}{
		"one record each":        {map[string]map[string]int{"n1": {"a": 1, "b": 1, "other": 3}, "n2": {"c": 1}}, ""},
		"a record is missing":    {map[string]map[string]int{"n1": {"a": 1}, "n2": {"c": 1}}, "request b, which node n1 answered, has 0 records"},
		"a record is doubled":    {map[string]map[string]int{"n1": {"a": 1, "b": 2}, "n2": {"c": 1}}, "request b, which node n1 answered, has 2 records"},
		"a record is elsewhere":  {map[string]map[string]int{"n1": {"a": 1, "b": 1}, "n2": {"c": 1, "a": 1}}, "recorded by node n2"},
		"a log that has nothing": {map[string]map[string]int{"n1": {}, "n2": {"c": 1}}, "request a"},
	} {
		t.Run(name, func(t *testing.T) {
			found := history.Answers(answered, one.recorded)
			if one.wrong == "" && len(found) > 0 || one.wrong != "" && (len(found) == 0 || !strings.Contains(found[0].Error(), one.wrong)) {
				t.Errorf("found %v; want %q", found, one.wrong)
			}
		})
	}
}

// TestWriteFile writes a history that people can read.
func TestWriteFile(t *testing.T) {
	log := history.NewLog()
	log.Add(write("a", 0, 1))
	path := filepath.Join(t.TempDir(), "history")
	if err := history.WriteFile(path, log.Ops()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if want := `{"kind":"write","key":"x","node":"n1","value":"a","call":0,"return":1000000000,"outcome":"done"}` + "\n"; err != nil || string(text) != want {
		t.Errorf("%s %v; want %s", text, err, want)
	}
}
