package hsmtest

import (
	"context"
	"crypto/rsa"
	"fmt"
	"sync"
	"testing"

	"warder/hsm"
	"warder/hsm/softtoken"
)

// Fault is what a [Fake] does to one kind of call. Both ways to fail are there: "not done, and said so" (Err), and
// "done, but said failed" (Err and Done). Hang waits until the caller's context ends, and gives ErrTimeout.
type Fault struct {
	Err  error
	Done bool
	Hang bool
	Left int // how many calls it strikes; 0 is every one
}

// Fake is a token in memory whose calls can be made to fail, and that counts them. Faults go by the method's name:
// "Check", "CreateRootKey", "Decrypt", "SignWrapped" and so on.
type Fake struct {
	token hsm.Token

	mu     sync.Mutex // guards what follows
	faults map[string]Fault
	calls  map[string]int
}

var _ hsm.Token = (*Fake)(nil)

// NewFake gives a fake that works, until it is told not to. It is closed with the test.
func NewFake(t testing.TB) *Fake {
	t.Helper()
	token, err := softtoken.Open("")
	if err != nil {
		t.Fatalf("opening the fake's token: %v", err)
	}
	f := &Fake{token: token, faults: map[string]Fault{}, calls: map[string]int{}}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// Fail sets the fault of a method, in place of the one it had.
func (f *Fake) Fail(method string, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[method] = fault
}

// Mend takes every fault away.
func (f *Fake) Mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.faults)
}

// Calls says how often a method was called.
func (f *Fake) Calls(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

func (f *Fake) strike(method string) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	fault, ok := f.faults[method]
	if !ok {
		return Fault{}, false
	}
	if fault.Left == 1 {
		delete(f.faults, method)
	} else if fault.Left > 1 {
		fault.Left--
		f.faults[method] = fault
	}
	return fault, true
}

// run does one call with its fault.
func run[T any](ctx context.Context, f *Fake, method string, call func() (T, error)) (T, error) {
	var none T
	fault, struck := f.strike(method)
	if !struck {
		return call()
	}
	if fault.Hang {
		<-ctx.Done()
		return none, fmt.Errorf("%w: fake %s: %w", hsm.ErrTimeout, method, ctx.Err())
	}
	if fault.Done {
		if _, err := call(); err != nil {
			return none, err
		}
	}
	return none, fmt.Errorf("fake %s: %w", method, fault.Err)
}

func (f *Fake) do(ctx context.Context, method string, call func() error) error {
	_, err := run(ctx, f, method, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (f *Fake) Info() hsm.Info {
	i := f.token.Info()
	i.Module = "fake"
	return i
}

func (f *Fake) Check(ctx context.Context) error {
	return f.do(ctx, "Check", func() error { return f.token.Check(ctx) })
}

func (f *Fake) CreateRootKey(ctx context.Context, label string) (hsm.RootKey, error) {
	return run(ctx, f, "CreateRootKey", func() (hsm.RootKey, error) {
		k, err := f.token.CreateRootKey(ctx, label)
		return f.root(k), err
	})
}

func (f *Fake) RootKey(ctx context.Context, fp hsm.Fingerprint) (hsm.RootKey, error) {
	return run(ctx, f, "RootKey", func() (hsm.RootKey, error) {
		k, err := f.token.RootKey(ctx, fp)
		return f.root(k), err
	})
}

func (f *Fake) DestroyKey(ctx context.Context, fp hsm.Fingerprint) error {
	return f.do(ctx, "DestroyKey", func() error { return f.token.DestroyKey(ctx, fp) })
}

func (f *Fake) NodeKey(ctx context.Context) (hsm.Signer, error) {
	return run(ctx, f, "NodeKey", func() (hsm.Signer, error) {
		s, err := f.token.NodeKey(ctx)
		if err != nil {
			return nil, err
		}
		return &fakeSigner{Signer: s, fake: f}, nil
	})
}

func (f *Fake) CreateKEK(ctx context.Context, id hsm.KEKID) error {
	return f.do(ctx, "CreateKEK", func() error { return f.token.CreateKEK(ctx, id) })
}

func (f *Fake) TransportKey(ctx context.Context) (*rsa.PublicKey, error) {
	return run(ctx, f, "TransportKey", func() (*rsa.PublicKey, error) { return f.token.TransportKey(ctx) })
}

func (f *Fake) ExportKEK(ctx context.Context, id hsm.KEKID, to *rsa.PublicKey) ([]byte, error) {
	return run(ctx, f, "ExportKEK", func() ([]byte, error) { return f.token.ExportKEK(ctx, id, to) })
}

func (f *Fake) ImportKEK(ctx context.Context, id hsm.KEKID, wrapped []byte) error {
	return f.do(ctx, "ImportKEK", func() error { return f.token.ImportKEK(ctx, id, wrapped) })
}

func (f *Fake) HasKEK(ctx context.Context, id hsm.KEKID) (bool, error) {
	return run(ctx, f, "HasKEK", func() (bool, error) { return f.token.HasKEK(ctx, id) })
}

func (f *Fake) GenerateWrapped(ctx context.Context, id hsm.KEKID, alg hsm.Algorithm) (hsm.WrappedKey, error) {
	return run(ctx, f, "GenerateWrapped", func() (hsm.WrappedKey, error) { return f.token.GenerateWrapped(ctx, id, alg) })
}

func (f *Fake) SignWrapped(ctx context.Context, id hsm.KEKID, key hsm.WrappedKey, digest []byte) ([]byte, error) {
	return run(ctx, f, "SignWrapped", func() ([]byte, error) { return f.token.SignWrapped(ctx, id, key, digest) })
}

// Close closes the token below; it has no faults, so that a test always ends clean.
func (f *Fake) Close() error { return f.token.Close() }

func (f *Fake) root(k hsm.RootKey) hsm.RootKey {
	if k == nil {
		return nil
	}
	return &fakeRoot{RootKey: k, fake: f}
}

type fakeRoot struct {
	hsm.RootKey
	fake *Fake
}

func (k *fakeRoot) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	return run(ctx, k.fake, "Decrypt", func() ([]byte, error) { return k.RootKey.Decrypt(ctx, ciphertext) })
}

type fakeSigner struct {
	hsm.Signer
	fake *Fake
}

func (s *fakeSigner) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	return run(ctx, s.fake, "Sign", func() ([]byte, error) { return s.Signer.Sign(ctx, digest) })
}
