package daemon

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"warder/daemon/ratelimit"
)

// metrics are the node's, in a registry of its own. Labels have few values: methods and reasons, never names.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	groups    prometheus.Histogram
	commits   prometheus.Histogram
	leader    prometheus.Counter
	diverged  prometheus.Counter
	snapshots prometheus.Histogram

	mu    sync.RWMutex
	known map[kind]series // guarded by mu; as many as there are series
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(), known: map[kind]series{},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warder_requests_total", Help: "Requests, by method and by the reason of a refusal.",
		}, []string{"method", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "warder_request_seconds", Help: "Time of a request on the node, its audit record included.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 16),
		}, []string{"method"}),
		groups: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "warder_cluster_group_entries", Help: "Client batches that shared one Raft entry.", Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "warder_cluster_commit_seconds", Help: "Time from proposing a Raft entry to its being applied here.", Buckets: prometheus.ExponentialBuckets(250e-6, 2, 14),
		}),
		leader: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "warder_cluster_leader_changes_total", Help: "Changes of the leader that this node saw.",
		}),
		diverged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "warder_cluster_divergences_total", Help: "Times that members' states differed at the same index: any is an alarm.",
		}),
		snapshots: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "warder_cluster_snapshot_seconds", Help: "Time of saving a snapshot.", Buckets: prometheus.ExponentialBuckets(10e-3, 2, 12),
		}),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.requests, m.seconds, m.groups, m.commits, m.leader, m.diverged, m.snapshots,
	)
	return m
}

// kind is one of the few kinds of request that the metrics tell apart.
type kind struct{ procedure, reason string }

// series are the metrics of one kind of request.
type series struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

// observe hears of every request from the road.
func (m *metrics) observe(procedure, reason string, took time.Duration) {
	of := m.seriesOf(kind{procedure, reason})
	of.requests.Inc()
	of.seconds.Observe(took.Seconds())
}

// seriesOf remembers what the labels stand for: to look them up costs more than to count.
func (m *metrics) seriesOf(asked kind) series {
	m.mu.RLock()
	found, ok := m.known[asked]
	m.mu.RUnlock()
	if ok {
		return found
	}
	found = series{m.requests.WithLabelValues(asked.procedure, asked.reason), m.seconds.WithLabelValues(asked.procedure)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[asked] = found
	return found
}

// Grouped and the methods after it are cluster.Observer's.
func (m *metrics) Grouped(entries, _ int) { m.groups.Observe(float64(entries)) }

// Committed hears of an applied Raft entry.
func (m *metrics) Committed(took time.Duration) { m.commits.Observe(took.Seconds()) }

// LeaderChanged hears of a new leader, or of none.
func (m *metrics) LeaderChanged(string) { m.leader.Inc() }

// Diverged hears that members' states differ.
func (m *metrics) Diverged(uint64, []string) { m.diverged.Inc() }

// Snapshotted hears of a saved snapshot.
func (m *metrics) Snapshotted(_ int64, took time.Duration) { m.snapshots.Observe(took.Seconds()) }

// handler serves /metrics of a member. It tells no name and no secret.
func (m *metrics) handler(of *member) http.Handler {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("warder_sealed", "1 while the node holds no keys.", func() float64 { return truth(of.keeper.Sealed()) })
	gauge("warder_hsm_healthy", "1 while the HSM's canary decrypts.", func() float64 { return truth(of.keeper.Health() == nil) })
	gauge("warder_audit_healthy", "1 while the audit log can be written.", func() float64 { return truth(of.log.Healthy() == nil) })
	gauge("warder_audit_records", "Records in the node's audit log.", func() float64 { return float64(of.log.Size()) })
	gauge("warder_state_applied_index", "The highest Raft index that the state holds.", func() float64 { return float64(of.store.Applied()) })
	gauge("warder_cluster_term", "Raft's term: each election raises it.", func() float64 { return float64(of.raft.State().Term) })
	gauge("warder_cluster_staleness_seconds", "How long ago the node last knew itself up to date.", func() float64 { return of.raft.Staleness().Seconds() })
	gauge("warder_cluster_clock_offset_seconds", "How far the node's clock is ahead of the median of the other members'.", func() float64 { return of.raft.ClockOffset().Seconds() })
	gauge("warder_clock_right", "1 while the node's clock is within the bound of a majority's.", func() float64 { return truth(of.raft.Clock() == nil) })
	gauge("warder_keyring_epoch", "The sealing that is open here; 0 while sealed.", func() float64 { return float64(of.keeper.Epoch()) })
	for _, lane := range ratelimit.AllLanes() {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "warder_requests_working", Help: "Requests that are worked on now, by lane.", ConstLabels: prometheus.Labels{"lane": lane.String()},
		}, func() float64 { return float64(of.server.Lanes.Working(lane)) }))
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
