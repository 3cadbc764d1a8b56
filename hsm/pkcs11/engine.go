package pkcs11

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

// reservedSessions are the login's and the canary's.
const reservedSessions = 2

// engine is the module's side: it runs in the child.
type engine struct {
	config Config // Module, Label, Serial, Init and Sessions only
	info   hsm.Info
	ctx    *p11.Ctx
	slot   uint
	token  p11.TokenInfo // as it was before the login
	wrap   wrapping
	unwrap unwrapForm

	pool pool
	// age counts rebuilds of sessions and login. Handles and sessions of an earlier age are not used.
	age atomic.Uint64

	making sync.Mutex // one maker of the node's and the transport key at a time

	mu        sync.Mutex // guards what follows
	pin       []byte     // wiped when it was refused
	refused   error      // the latch: set once, never cleared
	login     p11.SessionHandle
	handles   map[string]p11.ObjectHandle // found keys of this age
	known     keys
	destroyed map[string]bool // at their owner's word

	canary canary
}

// openEngine loads the module, finds the token, logs in once and finds out by doing what the token can.
// The token must still have the keys that are known.
func openEngine(config Config, pin []byte, known keys) (*engine, error) {
	e := &engine{config: config, pin: pin, handles: map[string]p11.ObjectHandle{}, known: known, destroyed: map[string]bool{}}
	steps := []func() error{e.load, e.findToken, e.mayLogIn, e.firstLogin, e.openCanary, e.health, e.probeCustody}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (e *engine) load() error {
	if err := checkModule(e.config.Module); err != nil {
		return err
	}
	if e.ctx = p11.New(e.config.Module); e.ctx == nil {
		return fmt.Errorf("%w: module %s was refused by the loader: run ldd %s and install what it lacks", hsm.ErrModuleMissing, e.config.Module, e.config.Module)
	}
	var options []p11.InitializeOption
	if e.config.Init != "" {
		argument := append([]byte(e.config.Init), 0)
		options = append(options, p11.InitializeWithReserved(unsafe.Pointer(&argument[0])))
	}
	if err := e.ctx.Initialize(options...); err != nil {
		return e.errorf(hsm.ErrUnavailable, "the module does not initialise (%s): see its configuration and that its service runs", code(err))
	}
	return nil
}

// findToken finds the one token by label and serial. Slot numbers mean nothing: they change.
func (e *engine) findToken() error {
	slots, err := e.ctx.GetSlotList(true)
	if err != nil {
		return e.errorf(hsm.ErrUnavailable, "listing tokens failed (%s): see that the HSM is connected", code(err))
	}
	var seen []string
	var matches int
	for _, slot := range slots {
		t, err := e.ctx.GetTokenInfo(slot)
		if err != nil {
			continue // another token's trouble
		}
		label, serial := trim(t.Label), trim(t.SerialNumber)
		if t.Flags&p11.CKF_TOKEN_INITIALIZED != 0 {
			seen = append(seen, fmt.Sprintf("%q (serial %q)", label, serial))
		}
		if (e.config.Label == "" || e.config.Label == label) && (e.config.Serial == "" || e.config.Serial == serial) {
			matches++
			e.slot, e.token = slot, t
			e.info = hsm.Info{Module: e.config.Module, Label: label, Serial: serial, Manufacturer: trim(t.ManufacturerID), Model: trim(t.Model)}
		}
	}
	list := strings.Join(seen, ", ")
	switch {
	case matches == 1:
		return nil
	case matches > 1:
		return e.errorf(hsm.ErrTokenMissing, "%d tokens match: give the serial number too; the module shows %s", matches, list)
	case len(e.known) > 0:
		return e.errorf(hsm.ErrTokenMissing, "the token with this node's keys is not there: connect it or put it back, or correct its label and serial number; another token is not used in its place; the module shows %s", cmp.Or(list, "none"))
	case list == "":
		return e.errorf(hsm.ErrTokenMissing, "not found, and the module shows no token at all: initialise one, or see that the HSM is connected")
	}
	return e.errorf(hsm.ErrTokenMissing, "not found: initialise it, or correct the label; the module shows %s", list)
}

// trim takes off the padding: spaces by the standard, NULs by some modules.
func trim(s string) string { return strings.Trim(s, " \x00") }

// mayLogIn refuses before trying what would do harm: a service that is restarted with a wrong PIN again and again must
// not use up the last attempt.
func (e *engine) mayLogIn() error {
	need := uint(e.config.Sessions) + reservedSessions //nolint:gosec // 1 to 64
	switch flags, most := e.token.Flags, e.token.MaxSessionCount; {
	case flags&p11.CKF_USER_PIN_LOCKED != 0:
		return e.errorf(hsm.ErrPINLocked, "the PIN is locked, and no login was tried: have the security officer reset it")
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return e.errorf(hsm.ErrPINRefused, "one attempt is left before the PIN locks, and it was not used: log in once with the vendor's tool, and correct the PIN's source")
	case most != p11.CK_EFFECTIVELY_INFINITE && most != p11.CK_UNAVAILABLE_INFORMATION && most < need:
		return e.errorf(hsm.ErrUnavailable, "allows %d sessions and %d are needed: set fewer sessions (two more are reserved)", most, need)
	}
	return nil
}

func (e *engine) firstLogin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.logIn()
}

// logIn opens the session that holds the login open, and logs in with it. A refused PIN is wiped and never tried again.
// Caller holds mu.
func (e *engine) logIn() error {
	if e.refused != nil {
		return e.refused
	}
	handle, err := e.openSession()
	if err != nil {
		return e.errorf(hsm.ErrUnavailable, "opening a session failed (%s): see that the HSM is connected and has sessions free", code(err))
	}
	err = e.ctx.Login(handle, p11.CKU_USER, string(e.pin))
	if err != nil && !errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
		err = e.loginVerdict(err)
		if !errors.Is(err, hsm.ErrUnavailable) {
			e.refused = err
			clear(e.pin)
		}
		return errors.Join(err, e.ctx.CloseSession(handle))
	}
	e.login = handle
	return nil
}

// rebuild starts over with sessions, login and handles, once for all who saw the same age fail.
func (e *engine) rebuild(age uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.age.Load() != age {
		return e.refused
	}
	e.age.Add(1)
	clear(e.handles)
	for s := e.pool.pop(); s != nil; s = e.pool.pop() {
		e.drop(s)
	}
	_ = e.ctx.CloseSession(e.login) // most likely gone already
	if err := e.sameToken(); err != nil {
		return err
	}
	if err := e.logIn(); err != nil {
		return err
	}
	return e.renewCanary()
}

// sameToken sees that the slot still holds the token that was found at the start: no other one is shown the PIN.
func (e *engine) sameToken() error {
	now, err := e.ctx.GetTokenInfo(e.slot)
	if err != nil {
		return e.errorf(hsm.ErrUnavailable, "asking the token who it is failed (%s): see that the HSM is connected", code(err))
	}
	if now.SerialNumber != e.token.SerialNumber || now.Label != e.token.Label {
		return e.errorf(hsm.ErrTokenMissing, "another token is in its slot now (serial %q): put the node's own back", strings.TrimRight(now.SerialNumber, " \x00"))
	}
	return nil
}

// do runs work on a session of its own, and a second time when that may mend it. whenWell is the kind of error when the
// module gave a code that says nothing and the canary then shows the token to be well.
func (e *engine) do(what string, whenWell error, work func(*session) ([][]byte, error)) ([][]byte, error) {
	out, age, err := e.once(work)
	if err != nil && !isVerdict(err) {
		again, mendErr := e.mend(what, age, err)
		if mendErr != nil {
			return nil, mendErr
		}
		if again {
			out, _, err = e.once(work)
		}
	}
	if err == nil || isVerdict(err) {
		return out, err
	}
	if verdict := e.decided(what, err); verdict != nil {
		return nil, verdict
	}
	if err := e.ask(what, err); err != nil {
		return nil, err
	}
	if c := classify(err); c == classDevice || c == classSession {
		whenWell = hsm.ErrUnavailable // it cannot be the input
	}
	return nil, e.errorf(whenWell, "%s failed (%s), though the token is well", what, code(err))
}

// mend does what a return code asks for before a second try, and says whether to make one.
func (e *engine) mend(what string, age uint64, err error) (again bool, mendErr error) {
	switch classify(err) {
	case classSession:
		return true, e.rebuild(age)
	case classDevice:
		return true, e.ask(what, err)
	case classBusy:
		return true, nil
	}
	return false, nil
}

// ask has the canary decide whether the token is well after an error that does not say.
func (e *engine) ask(what string, err error) error {
	checkErr := e.check()
	if checkErr == nil || !errors.Is(checkErr, hsm.ErrUnavailable) {
		return checkErr
	}
	return e.errorf(hsm.ErrUnavailable, "%s failed (%s), and so did a check of the token: see that the HSM is connected and its service runs", what, code(err))
}

// once gives the session back when work went well or came to a verdict of its own, and closes it otherwise.
func (e *engine) once(work func(*session) ([][]byte, error)) ([][]byte, uint64, error) {
	age := e.age.Load()
	s, err := e.take()
	if err != nil {
		return nil, age, err
	}
	out, err := work(s)
	if err == nil || isVerdict(err) {
		e.give(s)
	} else {
		e.drop(s)
	}
	return out, s.age, err
}

func isVerdict(err error) bool {
	var v *verdict
	return errors.As(err, &v)
}
