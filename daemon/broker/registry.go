package broker

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed profiles/*.yaml
var builtin embed.FS

// Registry holds profiles by name. It is immutable.
type Registry struct {
	profiles map[string]*Profile
}

// Builtin loads the profiles that are part of Warder.
func Builtin() (*Registry, error) {
	files, err := fs.Glob(builtin, "profiles/*.yaml")
	if err != nil {
		return nil, err
	}
	var profiles []*Profile
	for _, file := range files {
		text, err := builtin.ReadFile(file)
		if err != nil {
			return nil, err
		}
		p, err := Load(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		profiles = append(profiles, p)
	}
	return NewRegistry(profiles...)
}

// NewRegistry holds the given profiles; two of one name are refused.
func NewRegistry(profiles ...*Profile) (*Registry, error) {
	r := &Registry{profiles: make(map[string]*Profile, len(profiles))}
	for _, p := range profiles {
		if r.profiles[p.Name] != nil {
			return nil, fmt.Errorf("%w: two profiles are named %s", ErrProfile, p.Name)
		}
		r.profiles[p.Name] = p
	}
	return r, nil
}

// Get returns a profile, or [ErrUnknownProfile] with the names there are.
func (r *Registry) Get(name string) (*Profile, error) {
	if p := r.profiles[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: the profiles are %s", ErrUnknownProfile, strings.Join(r.Names(), ", "))
}

// Names are the names of all profiles, sorted.
func (r *Registry) Names() []string {
	names := make([]string, 0, len(r.profiles))
	for name := range r.profiles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
