package config

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// validator collects what is wrong with a filled-in configuration.
type validator struct {
	lines    map[string]int
	problems []error
}

// check adds a problem unless ok. text says what to do and never repeats the value.
func (v *validator) check(ok bool, path, format string, args ...any) {
	if !ok {
		v.problems = append(v.problems, &problem{v.lines[path], path, fmt.Sprintf(format, args...)})
	}
}

func (v *validator) config(c *Config) {
	v.name("node", c.Node)
	v.path("data_dir", c.DataDir)
	v.check(trustDomain.MatchString(c.TrustDomain), "trust_domain", "give 1 to 255 of a-z, 0-9, dot, dash and underscore, such as example.org")
	v.check(len(c.API.Listen) <= 16, "api.listen", "give at most 16 addresses")
	for i, address := range c.API.Listen {
		v.address(fmt.Sprintf("api.listen[%d]", i), address)
	}
	v.check(validAddress(c.API.Advertise) && namesHost(c.API.Advertise), "api.advertise",
		"give the host:port at which callers reach this node, such as 10.0.0.1:8443; 0.0.0.0 and [::] name no host")
	v.address("cluster.listen", c.Cluster.Listen)
	v.check(validAddress(c.Cluster.Advertise) && namesHost(c.Cluster.Advertise), "cluster.advertise",
		"give the host:port at which the other nodes reach this one, such as 10.0.0.1:8444; 0.0.0.0 and [::] name no host")
	v.between("cluster.round_trip", c.Cluster.RoundTrip, 30*time.Millisecond, time.Second)
	v.token(c)
	v.tls(&c.TLS)
	v.limits(&c.Limits)
	v.oneOf("audit.mode", c.Audit.Mode, "durable", "relaxed")
	v.between("audit.anchor_interval", c.Audit.AnchorInterval, time.Second, 10*time.Minute)
	v.between("staleness_bound", c.Staleness, 100*time.Millisecond, time.Hour)
	v.between("clock_skew_bound", c.ClockSkew, time.Second, 30*time.Second)
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "text", "json")
	if c.Metrics.Listen != "" {
		v.address("metrics.listen", c.Metrics.Listen)
	}
}

// token wants an HSM or, for development, none.
func (v *validator) token(c *Config) {
	if c.Dev {
		v.check(c.HSM == (HSM{}), "dev", "a software token and an HSM are both configured: remove dev, or remove hsm")
		return
	}
	if c.HSM == (HSM{}) {
		v.check(false, "hsm", "configure module, label and pin of this node's HSM, or set dev to true to try things out without one")
		return
	}
	h := &c.HSM
	v.path("hsm.module", h.Module)
	v.check(h.Label != "" || h.Serial != "", "hsm.label", "name the token by its label or its serial")
	v.check(len(h.Label) <= 32 && printable(h.Label), "hsm.label", "give at most 32 printable characters")
	v.check(len(h.Serial) <= 16 && printable(h.Serial), "hsm.serial", "give at most 16 printable characters")
	v.check(pinSource.MatchString(h.PIN), "hsm.pin",
		"say where the PIN comes from: file:/absolute/path, env:NAME, credential:NAME, fd:N or prompt; never write the PIN itself here, and change it if you did")
	v.number("hsm.sessions", int64(h.Sessions), 1, 256)
	v.between("hsm.timeout", h.Timeout, 100*time.Millisecond, 5*time.Minute)
	v.check(len(h.InitArgs) <= 1024 && printable(h.InitArgs), "hsm.init_args", "give at most 1024 printable characters")
}

func (v *validator) tls(t *TLS) {
	v.oneOf("tls.min_version", t.MinVersion, "1.2", "1.3")
}

func (v *validator) limits(l *Limits) {
	v.number("limits.connections", int64(l.Connections), 1, 1_000_000)
	v.number("limits.connections_per_address", int64(l.ConnectionsPerAddress), 1, 1_000_000)
	v.number("limits.streams", int64(l.Streams), 1, 10_000)
	v.number("limits.body_bytes", l.BodyBytes, 1<<10, 64<<20)
	v.number("limits.header_bytes", int64(l.HeaderBytes), 1<<10, 1<<20)
	v.number("limits.memory", l.Memory, l.oneRequest(), 64<<30)
	v.number("limits.memory_per_address", l.MemoryPerAddress, l.oneRequest(), l.Memory)
	v.between("limits.header_timeout", l.HeaderTimeout, 100*time.Millisecond, time.Minute)
	v.between("limits.request_timeout", l.RequestTimeout, time.Second, 10*time.Minute)
	v.between("limits.idle_timeout", l.IdleTimeout, time.Second, time.Hour)
	v.between("limits.shutdown_timeout", l.ShutdownTimeout, 100*time.Millisecond, 10*time.Minute)
}

var (
	nodeName    = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`)
	pinSource   = regexp.MustCompile(`^(file:/[^\x00]+|env:[A-Za-z_][A-Za-z0-9_]*|credential:[A-Za-z0-9_][A-Za-z0-9._-]*|fd:([3-9]|[1-9][0-9]{1,3})|prompt)$`)
)

func (v *validator) name(path, name string) {
	v.check(len(name) <= 63 && nodeName.MatchString(name), path, "give 1 to 63 of a-z, 0-9 and single dashes inside, such as node-1")
}

func (v *validator) path(path, value string) {
	v.check(cleanPath(value), path, "give an absolute path without . or ..")
}

func cleanPath(p string) bool {
	return filepath.IsAbs(p) && filepath.Clean(p) == strings.TrimSuffix(p, "/") && !strings.Contains(p, "\x00") && p != "/"
}

func (v *validator) address(path, address string) {
	v.check(validAddress(address), path, "give host:port with a port from 0 to 65535, such as 127.0.0.1:8443")
}

func validAddress(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || len(address) > 300 || strings.ContainsAny(host, " /\\@") || !printable(host) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == port
}

// namesHost says whether an address is one that another machine could dial.
func namesHost(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return false
	}
	ip := net.ParseIP(host)
	return ip == nil || !ip.IsUnspecified()
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

func (v *validator) number(path string, n, low, high int64) {
	v.check(n >= low && n <= high, path, "give a number from %d to %d", low, high)
}

func (v *validator) between(path string, d, low, high time.Duration) {
	v.check(d >= low && d <= high, path, "give a duration from %v to %v", low, high)
}

func (v *validator) oneOf(path, value string, allowed ...string) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	v.check(false, path, "give %s", strings.Join(allowed, " or "))
}
