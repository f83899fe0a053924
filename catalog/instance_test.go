package catalog_test

import (
	"context"
	"errors"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
)

func TestCatalog_Renew(t *testing.T) {
	t.Parallel()
	type bundle struct {
		cat    *catalog.Catalog
		server catalog.ServerID
	}
	setup := func(t *testing.T) *bundle {
		t.Helper()
		cat, _ := catalogtest.New(t)
		b := &bundle{cat: cat, server: catalog.NewID[catalog.Server]()}
		if err := cat.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
			return tx.CreateServer(t.Context(), &catalog.Server{ID: b.server, Name: "here", Hosts: []string{"127.0.0.1:1"}, SSLMode: "disable", MaxConnections: 16})
		}); err != nil {
			t.Fatal(err)
		}
		return b
	}
	// renew reports for somebody who keeps to share, has open and wants demand, and says what it is granted.
	renew := func(t *testing.T, b *bundle, r catalog.Report, share, open, demand int) int {
		t.Helper()
		r.Servers = map[catalog.ServerID]catalog.Use{b.server: {Share: share, Open: open, Demand: demand, Floor: min(share, 1)}}
		g, err := b.cat.Renew(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return g.Connections[b.server]
	}
	who := func(place string) catalog.Report {
		return catalog.Report{Instance: catalog.NewID[catalog.Instance](), Host: "h", Place: place}
	}
	want := func(t *testing.T, what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	expire := func(t *testing.T, b *bundle, id catalog.InstanceID, ago string) {
		t.Helper()
		if _, err := b.cat.Pool().Exec(t.Context(), "update rowhouse.instances set lease_until = now() - $2::interval where id = $1", id, ago); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("what one is told less is another's only when it was given up", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		one, two := who(""), who("")
		want(t, "alone", renew(t, b, one, 0, 0, 0), 16)
		want(t, "the second, while the first has all", renew(t, b, two, 0, 0, 9), 0)
		want(t, "the first is told less", renew(t, b, one, 16, 16, 20), 8)
		want(t, "the second, before the first has closed any", renew(t, b, two, 0, 0, 9), 0)
		want(t, "the first closes what it can", renew(t, b, one, 8, 11, 20), 8)
		want(t, "the second has what is left", renew(t, b, two, 0, 0, 9), 5)
		want(t, "the first has closed them", renew(t, b, one, 8, 8, 20), 8)
		want(t, "the second has its part", renew(t, b, two, 5, 5, 9), 8)
	})
	t.Run("who needs more has more", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		one, two := who(""), who("")
		renew(t, b, one, 0, 0, 0)
		renew(t, b, two, 0, 0, 1)
		want(t, "the busy one", renew(t, b, one, 16, 16, 40), 14)
		want(t, "the idle one has its floor", renew(t, b, two, 0, 0, 1), 0)
		renew(t, b, one, 14, 14, 40)
		want(t, "when it is free", renew(t, b, two, 0, 0, 1), 2)
	})
	t.Run("a process that leaves has nothing at once", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		one, two := who(""), who("")
		renew(t, b, one, 0, 0, 0)
		one.Leaving = true
		if _, err := b.cat.Renew(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		want(t, "the other one", renew(t, b, two, 0, 0, 0), 16)
	})
	t.Run("of one that is not heard of for a lease all but its floor is free, and that too when it cannot serve any more", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		one, two := who(""), who("")
		renew(t, b, one, 0, 0, 0)
		want(t, "before its lease ends", renew(t, b, two, 0, 0, 0), 0)
		expire(t, b, one.Instance, "1s")
		want(t, "after it: the floor of one alone is a quarter", renew(t, b, two, 0, 0, 0), 12)
		expire(t, b, one.Instance, "901s")
		want(t, "a quarter of an hour later", renew(t, b, two, 12, 12, 0), 16)
	})
	t.Run("whoever is where another was has what that one had", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		renew(t, b, who("a machine/:8080"), 0, 0, 0)
		want(t, "elsewhere", renew(t, b, who("another/:8080"), 0, 0, 0), 0)
		if _, err := b.cat.Renew(t.Context(), catalog.Report{Instance: catalog.NewID[catalog.Instance](), Place: "another/:8080", Leaving: true}); err != nil {
			t.Fatal(err)
		}
		again := who("a machine/:8080")
		want(t, "in its place", renew(t, b, again, 0, 0, 0), 8) // the one elsewhere is there as well
	})
	t.Run("a report that comes late is not believed", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		one := who("")
		one.Round = 7
		renew(t, b, one, 0, 0, 0)
		one.Round = 6
		if _, err := b.cat.Renew(t.Context(), one); !errors.Is(err, catalog.ErrConflict) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a server that is added is shared, one that is smaller holds less", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		one := who("")
		renew(t, b, one, 0, 0, 0)
		err := b.cat.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
			_, err := tx.Exec(context.WithoutCancel(t.Context()), "update rowhouse.servers set max_connections = 4")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "the smaller one", renew(t, b, one, 16, 16, 16), 4)
	})
}
