package seal

import (
	"warder/keystore/keyring"
	"warder/keystore/kv"
)

// firstEpoch is the epoch of a cluster's first sealing.
const firstEpoch = 1

// Found writes the first sealing of a new cluster's keyring, its first member, and the custody key's name if it has one.
func Found(tx *kv.Tx, ring *keyring.Keyring, clusterID string, member Member, custody *Custody) error {
	if err := put(tx, memberKey(member.Node), member); err != nil {
		return err
	}
	if custody != nil {
		if err := put(tx, custodyKey(), *custody); err != nil {
			return err
		}
	}
	return sealKeyring(tx, ring, clusterID, firstEpoch, []RootKey{member.Root})
}
