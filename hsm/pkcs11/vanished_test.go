package pkcs11_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warder/hsm"
	"warder/hsm/pkcs11"
)

// working is an open token with a key of every kind, and what it said of them.
type working struct {
	hsm.Token
	folder string // of the tokens
	config pkcs11.Config
	root   hsm.RootKey
	node   hsm.Signer
	kek    hsm.KEKID
	device hsm.WrappedKey
}

func newWorking(t *testing.T) *working {
	t.Helper()
	w := &working{config: softToken(t), kek: hsm.KEKID{1}}
	w.folder = filepath.Join(filepath.Dir(strings.TrimPrefix(w.config.Env[0], softHSMConf)), "tokens")
	w.Token = open(t, w.config)
	var errs [4]error
	w.root, errs[0] = w.CreateRootKey(t.Context(), "root")
	w.node, errs[1] = w.NodeKey(t.Context())
	errs[2] = w.CreateKEK(t.Context(), w.kek)
	w.device, errs[3] = w.GenerateWrapped(t.Context(), w.kek, hsm.ECDSAP256SHA256)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	if err := w.works(t); err != nil {
		t.Fatal(err)
	}
	return w
}

// works uses every key.
func (w *working) works(t *testing.T) error {
	t.Helper()
	digest := sha256.Sum256([]byte("text"))
	sealed, err := hsm.EncryptOAEP(w.root.Public(), w.root.Hash(), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	_, decryptErr := w.root.Decrypt(t.Context(), sealed)
	_, nodeErr := w.node.Sign(t.Context(), digest[:])
	_, deviceErr := w.SignWrapped(t.Context(), w.kek, w.device, digest[:])
	return errors.Join(w.Check(t.Context()), decryptErr, nodeErr, deviceErr)
}

func (w *working) eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-time.After(20 * time.Millisecond): // another process: there is nothing to wait on
		}
	}
}

// moveKeys takes the files of the token's keys away, and not the token; or puts them back.
func (w *working) moveKeys(t *testing.T, from, to string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.folder, "*", "*.object"+from))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if base := filepath.Base(file); base != "token.object" {
			w.move(t, file, strings.TrimSuffix(file, from)+to)
		}
	}
}

func (w *working) move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestVanishedToken takes a token, or its keys, away under a running node and puts them back: the token says that it is
// not well and names itself, makes nothing in place of what is gone, and works with the keys of before when all is back.
func TestVanishedToken(t *testing.T) {
	w := newWorking(t)
	for name, fault := range map[string]struct{ strike, mend func() }{
		"the token": {
			func() { w.move(t, w.folder, w.folder+".away") },
			func() { w.move(t, w.folder+".away", w.folder) },
		},
		"the token, its folder stays": {
			func() { w.move(t, w.folder, w.folder+".away"); _ = os.Mkdir(w.folder, 0o700) },
			func() { _ = os.Remove(w.folder); w.move(t, w.folder+".away", w.folder) },
		},
		"its keys": {
			func() { w.moveKeys(t, "", ".away") },
			func() { w.moveKeys(t, ".away", "") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			fault.strike()
			var said error
			w.eventually(t, "it says that it is not well", func() bool { said = w.Check(t.Context()); return said != nil })
			if !strings.Contains(said.Error(), label) || !strings.Contains(said.Error(), w.config.Module) {
				t.Errorf("which token: %v", said)
			}
			for range 3 {
				_, nodeErr := w.NodeKey(t.Context())
				_, transportErr := w.TransportKey(t.Context())
				has, kekErr := w.HasKEK(t.Context(), w.kek)
				createErr := w.CreateKEK(t.Context(), w.kek)
				for _, err := range []error{nodeErr, transportErr, kekErr, createErr, w.works(t)} {
					if !errors.Is(err, hsm.ErrUnavailable) && !errors.Is(err, hsm.ErrTokenMissing) || has {
						t.Errorf("of a token that is gone: %v, has a KEK: %v; want %v", err, has, hsm.ErrUnavailable)
					}
				}
			}
			fault.mend()
			w.eventually(t, "it works again", func() bool { return w.works(t) == nil })
			node, err := w.NodeKey(t.Context())
			if err != nil || node.Fingerprint() != w.node.Fingerprint() {
				t.Errorf("another node key than before: %v", err)
			}
		})
	}
}

// TestADeletedKeyIsNoticed destroys one key after the other by another process.
func TestADeletedKeyIsNoticed(t *testing.T) {
	w := newWorking(t)
	other := open(t, w.config)
	if err := other.DestroyKey(t.Context(), w.root.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "it says so", func() bool { return w.Check(t.Context()) != nil })
	said := w.Check(t.Context())
	w.eventually(t, "it names the key", func() bool {
		said = w.Check(t.Context())
		return strings.Contains(said.Error(), w.root.Fingerprint().String())
	})
	if !errors.Is(said, hsm.ErrUnavailable) {
		t.Errorf("%v; want %v", said, hsm.ErrUnavailable)
	}
}

// TestAnExchangedTokenIsRefused puts a token of the same label and PIN in the place of the one that is gone: it is another
// one, and gets no PIN and no keys.
func TestAnExchangedTokenIsRefused(t *testing.T) {
	w := newWorking(t)
	w.move(t, w.folder, w.folder+".away")
	if err := os.Mkdir(w.folder, 0o700); err != nil {
		t.Fatal(err)
	}
	initToken(t, w.config.Env[0], label)
	var said error
	w.eventually(t, "it says that it is not well", func() bool { said = w.works(t); return said != nil })
	if _, err := w.NodeKey(t.Context()); err == nil {
		t.Error("a token that is another one was used")
	}
	if objects, err := filepath.Glob(filepath.Join(w.folder, "*", "*.object")); err != nil || len(objects) != 1 {
		t.Errorf("keys were made in another token: %v, %v", objects, err)
	}
}

// TestAMembersTokenHasANodeKey opens an empty token for a node that is a member.
func TestAMembersTokenHasANodeKey(t *testing.T) {
	config := softToken(t)
	config.Established = true
	token, err := pkcs11.Open(t.Context(), config)
	if !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "warder-node") {
		t.Errorf("%v, %v; want %v that names the node key", token, err, hsm.ErrUnavailable)
	}
	config.Established = false
	fresh := open(t, config)
	if _, err := fresh.NodeKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	config.Established = true
	open(t, config)
}
