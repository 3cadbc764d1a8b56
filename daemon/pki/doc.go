// Package pki is the cluster's own certificate authority: it certifies nodes, operators, workloads and devices.
//
// Of a certificate request only the public key is used, after the request's signature has proved possession of its
// private half; every name comes from the cluster. The authority's key is a sealed record.
package pki
