//go:build battery

package battery_test

import (
	"errors"
	"strings"
	"testing"

	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// broken is a build with one fault in it, the schedule that must find it, and words of what it finds.
type broken struct {
	name     string
	edits    []town.Edit
	schedule func(t *testing.T, at *town.Town, crew *work.Crew)
	says     string
}

func calm(t *testing.T, _ *town.Town, crew *work.Crew) {
	t.Helper()
	crew.Await(t, 150)
}

func brokenBuilds() []broken {
	return []broken{
		{
			"half of a batch is applied: values are put, and counters of the same batch are not",
			[]town.Edit{{File: "keystore/kv/change.go", Old: "v, err := c.add(a)", New: "v, err := a.Delta, error(nil)\n\t\tif len(b.Put) == 0 {\n\t\t\tv, err = c.add(a)\n\t\t}"}},
			calm, "the use of token",
		},
		{
			"a revocation is ignored",
			[]town.Edit{{File: "daemon/token/revoke.go", Old: "if len(v.revoked) == 0 {", New: "if len(v.revoked) >= 0 {"}},
			calm, "revoke",
		},
		{
			"a leader that was suspended answers without asking the others",
			[]town.Edit{{File: "cluster/barrier.go", Old: "at, err := n.reads.join(ctx)", New: "at, err := place{}, error(nil)"}},
			func(t *testing.T, at *town.Town, crew *work.Crew) {
				for turn := range 4 {
					victim := at.Leader(t)
					suspend(t, at, crew, victim, 2*turn)
					at.Ready(t, victim)
				}
			}, "linearizable",
		},
		{
			"an audit record is dropped now and then",
			[]town.Edit{{File: "daemon/rpc/record.go", Old: "_, err = s.Audit.Append(context.WithoutCancel(ctx), entry)", New: "if call.ID[0] != 'A' {\n\t\t\t_, err = s.Audit.Append(context.WithoutCancel(ctx), entry)\n\t\t}"}},
			calm, "has 0 records",
		},
	}
}

// TestBroken holds the battery itself to its purpose: each deliberately broken build is caught, by its own fault. The sound
// build passes the same schedules in TestCalm and TestPause. The short form builds them only, so that an edit which the code
// has left behind is noticed with the change that did it.
func TestBroken(t *testing.T) {
	for _, one := range brokenBuilds() {
		t.Run(one.name, func(t *testing.T) {
			binary := town.Build(t, one.edits...)
			if testing.Short() {
				return
			}
			at := town.New(t, town.Plan{Binary: binary})
			crew := work.Start(t, at)
			one.schedule(t, at, crew)
			findings := errors.Join(crew.Findings(t)...)
			if findings == nil || !strings.Contains(findings.Error(), one.says) {
				t.Errorf("the battery did not catch it: %v", findings)
			}
		})
	}
}
