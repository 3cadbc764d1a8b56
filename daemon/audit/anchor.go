package audit

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"sync"
	"time"

	"warder/api/verify"
	"warder/keystore/kv"
)

// anchorKind is the first part of the anchors' keys; this package alone touches them.
const anchorKind = "audit-anchor"

// KeptAnchors is how many of the newest anchors of a log stay; of the older ones only those that are the first at or
// beyond a power of two.
const KeptAnchors = 1000

// AnchorStore keeps every node's latest checkpoints in the replicated state, where the node alone cannot change them.
type AnchorStore struct {
	db *kv.DB

	mu    sync.Mutex // guards sizes
	sizes map[verify.Origin][]uint64
}

// NewAnchorStore makes a store over the replicated records.
func NewAnchorStore(db *kv.DB) *AnchorStore {
	return &AnchorStore{db: db, sizes: map[verify.Origin][]uint64{}}
}

func anchorKey(o verify.Origin, size uint64) kv.Key {
	return kv.K(anchorKind, o.Node, hex.EncodeToString(o.Log[:]), fmt.Sprintf("%020d", size))
}

// Put keeps an anchor and drops those that it makes superfluous. An anchor of a size that is already kept with
// another root is verify.ErrRewritten and changes nothing. Errors of the replicated log pass through.
func (s *AnchorStore) Put(ctx context.Context, a verify.Anchor) error {
	value, err := a.MarshalBinary()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sizes, err := s.known(ctx, a.Origin)
	if err != nil {
		return err
	}
	if !slices.Contains(sizes, a.Size) {
		sizes = append(slices.Clone(sizes), a.Size)
		slices.Sort(sizes)
	}
	keep, drop := thin(sizes)
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		key := anchorKey(a.Origin, a.Size)
		if err := agree(tx, key, a); err != nil {
			return err
		}
		tx.Put(key, value)
		for _, size := range drop {
			tx.Delete(anchorKey(a.Origin, size))
		}
		return nil
	})
	if err != nil {
		delete(s.sizes, a.Origin) // whether it was done is not known: read again
		return err
	}
	s.sizes[a.Origin] = keep
	return nil
}

// agree refuses to replace an anchor by one with another root.
func agree(tx *kv.Tx, key kv.Key, a verify.Anchor) error {
	value, _, err := tx.Get(key)
	if errors.Is(err, kv.ErrNotFound) {
		return nil
	}
	var have verify.Anchor
	if err == nil {
		err = have.UnmarshalBinary(value)
	}
	if err == nil && have.Root != a.Root {
		err = &verify.Fault{Kind: verify.ErrRewritten, To: a.Size, Detail: "the cluster keeps an anchor of this size with another root"}
	}
	return err
}

// known gives the kept sizes of a log, ascending; mu is held.
func (s *AnchorStore) known(ctx context.Context, o verify.Origin) ([]uint64, error) {
	if sizes, ok := s.sizes[o]; ok {
		return sizes, nil
	}
	anchors, err := s.list(ctx, kv.K(anchorKind, o.Node, hex.EncodeToString(o.Log[:])))
	if err != nil {
		return nil, err
	}
	var sizes []uint64
	for _, a := range anchors {
		sizes = append(sizes, a.Size)
	}
	s.sizes[o] = sizes
	return sizes, nil
}

// thin says which of the ascending sizes stay.
func thin(sizes []uint64) (keep, drop []uint64) {
	newest := max(0, len(sizes)-KeptAnchors)
	for i, size := range sizes {
		first := i == 0 || bits.Len64(size) > bits.Len64(sizes[i-1])
		if i >= newest || first {
			keep = append(keep, size)
		} else {
			drop = append(drop, size)
		}
	}
	return keep, drop
}

// List gives the anchors of a node's logs, or of all nodes when node is empty: by node, log and size. Barrier the
// database first where the latest matter.
func (s *AnchorStore) List(ctx context.Context, node string) ([]verify.Anchor, error) {
	prefix := kv.K(anchorKind)
	if node != "" {
		prefix = kv.K(anchorKind, node)
	}
	return s.list(ctx, prefix)
}

func (s *AnchorStore) list(ctx context.Context, prefix kv.Key) ([]verify.Anchor, error) {
	var anchors []verify.Anchor
	err := s.db.View(ctx, func(tx *kv.Tx) error {
		anchors = nil
		for item, err := range tx.Scan(prefix) {
			if err != nil {
				return err
			}
			var a verify.Anchor
			if err := a.UnmarshalBinary(item.Value); err != nil {
				return fmt.Errorf("record %v: %w", item.Key, err)
			}
			anchors = append(anchors, a)
		}
		return nil
	})
	slices.SortFunc(anchors, func(a, b verify.Anchor) int {
		return cmp.Or(cmp.Compare(a.Origin.Node, b.Origin.Node), bytesCompare(a.Origin.Log, b.Origin.Log), cmp.Compare(a.Size, b.Size))
	})
	return anchors, err
}

func bytesCompare(a, b [8]byte) int { return slices.Compare(a[:], b[:]) }

// Run anchors the log's checkpoints every interval until the context ends, and holds the log against the anchors
// that the cluster already has before it adds the first. While the node is sealed or the cluster has no leader it
// waits. It returns nil at the end of the context, or the contradiction (verify.ErrRewritten, verify.ErrTruncated);
// the log has then latched it.
func (s *AnchorStore) Run(ctx context.Context, log *Log, interval time.Duration, logger *slog.Logger) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	checked := false
	var anchored uint64
	for {
		err := s.step(ctx, log, &checked, &anchored)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, verify.ErrRewritten), errors.Is(err, verify.ErrTruncated):
			return log.latch(err)
		case err != nil:
			logger.Debug("audit checkpoint is not anchored yet", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (s *AnchorStore) step(ctx context.Context, log *Log, checked *bool, anchored *uint64) error {
	if !*checked {
		if err := s.db.Barrier(ctx); err != nil {
			return err
		}
		anchors, err := s.List(ctx, log.Origin().Node)
		if err != nil {
			return err
		}
		if err := log.Check(anchors); err != nil {
			return err
		}
		*checked = true
	}
	c, err := log.Checkpoint()
	if err != nil || c.Size == 0 || c.Size == *anchored {
		return err
	}
	if err := s.Put(ctx, verify.AnchorOf(c)); err != nil {
		return err
	}
	*anchored = c.Size
	return nil
}
