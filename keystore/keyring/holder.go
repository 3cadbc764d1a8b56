package keyring

import "sync/atomic"

// Holder is where a node keeps its unsealed keyring. The zero value is sealed. It is safe for concurrent use.
type Holder struct{ current atomic.Pointer[Keyring] }

// Keyring gives the keyring, or [ErrSealed].
func (h *Holder) Keyring() (*Keyring, error) {
	k := h.current.Load()
	if k == nil {
		return nil, ErrSealed
	}
	return k, nil
}

// Set makes k the node's keyring. Data keys that the keyring before it had too keep their count of seals.
func (h *Holder) Set(k *Keyring) {
	for {
		old := h.current.Load()
		next := k
		if old != nil && old != k {
			next = hold(k.open().adopt(old.open()))
		}
		if h.current.CompareAndSwap(old, next) {
			return
		}
	}
}

// Clear seals the node.
func (h *Holder) Clear() { h.current.Store(nil) }
