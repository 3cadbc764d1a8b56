package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

// result is what one operation came to.
type result struct {
	Operation  string  `json:"operation"`
	Count      int     `json:"count"`
	Errors     int     `json:"errors"`
	FirstError string  `json:"first_error,omitempty"`
	PerSecond  float64 `json:"per_second"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	P999       float64 `json:"p99_9_ms"`
	Max        float64 `json:"max_ms"`
	// CPU is the servers' CPU time for one operation in microseconds; absent when no
	// metrics pages were named.
	CPU *float64 `json:"server_cpu_us_per_operation,omitempty"`
}

func minute() *durationpb.Duration { return durationpb.New(time.Minute) }

// measure runs the operation by all workers until the time is over.
func (a *app) measure(ctx context.Context, s settings, l load, o operation) (result, error) {
	clients, err := a.workerClients(s, o.grant)
	if err != nil {
		return result{}, err
	}
	for _, c := range clients {
		defer c.Close()
	}
	for _, c := range clients { // connections, tokens and caches; and the first error is told whole
		if err := o.call(ctx, c); err != nil {
			return result{}, err
		}
	}
	before, err := cpuSeconds(ctx, l.metrics)
	if err != nil {
		return result{}, err
	}
	tallies, took := run(ctx, l, o, clients)
	after, err := cpuSeconds(ctx, l.metrics)
	if err != nil {
		return result{}, err
	}
	measured := summarise(o.name, tallies, took)
	if len(l.metrics) > 0 && measured.Count > 0 {
		each := (after - before) * 1e6 / float64(measured.Count)
		measured.CPU = &each
	}
	return measured, nil
}

// workerClients makes one client for each endpoint, which begins there.
func (a *app) workerClients(s settings, grant *warderv1.Grant) ([]*client.Client, error) {
	var clients []*client.Client
	for i := range s.Endpoints {
		own := s
		own.Endpoints = append(slices.Clone(s.Endpoints[i:]), s.Endpoints[:i]...)
		config, err := a.config(own)
		if err != nil {
			return nil, err
		}
		if grant != nil && config.Token == nil && needsToken(own.Certificate) {
			issuer, err := client.Dial(config)
			if err != nil {
				return nil, err
			}
			config.Token = client.NewTokenSource(issuer, []*warderv1.Grant{grant}, 10*time.Minute).Token
		}
		c, err := client.Dial(config)
		if err != nil {
			return nil, localf("correct the context file or the flags", "%w", err)
		}
		clients = append(clients, c)
	}
	if len(clients) == 0 {
		_, err := a.config(s) // says that there is no endpoint
		return nil, err
	}
	return clients, nil
}

// tally is what one worker saw.
type tally struct {
	times  []time.Duration
	errors int
	first  error
}

func run(ctx context.Context, l load, o operation, clients []*client.Client) ([]tally, time.Duration) {
	tallies := make([]tally, l.concurrency)
	began := time.Now()
	end := began.Add(l.duration)
	var workers sync.WaitGroup
	for i := range tallies {
		workers.Go(func() { work(ctx, end, o, clients[i%len(clients)], &tallies[i]) })
	}
	workers.Wait()
	return tallies, time.Since(began)
}

func work(ctx context.Context, end time.Time, o operation, c *client.Client, t *tally) {
	for {
		began := time.Now()
		if !began.Before(end) || ctx.Err() != nil {
			return
		}
		if err := o.call(ctx, c); err != nil {
			t.errors++
			if t.first == nil {
				t.first = err
			}
			continue
		}
		t.times = append(t.times, time.Since(began))
	}
}

func summarise(name string, tallies []tally, took time.Duration) result {
	r := result{Operation: name}
	var times []time.Duration
	for _, t := range tallies {
		times = append(times, t.times...)
		r.Errors += t.errors
		if t.first != nil && r.FirstError == "" {
			r.FirstError = shortError(t.first)
		}
	}
	slices.Sort(times)
	r.Count = len(times)
	r.PerSecond = float64(len(times)) / took.Seconds()
	r.P50, r.P99, r.P999, r.Max = quantile(times, 0.5), quantile(times, 0.99), quantile(times, 0.999), quantile(times, 1)
	return r
}

// quantile of sorted times, in milliseconds (nearest rank).
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[rank]) / float64(time.Millisecond)
}

// cpuSeconds adds up the CPU time that the pages tell.
func cpuSeconds(ctx context.Context, urls []string) (float64, error) {
	sum := 0.0
	for _, url := range urls {
		page, err := fetch(ctx, url)
		if err != nil {
			return 0, localf("name pages of the form http://host:port/metrics; the node's configuration says where: metrics.listen", "metrics page %s: %w", url, err)
		}
		seconds, err := metric(page, "process_cpu_seconds_total")
		if err != nil {
			return 0, localf("name a node's own metrics page", "metrics page %s: %w", url, err)
		}
		sum += seconds
	}
	return sum, nil
}

// maxPage bounds a metrics page, in bytes.
const maxPage = 4 << 20

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, maxPage))
}

// metric reads a metric without labels from a page in Prometheus's text format.
func metric(page []byte, name string) (float64, error) {
	lines := bufio.NewScanner(bytes.NewReader(page))
	for lines.Scan() {
		if value, found := strings.CutPrefix(lines.Text(), name+" "); found {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, errors.Join(lines.Err(), fmt.Errorf("the page has no %s", name))
}

func (a *app) showResults(results []result) error {
	if a.flags.format == "json" {
		return a.printJSON(results)
	}
	t := newTable()
	t.row("OPERATION", "COUNT", "ERRORS", "PER SECOND", "P50 MS", "P99 MS", "P99.9 MS", "MAX MS", "SERVER CPU US/OP", "FIRST ERROR")
	for _, r := range results {
		cpu := "not told"
		if r.CPU != nil {
			cpu = fmt.Sprintf("%.0f", *r.CPU)
		}
		t.row(r.Operation, r.Count, r.Errors, fmt.Sprintf("%.0f", r.PerSecond), fmt.Sprintf("%.2f", r.P50), fmt.Sprintf("%.2f", r.P99),
			fmt.Sprintf("%.2f", r.P999), fmt.Sprintf("%.2f", r.Max), cpu, r.FirstError)
	}
	_, err := a.env.Stdout.Write(t.bytes())
	return err
}
