// Package hsm says what a hardware security module can do for Warder: decrypt with root keys, sign with the node's
// identity key, and hold the key-encryption keys under which device keys are kept.
//
// It holds the types, the errors and what needs no hardware: encryption to a root key's public half, and the sources
// of a PIN. hsm/pkcs11 talks to real modules, hsm/softtoken is a token in software for development, and hsm/hsmtest
// has the contract suite that every one of them passes.
package hsm
