// Package softtoken is a token in software, for development and tests only: its keys lie in plain files, or in memory.
//
// It keeps the rules of a real token (decrypt-only root keys, KEKs that leave wrapped only, device keys that are used
// wrapped), so that what works on it works on hardware. It protects nothing: whoever reads its folder has the keys.
package softtoken
