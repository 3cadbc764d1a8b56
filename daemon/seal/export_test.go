package seal

import "crypto"

// SignedByNode is the check of what a node's HSM key signed.
func SignedByNode(key crypto.PublicKey, digest, signature []byte) bool {
	return signedByNode(key, digest, signature)
}
