package keyring_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"warder/hsm/wycheproof"
	"warder/keystore/keyring"
)

// holding gives a keyring of these secrets: the data key, the blinding key and the lineage secret, as New reads them.
func holding(t *testing.T, data, blinding []byte) *keyring.Keyring {
	t.Helper()
	ring, err := keyring.New(bytes.NewReader(slices.Concat(data, blinding, make([]byte, 32))))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// TestWycheproofOpen gives vectors of AES-GCM with keys of 256 bits and nonces of 96 to what opens stored values: each is
// as Seal would have written it under data key 1.
func TestWycheproofOpen(t *testing.T) {
	wycheproof.Run(t, "aes_gcm", wycheproof.Expect{Valid: 39, Invalid: 27}, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		if g.KeySize != 256 || g.IVSize != 96 {
			return wycheproof.Unfit
		}
		ring := holding(t, v.Key, make([]byte, 32))
		sealed := slices.Concat([]byte{1, 0, 0, 0, 1}, v.IV, v.Cipher, v.Tag)
		got, err := ring.Open(v.AAD, sealed)
		if err != nil && !errors.Is(err, keyring.ErrDamaged) {
			t.Errorf("test %d: %v", v.ID, err)
		}
		return wycheproof.Opened(got, err, v.Message)
	})
}

// The boxes of a sealed keyring are opened by code of their own.
func TestWycheproofUnlock(t *testing.T) {
	wycheproof.Run(t, "aes_gcm", wycheproof.Expect{Valid: 39, Invalid: 27}, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		if g.KeySize != 256 || g.IVSize != 96 {
			return wycheproof.Unfit
		}
		got, err := keyring.Unlock(v.Key, v.AAD, slices.Concat(v.IV, v.Cipher, v.Tag))
		return wycheproof.Opened(got, err, v.Message)
	})
}

// TestWycheproofBlind gives vectors of HMAC-SHA-256, cut to 128 bits as Blind cuts it, to what blinds names. The message
// is split at every place between parent and part.
func TestWycheproofBlind(t *testing.T) {
	wycheproof.Run(t, "hmac_sha256", wycheproof.Expect{Valid: 27, Invalid: 54}, func(g wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		if len(v.Key) != 32 || g.TagSize != 8*keyring.BlindSize {
			return wycheproof.Unfit
		}
		ring := holding(t, make([]byte, 32), v.Key)
		whole := ring.Blind(nil, string(v.Message))
		for cut := range len(v.Message) {
			if ring.Blind(v.Message[:cut], string(v.Message[cut:])) != whole {
				t.Errorf("test %d: split at %d it differs", v.ID, cut)
			}
		}
		return wycheproof.Took(bytes.Equal(v.Tag, whole[:]))
	})
}

// TestWycheproofDerive gives vectors of HKDF-SHA-256 to what derives keys. It gives 32 bytes, and HKDF's output of one
// size begins with that of a smaller: the two are compared as far as both go. The file's invalid tests ask for more than
// HKDF can give, which derive cannot be asked for.
func TestWycheproofDerive(t *testing.T) {
	wycheproof.Run(t, "hkdf_sha256", wycheproof.Expect{Valid: 83}, func(_ wycheproof.Group, v wycheproof.Test) wycheproof.Verdict {
		if v.Result == "invalid" {
			return wycheproof.Unfit
		}
		key := keyring.DeriveFrom(v.IKM, v.Salt, string(v.Info))
		both := min(len(key), v.Size)
		return wycheproof.Took(bytes.Equal(key[:both], v.OKM[:both]))
	})
}
