// Package hsmtest has the contract suite that every hsm.Token passes ([Run]), and a fake token with faults ([Fake]).
package hsmtest
