package device

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"warder/daemon/identity"
	"warder/keystore/kv"
)

// enrolmentPrefix is the first part of an enrolment token: its form and version.
const enrolmentPrefix = "wet1"

// MaxEnrolmentTTL bounds how long an enrolment token may wait for its device.
const MaxEnrolmentTTL = 30 * 24 * time.Hour

// ErrEnrolmentRefused is the one answer to every enrolment token that is unknown, used or expired.
var ErrEnrolmentRefused = errors.New("the enrolment token is not valid: it is unknown, used or expired; ask an operator for a new one")

// Admission is what an enrolment token stands for: one device, in the groups that its operator chose.
type Admission struct {
	Device  identity.Principal `json:"device"`
	Groups  []identity.Name    `json:"groups,omitempty"`
	Hash    []byte             `json:"hash"` // SHA-256 of the secret half
	Expires time.Time          `json:"expires"`
}

// Enrolment makes and redeems enrolment tokens.
type Enrolment struct {
	db    *kv.DB
	clock func() time.Time
}

// NewEnrolment gives the enrolment tokens stored in db.
func NewEnrolment(db *kv.DB, clock func() time.Time) *Enrolment {
	return &Enrolment{db: db, clock: clock}
}

func admissionKey(id string) kv.Key { return kv.K("device-enrolment", id) }

// CreateToken records a single-use token for one device and gives its text.
func (e *Enrolment) CreateToken(ctx context.Context, namespace, name identity.Name, groups []identity.Name, ttl time.Duration) (string, time.Time, error) {
	if ttl <= 0 || ttl > MaxEnrolmentTTL {
		return "", time.Time{}, fmt.Errorf("%w: an enrolment token may live for at most %s", ErrInput, MaxEnrolmentTTL)
	}
	id, secret := rand.Text(), make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return "", time.Time{}, err
	}
	hash := sha256.Sum256(secret)
	admission := Admission{
		Device: identity.Principal{Kind: identity.Device, Namespace: namespace, Name: name},
		Groups: groups, Hash: hash[:], Expires: e.clock().Add(ttl).UTC(),
	}
	text, err := json.Marshal(admission)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("encode an enrolment token: %w", err)
	}
	err = e.db.Update(ctx, func(tx *kv.Tx) error {
		tx.MustNotExist(admissionKey(id))
		tx.Put(admissionKey(id), text)
		return nil
	})
	token := strings.Join([]string{enrolmentPrefix, id, base64.RawURLEncoding.EncodeToString(secret)}, ".")
	return token, admission.Expires, err
}

// Look says whom a token would admit, without using it up.
func (e *Enrolment) Look(ctx context.Context, token string) (Admission, error) {
	var admission Admission
	err := e.db.View(ctx, func(tx *kv.Tx) (err error) {
		admission, _, err = e.find(tx, token)
		return err
	})
	return admission, err
}

// Redeem uses the token up and runs enrol in the same batch: of any number of parallel redemptions, on any nodes, one
// has an effect.
func (e *Enrolment) Redeem(ctx context.Context, token string, enrol func(*kv.Tx, Admission) error) (Admission, error) {
	var admission Admission
	err := e.db.Update(ctx, func(tx *kv.Tx) error {
		found, key, err := e.find(tx, token)
		if err != nil {
			return err
		}
		tx.Delete(key)
		admission = found
		return enrol(tx, found)
	})
	return admission, err
}

// find gives the token's admission, or ErrEnrolmentRefused whatever the cause.
func (e *Enrolment) find(tx *kv.Tx, token string) (Admission, kv.Key, error) {
	id, secret, err := parseEnrolmentToken(token)
	if err != nil {
		return Admission{}, kv.Key{}, err
	}
	key := admissionKey(id)
	text, _, err := tx.Get(key)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return Admission{}, key, err
	}
	admission := Admission{Hash: make([]byte, sha256.Size)}
	if err == nil {
		if err := json.Unmarshal(text, &admission); err != nil {
			return Admission{}, key, fmt.Errorf("decode an enrolment token: %w", err)
		}
	}
	hash := sha256.Sum256(secret)
	if subtle.ConstantTimeCompare(hash[:], admission.Hash) != 1 || !e.clock().Before(admission.Expires) {
		return Admission{}, key, ErrEnrolmentRefused
	}
	return admission, key, nil
}

func parseEnrolmentToken(text string) (id string, secret []byte, err error) {
	parts := strings.Split(text, ".")
	if len(text) > 256 || len(parts) != 3 || parts[0] != enrolmentPrefix || len(parts[1]) != len(rand.Text()) {
		return "", nil, ErrEnrolmentRefused
	}
	secret, err = base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(secret) != 32 || strings.ContainsAny(parts[2], "\r\n") { // which the decoder passes over
		return "", nil, ErrEnrolmentRefused
	}
	return parts[1], secret, nil
}
