package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"

	"warder/daemon/config"
	"warder/daemon/seal"
	"warder/hsm"
	"warder/hsm/pkcs11"
	"warder/hsm/softtoken"
)

// hardware is the node's HSM before it is a member: it is opened once, for as many questions as are asked of it, and
// handed over to the member. A PIN that was refused is never tried again, whoever asks.
type hardware struct {
	cfg     config.Config
	program Program
	logger  *slog.Logger

	mu      sync.Mutex
	token   hsm.Token // guarded by mu, and below
	refused map[[sha256.Size]byte]error
}

func newHardware(cfg config.Config, program Program, logger *slog.Logger) *hardware {
	return &hardware{cfg: cfg, program: program, logger: logger, refused: map[[sha256.Size]byte]error{}}
}

// open gives the open token, which stays this hardware's own.
func (h *hardware) open(ctx context.Context) (hsm.Token, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.token != nil {
		return h.token, nil
	}
	token, err := h.login(ctx)
	if err != nil {
		return nil, err
	}
	h.token = token
	return token, nil
}

// take hands the open token over, and opens one where there is none.
func (h *hardware) take(ctx context.Context) (hsm.Token, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if token := h.token; token != nil {
		h.token = nil
		return token, nil
	}
	return h.login(ctx)
}

// login reads the PIN once, and opens the token with it unless that PIN was refused already. A development node has a
// software token instead.
func (h *hardware) login(ctx context.Context) (hsm.Token, error) {
	if h.cfg.Dev {
		return softtoken.Open(filepath.Join(h.cfg.DataDir, "software-token"))
	}
	source, err := hsm.ParsePIN(h.cfg.HSM.PIN)
	if err != nil {
		return nil, err
	}
	pin, err := source(ctx)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(pin)
	if err, known := h.refused[digest]; known {
		clear(pin)
		return nil, err
	}
	_, homeErr := seal.LoadHome(h.cfg.DataDir)
	token, err := pkcs11.Open(ctx, pkcs11.Config{
		Module: h.cfg.HSM.Module, Label: h.cfg.HSM.Label, Serial: h.cfg.HSM.Serial, Sessions: h.cfg.HSM.Sessions,
		Timeout: h.cfg.HSM.Timeout, Init: h.cfg.HSM.InitArgs, Executable: h.program.HSMChild, Logger: h.logger,
		Established: homeErr == nil,
		PIN:         func(context.Context) ([]byte, error) { return pin, nil },
	})
	if errors.Is(err, hsm.ErrPINRefused) || errors.Is(err, hsm.ErrPINLocked) {
		h.refused[digest] = err
	}
	return token, err
}

func (h *hardware) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.token == nil {
		return nil
	}
	token := h.token
	h.token = nil
	return token.Close()
}
