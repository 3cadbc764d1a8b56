package gateway

import (
	"context"
	"time"
)

// NewTerm gives the context of a request and what ends it.
func NewTerm(parent context.Context, id string, deadline time.Time) (context.Context, func()) {
	made := &term{Context: parent, id: id, deadline: deadline}
	return made, made.end
}
