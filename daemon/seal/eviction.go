package seal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"warder/keystore/kv"
)

// Owed says that the data keys must be rotated because a node that knew them was evicted.
type Owed struct {
	Evicted string    `json:"evicted"`
	Since   time.Time `json:"since"`
}

// Evict forgets a member, or says ErrNoMember: its entry leaves the sealing, and its certificate is refused from then
// on. The same batch records that the data keys are to be rotated, also those of a rotation that is under way, which
// the node may have opened: the leader's keeper starts that as soon as no other rotation runs.
func (k *Keeper) Evict(ctx context.Context, node string) error {
	return k.onNewest(ctx, func(tx *kv.Tx) error {
		ring, err := k.cfg.Holder.Keyring()
		if err != nil {
			return err
		}
		var member Member
		if known, err := get(tx, memberKey(node), &member); err != nil || !known {
			return errors.Join(err, ErrNoMember)
		}
		forget(tx, node)
		if err := k.noteEviction(tx, node); err != nil {
			return err
		}
		if err := put(tx, owedKey(), Owed{Evicted: node, Since: k.cfg.Clock().UTC()}); err != nil {
			return err
		}
		_, err = k.sealAnew(tx, ring, bothRoots)
		return err
	})
}

// forget deletes all that the seal knows of a node.
func forget(tx *kv.Tx, node string) {
	tx.Delete(memberKey(node))
	tx.Delete(confirmationKey(node))
	tx.Delete(shareKey(node))
}

// payOwed starts the data rotation that an eviction made necessary.
func (k *Keeper) payOwed(ctx context.Context) error {
	owes := false
	err := k.cfg.DB.View(ctx, func(tx *kv.Tx) (err error) {
		var owed Owed
		owes, err = get(tx, owedKey(), &owed)
		return err
	})
	if err != nil || !owes {
		return err
	}
	if _, err := k.Start(ctx, RotateData, ""); !errors.Is(err, ErrRotating) {
		return err
	}
	return nil // somebody was faster
}

// rememberEvicted is how long an eviction is remembered: longer than a certificate of the evicted node can be valid.
const rememberEvicted = 400 * 24 * time.Hour

// EvictionsPrefix is where the evictions are recorded, for watching.
func EvictionsPrefix() kv.Key { return kv.K("seal-evicted") }

// noteEviction records when a node was evicted, and forgets those that no longer matter.
func (k *Keeper) noteEviction(tx *kv.Tx, node string) error {
	known, err := evicted(tx)
	if err != nil {
		return err
	}
	now := k.cfg.Clock().UTC()
	for other, at := range known {
		if now.Sub(at) > rememberEvicted {
			tx.Delete(evictedKey(other))
		}
	}
	return put(tx, evictedKey(node), now)
}

func evicted(tx *kv.Tx) (map[string]time.Time, error) {
	found := map[string]time.Time{}
	for item, err := range tx.Scan(EvictionsPrefix()) {
		if err != nil {
			return nil, err
		}
		var at time.Time
		if err := json.Unmarshal(item.Value, &at); err != nil {
			return nil, fmt.Errorf("decode the record of an eviction: %w", err)
		}
		parts := item.Key.Parts()
		found[parts[len(parts)-1]] = at
	}
	return found, nil
}

// Evicted tells when nodes were evicted, by their ids. Certificates of theirs that are older are void.
func (k *Keeper) Evicted(ctx context.Context) (found map[string]time.Time, err error) {
	err = k.cfg.DB.View(ctx, func(tx *kv.Tx) error {
		found, err = evicted(tx)
		return err
	})
	return found, err
}

// NoteEvicted adds evictions to those that the home remembers, and drops those that no longer matter.
func (h *Home) NoteEvicted(more map[string]time.Time, now time.Time) {
	noted := map[string]time.Time{}
	for _, some := range []map[string]time.Time{h.Evicted, more} {
		for node, at := range some {
			if now.Sub(at) <= rememberEvicted && !at.Before(noted[node]) {
				noted[node] = at.UTC()
			}
		}
	}
	h.Evicted = nil
	if len(noted) > 0 {
		h.Evicted = noted
	}
}

// WasEvicted says whether a certificate of that node, issued at that time, is void because the node was evicted since.
func (h Home) WasEvicted(node string, issued time.Time) bool {
	at, known := h.Evicted[node]
	return known && !issued.After(at)
}
