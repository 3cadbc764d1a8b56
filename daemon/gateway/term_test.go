package gateway_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"warder/daemon/gateway"
)

type place struct{}

// TestTermIsItsContext does the same to a request's context and to the one that it stands for, looked at in each order:
// before it is over and after, waited for and not.
func TestTermIsItsContext(t *testing.T) {
	deadline := 10 * time.Second
	for name, test := range map[string]struct {
		happens func(cancelParent, end func())
		want    error
	}{
		"nothing":                     {func(_, _ func()) {}, nil},
		"its time is over":            {func(_, _ func()) { time.Sleep(deadline + time.Millisecond) }, context.DeadlineExceeded},
		"the caller goes away":        {func(cancelParent, _ func()) { cancelParent() }, context.Canceled},
		"the request ends":            {func(_, end func()) { end() }, context.Canceled},
		"it ends, then its time":      {func(_, end func()) { end(); time.Sleep(deadline + time.Millisecond) }, context.Canceled},
		"its time, then it ends":      {func(_, end func()) { time.Sleep(deadline + time.Millisecond); end() }, context.DeadlineExceeded},
		"its time, then who asked it": {func(cancelParent, _ func()) { time.Sleep(deadline + time.Millisecond); cancelParent() }, context.DeadlineExceeded},
	} {
		for look, before := range map[string]func(ctx context.Context){
			"nobody looks before":   func(context.Context) {},
			"somebody waits before": func(ctx context.Context) { ctx.Done() },
			"a child is there":      func(ctx context.Context) { _, cancel := context.WithTimeout(ctx, time.Hour); _ = cancel },
		} {
			if name == "its time, then who asked it" && look == "nobody looks before" {
				continue // which came first nobody can tell
			}
			t.Run(name+", "+look, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					parent, cancel := context.WithCancel(context.WithValue(t.Context(), place{}, "here"))
					defer cancel()
					ctx, end := gateway.NewTerm(parent, "ID", time.Now().Add(deadline))
					defer end()
					before(ctx)
					if at, ok := ctx.Deadline(); !ok || time.Until(at) != deadline {
						t.Errorf("its deadline is %v, %v", at, ok)
					}
					test.happens(cancel, end)
					synctest.Wait()
					for range 2 {
						if err := ctx.Err(); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
							t.Errorf("its error is %v; want %v", err, test.want)
						}
					}
					if cause := context.Cause(ctx); !errors.Is(cause, test.want) {
						t.Errorf("its cause is %v; want %v", cause, test.want)
					}
					child, cancelChild := context.WithCancel(ctx)
					defer cancelChild()
					if err := child.Err(); !errors.Is(err, test.want) {
						t.Errorf("its child's error is %v; want %v", err, test.want)
					}
					select {
					case <-ctx.Done():
						if test.want == nil {
							t.Error("it is done")
						}
					default:
						if test.want != nil {
							t.Error("it is not done")
						}
					}
					if gateway.RequestID(ctx) != "ID" || gateway.RequestID(context.WithoutCancel(child)) != "ID" || ctx.Value(place{}) != "here" {
						t.Error("it lost a value")
					}
				})
			})
		}
	}
}

// TestTermWakes: who waits, directly or through a child, is woken at the end, whichever end it is.
func TestTermWakes(t *testing.T) {
	for name, test := range map[string]func(cancelParent, end func()){
		"its time is over":     func(_, _ func()) { time.Sleep(11 * time.Second) },
		"the caller goes away": func(cancelParent, _ func()) { cancelParent() },
		"the request ends":     func(_, end func()) { end() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancel(t.Context())
				defer cancel()
				ctx, end := gateway.NewTerm(parent, "ID", time.Now().Add(10*time.Second))
				defer end()
				woken := make(chan struct{}, 2)
				go func() { <-ctx.Done(); woken <- struct{}{} }()
				child, cancelChild := context.WithTimeout(ctx, time.Hour)
				defer cancelChild()
				go func() { <-child.Done(); woken <- struct{}{} }()
				synctest.Wait()
				test(cancel, end)
				synctest.Wait()
				if len(woken) != 2 {
					t.Errorf("%d of 2 were woken", len(woken))
				}
			})
		})
	}
}

func BenchmarkTerm(b *testing.B) {
	parent, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		ctx, end := gateway.NewTerm(parent, "ID", time.Now().Add(time.Second))
		if ctx.Err() != nil {
			b.Fatal(ctx.Err())
		}
		end()
	}
}
