package pkcs11_test

import (
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"warder/hsm"
)

// files lists the objects of the tokens in a folder.
func (w *working) files(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.folder, "*", "*.object"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// added gives the objects that do makes.
func (w *working) added(t *testing.T, do func() error) []string {
	t.Helper()
	before := w.files(t)
	if err := do(); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(w.files(t), func(file string) bool { return slices.Contains(before, file) })
}

// TestEachDeletedKeyIsNoticed deletes a key under an open token that just made it, and puts it back: the token names the
// key, makes none in its place, and works again.
func TestEachDeletedKeyIsNoticed(t *testing.T) {
	id := hsm.KEKID{2}
	for what, make := range map[string]func(t *testing.T, w *working) (name string, err error){
		"transport key": func(t *testing.T, w *working) (string, error) {
			_, err := w.TransportKey(t.Context())
			return "warder-transport", err
		},
		"KEK": func(t *testing.T, w *working) (string, error) {
			return "kek " + id.String(), w.CreateKEK(t.Context(), id)
		},
		"imported KEK": func(t *testing.T, w *working) (string, error) {
			return "kek " + id.String(), w.adoptKEK(t, id)
		},
		"root key": func(t *testing.T, w *working) (string, error) {
			root, err := w.CreateRootKey(t.Context(), "another")
			return root.Fingerprint().String(), err
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorking(t)
			var name string
			files := w.added(t, func() (err error) { name, err = make(t, w); return err })
			if len(files) == 0 {
				t.Fatal("no object was made")
			}
			for _, file := range files {
				w.move(t, file, file+".away")
			}
			w.misses(t, name, id)
			for _, file := range files {
				w.move(t, file+".away", file)
			}
			w.eventually(t, "it works again", func() bool { return w.works(t) == nil })
		})
	}
}

// adoptKEK imports a KEK that another token made.
func (w *working) adoptKEK(t *testing.T, id hsm.KEKID) error {
	t.Helper()
	other := open(t, softToken(t))
	to, err := w.TransportKey(t.Context())
	if err != nil {
		return err
	}
	if err := other.CreateKEK(t.Context(), id); err != nil {
		return err
	}
	wrapped, err := other.ExportKEK(t.Context(), id, to)
	if err != nil {
		return err
	}
	return w.ImportKEK(t.Context(), id, wrapped)
}

// misses sees the token miss a key by its name, and make nothing.
func (w *working) misses(t *testing.T, name string, id hsm.KEKID) {
	t.Helper()
	ctx, left := t.Context(), len(w.files(t))
	w.eventually(t, "it names the key", func() bool {
		err := w.Check(ctx)
		return errors.Is(err, hsm.ErrUnavailable) && strings.Contains(err.Error(), name) && strings.Contains(err.Error(), label)
	})
	for range 3 {
		_, transportErr := w.TransportKey(ctx)
		for _, err := range []error{w.Check(ctx), transportErr, w.CreateKEK(ctx, id), w.works(t)} {
			if !errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("got %v, want %v", err, hsm.ErrUnavailable)
			}
		}
	}
	if n := len(w.files(t)); n != left {
		t.Errorf("%d objects were made in the place of a key that is gone", n-left)
	}
}

// TestAnEmptiedTokenAnswersNoLookUp opens a member's token and empties it before anybody asked for more than its node key:
// that nothing is found there means nothing, and nothing is made there.
func TestAnEmptiedTokenAnswersNoLookUp(t *testing.T) {
	for name, ask := range map[string]func(t *testing.T, token hsm.Token) error{
		"transport key": func(t *testing.T, token hsm.Token) error { _, err := token.TransportKey(t.Context()); return err },
		"new KEK":       func(t *testing.T, token hsm.Token) error { return token.CreateKEK(t.Context(), hsm.KEKID{3}) },
		"new root key":  func(t *testing.T, token hsm.Token) error { _, err := token.CreateRootKey(t.Context(), "r"); return err },
		"root key": func(t *testing.T, token hsm.Token) error {
			_, err := token.RootKey(t.Context(), hsm.Fingerprint{1})
			return err
		},
		"KEK": func(t *testing.T, token hsm.Token) error {
			_, err := token.HasKEK(t.Context(), hsm.KEKID{3})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &working{config: softToken(t)}
			w.folder = filepath.Join(filepath.Dir(strings.TrimPrefix(w.config.Env[0], softHSMConf)), "tokens")
			first := open(t, w.config)
			if _, err := first.NodeKey(t.Context()); err != nil {
				t.Fatal(err)
			}
			_ = first.Close()
			w.config.Established = true
			token := open(t, w.config)
			w.moveKeys(t, "", ".away")
			left := w.files(t)
			for range 2 {
				if err := ask(t, token); !errors.Is(err, hsm.ErrUnavailable) {
					t.Errorf("got %v, want %v", err, hsm.ErrUnavailable)
				}
			}
			if now := w.files(t); len(now) != len(left) {
				t.Errorf("%d objects were made", len(now)-len(left))
			}
		})
	}
}

// TestAnotherNodeKeyIsNotAdopted has another process put a node key of its own in the place of the one that was there. The
// token is the same, and its serial number too: so it is after a device was wiped and set up anew.
func TestAnotherNodeKeyIsNotAdopted(t *testing.T) {
	w := &working{config: softToken(t)}
	w.folder = filepath.Join(filepath.Dir(strings.TrimPrefix(w.config.Env[0], softHSMConf)), "tokens")
	w.Token = open(t, w.config)
	node, err := w.NodeKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.moveKeys(t, "", ".away")
	other := open(t, w.config)
	if _, err := other.NodeKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = other.Close()
	w.eventually(t, "it is not well", func() bool { return errors.Is(w.Check(t.Context()), hsm.ErrUnavailable) })
	digest := sha256.Sum256([]byte("text"))
	for range 3 {
		if _, err := node.Sign(t.Context(), digest[:]); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("signing with another key than the node's gave %v", err)
		}
		if _, err := w.NodeKey(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("another node key gave %v", err)
		}
	}
}

// TestADestroyedKeyIsNotMissed destroys a root key while it decrypts, and one that another process destroyed before:
// neither is waited for afterwards.
func TestADestroyedKeyIsNotMissed(t *testing.T) {
	b := newBench(t, newTemplate(t), 20*time.Second)
	b.fail(t, "!C_Decrypt sleep 1500")
	decrypted := make(chan error, 1)
	go func() { decrypted <- b.decrypt(t.Context()) }()
	eventually(t, "the decryption is under way", func() bool { _, err := os.Stat(b.faults); return err != nil })
	if err := b.token.DestroyKey(t.Context(), b.key.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	if err := <-decrypted; err != nil && !errors.Is(err, hsm.ErrKeyNotFound) {
		t.Errorf("decrypting: %v", err)
	}
	for range 3 {
		if err := b.token.Check(t.Context()); err != nil {
			t.Errorf("a key that was destroyed by its owner is missed: %v", err)
		}
	}

	root, err := b.token.CreateRootKey(t.Context(), "next")
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, b.config)
	if err := other.DestroyKey(t.Context(), root.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	if err := b.token.DestroyKey(t.Context(), root.Fingerprint()); !errors.Is(err, hsm.ErrKeyNotFound) {
		t.Errorf("destroying a key that is gone: %v; want %v", err, hsm.ErrKeyNotFound)
	}
	if err := b.token.Check(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// record keeps what the host logs.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) lines(holding string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(strings.Split(r.text.String(), "\n"), func(line string) bool { return !strings.Contains(line, holding) })
}

// absent is a bench whose tokens can be taken away, and whose host is listened to.
func absent(t *testing.T) (*bench, *record) {
	t.Helper()
	tpl := newTemplate(t)
	log := &record{}
	tpl.made.config.Logger = slog.New(slog.NewTextHandler(log, nil))
	b := newBench(t, tpl, 20*time.Second)
	if _, err := b.token.NodeKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b, log
}

func (b *bench) rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestModuleKilledWhileItsTokenIsAway has many callers at a token that is away: new module processes are started one at a
// time with growing pauses, and one is enough when the token is back.
func TestModuleKilledWhileItsTokenIsAway(t *testing.T) {
	b, log := absent(t)
	b.rename(t, b.tokens, b.tokens+".away")
	if err := os.Mkdir(b.tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	started, logins := b.count(t, "C_Initialize"), b.count(t, "C_Login")
	if err := syscall.Kill(childOf(t, os.Getpid()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.crowd(func() {
		for range 50 {
			if err := errors.Join(b.decrypt(t.Context()), b.token.Check(t.Context())); err == nil {
				t.Error("a token that is away worked")
			}
		}
	})
	err := b.token.Check(t.Context())
	for _, part := range []string{b.config.Module, label, "put it back"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "initialise") {
		t.Errorf("it says to initialise a token in the place of one that is away: %v", err)
	}
	given := log.lines("given up")
	for i, line := range given {
		if !strings.Contains(line, "failures="+strconv.Itoa(i+1)+" ") {
			t.Errorf("failure %d is logged as %s: the pauses do not grow", i+1, line)
		}
	}
	if n := b.count(t, "C_Initialize") - started; n > len(given) {
		t.Errorf("%d processes were started for %d failures", n, len(given))
	}
	if n := b.count(t, "C_Login") - logins; n != 0 {
		t.Errorf("%d logins at a token that is away", n)
	}
	if err := os.Remove(b.tokens); err != nil {
		t.Fatal(err)
	}
	b.rename(t, b.tokens+".away", b.tokens)
	ready := len(log.lines("process ready"))
	b.crowd(func() { b.works(t) })
	if n := len(log.lines("process ready")) - ready; n != 1 {
		t.Errorf("%d module processes were started for a token that came back, want 1", n)
	}
}

func (b *bench) crowd(do func()) {
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(do)
	}
	callers.Wait()
}

// TestRefusedPINStaysRefusedWhenTheTokenIsBack: a token comes back with another PIN.
func TestRefusedPINStaysRefusedWhenTheTokenIsBack(t *testing.T) {
	b, _ := absent(t)
	b.rename(t, b.tokens, b.tokens+".away")
	eventually(t, "it is not well", func() bool { return b.token.Check(t.Context()) != nil })
	logins := b.count(t, "C_Login")
	b.fail(t, "C_Login rv 0xa0") // CKR_PIN_INCORRECT
	b.rename(t, b.tokens+".away", b.tokens)
	eventually(t, "the PIN is refused", func() bool { return errors.Is(b.token.Check(t.Context()), hsm.ErrPINRefused) })
	b.fail(t)
	b.crowd(func() {
		for range 5 {
			if err := b.decrypt(t.Context()); !errors.Is(err, hsm.ErrPINRefused) {
				t.Errorf("got %v, want %v", err, hsm.ErrPINRefused)
			}
		}
	})
	if n := b.count(t, "C_Login") - logins; n != 1 {
		t.Errorf("%d login attempts with a PIN that was refused, want 1", n)
	}
}

// TestSessionsLostDuringALook: the sessions go between the canary and the look for the keys. That is mended without a new
// module process.
func TestSessionsLostDuringALook(t *testing.T) {
	b, _ := absent(t)
	started := b.count(t, "C_Initialize")
	for range 3 {
		b.fail(t, "!C_FindObjectsInit drop 0")
		if err := b.token.Check(t.Context()); err != nil {
			t.Errorf("check: %v", err)
		}
		if _, err := os.Stat(b.faults); err == nil {
			t.Error("the fault did not strike")
		}
	}
	if n := b.count(t, "C_Initialize") - started; n != 0 {
		t.Errorf("%d new module processes, want none", n)
	}
}

// TestAnExchangedTokenGetsNoPIN: another token of the same label and PIN stands where the node's was, until that is back.
func TestAnExchangedTokenGetsNoPIN(t *testing.T) {
	b, _ := absent(t)
	serial := b.token.Info().Serial
	b.rename(t, b.tokens, b.tokens+".away")
	if err := os.Mkdir(b.tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	initToken(t, b.config.Env[0], label)
	// The process that had the token open may still try to log in to that one, which it has in memory.
	if err := syscall.Kill(childOf(t, os.Getpid()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	logins := b.count(t, "C_Login")
	var said error
	eventually(t, "it is refused", func() bool {
		said = b.token.Check(t.Context())
		return errors.Is(said, hsm.ErrTokenMissing)
	})
	for _, part := range []string{serial, "another token", label, b.config.Module} {
		if !strings.Contains(said.Error(), part) {
			t.Errorf("%q does not say %q", said, part)
		}
	}
	if n := b.count(t, "C_Login") - logins; n != 0 {
		t.Errorf("%d logins at another token, want none", n)
	}
	if n := b.objects(t); n != 1 {
		t.Errorf("%d objects on the other token, want its own one", n)
	}
	if err := os.RemoveAll(b.tokens); err != nil {
		t.Fatal(err)
	}
	b.rename(t, b.tokens+".away", b.tokens)
	b.works(t)
}
