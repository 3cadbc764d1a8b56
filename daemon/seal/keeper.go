package seal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"warder/hsm"
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// followEvery bounds how long a change that no watcher announced stays unseen.
const followEvery = time.Second

// checkEvery is how often the HSM's canary is decrypted.
const checkEvery = 5 * time.Second

// ErrSealedByOperator says that an operator sealed this node, so that it does not open the keyring by itself.
var ErrSealedByOperator = errors.New("an operator sealed this node: run `warder operator unseal` on it")

// Cluster is what the keeper asks of the consensus layer.
type Cluster interface {
	IsLeader() bool
	Voters(ctx context.Context) ([]string, error)
}

// Config is what a Keeper works with. Every field but Logger and Clock is required.
type Config struct {
	Home    Home
	Store   *kv.Store
	DB      *kv.DB
	Holder  *keyring.Holder
	Cluster Cluster
	// OpenToken logs in to the node's HSM. It is called again after a failure, but never by itself after a refused PIN.
	OpenToken func(ctx context.Context) (hsm.Token, error)
	Clock     func() time.Time
	Logger    *slog.Logger
}

// Keeper opens the sealed keyring with the node's HSM and follows every new sealing.
type Keeper struct {
	cfg Config

	loggingIn sync.Mutex // one login at a time
	opening   sync.Mutex // one opening of the keyring at a time, so that none overtakes a newer one

	mu       sync.Mutex
	token    hsm.Token // guarded by mu, and below
	tokenErr error
	healthy  error
	closed   bool // by an operator
	revision uint64
	epoch    uint64
	root     string
	offer    *RootKey // that this node made for a rotation and may not have shown yet
}

// NewKeeper gives a sealed node's keeper; Run or Unseal opens it.
func NewKeeper(cfg Config) *Keeper {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keeper{cfg: cfg, tokenErr: hsm.ErrUnavailable, healthy: hsm.ErrUnavailable}
}

// Adopt hands the keeper a token that is open already, as init and join have it.
func (k *Keeper) Adopt(token hsm.Token) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.token, k.tokenErr, k.healthy = token, nil, nil
}

// Token gives the node's HSM, or why it cannot be used.
func (k *Keeper) Token() (hsm.Token, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token == nil {
		return nil, k.tokenErr
	}
	return k.token, nil
}

// Health says why the HSM does not answer, or nil.
func (k *Keeper) Health() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.healthy
}

// Sealed says whether the node holds no keyring.
func (k *Keeper) Sealed() bool {
	_, err := k.cfg.Holder.Keyring()
	return err != nil
}

// Epoch is the sealing that is open here; 0 when sealed.
func (k *Keeper) Epoch() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.epoch
}

// Seal forgets the keyring until an operator unseals the node.
func (k *Keeper) Seal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed, k.revision, k.epoch = true, 0, 0
	k.cfg.Holder.Clear()
	k.cfg.DB.Wake() // what was decoded is forgotten, and read anew when the node is unsealed
	k.cfg.Logger.Warn("the node was sealed by an operator")
}

// Unseal opens the keyring at an operator's word: it takes back Seal, and logs in to the HSM anew where that had failed.
func (k *Keeper) Unseal(ctx context.Context) error {
	k.mu.Lock()
	k.closed = false
	k.mu.Unlock()
	if err := k.login(ctx, true); err != nil {
		return err
	}
	if err := k.open(ctx); err != nil {
		return err
	}
	return k.confirm(ctx)
}

// Run keeps the node's keyring the newest sealing, confirms it, takes its part in rotations, and on the leader moves
// them forward. It returns when ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	watcher := k.cfg.DB.Watch(kv.K("seal"))
	defer watcher.Close()
	members := k.cfg.DB.Watch(membersPrefix())
	defer members.Close()
	sealings := k.cfg.DB.WatchKeyring()
	defer sealings.Close()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var checked time.Time
	var last string
	for {
		err := k.follow(ctx)
		if text := errorText(err); text != last && ctx.Err() == nil {
			last = text
			if err != nil {
				k.cfg.Logger.Warn("the seal needs attention", "error", text)
			}
		}
		if now := k.cfg.Clock(); now.Sub(checked) >= checkEvery {
			checked = now
			k.check(ctx)
		}
		select {
		case <-ctx.Done():
			return k.close()
		case <-watcher.C():
		case <-members.C():
		case <-sealings.C():
		case <-tick.C:
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (k *Keeper) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cfg.Holder.Clear()
	if k.token == nil {
		return nil
	}
	token := k.token
	k.token, k.tokenErr = nil, hsm.ErrUnavailable
	return token.Close()
}

// follow does once all that this node owes the seal.
func (k *Keeper) follow(ctx context.Context) error {
	k.mu.Lock()
	closed := k.closed
	k.mu.Unlock()
	if closed {
		return ErrSealedByOperator
	}
	if err := k.login(ctx, false); err != nil {
		return err
	}
	if err := k.open(ctx); err != nil {
		return err
	}
	steps := []func(context.Context) error{k.confirm, k.offerRoot, k.dropUnshown, k.dropPreviousRoot, k.importCustody, k.shareCustody}
	if k.cfg.Cluster.IsLeader() {
		steps = append(steps, k.coordinate)
	}
	var errs []error
	for _, step := range steps {
		errs = append(errs, step(ctx))
	}
	return errors.Join(errs...)
}

// login opens the token where it is not. A PIN that was refused is tried again only at an operator's word.
func (k *Keeper) login(ctx context.Context, asked bool) error {
	k.loggingIn.Lock()
	defer k.loggingIn.Unlock()
	k.mu.Lock()
	open, failed := k.token != nil, k.tokenErr
	k.mu.Unlock()
	if open {
		return nil
	}
	if !asked && (errors.Is(failed, hsm.ErrPINRefused) || errors.Is(failed, hsm.ErrPINLocked)) {
		return failed
	}
	token, err := k.cfg.OpenToken(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.token, k.tokenErr, k.healthy = token, err, err
	return err
}

func (k *Keeper) check(ctx context.Context) {
	token, err := k.Token()
	if err == nil {
		err = token.Check(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	k.mu.Lock()
	before := k.healthy
	k.healthy = err
	k.mu.Unlock()
	if (err == nil) != (before == nil) {
		k.cfg.Logger.Warn("the HSM's health changed", "healthy", err == nil, "error", errorText(err))
	}
}

// open makes the newest sealing the node's keyring. It is a no-op where that is open already.
func (k *Keeper) open(ctx context.Context) error {
	k.opening.Lock()
	defer k.opening.Unlock()
	sealed, revision, err := k.cfg.Store.SealedKeyring()
	if err != nil {
		return fmt.Errorf("read the sealed keyring: %w", err)
	}
	k.mu.Lock()
	current := revision == k.revision
	k.mu.Unlock()
	if current {
		return nil
	}
	ring, epoch, root, err := k.unseal(ctx, sealed)
	if err != nil {
		return fmt.Errorf("open the sealed keyring: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return ErrSealedByOperator
	}
	if epoch < k.epoch {
		return fmt.Errorf("%w: its epoch %d is older than %d", ErrForeignKeyring, epoch, k.epoch)
	}
	k.cfg.Holder.Set(ring)
	k.revision, k.epoch, k.root = revision, epoch, root
	k.cfg.DB.Wake()
	k.cfg.Logger.Info("the keyring is open", "epoch", epoch, "data_key", ring.Active(), "root_key", root)
	return nil
}

func (k *Keeper) unseal(ctx context.Context, sealed []byte) (*keyring.Keyring, uint64, string, error) {
	header, err := keyring.Inspect(sealed)
	if err != nil {
		return nil, 0, "", err
	}
	if header.ClusterID != k.cfg.Home.ClusterID {
		return nil, 0, "", fmt.Errorf("%w: it is of cluster %s", ErrForeignKeyring, header.ClusterID)
	}
	token, err := k.Token()
	if err != nil {
		return nil, 0, "", err
	}
	root, err := findRootKey(ctx, token, header.Recipients)
	if err != nil {
		return nil, 0, "", err
	}
	ring, err := keyring.Unseal(ctx, sealed, unwrapper{root})
	if err != nil {
		return nil, 0, "", err
	}
	node, err := token.NodeKey(ctx)
	if err != nil {
		return nil, 0, "", err
	}
	if err := k.cfg.Home.CheckPin(node, ring.Commitment()); err != nil {
		return nil, 0, "", err
	}
	return ring, header.Epoch, root.Fingerprint().String(), nil
}

// confirm tells the cluster which sealing this node has opened, where it has not said so yet.
func (k *Keeper) confirm(ctx context.Context) error {
	k.mu.Lock()
	mine := Confirmation{Epoch: k.epoch, Root: k.root}
	k.mu.Unlock()
	if mine.Epoch == 0 {
		return nil
	}
	key := confirmationKey(k.cfg.Home.Node)
	var said Confirmation
	err := k.cfg.DB.View(ctx, func(tx *kv.Tx) error {
		_, err := get(tx, key, &said)
		return err
	})
	if err != nil || said == mine {
		return err
	}
	return k.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		var self Member
		if known, err := get(tx, memberKey(k.cfg.Home.Node), &self); err != nil || !known {
			return err // evicted: what it says would be taken for the word of its successor of that name
		}
		return put(tx, key, mine)
	})
}

// Root names the root key that opened the keyring here; empty when sealed.
func (k *Keeper) Root() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.epoch == 0 {
		return ""
	}
	return k.root
}
