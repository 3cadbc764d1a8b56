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

// keys are the keys that a token was seen to have: by name, with the fingerprint of the public half. It is zero where there
// is no public half, or where nobody has seen it yet.
type keys map[string]hsm.Fingerprint

// encode gives a line for each key: its name, and its fingerprint after a tab.
func (k keys) encode() []byte {
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(k)) {
		lines.WriteString(name + "\t" + k[name].String() + "\n")
	}
	return []byte(lines.String())
}

// decodeKeys reads what encode gives, or says errFrame.
func decodeKeys(text []byte) (keys, error) {
	found := keys{}
	for line := range strings.Lines(string(text)) {
		name, digits, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		fp, err := hsm.ParseFingerprint(digits)
		if !ok || err != nil {
			return nil, errFrame
		}
		found[name] = fp
	}
	return found, nil
}

// lookUp finds a key on the token itself, and not by a handle of before, and says which key it is.
func (e *engine) lookUp(s *session, name string) (p11.ObjectHandle, hsm.Fingerprint, error) {
	switch id, isKEK := strings.CutPrefix(name, "kek "); {
	case isKEK:
		raw, err := hex.DecodeString(id)
		if err != nil {
			return 0, hsm.Fingerprint{}, e.errorf(hsm.ErrBadInput, "%q is no key's name", name)
		}
		key, err := e.findOne(s, "KEK "+id, kekSearch(raw)...)
		return key, hsm.Fingerprint{}, err
	case name == nodeLabel:
		return e.findNodeKey(s)
	case name == transportLabel:
		return e.findTransport(s)
	}
	fp, err := hsm.ParseFingerprint(name)
	if err != nil {
		return 0, fp, e.errorf(hsm.ErrBadInput, "%q is no key's name", name)
	}
	key, err := e.findRootKey(s, fp)
	return key, fp, err
}

// heed learns from a look-up, or from a key that was made. An empty look-up of a key that the token is known to have had is
// no answer, but a token that is gone, emptied or exchanged, and so is another key of that name. Nothing is made in such a
// key's place, and the module process is given up: some modules, once they have lost sight of their token, find it again
// only when they are started anew.
func (e *engine) heed(name string, fp hsm.Fingerprint, err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	had, known := e.known[name]
	switch {
	case err == nil && known && had != hsm.Fingerprint{} && fp != had:
		return e.errorf(hsm.ErrUnavailable, "a key is another one than it was (%s was %s, and is %s): put the token back as it was, or restore it from the HSM's backup", name, had, fp)
	case err == nil && !e.destroyed[name]:
		e.known[name] = fp
	case known && isNotFound(err):
		return e.errorf(hsm.ErrUnavailable, "a key that it had is gone (%s): put the token back as it was, or restore it from the HSM's backup", name)
	}
	return err
}

// missing judges an empty look-up of a key that is not known: it is an answer only while the known keys are there.
func (e *engine) missing(s *session, notFound error) error {
	if err := e.present(s); err != nil {
		return err
	}
	return notFound
}

// present looks for every key that the token is known to have had.
func (e *engine) present(s *session) error {
	e.mu.Lock()
	names := slices.Sorted(maps.Keys(e.known))
	e.mu.Unlock()
	for _, name := range names {
		_, fp, err := e.lookUp(s, name)
		if err := e.heed(name, fp, err); err != nil {
			return err
		}
	}
	return nil
}

// presentNow is present on the session reserved for health.
func (e *engine) presentNow() (age uint64, err error) {
	e.canary.mu.Lock()
	defer e.canary.mu.Unlock()
	if e.canary.session == nil {
		return e.age.Load(), p11.Error(p11.CKR_SESSION_CLOSED)
	}
	return e.canary.session.age, e.present(e.canary.session)
}

// health is a canary decrypt, and a look for the keys: a module may go on working from memory when its token is gone.
func (e *engine) health() error {
	if err := e.check(); err != nil {
		return err
	}
	age, err := e.presentNow()
	if err != nil && (classify(err) == classSession || classify(err) == classBusy) {
		if err := e.rebuild(age); err != nil {
			return err
		}
		_, err = e.presentNow()
	}
	if err == nil || isVerdict(err) {
		return err
	}
	return e.errorf(hsm.ErrUnavailable, "looking for its keys failed (%s): see that the HSM is connected and its service runs", code(err))
}

// known is the daemon's side: the keys that the token was seen to have. It outlives module processes.
type known struct {
	mu        sync.Mutex
	keys      keys
	destroyed map[string]bool // at their owner's word: a call that was under way does not make them known again
}

func newKnown(established bool) *known {
	k := &known{keys: keys{}, destroyed: map[string]bool{}}
	if established {
		k.keys[nodeLabel] = hsm.Fingerprint{}
	}
	return k
}

// list gives the keys, for a module process that starts.
func (k *known) list() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys.encode()
}

// before forgets a key that is about to be destroyed, whatever becomes of the attempt.
func (k *known) before(op operation, in [][]byte) {
	if op != opDestroyRoot {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	name := hsm.Fingerprint(in[0]).String()
	k.destroyed[name] = true
	delete(k.keys, name)
}

// after learns from an operation that went well.
func (k *known) after(op operation, in, out [][]byte) {
	name, fp := seen(op, in, out)
	k.mu.Lock()
	defer k.mu.Unlock()
	if name != "" && !k.destroyed[name] {
		k.keys[name] = fp
	}
}

// seen names the key that an operation showed to be there; "" for none.
func seen(op operation, in, out [][]byte) (name string, fp hsm.Fingerprint) {
	switch op {
	case opFindRoot, opDecrypt:
		fp = hsm.Fingerprint(in[0])
		return fp.String(), fp
	case opCreateRoot, opNodeKey, opTransport:
		if len(out) != 1 {
			return "", fp
		}
		fp = sha256.Sum256(out[0])
		return map[operation]string{opCreateRoot: fp.String(), opNodeKey: nodeLabel, opTransport: transportLabel}[op], fp
	case opCreateKEK, opExportKEK, opImportKEK, opGenerate, opSignWrapped:
		return kekName(in[0]), fp
	case opHasKEK:
		if len(out) == 1 && string(out[0]) == "\x01" {
			return kekName(in[0]), fp
		}
	}
	return "", fp
}
