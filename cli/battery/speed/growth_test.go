//go:build battery

package speed_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warder/cli/battery/town"
)

// TestGrowth measures one node at 1,000, 10,000, 100,000 and 1,000,000 records: writes, the start, memory, disk, and a node
// that joins and gets it all as a snapshot.
func TestGrowth(t *testing.T) {
	sizes := []int{1000, 10_000, 100_000, 1_000_000}
	if testing.Short() {
		sizes = []int{100, 300}
	}
	softHSM := town.BareSoftHSM(t)
	at := oneNode(t, softHSM, "")
	g := &growth{at: at, n: at.Nodes[0], bot: furnish(t, at)}
	r := &table{title: "One node, by its records", head: []string{"records", "writes a second, 64 writers", "of the first", "start to ready, s", "resident after the start, MiB", "of it not of files, MiB", "bytes of memory for each record more", "of it not of files", "bytes on disk for each record", "audit log, bytes for each record"}}
	for _, size := range sizes {
		g.to(t, size, r)
	}
	r.show(t)
	g.joins(t)
}

type growth struct {
	at      *town.Town
	n       *town.Node
	bot     *bot
	writer  writer
	first   float64 // writes a second at the first size
	records int     // and memory, at the size before
	memory  memory
}

func (g *growth) to(t testing.TB, size int, r *table) {
	t.Helper()
	operator := g.at.Certificate(t)
	pipes := dial(t, serverOf(g.n), &operator, 64)
	g.writer.grow(t, pipes, size)
	var rates series
	for range times(1, 3) {
		rates = append(rates, offer(t, serverOf(g.n), pipes, 0, time.Duration(times(200, 2000))*time.Millisecond, g.writer.request))
	}
	hangUp(pipes)
	rate := median(rates.of(perSecond))
	if g.first == 0 {
		g.first = rate
	}
	records := int(g.writer.made.Load())
	start, now := g.starts(t)
	state, audit := diskOf(t, g.n.Data, "audit")
	each, own := "the first", ""
	if more := float64(records - g.records); g.records > 0 {
		each, own = number(float64(now.all-g.memory.all)/more), number(float64(now.anonymous-g.memory.anonymous)/more)
	}
	g.records, g.memory = records, now
	r.add(fmt.Sprint(records), spread(rates.of(perSecond)), number(rate/g.first), spread(start), number(float64(now.all)/(1<<20)), number(float64(now.anonymous)/(1<<20)), each, own,
		number(float64(state)/float64(records)), number(float64(audit)/float64(records)))
	t.Logf("%d records: %s writes a second, start %s s, %d MiB", records, number(rate), spread(start), now.all>>20)
}

// memory is a node's, in bytes.
type memory struct{ all, anonymous int64 }

// starts stops and starts the node some times: the time until it answers its first secret read, in seconds, and its memory then.
func (g *growth) starts(t testing.TB) (took []float64, now memory) {
	t.Helper()
	text := kinds()[0].request(g.bot)
	for range times(1, 3) {
		g.n.Stop()
		began := time.Now()
		g.n.Launch(t)
		town.Eventually(t, "the node answers", 5*time.Minute, func() error {
			if err := g.n.Ended(); err != nil {
				return town.Final(err)
			}
			return once(t, serverOf(g.n), g.bot.certificate, text)
		})
		took = append(took, time.Since(began).Seconds())
		now = memory{g.n.Resident(t), g.n.Anonymous(t)}
	}
	return took, now
}

// joins lets a new node join: it installs a snapshot of everything.
func (g *growth) joins(t testing.TB) {
	t.Helper()
	added := g.at.Add(t)
	began := time.Now()
	g.at.Join(t, added)
	joined := time.Since(began)
	town.Eventually(t, "the new node is ready", 10*time.Minute, func() error {
		answer, err := http.Get("http://" + added.Metrics + "/metrics")
		if err != nil {
			return err
		}
		_ = answer.Body.Close()
		if behind := g.n.Gauge(t, "warder_state_applied_index") - added.Gauge(t, "warder_state_applied_index"); behind > 0 {
			return fmt.Errorf("it is %v entries behind", behind)
		}
		return nil
	})
	g.at.Ready(t, added)
	whole := time.Since(began)
	r := &table{title: "A node joins, and gets the state as a snapshot", head: []string{"records", "join answered after, s", "ready after, s", "saving a snapshot, s (mean)"}}
	saved := "none saved"
	if count := g.n.Gauge(t, "warder_cluster_snapshot_seconds_count"); count > 0 {
		saved = number(g.n.Gauge(t, "warder_cluster_snapshot_seconds_sum") / count)
	}
	r.add(fmt.Sprint(g.records), number(joined.Seconds()), number(whole.Seconds()), saved)
	r.show(t)
}

// diskOf adds up what the files in a folder take of the disk, and apart from them those in one folder of it.
func diskOf(t testing.TB, dir, apart string) (rest, separate int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		var stat unix.Stat_t
		if err == nil && entry.Type().IsRegular() {
			err = unix.Stat(path, &stat)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		size := stat.Blocks * 512 // what is made longer than it is written takes no room
		if within, err := filepath.Rel(filepath.Join(dir, apart), path); err == nil && filepath.IsLocal(within) {
			separate += size
		} else {
			rest += size
		}
		return err
	})
	expect(t, err)
	return rest, separate
}
