package town

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

// Serves says why a node does not serve, asked by a client of that node alone; nil when it does.
func Serves(t testing.TB, one *client.Client) error {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	status, err := one.System.GetStatus(ctx, &warderv1.GetStatusRequest{})
	if err == nil && len(status.GetProblems()) > 0 {
		return errors.New(strings.Join(status.GetProblems(), "; "))
	}
	return err
}
