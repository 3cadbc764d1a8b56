package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"warder/hsm"
)

const (
	defaultSessions = 4
	maxSessions     = 64
	defaultTimeout  = 10 * time.Second
	// slowFactor stretches Timeout for starting and for making keys: RSA-3072 takes a small HSM many seconds.
	slowFactor = 6
	maxText    = 4096
)

// Config says which token to open, and how.
type Config struct {
	Module string // absolute path of the PKCS#11 library
	Label  string // the token's label; "" when Serial alone names it
	Serial string // the token's serial number; "" when Label alone names it

	// PIN gives the user PIN, and is asked once. The PIN is kept in memory for logging in again after the module was
	// restarted, and wiped when it is refused and at Close.
	PIN func(ctx context.Context) ([]byte, error)

	// Sessions bounds the operations at work in the module at a time: 1 to 64, 0 is 4. Two more sessions are kept, for
	// the login and for the canary. Needed ≈ wanted operations a second × the module's latency in seconds.
	Sessions int

	// Timeout bounds one operation in the module; 0 is 10 s. Starting and making keys have six times as long.
	// An operation that takes longer gets hsm.ErrTimeout, and the child is killed and replaced.
	Timeout time.Duration

	// Established says that the token has a node key, as that of a cluster's member has: one that lacks it is refused,
	// and none is made in its place.
	Established bool

	Init string   // C_Initialize's reserved argument; NSS takes its parameters there
	Env  []string // "NAME=value" added to the child's environment, such as SOFTHSM2_CONF=/path

	// Executable is the argv of the child, which must call ServeChild: {"/proc/self/exe", "hsm-module"}.
	Executable []string

	Logger *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	if c.Sessions == 0 {
		c.Sessions = defaultSessions
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	check := func(ok bool, text string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: pkcs11 config: %s", hsm.ErrBadInput, text))
		}
	}
	check(filepath.IsAbs(c.Module) && len(c.Module) <= maxText, "module must be the absolute path of the PKCS#11 library")
	check(c.Label != "" || c.Serial != "", "give the token's label, its serial number, or both")
	check(len(c.Label) <= 32 && len(c.Serial) <= 16, "a label has at most 32 bytes, a serial number 16 (PKCS #11 2.40, CK_TOKEN_INFO)")
	check(c.PIN != nil, "a PIN source is needed")
	check(c.Sessions >= 1 && c.Sessions <= maxSessions, fmt.Sprintf("sessions must be 1 to %d", maxSessions))
	check(c.Timeout > 0, "timeout must be positive")
	check(len(c.Init) <= maxText, "the init argument is too long")
	check(len(c.Executable) > 0, "the child's command is needed")
	return errors.Join(errs...)
}

// name is how errors call the token.
func (c Config) name() string {
	switch {
	case c.Serial == "":
		return fmt.Sprintf("token %q of %s", c.Label, c.Module)
	case c.Label == "":
		return fmt.Sprintf("token with serial %q of %s", c.Serial, c.Module)
	}
	return fmt.Sprintf("token %q with serial %q of %s", c.Label, c.Serial, c.Module)
}
