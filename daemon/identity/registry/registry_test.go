package registry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warder/daemon/identity"
	"warder/daemon/identity/registry"
	"warder/keystore/keyring"
	"warder/keystore/keystoretest"
	"warder/keystore/kv"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func principal(kind identity.Kind, namespace, name string) identity.Principal {
	return identity.Principal{Kind: kind, Namespace: identity.MustName(namespace), Name: identity.MustName(name)}
}

func open(t testing.TB) (*registry.Registry, *kv.DB, *keystoretest.FaultyLog) {
	t.Helper()
	db, log := keystoretest.Open(t)
	return registry.New(db, func() time.Time { return noon }), db, log
}

func names(texts ...string) (all []identity.Name) {
	for _, text := range texts {
		all = append(all, identity.MustName(text))
	}
	return all
}

func TestLifeOfAnIdentity(t *testing.T) {
	r, _, _ := open(t)
	ctx, bot := t.Context(), principal(identity.Workload, "default", "bot")
	first, second := registry.KeyHash{1}, registry.KeyHash{2}
	expect := func(name string, got registry.Identity, err error, epoch uint64, state registry.State, keys ...registry.KeyHash) {
		t.Helper()
		seen, ok := r.Lookup(bot)
		if err != nil || !ok || seen.Revision != got.Revision {
			t.Fatalf("%s: %v; Lookup = %+v, %v, which is not what was answered", name, err, seen, ok)
		}
		if got.Epoch != epoch || got.State != state || !slices.Equal(got.Keys, keys) || !got.Created.Equal(noon) {
			t.Errorf("%s: %+v; want epoch %d, %s, keys %v", name, got, epoch, state, keys)
		}
	}
	got, err := r.Create(ctx, bot, names("b", "a", "b"), first)
	expect("created", got, err, 1, registry.Enabled, first)
	if !slices.Equal(got.Groups, names("a", "b")) {
		t.Errorf("its groups are %v; want each once, in order", got.Groups)
	}
	if _, err := r.Create(ctx, bot, nil); !errors.Is(err, registry.ErrExists) {
		t.Errorf("created again: %v; want %v", err, registry.ErrExists)
	}
	for range 2 {
		got, err = r.Bind(ctx, bot, second)
	}
	expect("bound", got, err, 1, registry.Enabled, first, second)
	got, err = r.Unbind(ctx, bot, first)
	expect("unbound", got, err, 1, registry.Enabled, second)
	got, err = r.BumpEpoch(ctx, bot)
	expect("a new epoch", got, err, 2, registry.Enabled, second)
	for range 2 {
		got, err = r.SetState(ctx, bot, registry.Disabled)
	}
	expect("disabled", got, err, 3, registry.Disabled, second)
	got, err = r.SetState(ctx, bot, registry.Enabled)
	expect("enabled, its old tokens void", got, err, 3, registry.Enabled, second)
	got, err = r.Revoke(ctx, bot)
	expect("revoked", got, err, 4, registry.Enabled)
	got, err = r.SetGroups(ctx, bot, nil)
	expect("out of its groups", got, err, 4, registry.Enabled)
	if got.Groups != nil {
		t.Errorf("its groups are %v", got.Groups)
	}
	if _, err := r.SetState(ctx, bot, "suspended"); !errors.Is(err, registry.ErrState) {
		t.Errorf("another state: %v; want %v", err, registry.ErrState)
	}
	many := make([]identity.Name, registry.MaxGroups+1)
	for i := range many {
		many[i] = identity.MustName(fmt.Sprint("g", i))
	}
	if _, err := r.SetGroups(ctx, bot, many); !errors.Is(err, registry.ErrTooMany) {
		t.Errorf("65 groups: %v; want %v", err, registry.ErrTooMany)
	}
}

// TestNamespacesAreApart: the same name elsewhere is somebody else, for every method.
func TestNamespacesAreApart(t *testing.T) {
	r, _, _ := open(t)
	ctx, here := t.Context(), principal(identity.Workload, "here", "bot")
	if _, err := r.Create(ctx, here, nil, registry.KeyHash{1}); err != nil {
		t.Fatal(err)
	}
	before, _ := r.Lookup(here)
	for _, foreign := range []identity.Principal{
		principal(identity.Workload, "there", "bot"), principal(identity.Device, "here", "bot"), principal(identity.Workload, "here", "bot-1"), {},
	} {
		if found, ok := r.Lookup(foreign); ok || found.Principal != (identity.Principal{}) {
			t.Errorf("%v is found as %+v", foreign, found)
		}
		if foreign == (identity.Principal{}) {
			continue
		}
		_, bind := r.Bind(ctx, foreign, registry.KeyHash{2})
		_, unbind := r.Unbind(ctx, foreign, registry.KeyHash{1})
		_, groups := r.SetGroups(ctx, foreign, names("admins"))
		_, state := r.SetState(ctx, foreign, registry.Disabled)
		_, epoch := r.BumpEpoch(ctx, foreign)
		_, revoke := r.Revoke(ctx, foreign)
		_, get := r.Get(foreign)
		for i, err := range []error{bind, unbind, groups, state, epoch, revoke, get} {
			if !errors.Is(err, registry.ErrNotFound) {
				t.Errorf("method %d on %v: %v; want %v", i, foreign, err, registry.ErrNotFound)
			}
		}
	}
	if after, _ := r.Lookup(here); after.Revision != before.Revision {
		t.Error("a foreign handle changed the identity")
	}
	if found := r.List(identity.MustName("there"), 0); len(found) != 0 {
		t.Errorf("another namespace lists %v", found)
	}
}

func TestList(t *testing.T) {
	r, _, _ := open(t)
	for _, p := range []identity.Principal{
		principal(identity.Workload, "a", "z"), principal(identity.Workload, "a", "b"), principal(identity.Device, "a", "c"), principal(identity.Workload, "b", "a"),
	} {
		if _, err := r.Create(t.Context(), p, nil); err != nil {
			t.Fatal(err)
		}
	}
	list := func(kind identity.Kind) (texts []string) {
		for _, found := range r.List(identity.MustName("a"), kind) {
			texts = append(texts, found.Principal.String())
		}
		return texts
	}
	if got, want := list(0), []string{"device:a/c", "workload:a/b", "workload:a/z"}; !slices.Equal(got, want) {
		t.Errorf("all of a: %v; want %v", got, want)
	}
	if got, want := list(identity.Workload), []string{"workload:a/b", "workload:a/z"}; !slices.Equal(got, want) {
		t.Errorf("workloads of a: %v; want %v", got, want)
	}
}

// TestChangesAtOnce: of parallel changes none is lost, and each shows when it returns.
func TestChangesAtOnce(t *testing.T) {
	r, _, _ := open(t)
	bot := principal(identity.Workload, "default", "bot")
	if _, err := r.Create(t.Context(), bot, nil); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			mine := registry.KeyHash{byte(i + 1)}
			if _, err := r.Bind(t.Context(), bot, mine); err != nil {
				t.Error(err)
				return
			}
			if found, _ := r.Lookup(bot); !found.Binds(mine) {
				t.Error("a change that returned does not show")
			}
		})
	}
	running.Wait()
	if found, _ := r.Lookup(bot); len(found.Keys) != 8 {
		t.Errorf("%d keys are bound; want 8", len(found.Keys))
	}
}

// TestNodesFollow: what is changed at one node is seen at another that runs; sealed, it knows nobody.
func TestNodesFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, db, log := open(t)
		other := registry.New(db, func() time.Time { return noon })
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		running.Go(func() { _ = other.Run(ctx) })
		bot := principal(identity.Workload, "default", "bot")
		if _, err := r.Create(ctx, bot, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := other.Lookup(bot); !ok {
			t.Error("another node does not know a new identity")
		}
		if _, err := r.SetState(ctx, bot, registry.Disabled); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if found, _ := other.Lookup(bot); found.State != registry.Disabled {
			t.Errorf("at another node it is %s still", found.State)
		}
		ring, err := log.Keys().Keyring()
		if err != nil {
			t.Fatal(err)
		}
		log.Keys().Clear()
		db.Wake()
		synctest.Wait()
		if _, ok := other.Lookup(bot); ok || !errors.Is(other.Problem(), keyring.ErrSealed) {
			t.Errorf("a sealed node knows an identity: %v; its problem is %v", ok, other.Problem())
		}
		log.Keys().Set(ring)
		db.Wake()
		synctest.Wait()
		if _, ok := other.Lookup(bot); !ok || other.Problem() != nil {
			t.Errorf("an unsealed node knows it: %v; its problem is %v", ok, other.Problem())
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	r, _, _ := open(b)
	bot := principal(identity.Workload, "default", "bot")
	if _, err := r.Create(b.Context(), bot, nil); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := r.Lookup(bot); !ok {
			b.Fatal("not found")
		}
	}
}
