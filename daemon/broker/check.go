package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Vector is one re-signing pair: the same call signed by an independent client with
// a lease and with the broker's credential.
type Vector struct {
	Broker     string            `json:"broker"`
	NowMS      int64             `json:"now_ms"`
	Lease      map[string]string `json:"lease"`
	Credential map[string]string `json:"credential"`
	Inbound    VectorRequest     `json:"inbound"`
	Outbound   VectorRequest     `json:"outbound"`
	Variant    string            `json:"variant"`
}

// VectorRequest is a request of a [Vector]; Body is nil where there is none.
type VectorRequest struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Body    *string           `json:"body"`
}

func (v VectorRequest) request() Request {
	r := Request{Method: v.Method, URL: v.URL, Header: http.Header{}}
	for name, value := range v.Headers {
		r.Header.Set(name, value)
	}
	if v.Body != nil {
		r.Body = []byte(*v.Body)
	}
	return r
}

// Result is the outcome of one vector; Err is nil when the profile is right.
type Result struct {
	Index   int
	Broker  string
	Profile string
	Variant string
	Class   Class
	Err     error
}

// errNoProfile says that no profile knows the vector's broker.
var errNoProfile = errors.New("no profile knows this broker's vectors")

// MaxVectors bounds a file of vectors.
const MaxVectors = 10_000

// ParseVectors reads a JSON array of vectors.
func ParseVectors(text []byte) ([]Vector, error) {
	var list []Vector
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("vectors are not a JSON array of re-signing pairs: %w", err)
	}
	if len(list) > MaxVectors {
		return nil, fmt.Errorf("more than %d vectors", MaxVectors)
	}
	return list, nil
}

// Check runs vectors against the registry's profiles: a profile is right when it
// accepts the inbound request with the lease and gives the outbound one, byte for
// byte. ES256 signatures are compared by verifying: they differ from client to client.
func (r *Registry) Check(vectors []Vector) []Result {
	results := make([]Result, len(vectors))
	for i, v := range vectors {
		results[i] = r.check(v)
		results[i].Index = i
	}
	return results
}

func (r *Registry) check(v Vector) Result {
	out := Result{Broker: v.Broker, Variant: v.Variant}
	p, fields := r.forVectors(v.Broker)
	if p == nil {
		out.Err = errNoProfile
		return out
	}
	out.Profile = p.Name
	out.Class, out.Err = p.checkVector(v, fields)
	return out
}

func (r *Registry) forVectors(broker string) (*Profile, map[string]string) {
	for _, name := range r.Names() {
		if fields, ok := r.profiles[name].vectors[broker]; ok {
			return r.profiles[name], fields
		}
	}
	return nil, nil
}

func (p *Profile) vectorFields(given, names map[string]string) (*Fields, error) {
	m := make(map[string][]byte, len(names))
	for field, name := range names {
		m[field] = []byte(given[name])
	}
	return p.Fields(m)
}

func (p *Profile) checkVector(v Vector, names map[string]string) (Class, error) {
	lease, err := p.vectorFields(v.Lease, names)
	if err != nil {
		return "", fmt.Errorf("lease: %w", err)
	}
	credential, err := p.vectorFields(v.Credential, names)
	if err != nil {
		return "", fmt.Errorf("credential: %w", err)
	}
	call, err := p.Parse(v.Inbound.request())
	if err != nil {
		return "", fmt.Errorf("inbound: %w", err)
	}
	at := Moment{Now: time.UnixMilli(v.NowMS)}
	got, err := call.Resign(lease, credential, at)
	if err != nil {
		return call.Class(), fmt.Errorf("inbound: %w", err)
	}
	if err := compare(got, v.Outbound); err != nil && !p.verifies(got, v.Outbound, credential, at) {
		return call.Class(), err
	}
	return call.Class(), nil
}

// verifies accepts an outbound request that differs from ours only in a signature
// which the credential verifies: verified and signed again, it is ours.
func (p *Profile) verifies(got Signed, want VectorRequest, credential *Fields, at Moment) bool {
	call, err := p.Parse(want.request())
	if err != nil {
		return false
	}
	again, err := call.Resign(credential, credential, at)
	return err == nil && again.Method == got.Method && again.URL == got.URL &&
		string(again.Body) == string(got.Body) && maps.EqualFunc(again.Header, got.Header, slices.Equal)
}

// compare names what differs, never the values: they hold signatures and keys.
func compare(got Signed, want VectorRequest) error {
	var differ []string
	if got.Method != want.Method || got.URL != want.URL {
		differ = append(differ, "url")
	}
	w := want.request()
	if string(got.Body) != string(w.Body) {
		differ = append(differ, "body")
	}
	for name := range w.Header {
		if got.Header.Get(name) != w.Header.Get(name) {
			differ = append(differ, name)
		}
	}
	for name := range got.Header {
		if _, ok := w.Header[name]; !ok {
			differ = append(differ, name)
		}
	}
	if len(differ) == 0 {
		return nil
	}
	slices.Sort(differ)
	return fmt.Errorf("outbound differs in %s", strings.Join(differ, ", "))
}
