package keyring

// DeriveFrom is what every derived key comes from.
func DeriveFrom(secret, salt []byte, info string) [32]byte { return derive(secret, salt, info) }

// Unlock opens a box of a sealed keyring: nonce | ciphertext | tag.
func Unlock(key, additional, box []byte) ([]byte, error) { return unlock(key, additional, box) }
