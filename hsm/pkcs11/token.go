package pkcs11

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"warder/hsm"
)

// caller does operations: a host with a child, or an engine in this process.
type caller interface {
	do(ctx context.Context, op operation, in ...[]byte) ([][]byte, error)
	info() hsm.Info
	close()
}

// token is hsm.Token in terms of operations.
type token struct{ module caller }

// Open starts the module process, finds the token, logs in once and finds out by doing what the token can. Its errors
// name the module, the token and what to do: hsm.ErrModuleMissing, ErrTokenMissing, ErrPINRefused, ErrPINLocked,
// ErrMechanism, ErrTimeout, ErrUnavailable, and ErrBadInput for a bad Config.
//
// A caller that opens again and again with a PIN that was refused locks the token: after ErrPINRefused wait for a
// person to correct the PIN.
func Open(ctx context.Context, config Config) (hsm.Token, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	if err := checkModule(config.Module); err != nil {
		return nil, err // before a PIN is asked for in vain
	}
	pin, err := config.PIN(ctx)
	if err != nil {
		return nil, fmt.Errorf("PIN of %s: %w", config.name(), err)
	}
	r := &remote{
		host:   &host{config: config, pin: pin, known: newKnown(config.Established)},
		slots:  make(chan struct{}, config.Sessions),
		canary: make(chan struct{}, 1),
	}
	if _, err := r.host.get(ctx); err != nil {
		r.host.close()
		return nil, err
	}
	return &token{module: r}, nil
}

// remote is the caller of a child process.
type remote struct {
	host   *host
	slots  chan struct{} // one for each session of the pool
	canary chan struct{} // one for the reserved session
}

func (r *remote) close() { r.host.close() }

func (r *remote) info() hsm.Info {
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	return r.host.info
}

// do does one operation, on a new child when the present one is ill and the operation may be repeated.
func (r *remote) do(ctx context.Context, op operation, in ...[]byte) ([][]byte, error) {
	out, err := r.once(ctx, op, in)
	if errors.Is(err, hsm.ErrUnavailable) && op.repeatable() && ctx.Err() == nil && r.worthAnother() {
		return r.once(ctx, op, in)
	}
	return out, err
}

// worthAnother: the child was given up just now, and another may start at once.
func (r *remote) worthAnother() bool {
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	return r.host.latched == nil && r.host.failures <= 1
}

func (r *remote) once(ctx context.Context, op operation, in [][]byte) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", r.host.config.name(), err)
	}
	slot := r.slots
	if op == opCheck {
		slot = r.canary
	}
	select {
	case slot <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: waiting for a free session: %w", r.host.config.name(), ctx.Err())
	}
	child, err := r.host.get(ctx)
	if err != nil {
		<-slot
		return nil, err
	}
	r.host.known.before(op, in)
	out, err := child.call(ctx, op, in, r.limit(op), func() { <-slot })
	switch {
	case err == nil:
		r.host.known.after(op, in, out)
		r.host.worked()
	case errors.Is(err, hsm.ErrUnavailable), errors.Is(err, hsm.ErrTimeout):
		r.host.giveUp(child, err)
	case errors.Is(err, hsm.ErrPINRefused), errors.Is(err, hsm.ErrPINLocked):
		r.host.latch(err)
		child.kill()
	case ctx.Err() == nil:
		r.host.worked()
	}
	return out, err
}

func (r *remote) limit(op operation) time.Duration {
	if op.slow() {
		return slowFactor * r.host.config.Timeout
	}
	return r.host.config.Timeout
}

func (t *token) Info() hsm.Info { return t.module.info() }

func (t *token) Check(ctx context.Context) error { return t.run(ctx, opCheck) }

func (t *token) Close() error {
	t.module.close()
	return nil
}

func (t *token) CreateRootKey(ctx context.Context, label string) (hsm.RootKey, error) {
	if label == "" || len(label) > 255 {
		return nil, fmt.Errorf("%w: a key label has 1 to 255 bytes", hsm.ErrBadInput)
	}
	return t.rootKey(t.one(ctx, opCreateRoot, []byte(label)))
}

func (t *token) RootKey(ctx context.Context, fp hsm.Fingerprint) (hsm.RootKey, error) {
	return t.rootKey(t.one(ctx, opFindRoot, fp[:]))
}

func (t *token) DestroyKey(ctx context.Context, fp hsm.Fingerprint) error {
	return t.run(ctx, opDestroyRoot, fp[:])
}

func (t *token) NodeKey(ctx context.Context) (hsm.Signer, error) {
	der, err := t.one(ctx, opNodeKey)
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: node key: %w", hsm.ErrMechanism, err)
	}
	fp, err := hsm.FingerprintOf(public)
	if err != nil {
		return nil, err
	}
	return &nodeKey{token: t, fp: fp, public: public}, nil
}

func (t *token) CreateKEK(ctx context.Context, id hsm.KEKID) error {
	return t.run(ctx, opCreateKEK, id[:])
}

func (t *token) HasKEK(ctx context.Context, id hsm.KEKID) (bool, error) {
	yes, err := t.one(ctx, opHasKEK, id[:])
	return err == nil && len(yes) == 1 && yes[0] == 1, err
}

func (t *token) TransportKey(ctx context.Context) (*rsa.PublicKey, error) {
	return parseRSA(t.one(ctx, opTransport))
}

func (t *token) ExportKEK(ctx context.Context, id hsm.KEKID, to *rsa.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(to)
	if err != nil {
		return nil, fmt.Errorf("%w: transport key: %w", hsm.ErrBadInput, err)
	}
	return t.one(ctx, opExportKEK, id[:], der)
}

func (t *token) ImportKEK(ctx context.Context, id hsm.KEKID, wrapped []byte) error {
	return t.run(ctx, opImportKEK, id[:], wrapped)
}

func (t *token) GenerateWrapped(ctx context.Context, id hsm.KEKID, alg hsm.Algorithm) (hsm.WrappedKey, error) {
	out, err := t.module.do(ctx, opGenerate, id[:], []byte(alg))
	if err == nil && len(out) != 2 {
		err = errAnswer()
	}
	if err != nil {
		return hsm.WrappedKey{}, err
	}
	return hsm.WrappedKey{Algorithm: alg, Public: out[0], Blob: out[1]}, nil
}

func (t *token) SignWrapped(ctx context.Context, id hsm.KEKID, key hsm.WrappedKey, digest []byte) ([]byte, error) {
	return t.one(ctx, opSignWrapped, id[:], []byte(key.Algorithm), key.Public, key.Blob, digest)
}

func (t *token) run(ctx context.Context, op operation, in ...[]byte) error {
	_, err := t.module.do(ctx, op, in...)
	return err
}

// one does an operation whose answer is one field.
func (t *token) one(ctx context.Context, op operation, in ...[]byte) ([]byte, error) {
	out, err := t.module.do(ctx, op, in...)
	if err == nil && len(out) != 1 {
		err = errAnswer()
	}
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func errAnswer() error {
	return fmt.Errorf("%w: the module process gave an answer of another build", hsm.ErrUnavailable)
}

func parseRSA(der []byte, err error) (*rsa.PublicKey, error) {
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	public, ok := parsed.(*rsa.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: the token gave no RSA key", hsm.ErrMechanism)
	}
	return public, nil
}

func (t *token) rootKey(der []byte, err error) (hsm.RootKey, error) {
	public, err := parseRSA(der, err)
	if err != nil {
		return nil, err
	}
	fp, err := hsm.FingerprintOf(public)
	if err != nil {
		return nil, err
	}
	return &rootKey{token: t, fp: fp, public: public}, nil
}

type rootKey struct {
	token  *token
	fp     hsm.Fingerprint
	public *rsa.PublicKey
}

func (k *rootKey) Fingerprint() hsm.Fingerprint { return k.fp }
func (k *rootKey) Public() *rsa.PublicKey       { return k.public }
func (k *rootKey) Hash() hsm.Hash               { return k.token.Info().OAEP }

func (k *rootKey) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	if want := k.public.Size(); len(ciphertext) != want { // RFC 8017 7.1.2, step 1
		return nil, fmt.Errorf("%w: a ciphertext of %d bytes for a key of %d", hsm.ErrBadInput, len(ciphertext), want)
	}
	return k.token.one(ctx, opDecrypt, k.fp[:], ciphertext)
}

type nodeKey struct {
	token  *token
	fp     hsm.Fingerprint
	public crypto.PublicKey
}

func (k *nodeKey) Fingerprint() hsm.Fingerprint { return k.fp }
func (k *nodeKey) Public() crypto.PublicKey     { return k.public }

func (k *nodeKey) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	return k.token.one(ctx, opSign, digest)
}
