package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"warder/hsm"
)

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
)

// host keeps one child running: it starts it when a call needs it, replaces it when it is gone or ill, waits longer
// after each failure, and never logs in again with a PIN that was refused.
type host struct {
	config Config
	known  *known
	starts sync.WaitGroup // children that start or end

	mu       sync.Mutex // guards what follows
	pin      []byte     // wiped when refused and at close
	latched  error      // refused or locked PIN, or closed: given to every call from then on
	child    *process
	starting *start
	failures int // since the last call that went well
	retryAt  time.Time
	last     error // why the last child was given up
	info     hsm.Info
}

// start is a start that several callers may wait for.
type start struct {
	done  chan struct{}
	child *process
	err   error
}

// get gives the running child, starting one when needed. It fails at once while the host backs off.
func (h *host) get(ctx context.Context) (*process, error) {
	h.mu.Lock()
	if h.latched != nil {
		defer h.mu.Unlock()
		return nil, h.latched
	}
	if h.child != nil && h.child.alive() {
		defer h.mu.Unlock()
		return h.child, nil
	}
	if h.starting == nil {
		if wait := time.Until(h.retryAt); wait > 0 {
			defer h.mu.Unlock()
			return nil, fmt.Errorf("%w: %s: the module process is started again in %s, after: %w", hsm.ErrUnavailable, h.config.name(), wait.Round(10*time.Millisecond), h.last)
		}
		h.starting = &start{done: make(chan struct{})}
		h.starts.Go(func() { h.run(h.starting) })
	}
	s := h.starting
	h.mu.Unlock()
	select {
	case <-s.done:
		return s.child, s.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", h.config.name(), ctx.Err())
	}
}

// run starts a child for all who wait. It does not end with the one caller that happened to come first.
func (h *host) run(s *start) {
	h.mu.Lock()
	pin := append([]byte(nil), h.pin...)
	config := h.config
	if h.info.Serial != "" {
		config.Serial = h.info.Serial // another token of the same label is not ours, and does not get our PIN
	}
	h.mu.Unlock()
	defer clear(pin)
	child, info, err := launch(config, pin, h.known.list())
	h.mu.Lock()
	defer h.mu.Unlock()
	defer close(s.done)
	h.starting = nil
	switch {
	case h.latched != nil: // closed meanwhile
		err = h.latched
	case errors.Is(err, hsm.ErrPINRefused), errors.Is(err, hsm.ErrPINLocked):
		h.latched = err
		clear(h.pin)
		h.config.Logger.Error("hsm login refused; no further attempt is made", "error", err)
	case err != nil:
		h.backOff(err)
	}
	if s.err = err; err != nil {
		if child != nil {
			child.kill()
			<-child.done
		}
		return
	}
	s.child, h.child, h.info = child, child, info
	h.config.Logger.Info("hsm module process ready", "module", h.config.Module, "token", info.Label, "oaep", info.OAEP, "pid", child.cmd.Process.Pid)
}

// launch starts a child and has it open the token.
func launch(c Config, pin, known []byte) (*process, hsm.Info, error) {
	// Here too, so that the plainest mistakes cost no process.
	if err := checkModule(c.Module); err != nil {
		return nil, hsm.Info{}, err
	}
	p, err := startProcess(c)
	if err != nil {
		return nil, hsm.Info{}, err
	}
	in := [][]byte{[]byte(c.Module), []byte(c.Label), []byte(c.Serial), []byte(c.Init), pin, {byte(c.Sessions)}, known}
	out, err := p.call(context.Background(), opOpen, in, slowFactor*c.Timeout, func() {})
	if err == nil && len(out) != 7 {
		err = fmt.Errorf("%w: %s: the module process is of another build", hsm.ErrUnavailable, c.name())
	}
	if err != nil {
		p.kill()
		<-p.done
		return nil, hsm.Info{}, err
	}
	return p, hsm.Info{
		Module: c.Module, Label: string(out[0]), Serial: string(out[1]), Manufacturer: string(out[2]), Model: string(out[3]),
		OAEP: hsm.Hash(out[4]), CustodyCapable: len(out[5]) == 1 && out[5][0] == 1, Detail: string(out[6]),
	}, nil
}

// backOff puts the next start off, twice as long after each failure. Caller holds mu.
func (h *host) backOff(err error) {
	h.failures++
	h.last = err
	wait := time.Duration(0) // the first failure after good work is mended at once
	if h.failures > 1 {
		wait = min(firstBackoff<<min(h.failures-2, 10), lastBackoff)
	}
	h.retryAt = time.Now().Add(wait)
	h.config.Logger.Warn("hsm module process given up", "error", err, "failures", h.failures, "retry_in", wait)
}

// giveUp kills a child that does not work any more, once for all who found out.
func (h *host) giveUp(child *process, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.child != child {
		return
	}
	h.child = nil
	child.kill()
	h.starts.Go(func() { <-child.done })
	h.backOff(err)
}

// worked: the token did what it was asked, or said why not with good reason.
func (h *host) worked() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures = 0
}

// latch ends all work for good.
func (h *host) latch(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.latched == nil {
		h.latched = err
	}
	clear(h.pin)
}

// close ends the child and waits for everything that was started.
func (h *host) close() {
	h.latch(fmt.Errorf("%w: %s was closed", hsm.ErrUnavailable, h.config.name()))
	h.mu.Lock()
	child := h.child
	h.child = nil
	h.mu.Unlock()
	if child != nil {
		child.end()
	}
	h.starts.Wait()
}
