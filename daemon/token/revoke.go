package token

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"warder/daemon/identity"
	"warder/keystore/kv"
)

func revokedPrefix() kv.Key              { return kv.K("token-revoked") }
func revokedKey(reach, id string) kv.Key { return kv.K("token-revoked", reach, id) }
func countedPrefix() kv.Key              { return kv.K("token-counted") }
func countedKey(id string) kv.Key        { return kv.K("token-counted", id) }
func usesKey(id string) kv.Key           { return kv.K("token-uses", id) }

// Spend takes one of a token's uses, where those are counted: at apply, so that of parallel uses on any nodes no more
// than the token has are taken.
func (s *Service) Spend(ctx context.Context, claims Claims) error {
	if claims.MaxUses == 0 {
		return nil
	}
	expires, err := claims.ExpiresAt().MarshalText()
	if err != nil {
		return fmt.Errorf("encode a token's end: %w", err)
	}
	err = s.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		tx.Add(usesKey(claims.ID), 1, int64(claims.MaxUses))
		tx.Put(countedKey(claims.ID), expires)
		return nil
	})
	if errors.Is(err, kv.ErrLimit) {
		return ErrUsedUp
	}
	if err != nil {
		return fmt.Errorf("take a use of a token: %w", err)
	}
	return nil
}

// reach is how far a revocation by that principal reaches: an operator's to all tokens of its namespace, or of every one
// where that is the system's, and anybody else's to its own tokens.
func reach(by identity.Principal) string {
	if by.Kind == identity.Operator {
		return by.Namespace.String()
	}
	return by.String()
}

// revokedBy are the reaches within which a token of that subject lies.
func revokedBy(subject identity.Principal) [3]string {
	return [3]string{system, subject.Namespace.String(), subject.String()}
}

// revocation is one token's, within a reach.
type revocation struct{ reach, id string }

// voids says whether a revocation reaches the token.
func (v *view) voids(claims Claims) bool {
	if len(v.revoked) == 0 {
		return false
	}
	for _, reach := range revokedBy(claims.Subject) {
		if _, found := v.revoked[revocation{reach, claims.ID}]; found {
			return true
		}
	}
	return false
}

// system is the namespace whose operators have rights everywhere.
const system = "system"

// Revoke voids a token within the reach of who revokes it, on every node, until it would have ended by itself: at
// expires, and in no case later than any token issued by now. On this node it is void when Revoke returns.
func (s *Service) Revoke(ctx context.Context, by identity.Principal, id string, expires time.Time) error {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 || hex.EncodeToString(raw) != id {
		return fmt.Errorf("%w: a token's id has 32 hexadecimal digits in lower case", ErrBadRequest)
	}
	if latest := s.cfg.Clock().Add(MaxTTL + maxLeeway); expires.After(latest) {
		expires = latest
	}
	text, err := expires.UTC().MarshalText()
	if err != nil {
		return fmt.Errorf("%w: its end is no time", ErrBadRequest)
	}
	err = s.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		tx.Put(revokedKey(reach(by), id), text)
		return nil
	})
	if err != nil {
		return fmt.Errorf("revoke a token: %w", err)
	}
	return kv.AfterChange(s.Reload(ctx))
}

// sweep is best effort: what it leaves, the next one finds.
func (s *Service) sweep(ctx context.Context) {
	if len(s.current.Load().signers) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, sweepEvery/2)
	defer cancel()
	_ = rotate(bounded, s.cfg.DB, s.cfg.Clock(), false)
	_ = s.forgetExpired(bounded)
}

// forgetExpired deletes revocations and counters of tokens that have ended by themselves.
func (s *Service) forgetExpired(ctx context.Context) error {
	return s.cfg.DB.Update(ctx, func(tx *kv.Tx) error {
		limit := s.cfg.Clock().Add(-2 * maxLeeway)
		for _, prefix := range []kv.Key{revokedPrefix(), countedPrefix()} {
			expired, err := expiredIn(tx, prefix, limit)
			if err != nil {
				return err
			}
			for _, key := range expired {
				tx.Delete(key)
				if key.Under(countedPrefix()) {
					tx.DropCounter(usesKey(lastPart(key)))
				}
			}
		}
		return nil
	})
}

// maxSweep bounds what one sweep deletes.
const maxSweep = 512

func expiredIn(tx *kv.Tx, prefix kv.Key, limit time.Time) ([]kv.Key, error) {
	var expired []kv.Key
	for item, err := range tx.Scan(prefix) {
		if err != nil {
			return nil, err
		}
		var ends time.Time
		if err := ends.UnmarshalText(item.Value); err != nil {
			return nil, fmt.Errorf("a stored token's end does not parse: %w", err)
		}
		if ends.Before(limit) {
			expired = append(expired, item.Key)
		}
		if len(expired) == maxSweep {
			break
		}
	}
	return expired, nil
}
