package wycheproof

import (
	"bytes"
	"testing"
)

// Verdict is what Warder's code made of a test.
type Verdict int

// The verdicts.
const (
	Unfit    Verdict = iota // parameters that this code cannot be given
	Accepted                // and what it gave is what the file says
	Refused
	Wrong // neither: it gave something else
)

// Took gives Accepted or Refused.
func Took(yes bool) Verdict {
	if yes {
		return Accepted
	}
	return Refused
}

// Opened gives the verdict on what was opened: an error refuses, and anything but the vector's message is wrong.
func Opened(got []byte, err error, want []byte) Verdict {
	switch {
	case err != nil:
		return Refused
	case bytes.Equal(got, want):
		return Accepted
	}
	return Wrong
}

// Expect says how many tests of each result fit, exactly: with fewer something was lost, with more somebody must look.
// Acceptable is what this code does with the tests that a library may decide on either way; its value is a decision,
// explained where it is made.
type Expect struct {
	Valid, Invalid, Either int
	Acceptable             Verdict
}

// Run gives every test of a file to drive, and holds its verdicts to the file's results.
func Run(t *testing.T, name string, expect Expect, drive func(Group, Test) Verdict) {
	t.Helper()
	want := map[string]Verdict{"valid": Accepted, "invalid": Refused, "acceptable": expect.Acceptable}
	fit := map[string]int{}
	for _, group := range Groups(t, name) {
		for _, test := range group.Tests {
			got := drive(group, test)
			if got == Unfit {
				continue
			}
			fit[test.Result]++
			if should, known := want[test.Result]; !known || got != should {
				t.Errorf("%s, test %d (%s, %q): it is %s, and was %s", name, test.ID, test.Comment, test.Flags, test.Result, got)
			}
		}
	}
	if fit["valid"] != expect.Valid || fit["invalid"] != expect.Invalid || fit["acceptable"] != expect.Either {
		t.Errorf("%s: %v fit, want %d valid, %d invalid and %d acceptable", name, fit, expect.Valid, expect.Invalid, expect.Either)
	}
}

// String names the verdict.
func (v Verdict) String() string {
	return [...]string{"unfit", "accepted", "refused", "opened to something else"}[v]
}
