package seal

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"warder/hsm"
	"warder/keystore/kv"
)

// Custody names the key-encryption key that wraps device keys of custody level "hsm". It was made in one member's HSM
// and travels to the others wrapped by RSA-OAEP from HSM to HSM: it is in no process's memory.
type Custody struct {
	ID hsm.KEKID `json:"id"`
}

// ErrNoCustody says that this node cannot work with keys in HSM custody.
var ErrNoCustody = errors.New("this node's HSM does not hold the custody key")

// NewCustody makes the key-encryption key in the founding node's HSM. A token that cannot wrap gives nil: the cluster
// is then founded without the custody level "hsm".
func NewCustody(ctx context.Context, token hsm.Token) (*Custody, error) {
	if !token.Info().CustodyCapable {
		return nil, nil
	}
	var custody Custody
	if _, err := rand.Read(custody.ID[:]); err != nil {
		return nil, err
	}
	if err := token.CreateKEK(ctx, custody.ID); err != nil {
		return nil, fmt.Errorf("make the custody key: %w", err)
	}
	return &custody, nil
}

// CustodyID gives the cluster's custody key, or ErrNoCustody where the cluster has none.
func CustodyID(tx *kv.Tx) (hsm.KEKID, error) {
	var custody Custody
	found, err := get(tx, custodyKey(), &custody)
	if err == nil && !found {
		err = fmt.Errorf("%w: no member's HSM could make one when the cluster was founded", ErrNoCustody)
	}
	return custody.ID, err
}

// importCustody unwraps the share that another member's HSM made for this one.
func (k *Keeper) importCustody(ctx context.Context) error {
	var id hsm.KEKID
	var share []byte
	err := k.cfg.DB.View(ctx, func(tx *kv.Tx) (err error) {
		if id, err = CustodyID(tx); err != nil {
			return err
		}
		_, err = get(tx, shareKey(k.cfg.Home.Node), &share)
		return err
	})
	if errors.Is(err, ErrNoCustody) || err == nil && share == nil {
		return nil
	}
	if err != nil {
		return err
	}
	token, err := k.Token()
	if err != nil {
		return err
	}
	if has, err := token.HasKEK(ctx, id); err != nil || has {
		return err
	}
	if err := token.ImportKEK(ctx, id, share); err != nil {
		return fmt.Errorf("import the custody key: %w", err)
	}
	k.cfg.Logger.Info("the custody key was imported into this node's HSM")
	return nil
}

// shareCustody wraps the custody key for each member that lacks a share, inside this node's HSM.
func (k *Keeper) shareCustody(ctx context.Context) error {
	id, lacking, err := k.membersWithoutShare(ctx)
	if err != nil || len(lacking) == 0 {
		return err
	}
	token, err := k.Token()
	if err != nil {
		return err
	}
	has, err := token.HasKEK(ctx, id)
	if err != nil || !has {
		return err
	}
	for _, member := range lacking {
		if err := k.shareWith(ctx, token, id, member); err != nil {
			return fmt.Errorf("share the custody key with node %s: %w", member.Node, err)
		}
	}
	return nil
}

func (k *Keeper) membersWithoutShare(ctx context.Context) (id hsm.KEKID, lacking []Member, err error) {
	err = k.cfg.DB.View(ctx, func(tx *kv.Tx) error {
		if id, err = CustodyID(tx); err != nil {
			return err
		}
		members, err := Members(tx)
		if err != nil {
			return err
		}
		for _, member := range members {
			var share []byte
			found, err := get(tx, shareKey(member.Node), &share)
			if err != nil {
				return err
			}
			if !found && member.Node != k.cfg.Home.Node && len(member.TransportKey) > 0 {
				lacking = append(lacking, member)
			}
		}
		return nil
	})
	if errors.Is(err, ErrNoCustody) {
		err = nil
	}
	return id, lacking, err
}

func (k *Keeper) shareWith(ctx context.Context, token hsm.Token, id hsm.KEKID, member Member) error {
	parsed, err := x509.ParsePKIXPublicKey(member.TransportKey)
	if err != nil {
		return err
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return errors.New("its transport key is not RSA")
	}
	share, err := token.ExportKEK(ctx, id, public)
	if err != nil {
		return err
	}
	return k.cfg.DB.Update(ctx, func(tx *kv.Tx) error { return put(tx, shareKey(member.Node), share) })
}
