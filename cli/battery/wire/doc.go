// Package wire makes requests that cost their maker next to nothing, over connections that are written to as they are: who
// offers a node ten times what it can do, or measures what an answer costs it, must not take the machine for itself.
package wire
