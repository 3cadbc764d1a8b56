package hsm

import "fmt"

// A KEK on its way from one token to another:
//
//	version u8 = 1 | hash u8 = 1 (SHA-1) | RSA-OAEP ciphertext, as long as the modulus
//
// Every token takes SHA-1 in OAEP and some refuse all else, and the sender cannot ask the receiver's module; OAEP does
// not lean on collision resistance. A later version may name another hash.
const (
	transportVersion = 1
	transportSHA1    = 1
	maxTransport     = 2 + 1024 // RSA-8192
)

// TransportHash is the OAEP hash under which KEKs travel.
const TransportHash = SHA1

// EncodeTransport puts the header before the RSA-OAEP ciphertext of a KEK.
func EncodeTransport(ciphertext []byte) []byte {
	return append([]byte{transportVersion, transportSHA1}, ciphertext...)
}

// DecodeTransport checks the header and gives the ciphertext, or ErrBadInput.
func DecodeTransport(wrapped []byte) ([]byte, error) {
	if len(wrapped) < 2 || len(wrapped) > maxTransport || wrapped[0] != transportVersion || wrapped[1] != transportSHA1 {
		return nil, fmt.Errorf("%w: not a wrapped KEK of version %d", ErrBadInput, transportVersion)
	}
	return wrapped[2:], nil
}
