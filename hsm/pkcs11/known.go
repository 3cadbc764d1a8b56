package pkcs11

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"warder/hsm"
)

// A key's name, between the daemon and the module process: nodeLabel, transportLabel, a root key's fingerprint, or kekName.
func kekName(id []byte) string { return "kek " + hex.EncodeToString(id) }

// lookUp finds a key on the token itself, and not by a handle of before.
func (e *engine) lookUp(s *session, name string) (p11.ObjectHandle, error) {
	switch id, isKEK := strings.CutPrefix(name, "kek "); {
	case isKEK:
		raw, err := hex.DecodeString(id)
		if err != nil {
			return 0, e.errorf(hsm.ErrBadInput, "%q is no key's name", name)
		}
		return e.findOne(s, "KEK "+id, kekSearch(raw)...)
	case name == nodeLabel:
		return e.findOne(s, "node key", nodeSearch(p11.CKO_PRIVATE_KEY)...)
	case name == transportLabel:
		return e.findOne(s, "transport key", transportSearch()...)
	}
	fp, err := hsm.ParseFingerprint(name)
	if err != nil {
		return 0, e.errorf(hsm.ErrBadInput, "%q is no key's name", name)
	}
	return e.findRootKey(s, fp)
}

// heed makes an empty look-up of a key that the token is known to have had what it is: not an answer, but a token that is
// gone, emptied or exchanged. Nothing is made in such a key's place, and the module process is given up: some modules,
// once they have lost sight of their token, find it again only when they are started anew.
func (e *engine) heed(name string, err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		e.known[name] = struct{}{}
	}
	if _, had := e.known[name]; !had || !isNotFound(err) {
		return err
	}
	return e.errorf(hsm.ErrUnavailable, "a key that it had is gone (%s): put the token back as it was, or restore it from the HSM's backup", name)
}

// present looks for every key that the token is known to have had.
func (e *engine) present() error {
	e.canary.mu.Lock()
	defer e.canary.mu.Unlock()
	e.mu.Lock()
	names := slices.Sorted(maps.Keys(e.known))
	e.mu.Unlock()
	for _, name := range names {
		if e.canary.session == nil {
			return p11.Error(p11.CKR_SESSION_CLOSED)
		}
		if _, err := e.lookUp(e.canary.session, name); err != nil {
			return e.heed(name, err)
		}
	}
	return nil
}

// health is a canary decrypt, and a look for the keys: a module may go on working from memory when its token is gone.
func (e *engine) health() error {
	if err := e.check(); err != nil {
		return err
	}
	err := e.present()
	if err == nil || isVerdict(err) {
		return err
	}
	return e.errorf(hsm.ErrUnavailable, "looking for its keys failed (%s): see that the HSM is connected and its service runs", code(err))
}

// known is the daemon's side: the names of the keys that the token was seen to have. It outlives module processes.
type known struct {
	mu    sync.Mutex
	names map[string]struct{}
}

// list gives the names, for a module process that starts.
func (k *known) list() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return []byte(strings.Join(slices.Sorted(maps.Keys(k.names)), "\n"))
}

// before forgets a key that is about to be destroyed, whatever becomes of the attempt.
func (k *known) before(op operation, in [][]byte) {
	if op != opDestroyRoot {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.names, hsm.Fingerprint(in[0]).String())
}

// after learns from an operation that went well.
func (k *known) after(op operation, in, out [][]byte) {
	name := ""
	switch op {
	case opFindRoot, opDecrypt:
		name = hsm.Fingerprint(in[0]).String()
	case opCreateRoot:
		if len(out) != 1 {
			return
		}
		name = hsm.Fingerprint(sha256.Sum256(out[0])).String()
	case opNodeKey, opSign:
		name = nodeLabel
	case opTransport:
		name = transportLabel
	case opCreateKEK, opExportKEK, opImportKEK, opGenerate, opSignWrapped:
		name = kekName(in[0])
	case opHasKEK:
		if len(out) == 1 && string(out[0]) == "\x01" {
			name = kekName(in[0])
		}
	}
	if name == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.names[name] = struct{}{}
}
