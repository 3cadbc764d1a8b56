package verify

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// What Log can find wrong. Every error that it returns is a [*Fault] around one of these, or an error of the
// source of the entries.
var (
	ErrBadEntry  = errors.New("entry is not a canonical record of this node")
	ErrGap       = errors.New("entries are not consecutive")
	ErrChanged   = errors.New("entries do not hash to the signed checkpoint")
	ErrRewritten = errors.New("history was rewritten: entries do not hash to an anchor that the cluster kept")
	ErrTruncated = errors.New("log was cut: the cluster knows a later size")
)

// Entry is one leaf of a log, with its place.
type Entry struct {
	Index  uint64
	Leaf   []byte // a record's canonical encoding
	Stored Hash   // the leaf hash that the node wrote at the time; zero when not known. It only helps to locate a change.
}

// Anchor is a checkpoint as the cluster remembers it.
type Anchor struct {
	Origin Origin
	Size   uint64
	Root   Hash
	Time   time.Time
	Note   []byte // the signed checkpoint itself, when kept; at most [MaxCheckpoint]
}

// AnchorOf gives the anchor of a checkpoint.
func AnchorOf(c Checkpoint) Anchor {
	return Anchor(c)
}

// Evidence is what the entries are held against.
type Evidence struct {
	Checkpoint []byte   // the node's latest signed checkpoint
	Keys       []string // the node's audit keys, text form (VerifierKey): the present one and former ones
	Anchors    []Anchor // of this node, in any order; those of other origins are reported, not compared
}

// Report says what was proved.
type Report struct {
	Checkpoint Checkpoint
	Entries    uint64    // recomputed, from 0
	Unsigned   uint64    // of them, those after the checkpoint: canonical, but not yet promised
	Anchors    int       // that matched
	Earlier    []Anchor  // the largest anchor of each other log of this node, ascending by time
	First      time.Time // of the first and last entry
	Last       time.Time
	Denied     uint64
}

// Fault says where a log is wrong. The first bad entry is at From, or, when Exact is false, at From or after it
// and before To.
type Fault struct {
	Kind     error // one of the sentinels, or ErrBadSignature
	From, To uint64
	Exact    bool
	Detail   string
}

// Error names the kind, the place and the detail.
func (f *Fault) Error() string {
	place := fmt.Sprintf("entries %d to %d", f.From, f.To)
	if f.Exact || f.To <= f.From+1 {
		place = fmt.Sprintf("entry %d", f.From)
	}
	if f.Detail == "" {
		return fmt.Sprintf("audit log: %v: %s", f.Kind, place)
	}
	return fmt.Sprintf("audit log: %v: %s: %s", f.Kind, place, f.Detail)
}

// Unwrap gives the kind.
func (f *Fault) Unwrap() error { return f.Kind }

// Log recomputes a whole log from entry 0 and holds it against the evidence. It stops at the first fault; the
// report then says what was proved up to there.
func Log(entries iter.Seq2[Entry, error], evidence Evidence) (Report, error) {
	var report Report
	checkpoint, err := OpenCheckpoint(evidence.Checkpoint, evidence.Keys...)
	if err != nil {
		return report, &Fault{Kind: ErrBadSignature, Detail: err.Error()}
	}
	report.Checkpoint = checkpoint
	v := verifier{report: &report, marks: marks(checkpoint, evidence.Anchors)}
	report.Earlier = earlier(checkpoint.Origin, evidence.Anchors)
	if err := v.passMarks(); err != nil {
		return report, err
	}
	for entry, err := range entries {
		if err != nil {
			return report, err
		}
		if err := v.add(entry); err != nil {
			return report, err
		}
	}
	return report, v.finish()
}

// mark is a size at which the root is known.
type mark struct {
	size uint64
	root Hash
	kind error  // what a mismatch means
	name string // of the witness
}

func marks(c Checkpoint, anchors []Anchor) []mark {
	all := []mark{{c.Size, c.Root, ErrChanged, "the signed checkpoint"}}
	for _, a := range anchors {
		if a.Origin == c.Origin {
			all = append(all, mark{a.Size, a.Root, ErrRewritten, "the anchor of " + a.Time.UTC().Format(time.RFC3339)})
		}
	}
	slices.SortStableFunc(all, func(a, b mark) int {
		switch {
		case a.size < b.size:
			return -1
		case a.size > b.size:
			return 1
		}
		return 0
	})
	return all
}

func earlier(origin Origin, anchors []Anchor) []Anchor {
	largest := map[Origin]Anchor{}
	for _, a := range anchors {
		if a.Origin.Node == origin.Node && a.Origin != origin && a.Size >= largest[a.Origin].Size {
			largest[a.Origin] = a
		}
	}
	var all []Anchor
	for _, a := range largest {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Anchor) int { return a.Time.Compare(b.Time) })
	return all
}

type verifier struct {
	report  *Report
	tree    Tree
	marks   []mark // those not yet passed, by size
	proved  uint64 // entries below it are proved by the last mark
	suspect uint64 // index+1 of the first entry whose stored hash differs; 0 for none
	hashes  []Hash // scratch
}

func (v *verifier) add(entry Entry) error {
	index := v.tree.Size()
	if entry.Index != index {
		return &Fault{Kind: ErrGap, From: index, Exact: true, Detail: fmt.Sprintf("entry %d came in its place", entry.Index)}
	}
	var record Record
	if err := record.UnmarshalBinary(entry.Leaf); err != nil {
		return &Fault{Kind: ErrBadEntry, From: index, Exact: true, Detail: err.Error()}
	}
	if record.Node != v.report.Checkpoint.Origin.Node {
		return &Fault{Kind: ErrBadEntry, From: index, Exact: true, Detail: "it names another node"}
	}
	hash := LeafHash(entry.Leaf)
	if v.suspect == 0 && entry.Stored != (Hash{}) && entry.Stored != hash {
		v.suspect = index + 1
	}
	v.hashes = v.tree.Append(hash, v.hashes[:0])
	v.count(&record)
	return v.passMarks()
}

func (v *verifier) count(r *Record) {
	if v.report.Entries == 0 {
		v.report.First = r.Time
	}
	v.report.Last = r.Time
	v.report.Entries++
	if r.Decision == Deny {
		v.report.Denied++
	}
}

// passMarks compares the root with every mark of the size that the tree has now.
func (v *verifier) passMarks() error {
	for len(v.marks) > 0 && v.marks[0].size == v.tree.Size() {
		m := v.marks[0]
		v.marks = v.marks[1:]
		if m.root != v.tree.Root() {
			return v.mismatch(m)
		}
		if m.kind == ErrRewritten { //nolint:errorlint // the sentinel itself is the mark's kind
			v.report.Anchors++
		}
		v.proved, v.suspect = m.size, 0
	}
	return nil
}

func (v *verifier) mismatch(m mark) error {
	fault := &Fault{Kind: m.kind, From: v.proved, To: m.size, Detail: "they do not match " + m.name}
	if v.suspect > 0 {
		fault.From, fault.Exact = v.suspect-1, true
	}
	return fault
}

func (v *verifier) finish() error {
	size := v.tree.Size()
	if n := len(v.marks); n > 0 {
		last := v.marks[n-1]
		return &Fault{Kind: ErrTruncated, From: size, To: last.size,
			Detail: fmt.Sprintf("%s has %d entries, the log has %d", last.name, last.size, size)}
	}
	v.report.Unsigned = size - v.report.Checkpoint.Size
	return nil
}

// Inclusion checks that leaf is entry index of the log that the checkpoint signs (RFC 6962 2.1.1).
func Inclusion(c Checkpoint, index uint64, leaf []byte, proof []Hash) error {
	if err := tlog.CheckRecord(proof, int64(c.Size), c.Root, int64(index), LeafHash(leaf)); err != nil {
		return &Fault{Kind: ErrChanged, From: index, Exact: true, Detail: "its inclusion proof does not hold"}
	}
	return nil
}

// Consistency checks that the log of the newer checkpoint begins with the log of the older one (RFC 6962 2.1.2).
func Consistency(older, newer Checkpoint, proof []Hash) error {
	if older.Origin != newer.Origin {
		return &Fault{Kind: ErrRewritten, To: older.Size, Detail: "the checkpoints are of different logs"}
	}
	if older.Size > newer.Size {
		return &Fault{Kind: ErrTruncated, From: newer.Size, To: older.Size, Detail: "the newer checkpoint is smaller"}
	}
	if older.Size == 0 {
		return nil
	}
	if err := tlog.CheckTree(proof, int64(newer.Size), newer.Root, int64(older.Size), older.Root); err != nil {
		return &Fault{Kind: ErrRewritten, To: older.Size, Detail: "the consistency proof does not hold"}
	}
	return nil
}
