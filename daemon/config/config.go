package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Config is the daemon's configuration. A zero field means its default; example.yaml shows each with it.
type Config struct {
	Node        string `yaml:"node"`         // this node's name in the cluster: 1 to 63 of a-z, 0-9 and single - inside
	DataDir     string `yaml:"data_dir"`     // absolute; /var/lib/warder
	TrustDomain string `yaml:"trust_domain"` // of the SPIFFE IDs (SPIFFE-ID 2.1): 1 to 255 of a-z, 0-9, . - _

	API     API     `yaml:"api"`
	Cluster Cluster `yaml:"cluster"`

	HSM HSM  `yaml:"hsm"`
	Dev bool `yaml:"dev"` // a software token in data_dir instead of an HSM: for trying things out only

	TLS    TLS    `yaml:"tls"`
	Limits Limits `yaml:"limits"`
	Audit  Audit  `yaml:"audit"`

	Staleness time.Duration `yaml:"staleness_bound"`  // a node that has not known itself up to date for longer answers nothing; 5s
	ClockSkew time.Duration `yaml:"clock_skew_bound"` // allowed between clocks when times in credentials are checked; 30s

	Log     Log     `yaml:"log"`
	Metrics Metrics `yaml:"metrics"`
}

// API is where callers reach the node.
type API struct {
	Listen    []string `yaml:"listen"`    // 1 to 16 of host:port; 127.0.0.1:8443
	Advertise string   `yaml:"advertise"` // host:port that callers dial; the first of listen, when that names a host
}

// Cluster is where the other nodes reach this one.
type Cluster struct {
	Listen    string        `yaml:"listen"`     // host:port; 127.0.0.1:8444
	Advertise string        `yaml:"advertise"`  // host:port that the others dial; listen, when that names a host
	RoundTrip time.Duration `yaml:"round_trip"` // to the farthest node and back, 30ms to 1s: elections wait for eleven; 30ms
}

// HSM is the token that unseals this node. It is found by label or serial, never by its slot.
type HSM struct {
	Module   string        `yaml:"module"`    // absolute path of the vendor's PKCS#11 library
	Label    string        `yaml:"label"`     // of the token, at most 32 bytes (PKCS#11 CK_TOKEN_INFO)
	Serial   string        `yaml:"serial"`    // of the token, at most 16 bytes
	PIN      string        `yaml:"pin"`       // where the PIN comes from: file:/path, env:NAME, credential:NAME, fd:N or prompt; never the PIN
	Sessions int           `yaml:"sessions"`  // at once, 1 to 256; 8
	Timeout  time.Duration `yaml:"timeout"`   // of one call, after which the library's process is replaced; 10s
	InitArgs string        `yaml:"init_args"` // of C_Initialize, for libraries that want some (NSS)
}

// TLS is how callers may connect. The certificate is always the cluster's own CA's.
type TLS struct {
	MinVersion string `yaml:"min_version"` // "1.2" or "1.3"; 1.2
}

// Limits bound what callers can take.
type Limits struct {
	Connections           int           `yaml:"connections"`             // open at once, 1 to 1000000; 4096
	ConnectionsPerAddress int           `yaml:"connections_per_address"` // from one address; 256
	Streams               int           `yaml:"streams"`                 // at once on one HTTP/2 connection, 1 to 10000; 128
	BodyBytes             int64         `yaml:"body_bytes"`              // of one request, 1 KiB to 64 MiB; 1 MiB
	HeaderBytes           int           `yaml:"header_bytes"`            // of one request, 1 KiB to 1 MiB; 32 KiB
	Memory                int64         `yaml:"memory"`                  // bytes that the headers and bodies of all requests hold at once, at least of one request, to 64 GiB; 512 MiB
	MemoryPerAddress      int64         `yaml:"memory_per_address"`      // the same of one address; 32 MiB
	HeaderTimeout         time.Duration `yaml:"header_timeout"`          // from connecting to the end of the headers; 5s
	RequestTimeout        time.Duration `yaml:"request_timeout"`         // of one request, streams excepted; 30s
	IdleTimeout           time.Duration `yaml:"idle_timeout"`            // of a kept connection; 2m
	ShutdownTimeout       time.Duration `yaml:"shutdown_timeout"`        // for requests in flight when the node stops; 10s
}

// oneRequest is the memory that the largest request takes, in bytes.
func (l *Limits) oneRequest() int64 { return l.BodyBytes + 32*int64(l.HeaderBytes) + 64<<10 } // headers of a few bytes take many times that

// Audit is the node's log of decisions.
type Audit struct {
	Mode           string        `yaml:"mode"`            // durable, or relaxed: answers before the record is on disk, by up to 5 ms; durable
	AnchorInterval time.Duration `yaml:"anchor_interval"` // between anchors in the replicated state; 5s
}

// Log is the program's log.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error; info
	Format string `yaml:"format"` // text or json; text
}

// Metrics is the Prometheus listener.
type Metrics struct {
	Listen string `yaml:"listen"` // host:port; empty: none
}

// MaxFile bounds the file, in bytes.
const MaxFile = 64 << 10

// ErrInvalid says that the configuration cannot be used; the message lists every problem.
var ErrInvalid = errors.New("configuration is not usable")

//go:embed example.yaml
var example string

// Example is a whole file with every key, its meaning and its default.
func Example() string { return example }

// Load reads a file. It fails with [ErrInvalid] or the error of the file.
func Load(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return Config{}, fmt.Errorf("%w: %s can be written by others (mode %04o): chmod go-w it", ErrInvalid, path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	c, err := Parse(text)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse reads the text of a file. It fails with [ErrInvalid].
func Parse(text []byte) (Config, error) {
	if len(text) > MaxFile {
		return Config{}, fmt.Errorf("%w: longer than 64 KiB", ErrInvalid)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return Config{}, fmt.Errorf("%w: it is empty: start from `warder server --example-config`", ErrInvalid)
	}
	c, lines, err := decode(text)
	if err != nil {
		return Config{}, err
	}
	return c.complete(lines)
}

// Complete gives a copy with every default filled in, checked. It fails with [ErrInvalid].
func (c Config) Complete() (Config, error) { return c.complete(nil) }

func (c Config) complete(lines map[string]int) (Config, error) {
	c.fill()
	v := validator{lines: lines}
	v.config(&c)
	if err := errors.Join(v.problems...); err != nil {
		return Config{}, fmt.Errorf("%w:\n%w", ErrInvalid, err)
	}
	return c, nil
}

// fill puts defaults in zero fields. The slice is copied, so that the caller's stays its own.
func (c *Config) fill() {
	c.API.Listen = append([]string(nil), c.API.Listen...)
	if len(c.API.Listen) == 0 {
		c.API.Listen = []string{"127.0.0.1:8443"}
	}
	if c.API.Advertise == "" && namesHost(c.API.Listen[0]) {
		c.API.Advertise = c.API.Listen[0]
	}
	set(&c.DataDir, "/var/lib/warder")
	set(&c.Cluster.Listen, "127.0.0.1:8444")
	if c.Cluster.Advertise == "" && namesHost(c.Cluster.Listen) {
		c.Cluster.Advertise = c.Cluster.Listen
	}
	set(&c.Cluster.RoundTrip, 30*time.Millisecond)
	if c.HSM != (HSM{}) {
		set(&c.HSM.Sessions, 8)
		set(&c.HSM.Timeout, 10*time.Second)
	}
	set(&c.TLS.MinVersion, "1.2")
	set(&c.Limits.Connections, 4096)
	set(&c.Limits.ConnectionsPerAddress, 256)
	set(&c.Limits.Streams, 128)
	set(&c.Limits.BodyBytes, 1<<20)
	set(&c.Limits.HeaderBytes, 32<<10)
	set(&c.Limits.Memory, max(512<<20, c.Limits.oneRequest(), c.Limits.MemoryPerAddress))
	set(&c.Limits.MemoryPerAddress, min(c.Limits.Memory, max(32<<20, c.Limits.oneRequest())))
	set(&c.Limits.HeaderTimeout, 5*time.Second)
	set(&c.Limits.RequestTimeout, 30*time.Second)
	set(&c.Limits.IdleTimeout, 2*time.Minute)
	set(&c.Limits.ShutdownTimeout, 10*time.Second)
	set(&c.Audit.Mode, "durable")
	set(&c.Audit.AnchorInterval, 5*time.Second)
	set(&c.Staleness, 5*time.Second)
	set(&c.ClockSkew, 30*time.Second)
	set(&c.Log.Level, "info")
	set(&c.Log.Format, "text")
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
