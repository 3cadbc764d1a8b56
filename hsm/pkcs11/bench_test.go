package pkcs11_test

import (
	"crypto/sha256"
	"os"
	"strings"
	"testing"

	"warder/hsm"
	"warder/hsm/pkcs11"
)

// hops opens a SoftHSM token behind a child and one in this process: the difference is what the child costs.
func hops(b *testing.B, measure func(b *testing.B, token hsm.Token)) {
	b.Run("child", func(b *testing.B) { measure(b, open(b, softToken(b))) })
	b.Run("in-process", func(b *testing.B) {
		c := softToken(b)
		name, value, _ := strings.Cut(c.Env[0], "=")
		if err := os.Setenv(name, value); err != nil {
			b.Fatal(err)
		}
		token, err := pkcs11.OpenInProcess(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = token.Close() })
		measure(b, token)
	})
}

// each runs work by one caller, then by several.
func each(b *testing.B, work func() error) {
	b.Run("1", func(b *testing.B) {
		for b.Loop() {
			if err := work(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("4", func(b *testing.B) {
		b.SetParallelism(2) // times two cores
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := work(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

func BenchmarkDecrypt(b *testing.B) {
	hops(b, func(b *testing.B, token hsm.Token) {
		key, err := token.CreateRootKey(b.Context(), "bench")
		if err != nil {
			b.Fatal(err)
		}
		sealed, err := hsm.EncryptOAEP(key.Public(), key.Hash(), make([]byte, 32))
		if err != nil {
			b.Fatal(err)
		}
		ctx := b.Context()
		each(b, func() error { _, err := key.Decrypt(ctx, sealed); return err })
	})
}

func BenchmarkSign(b *testing.B) {
	hops(b, func(b *testing.B, token hsm.Token) {
		key, err := token.NodeKey(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		digest := sha256.Sum256([]byte("bench"))
		ctx := b.Context()
		each(b, func() error { _, err := key.Sign(ctx, digest[:]); return err })
	})
}

// BenchmarkSignWrapped signs with one key (cached in its session after the first use) and with so many that each use
// unwraps.
func BenchmarkSignWrapped(b *testing.B) {
	for name, keys := range map[string]int{"hot": 1, "cold": 96} {
		b.Run(name, func(b *testing.B) {
			hops(b, func(b *testing.B, token hsm.Token) { signWrapped(b, token, keys) })
		})
	}
}

func signWrapped(b *testing.B, token hsm.Token, n int) {
	id := hsm.KEKID{1}
	ctx := b.Context()
	if err := token.CreateKEK(ctx, id); err != nil {
		b.Fatal(err)
	}
	keys := make(chan hsm.WrappedKey, n)
	for range n {
		key, err := token.GenerateWrapped(ctx, id, hsm.ECDSAP256SHA256)
		if err != nil {
			b.Fatal(err)
		}
		keys <- key
	}
	digest := sha256.Sum256([]byte("bench"))
	each(b, func() error {
		key := <-keys
		keys <- key
		_, err := token.SignWrapped(ctx, id, key, digest[:])
		return err
	})
}
