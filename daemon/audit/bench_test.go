package audit_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warder/daemon/audit"
)

func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l, err := audit.Open(testConfig(b.TempDir()))
			if err != nil {
				b.Fatal(err)
			}
			record := testRecord(1)
			var left atomic.Int64
			left.Store(int64(b.N))
			done := make(chan error)
			ctx := context.WithoutCancel(b.Context()) // as on the road
			before := cpu(b)
			b.ResetTimer()
			for range callers {
				go func() {
					var err error
					for err == nil && left.Add(-1) >= 0 {
						_, err = l.Append(ctx, record)
					}
					done <- err
				}()
			}
			for range callers {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/record")
			if err := l.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// cpu is the processors' time that this process has taken.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func BenchmarkEncode(b *testing.B) {
	record := testRecord(1)
	record.Node = "n1"
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = record.AppendBinary(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}
