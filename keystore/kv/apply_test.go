package kv_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"warder/keystore/kv"
)

// model is the state machine in the plainest words: maps.
type model struct {
	seq   uint64
	rows  map[kv.Target]modelRow
	sizes map[kv.Target]int // records beneath a prefix
}

type modelRow struct {
	rev   uint64
	n     int64 // counter, or next index of a log
	value string
}

func newModel() *model {
	return &model{rows: map[kv.Target]modelRow{}, sizes: map[kv.Target]int{}}
}

func above(t kv.Target) (all []kv.Target) {
	for n := 16; n < len(t.Path); n += 16 {
		all = append(all, kv.Target{Space: kv.SpacePrefix, Path: t.Path[:n]})
	}
	return all
}

// apply is what docs/formats.md says that a batch does.
func (m *model) apply(b kv.Batch) kv.Result {
	for i, c := range b.If {
		if m.rows[c.Target].rev != c.Revision {
			return kv.Result{Status: kv.StatusConflict, Failed: i}
		}
	}
	counters := map[kv.Target]int64{}
	for i, a := range b.Add {
		if _, ok := counters[a.Target]; !ok {
			counters[a.Target] = m.rows[a.Target].n
		}
		if counters[a.Target] += a.Delta; a.Delta >= 0 && counters[a.Target] > a.Limit ||
			a.Delta < 0 && counters[a.Target] < a.Limit {
			return kv.Result{Status: kv.StatusLimit, Failed: i}
		}
	}
	m.seq++
	r := kv.Result{Status: kv.StatusOK, Revision: m.seq}
	for _, p := range b.Put {
		if _, ok := m.rows[p.Target]; !ok {
			m.beneath(p.Target, 1)
		}
		m.beneath(p.Target, 0)
		m.rows[p.Target] = modelRow{rev: m.seq, value: string(p.Sealed)}
	}
	for _, t := range b.Delete {
		if _, ok := m.rows[t]; ok {
			if t.Space == kv.SpaceRecord {
				m.beneath(t, -1)
			}
			delete(m.rows, t)
		}
	}
	for _, a := range b.Append {
		n := m.rows[a.Target].n
		m.rows[kv.Target{Space: kv.SpaceLeaf, Path: a.Target.Path, Index: uint64(n)}] = modelRow{rev: m.seq, value: string(a.Sealed)}
		m.rows[a.Target] = modelRow{rev: m.seq, n: n + 1}
		r.Appended = append(r.Appended, uint64(n))
	}
	for _, a := range b.Add {
		n := m.rows[a.Target].n + a.Delta
		m.rows[a.Target] = modelRow{rev: m.seq, n: n}
		r.Counters = append(r.Counters, n)
	}
	return r
}

func (m *model) beneath(t kv.Target, delta int) {
	for _, p := range above(t) {
		m.sizes[p] += delta
		m.rows[p] = modelRow{rev: m.seq}
		if m.sizes[p] == 0 {
			delete(m.rows, p)
		}
	}
}

func drawTarget(t *rapid.T, space kv.Space) kv.Target {
	parts := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 1, 3).Draw(t, "path")
	return kv.Target{Space: space, Path: path(parts...)}
}

func (m *model) drawBatch(t *rapid.T) kv.Batch {
	var b kv.Batch
	seen := map[kv.Target]bool{}
	for range rapid.IntRange(0, 2).Draw(t, "ifs") {
		target := drawTarget(t, rapid.SampledFrom([]kv.Space{kv.SpaceRecord, kv.SpacePrefix, kv.SpaceCounter, kv.SpaceLog}).Draw(t, "space"))
		rev := m.rows[target].rev
		if rapid.IntRange(0, 7).Draw(t, "stale") == 0 {
			rev += uint64(rapid.IntRange(0, 1).Draw(t, "by"))
		}
		b.If = append(b.If, kv.If{Target: target, Revision: rev})
	}
	for range rapid.IntRange(0, 3).Draw(t, "puts") {
		target := drawTarget(t, kv.SpaceRecord)
		if !seen[target] {
			b.Put = append(b.Put, kv.Put{Target: target, Sealed: rapid.SliceOfN(rapid.Byte(), 33, 200).Draw(t, "value")})
		}
		seen[target] = true
	}
	for range rapid.IntRange(0, 2).Draw(t, "deletes") {
		target := drawTarget(t, rapid.SampledFrom([]kv.Space{kv.SpaceRecord, kv.SpaceRecord, kv.SpaceCounter}).Draw(t, "space"))
		if !seen[target] {
			b.Delete = append(b.Delete, target)
		}
		seen[target] = true
	}
	for range rapid.IntRange(0, 2).Draw(t, "appends") {
		b.Append = append(b.Append, kv.Append{Target: drawTarget(t, kv.SpaceLog), Sealed: sealed("leaf")})
	}
	for range rapid.IntRange(0, 2).Draw(t, "adds") {
		target := drawTarget(t, kv.SpaceCounter)
		if !seen[target] {
			b.Add = append(b.Add, kv.Add{Target: target, Delta: rapid.Int64Range(-3, 5).Draw(t, "delta"), Limit: rapid.Int64Range(-2, 9).Draw(t, "limit")})
		}
	}
	return b
}

// TestApplyAgreesWithModel applies random batches in random groups to a store,
// to a second one in other groups, and to a model of maps.
func TestApplyAgreesWithModel(t *testing.T) {
	t.Parallel()                                           // it waits for the disk
	if err := flag.Set("rapid.checks", "25"); err != nil { // each opens three stores
		t.Fatal(err)
	}
	root := t.TempDir()
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		dir := filepath.Join(root, fmt.Sprint(round))
		grouped, single, m := open(rt, dir+"g"), open(rt, dir+"s"), newModel()
		defer closeAndRemove(rt, single, dir+"s")
		index, alone := uint64(0), uint64(0)
		for range rapid.IntRange(1, 6).Draw(rt, "entries") {
			var entries [][]byte
			var want []kv.Result
			for range rapid.IntRange(0, 5).Draw(rt, "batches") {
				b := m.drawBatch(rt)
				entry, err := b.Encode()
				if err != nil {
					rt.Fatal(err)
				}
				entries = append(entries, entry)
				want = append(want, m.apply(b))
				alone++
				if _, err := single.Apply(alone, [][]byte{entry}); err != nil {
					rt.Fatal(err)
				}
			}
			index += uint64(rapid.IntRange(1, 3).Draw(rt, "gap"))
			got, err := grouped.Apply(index, entries)
			if err != nil {
				rt.Fatal(err)
			}
			for i := range want {
				if !bytes.Equal(got[i], want[i].Encode()) {
					r, _ := kv.DecodeResult(got[i])
					rt.Fatalf("batch %d: %+v, want %+v", i, r, want[i])
				}
			}
		}
		_, before := grouped.StateHash()
		if _, other := single.StateHash(); before != other {
			rt.Fatal("another grouping gives another state")
		}
		if err := grouped.Close(); err != nil {
			rt.Fatal(err)
		}
		grouped = open(rt, dir+"g")
		defer closeAndRemove(rt, grouped, dir+"g")
		if _, after := grouped.StateHash(); after != before {
			rt.Fatal("another state after a restart")
		}
		m.holds(rt, grouped)
	})
}

// everyTarget is all that drawTarget may draw.
func everyTarget() (all []kv.Target) {
	names := [][]string{{}}
	for range 3 {
		for _, n := range names {
			all = append(all, targetsOf(append(slices.Clone(n), "a"))...)
			all = append(all, targetsOf(append(slices.Clone(n), "b"))...)
		}
		var longer [][]string
		for _, n := range names {
			longer = append(longer, append(slices.Clone(n), "a"), append(slices.Clone(n), "b"))
		}
		names = longer
	}
	return all
}

func targetsOf(parts []string) []kv.Target {
	return []kv.Target{record(parts...), prefix(parts...), counter(parts...), logOf(parts...)}
}

// holds probes every row of the model, and the absence of every other, by
// precondition.
func (m *model) holds(rt *rapid.T, s *kv.Store) {
	var probe kv.Batch
	for target := range maps.Keys(m.rows) {
		probe.If = append(probe.If, kv.If{Target: target, Revision: m.rows[target].rev})
	}
	for _, target := range everyTarget() {
		probe.If = append(probe.If, kv.If{Target: target, Revision: m.rows[target].rev})
	}
	entry, err := probe.Encode()
	if err != nil {
		rt.Fatal(err)
	}
	got, err := s.Apply(1<<40, [][]byte{entry})
	if err != nil {
		rt.Fatal(err)
	}
	if r, _ := kv.DecodeResult(got[0]); r.Status != kv.StatusOK {
		rt.Fatalf("row %v is not at %d", probe.If[r.Failed].Target, probe.If[r.Failed].Revision)
	}
}

func open(rt *rapid.T, dir string) *kv.Store {
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir})
	if err != nil {
		rt.Fatal(err)
	}
	return s
}

func closeAndRemove(rt *rapid.T, s *kv.Store, dir string) {
	if err := s.Close(); err != nil {
		rt.Error(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		rt.Error(err)
	}
}

// largeEntry is an entry that no single transaction takes: three batches of as
// many operations as a batch may have, and one of the largest value.
func largeEntry() (batches []kv.Batch) {
	for n := range 3 {
		var b kv.Batch
		for i := range kv.MaxOperations {
			b.Put = append(b.Put, kv.Put{Target: record("ns", fmt.Sprint(n, i)), Sealed: bytes.Repeat([]byte{1}, 127)})
		}
		batches = append(batches, b)
	}
	return append(batches, put(record("x"), string(make([]byte, 1<<20))))
}

func TestLargeEntry(t *testing.T) {
	t.Parallel() // it waits for the disk
	s, other := openStore(t, t.TempDir()), openStore(t, t.TempDir())
	for i, b := range largeEntry() {
		apply(t, other, uint64(i+1), b)
	}
	for _, r := range apply(t, s, 1, largeEntry()...) {
		if r.Status != kv.StatusOK {
			t.Errorf("%+v", r)
		}
	}
	_, a := s.StateHash()
	if _, b := other.StateHash(); a != b {
		t.Error("another grouping gives another state")
	}
}

// TestFullDisk lets the disk fill up in the middle of a large entry: the store
// stops, and after a restart the rest of the entry is applied, once.
func TestFullDisk(t *testing.T) {
	t.Parallel() // it waits for the disk
	dir := t.TempDir()
	calls, full := 0, 0
	free := func(string) (uint64, error) {
		if calls++; calls == full {
			return 1 << 20, nil
		}
		return 1 << 40, nil
	}
	s, err := kv.OpenStore(kv.StoreConfig{Dir: dir, Free: free})
	must(t, err)
	apply(t, s, 1, put(record("first"), "v"))
	var entries [][]byte
	for _, b := range largeEntry() {
		entries = append(entries, encode(t, b))
	}
	full = calls + 2
	if _, err := s.Apply(2, entries); !errors.Is(err, kv.ErrStopped) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("on a full disk: %v", err)
	}
	if _, err := s.Apply(3, nil); !errors.Is(err, kv.ErrStopped) {
		t.Errorf("after a fault: %v", err)
	}
	if s.Applied() != 1 {
		t.Errorf("applied %d of an entry that is not whole", s.Applied())
	}
	must(t, s.Close())
	s = openStore(t, dir)
	answers, err := s.Apply(2, entries)
	must(t, err)
	first, err := kv.DecodeResult(answers[0])
	last, err2 := kv.DecodeResult(answers[len(answers)-1])
	must(t, errors.Join(err, err2))
	if first.Status != kv.StatusReplayed || last.Status != kv.StatusOK || last.Revision != 5 || s.Applied() != 2 {
		t.Errorf("first %v, last %+v, applied %d", first.Status, last, s.Applied())
	}
	other := openStore(t, t.TempDir())
	apply(t, other, 1, put(record("first"), "v"))
	apply(t, other, 2, largeEntry()...)
	_, a := s.StateHash()
	if _, b := other.StateHash(); a != b {
		t.Error("an interrupted entry gives another state")
	}
}

func TestMalformedEntries(t *testing.T) {
	s := openStore(t, t.TempDir())
	good := encode(t, put(record("a"), "v"))
	entries := [][]byte{
		nil, {}, {0}, {2}, good[:len(good)-1], append(bytes.Clone(good), 0), make([]byte, kv.MaxBatchSize+1),
		append([]byte{1}, bytes.Repeat([]byte{0xff}, 10)...),
	}
	got, err := s.Apply(1, append(entries, good))
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range got {
		r, err := kv.DecodeResult(b)
		want := kv.StatusMalformed
		if i == len(entries) {
			want = kv.StatusOK
		}
		if err != nil || r.Status != want {
			t.Errorf("entry %d: %v %v", i, r.Status, err)
		}
	}
}

func TestCounterLimits(t *testing.T) {
	s := openStore(t, t.TempDir())
	c := counter("c")
	steps := []struct {
		delta, limit int64
		want         kv.Status
	}{
		{5, 5, kv.StatusOK}, {1, 5, kv.StatusLimit}, {0, 5, kv.StatusOK}, {-5, 0, kv.StatusOK}, {-1, 0, kv.StatusLimit},
		{math.MaxInt64, math.MaxInt64, kv.StatusOK}, {1, math.MaxInt64, kv.StatusLimit},
		{-math.MaxInt64, 0, kv.StatusOK}, {math.MinInt64, math.MinInt64, kv.StatusOK}, {-1, math.MinInt64, kv.StatusLimit},
	}
	for i, step := range steps {
		r := apply(t, s, uint64(i+1), kv.Batch{Add: []kv.Add{{Target: c, Delta: step.delta, Limit: step.limit}}})
		if r[0].Status != step.want {
			t.Errorf("step %d: %v, want %v", i, r[0].Status, step.want)
		}
	}
}
