package town

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Final makes an error that ends Eventually at once.
func Final(err error) error { return &finalError{err} }

type finalError struct{ error }

// Eventually asks until it is told yes, or fails the test when the time is up: for what other processes do. The bound is
// there to end a test that hangs; it is no promise of speed.
func Eventually(t testing.TB, what string, bound time.Duration, ask func() error) {
	t.Helper()
	deadline, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		if final := (*finalError)(nil); errors.As(err, &final) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-deadline.Done():
			t.Fatalf("%s: not within %s: %v", what, bound, err)
		case <-tick.C:
		}
	}
}

// Pass lets time pass: for faults that last, never to wait for something that can be asked.
func Pass(t testing.TB, how time.Duration) {
	t.Helper()
	timer := time.NewTimer(how)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal("the test ended while a fault lasted")
	}
}
