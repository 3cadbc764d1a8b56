package broker

import (
	"fmt"
	"slices"
	"strings"
)

// match says which requests a scheme or an endpoint is for. An empty list matches
// anything. Paths are compared segment by segment; "*" is one segment, and "**" at
// the end is one or more.
type match struct {
	methods, hosts, calls []string
	headers               []string
	content               []content
	paths                 [][]string
}

func (p *Profile) compileMatch(y matchYAML) (match, error) {
	m := match{methods: y.Methods, hosts: y.Hosts, calls: y.Calls, headers: y.Headers, content: y.Content}
	for _, method := range y.Methods {
		if (&parsed{}).setMethod(method) != nil {
			return match{}, fmt.Errorf("method %q is none", method)
		}
	}
	for _, h := range y.Hosts {
		if !slices.Contains(p.hosts, h) {
			return match{}, fmt.Errorf("host %q is not one of the profile's", h)
		}
	}
	for _, c := range y.Content {
		if c != contentNone && c != contentForm && c != contentJSON {
			return match{}, fmt.Errorf("content %q is not none, form or json", c)
		}
	}
	if len(y.Calls) > 0 && p.call == "" {
		return match{}, fmt.Errorf("calls need the profile's call")
	}
	for _, path := range y.Paths {
		segments := strings.Split(path, "/")
		if segments[0] != "" || checkPath(path) != nil || slices.Contains(segments[:len(segments)-1], "**") {
			return match{}, fmt.Errorf("path %q is no path", path)
		}
		m.paths = append(m.paths, segments[1:])
	}
	return m, nil
}

func (m *match) fits(p *Profile, r *parsed) bool {
	return listed(m.methods, r.method) && listed(m.hosts, r.host) && listed(m.content, r.content) &&
		m.fitsPath(r.segments) && m.fitsCall(p, r) &&
		!slices.ContainsFunc(m.headers, func(h string) bool { return r.header.Get(h) == "" })
}

func listed[T comparable](list []T, v T) bool { return len(list) == 0 || slices.Contains(list, v) }

func (m *match) fitsPath(segments []string) bool {
	if len(m.paths) == 0 {
		return true
	}
	return slices.ContainsFunc(m.paths, func(pattern []string) bool { return fitsSegments(pattern, segments) })
}

func fitsSegments(pattern, segments []string) bool {
	for i, want := range pattern {
		if want == "**" {
			return len(segments) > i && segments[i] != ""
		}
		if i >= len(segments) || want != segments[i] && (want != "*" || segments[i] == "") {
			return false
		}
	}
	return len(segments) == len(pattern)
}

func (m *match) fitsCall(p *Profile, r *parsed) bool {
	if len(m.calls) == 0 {
		return true
	}
	if r.json == nil {
		return false
	}
	call, ok := r.json.value(p.call)
	return ok && slices.Contains(m.calls, string(call))
}
