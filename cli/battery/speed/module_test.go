//go:build battery

package speed_test

import (
	"encoding/asn1"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"warder/cli/battery/town"
)

// bareModule is the PKCS#11 module by itself: sessions that each have a P-256 key, and sign over and over.
type bareModule struct {
	ctx      *p11.Ctx
	sessions []p11.SessionHandle
	keys     []p11.ObjectHandle
}

// openModule loads the module into this process, on a token of its own.
func openModule(t testing.TB, softHSM *town.SoftHSM, sessions int) *bareModule {
	t.Helper()
	n := &town.Node{ID: "floor", Dir: t.TempDir()}
	softHSM.Config(t, n)
	for _, variable := range n.Env {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	pin, err := os.ReadFile(filepath.Join(n.Dir, "pin"))
	if err != nil {
		t.Fatal(err)
	}
	m := &bareModule{ctx: p11.New(softHSM.Module())}
	if m.ctx == nil {
		t.Fatalf("%s cannot be loaded", softHSM.Module())
	}
	if err := m.open(string(pin), sessions); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.ctx.Finalize(); m.ctx.Destroy() })
	return m
}

func (m *bareModule) open(pin string, sessions int) error {
	if err := m.ctx.Initialize(); err != nil {
		return err
	}
	slots, err := m.ctx.GetSlotList(true)
	if err != nil || len(slots) == 0 {
		return errors.Join(errors.New("no token"), err)
	}
	for i := range sessions {
		session, err := m.ctx.OpenSession(slots[0], p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		if err == nil && i == 0 {
			err = m.ctx.Login(session, p11.CKU_USER, pin)
		}
		if err != nil {
			return err
		}
		key, err := m.newKey(session)
		if err != nil {
			return err
		}
		m.sessions, m.keys = append(m.sessions, session), append(m.keys, key)
	}
	return nil
}

func (m *bareModule) newKey(session p11.SessionHandle) (p11.ObjectHandle, error) {
	curve, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	if err != nil {
		return 0, err
	}
	_, key, err := m.ctx.GenerateKeyPair(session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*p11.Attribute{p11.NewAttribute(p11.CKA_EC_PARAMS, curve), p11.NewAttribute(p11.CKA_TOKEN, false)},
		[]*p11.Attribute{p11.NewAttribute(p11.CKA_SIGN, true), p11.NewAttribute(p11.CKA_TOKEN, false)})
	return key, err
}

// floorM is how many signatures a second the module makes in all its sessions together, with nothing around it.
func (m *bareModule) floorM(t testing.TB, long time.Duration) float64 {
	t.Helper()
	var count atomic.Int64
	var signers sync.WaitGroup
	digest, began := make([]byte, 32), time.Now()
	for i, session := range m.sessions {
		signers.Go(func() {
			for time.Since(began) < long {
				err := m.ctx.SignInit(session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}, m.keys[i])
				if err == nil {
					_, err = m.ctx.Sign(session, digest)
				}
				if err != nil {
					t.Error(err)
					return
				}
				count.Add(1)
			}
		})
	}
	signers.Wait()
	return float64(count.Load()) / time.Since(began).Seconds()
}
