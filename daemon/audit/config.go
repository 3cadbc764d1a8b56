package audit

import (
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"warder/api/verify"
)

// Record is one decision; see [verify.Record] for its fields and their bounds.
type Record = verify.Record

// The faults of a log.
var (
	// ErrUnavailable: the record is not durable and no later one will be until the log is reopened.
	ErrUnavailable = errors.New("audit log is unavailable")
	// ErrDamaged: the files do not hold what was acknowledged. Every one is a [*Damage].
	ErrDamaged = errors.New("audit log is damaged")
	// ErrLocked: another process has the log open.
	ErrLocked = errors.New("audit log is open in another process")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("audit log is closed")
	// ErrRange: entries, or a tree size, that the log does not have.
	ErrRange = errors.New("audit log has no such entry")
)

// Damage names what is wrong with a log's files.
type Damage struct {
	File   string // name inside the directory
	Offset int64  // of the first byte that is wrong, as far as known
	Index  uint64 // of the first entry that is wrong, as far as known
	Reason string
}

// Error names the file, the place and the reason.
func (d *Damage) Error() string {
	return fmt.Sprintf("%v: %s at byte %d (entry %d): %s; keep the directory for examination and restore it, "+
		"or move it aside to start a new log", ErrDamaged, d.File, d.Offset, d.Index, d.Reason)
}

// Unwrap gives [ErrDamaged].
func (d *Damage) Unwrap() error { return ErrDamaged }

// Mode says what Append waits for.
type Mode uint8

const (
	// Durable is the default: Append returns when the record is on disk.
	Durable Mode = iota
	// Relaxed returns at once and writes in groups of 5 ms: a crash may lose the last of them. Status shows it.
	Relaxed
)

// String gives "durable" or "relaxed".
func (m Mode) String() string {
	if m == Relaxed {
		return "relaxed"
	}
	return "durable"
}

// ParseMode is the inverse of String.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "durable":
		return Durable, nil
	case "relaxed":
		return Relaxed, nil
	}
	return 0, errors.New("audit mode is neither durable nor relaxed")
}

const relaxedInterval = 5 * time.Millisecond

// Config says where a log is and who signs it.
type Config struct {
	Dir  string // created with mode 0700 when absent
	Node string // this node's name, 1..63 bytes of [a-z0-9-]; stamped on every record

	// Key signs checkpoints: an Ed25519 key (ed25519.PrivateKey is one).
	Key crypto.Signer
	// FormerKeys are verifier keys (text form) under which older checkpoints of this log may be signed.
	FormerKeys []string

	// Inputs is the allow-list of the policy inputs that a record may carry, each with its kind. An input that is
	// not listed is refused, so that nothing reaches the log because somebody added it to a policy's context.
	Inputs map[string]verify.Kind

	Mode            Mode
	SegmentBytes    int64         // bound of a segment file; 64 MiB when 0
	CheckpointEvery time.Duration // 1 s when 0
	MarkEvery       time.Duration // how far the mark may be behind; 50 ms when 0
	Stall           time.Duration // a write that takes longer makes the log unhealthy; 5 s when 0
	VerifySegments  int           // the newest segments that Open reads through before it returns, older ones in the background; 2 when 0

	Clock  func() time.Time // time.Now when nil
	Logger *slog.Logger     // discards when nil

	probe func(step string) error // tests: called before each disk operation; an error takes its place
}

const (
	defaultSegmentBytes = 64 << 20
	minSegmentBytes     = 64 << 10
	groupBytes          = 4 << 20 // what may wait for the disk before Append waits too
)

// withDefaults checks a copy of the configuration and fills it in.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.Key == nil {
		return c, errors.New("audit log needs a directory and a signing key")
	}
	if _, err := verify.ParseOrigin(verify.Origin{Node: c.Node}.String()); err != nil {
		return c, fmt.Errorf("audit log: node name %q: use 1 to 63 of a-z, 0-9 and -", c.Node)
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = defaultSegmentBytes
	}
	c.SegmentBytes = max(c.SegmentBytes, minSegmentBytes)
	if c.CheckpointEvery <= 0 {
		c.CheckpointEvery = time.Second
	}
	if c.MarkEvery <= 0 {
		c.MarkEvery = 50 * time.Millisecond
	}
	if c.Stall <= 0 {
		c.Stall = 5 * time.Second
	}
	if c.VerifySegments <= 0 {
		c.VerifySegments = 2
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.probe == nil {
		c.probe = func(string) error { return nil }
	}
	return c, nil
}

// checkInputs holds a record's inputs to the allow-list.
func (c *Config) checkInputs(inputs []verify.Input) error {
	for i := range inputs {
		kind, listed := c.Inputs[inputs[i].Name]
		if !listed {
			return fmt.Errorf("%w: input %q is not on the audit allow-list", verify.ErrBadRecord, inputs[i].Name)
		}
		if kind != inputs[i].Kind {
			return fmt.Errorf("%w: input %q is a %v, the audit allow-list says %v", verify.ErrBadRecord, inputs[i].Name, inputs[i].Kind, kind)
		}
	}
	return nil
}
