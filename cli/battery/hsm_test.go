//go:build battery

package battery_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
	"warder/cli/battery/town"
	"warder/cli/battery/work"
)

// ward is a town on SoftHSM tokens with a device key in their custody.
type ward struct {
	*town.Town
	hsm    *town.SoftHSM
	public *ecdsa.PublicKey
}

func newWard(t *testing.T) *ward {
	t.Helper()
	w := &ward{hsm: town.NewSoftHSM(t)}
	w.Town = town.New(t, town.Plan{Config: w.hsm.Config})
	made, err := w.Client.Keys.CreateKey(t.Context(), &warderv1.CreateKeyRequest{
		Namespace: "plant", Name: "meter", Algorithm: warderv1.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256, Custody: warderv1.KeyCustody_KEY_CUSTODY_HSM,
		Purpose: warderv1.KeyPurpose_KEY_PURPOSE_TELEMETRY, Owner: &warderv1.Principal{Kind: warderv1.PrincipalKind_PRINCIPAL_KIND_DEVICE, Namespace: "plant", Name: "meter"},
	})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKIXPublicKey(made.GetKey().GetVersions()[0].GetPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	w.public = parsed.(*ecdsa.PublicKey)
	for _, n := range w.Nodes {
		w.signs(t, n, w.Dial(t, n))
	}
	return w
}

// sign has a digest signed by the key in custody, at one node.
func (w *ward) sign(t *testing.T, one *client.Client) error {
	digest := sha256.Sum256([]byte("a measurement"))
	answer, err := one.Keys.SignWithKey(t.Context(), &warderv1.SignWithKeyRequest{
		Namespace: "plant", Name: "meter", Algorithm: warderv1.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256, Input: &warderv1.SignWithKeyRequest_Digest{Digest: digest[:]},
	})
	if err == nil && !ecdsa.VerifyASN1(w.public, digest[:], answer.GetSignature()) {
		t.Error("a signature does not verify: the key is another one")
	}
	return err
}

func (w *ward) signs(t *testing.T, n *town.Node, one *client.Client) {
	t.Helper()
	town.Eventually(t, "node "+n.ID+" signs in its HSM", time.Minute, func() error { return w.sign(t, one) })
}

// problem is what a node says of itself; empty when nothing is wrong.
func problem(t *testing.T, one *client.Client) (string, error) {
	status, err := one.System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
	return strings.Join(status.GetProblems(), "; "), err
}

// identity is the key that a node's HSM holds for it: no fault may change it.
func identity(t *testing.T, one *client.Client) string {
	t.Helper()
	status, err := one.System.GetStatus(t.Context(), &warderv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return status.GetHsm().GetNodeKeyFingerprint()
}

// fault is one thing that happens to one node's HSM.
type fault struct {
	name      string
	strike    func(t *testing.T, w *ward, n *town.Node)
	mend      func(t *testing.T, w *ward, n *town.Node)
	lasts     time.Duration
	unnoticed bool // it may be over before anybody looks
}

// faults are the ones of the short form first.
func faults() []fault {
	mended := func(t *testing.T, w *ward, n *town.Node) { w.hsm.Fail(t, n) }
	every := func(what string) func(t *testing.T, w *ward, n *town.Node) {
		return func(t *testing.T, w *ward, n *town.Node) {
			var lines []string
			for _, function := range []string{"C_Initialize", "C_OpenSession", "C_FindObjectsInit", "C_Decrypt", "C_DecryptInit", "C_SignInit", "C_Sign", "C_UnwrapKey"} {
				lines = append(lines, function+" "+what)
			}
			w.hsm.Fail(t, n, lines...)
		}
	}
	moveTokens := func(from, to string) func(t *testing.T, w *ward, n *town.Node) {
		return func(t *testing.T, w *ward, n *town.Node) {
			if err := os.Rename(w.hsm.Tokens(n)+from, w.hsm.Tokens(n)+to); err != nil {
				t.Fatal(err)
			}
		}
	}
	return []fault{
		{"the module is killed", func(t *testing.T, w *ward, n *town.Node) { w.hsm.KillModule(t, n) }, mended, 0, true},
		{"the token is taken away", moveTokens("", ".away"), moveTokens(".away", ""), 12 * time.Second, false},
		{"the module hangs", every("hang 0"), mended, time.Minute, false},
		{"the token says that it has an error", every("rv 0x30"), mended, 8 * time.Second, false}, // CKR_DEVICE_ERROR
		{"every session is lost again and again", func(t *testing.T, w *ward, n *town.Node) {
			w.hsm.Fail(t, n, "C_DecryptInit drop 0", "C_SignInit drop 0")
		}, mended, 5 * time.Second, true},
		{"the keys are deleted", moveObjects("", ".gone"), moveObjects(".gone", ""), 12 * time.Second, false},
	}
}

// moveObjects deletes a token's keys but not the token, by renaming their files, or puts them back.
func moveObjects(from, to string) func(t *testing.T, w *ward, n *town.Node) {
	return func(t *testing.T, w *ward, n *town.Node) {
		files, err := filepath.Glob(filepath.Join(w.hsm.Tokens(n), "*", "*.object"+from))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasPrefix(filepath.Base(file), "token.object") {
				continue
			}
			if err := os.Rename(file, strings.TrimSuffix(file, from)+to); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestHSM does to one node's HSM what happens to HSMs, callers at work. The cluster goes on; the others sign in theirs;
// the node says what is wrong with which token; it signs again when the HSM is back, with the same keys, and was not
// restarted.
func TestHSM(t *testing.T) {
	all := faults()
	if testing.Short() {
		all = all[:2]
	}
	w := newWard(t)
	crew := work.Start(t, w.Town)
	for i, fault := range all {
		t.Run(fault.name, func(t *testing.T) {
			victim := w.Nodes[i%len(w.Nodes)]
			if i%2 == 0 {
				victim = w.Leader(t)
			}
			w.suffer(t, victim, fault, crew)
		})
	}
	crew.Finish(t)
}

func (w *ward) suffer(t *testing.T, victim *town.Node, fault fault, crew *work.Crew) {
	t.Helper()
	one := w.Dial(t, victim)
	before := identity(t, one)
	fault.strike(t, w, victim)
	if !fault.unnoticed {
		w.named(t, victim, one)
	}
	for _, n := range w.Others(victim) {
		w.signs(t, n, w.Dial(t, n))
	}
	crew.Await(t, 20)
	town.Pass(t, fault.lasts)
	if err := victim.Ended(); err != nil {
		t.Fatalf("the node did not bear it: %v", err)
	}
	fault.mend(t, w, victim)
	w.Ready(t, victim)
	w.signs(t, victim, one)
	if after := identity(t, one); after != before {
		t.Errorf("the node has other keys than before: %s, then %s", before, after)
	}
}

// named waits until the node says what is wrong with which token, and holds its refusals to it.
func (w *ward) named(t *testing.T, n *town.Node, one *client.Client) {
	t.Helper()
	town.Eventually(t, "node "+n.ID+" names its HSM's fault", time.Minute, func() error {
		said, err := problem(t, one)
		if err == nil && (!strings.Contains(said, w.hsm.Module()) || !strings.Contains(said, w.hsm.Label(n))) {
			err = fmt.Errorf("it says %q", said)
		}
		return err
	})
	if err := w.sign(t, one); client.Reason(err) != warderv1.Reason_REASON_HSM_UNAVAILABLE {
		t.Errorf("signing in an HSM that is gone: %v; want HSM_UNAVAILABLE", err)
	}
}

// TestHSMWrongPIN starts a node with a PIN that its token refuses: one attempt and no more, the node stays sealed and says
// so, and an operator at its socket unseals it with the right one.
func TestHSMWrongPIN(t *testing.T) {
	w := newWard(t)
	crew := work.Start(t, w.Town)
	victim := w.Nodes[2]
	victim.Stop()
	w.hsm.SetPIN(t, victim, town.WrongPIN)
	before := w.hsm.Calls(t, victim, "C_Login")
	victim.Start(t)
	said := ""
	town.Eventually(t, "the node names the refused PIN", time.Minute, func() error {
		out, err := w.Try("operator", "status", "--socket", victim.Socket())
		if said = out; err == nil && !strings.Contains(out, "PIN") {
			err = errors.New(out)
		}
		return err
	})
	crew.Await(t, 50)
	town.Pass(t, 12*time.Second) // two rounds of the health check, and more of the seal's
	if count := w.hsm.Calls(t, victim, "C_Login") - before; count != 1 {
		t.Errorf("%d attempts with a PIN that was refused; want 1", count)
	}
	if !strings.Contains(said, w.hsm.Label(victim)) || !strings.Contains(said, "unseal") {
		t.Errorf("it does not say what to do with which token: %s", said)
	}
	w.hsm.SetPIN(t, victim, "")
	w.Warder(t, "operator", "unseal", "--socket", victim.Socket())
	w.Ready(t, victim)
	w.signs(t, victim, w.Dial(t, victim))
	crew.Finish(t)
}

// TestHSMFullToken rotates root keys while one token has no room: the rotation does not go on, the node says why, nothing
// is lost, and it goes on when there is room.
func TestHSMFullToken(t *testing.T) {
	w := newWard(t)
	crew := work.Start(t, w.Town)
	victim := w.Nodes[1]
	one := w.Dial(t, victim)
	w.hsm.Fail(t, victim, "C_GenerateKeyPair rv 0x31") // CKR_DEVICE_MEMORY
	rotated := make(chan error, 1)
	go func() {
		_, err := w.Try("operator", "rotate", "root", "--yes", "--timeout", "3m")
		rotated <- err
	}()
	town.Eventually(t, "the node says that its token is full", time.Minute, func() error {
		if !strings.Contains(victim.Log(), "full") && !strings.Contains(victim.Log(), "room") {
			return errors.New(victim.Log())
		}
		return nil
	})
	crew.Await(t, 50)
	w.signs(t, victim, one)
	w.hsm.Fail(t, victim)
	if err := <-rotated; err != nil {
		t.Errorf("the rotation did not go on when there was room: %v", err)
	}
	crew.Finish(t)
}
