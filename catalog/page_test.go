package catalog_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
)

// Read page by page, a list gives every row once and in order, though rows come and go in between.
func TestCatalog_Pages(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	ctx := t.Context()
	server := &catalog.Server{ID: catalog.NewID[catalog.Server](), Name: "main", Hosts: []string{"h:1"}}
	update(t, cat, func(tx *catalog.Tx) error { return tx.CreateServer(ctx, server) })
	var tenants []string
	for i := range 5 {
		name := fmt.Sprintf("t%c-%d", 'e'-i, i)
		tenants = append(tenants, name)
		update(t, cat, func(tx *catalog.Tx) error {
			id := catalog.NewID[catalog.Tenant]()
			return errors.Join(
				tx.CreateTenant(ctx, catalog.NewTenant{ID: id, Name: name}),
				tx.CreateServer(ctx, &catalog.Server{ID: catalog.NewID[catalog.Server](), Name: "s-" + name, Hosts: []string{"h:1"}}),
				tx.CreateDatabase(ctx, catalog.NewDatabase{ID: catalog.NewID[catalog.Database](), Server: server.ID, Name: name, Kind: catalog.Shared, State: catalog.DatabaseActive}),
				tx.CreateOperation(ctx, &catalog.Operation{ID: catalog.NewID[catalog.Operation](), Kind: "test", Tenant: id}),
				tx.CreateToken(ctx, &catalog.Token{ID: name, Hash: []byte("x"), Permissions: []string{}, Subject: name, ExpiresAt: time.Now().Add(time.Hour)}),
				tx.SetSetting(ctx, catalog.TenantID{}, "rest."+name, []byte(`1`)),
			)
		})
	}
	slices.Sort(tenants)
	descending := slices.Clone(tenants) // they were made in the order of their numbers
	for name, c := range map[string]struct {
		read func(p catalog.Page) (keys, names []string, err error)
		want []string
	}{
		"tenants": {func(p catalog.Page) ([]string, []string, error) {
			rows, err := cat.TenantsPage(ctx, p)
			return keysOf(rows, func(t *catalog.Tenant) (string, string) { return t.Name, t.Name }, err)
		}, tenants},
		"databases": {func(p catalog.Page) ([]string, []string, error) {
			rows, err := cat.DatabasesPage(ctx, server.ID, p)
			return keysOf(rows, func(d *catalog.Database) (string, string) { return d.ID.String(), d.Name }, err)
		}, reversed(tenants)},
		"operations": {func(p catalog.Page) ([]string, []string, error) {
			rows, err := cat.OperationsPage(ctx, catalog.TenantID{}, p)
			return keysOf(rows, func(o *catalog.Operation) (string, string) { return o.ID.String(), o.TenantName }, err)
		}, descending},
		"tokens": {func(p catalog.Page) ([]string, []string, error) {
			rows, err := cat.TokensPage(ctx, p)
			return keysOf(rows, func(t *catalog.Token) (string, string) { return t.Key(), t.ID }, err)
		}, descending},
		"settings": {func(p catalog.Page) ([]string, []string, error) {
			rows, err := cat.SettingsPage(ctx, catalog.TenantID{}, p)
			return keysOf(rows, func(s *catalog.Setting) (string, string) { return s.Key, s.Key[len("rest."):] }, err)
		}, tenants},
		"servers": {func(p catalog.Page) ([]string, []string, error) {
			rows, err := cat.ServersPage(ctx, p)
			rows = slices.DeleteFunc(rows, func(s *catalog.Server) bool { return s.Name == "main" })
			return keysOf(rows, func(s *catalog.Server) (string, string) { return s.Name, s.Name[len("s-"):] }, err)
		}, tenants},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for p := (catalog.Page{Limit: 2}); ; {
				keys, names, err := c.read(p)
				if err != nil {
					t.Fatal(err)
				}
				if len(keys) == 0 {
					break
				}
				got = append(got, names...)
				p.After = keys[len(keys)-1]
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	for _, key := range []string{"no id", "'; drop"} {
		if _, err := cat.OperationsPage(ctx, catalog.TenantID{}, catalog.Page{After: key, Limit: 1}); !errors.Is(err, catalog.ErrInvalid) {
			t.Errorf("operations after %q: got %v", key, err)
		}
		if _, err := cat.TokensPage(ctx, catalog.Page{After: key, Limit: 1}); !errors.Is(err, catalog.ErrInvalid) {
			t.Errorf("tokens after %q: got %v", key, err)
		}
		if _, err := cat.EventsPage(ctx, catalog.EventFilter{}, catalog.Page{After: key, Limit: 1}); !errors.Is(err, catalog.ErrInvalid) {
			t.Errorf("events after %q: got %v", key, err)
		}
	}

	// The trail, forwards and backwards, and from a moment on.
	newest, err := cat.EventsPage(ctx, catalog.EventFilter{}, catalog.Page{Limit: 3})
	if err != nil || len(newest) != 3 || newest[0].Seq < newest[2].Seq {
		t.Fatalf("got %v, %v", newest, err)
	}
	older, err := cat.EventsPage(ctx, catalog.EventFilter{}, catalog.Page{After: fmt.Sprint(newest[2].Seq), Limit: 100})
	if err != nil || len(older) == 0 || older[0].Seq >= newest[2].Seq {
		t.Errorf("got %v, %v", older, err)
	}
	again, err := cat.EventsPage(ctx, catalog.EventFilter{Oldest: true}, catalog.Page{After: fmt.Sprint(newest[2].Seq), Limit: 100})
	if err != nil || len(again) != 2 || again[1].Seq != newest[0].Seq {
		t.Errorf("got %v, %v", again, err)
	}
	none, err := cat.EventsPage(ctx, catalog.EventFilter{Since: time.Now().Add(time.Hour)}, catalog.Page{Limit: 100})
	if err != nil || len(none) != 0 {
		t.Errorf("got %v, %v", none, err)
	}

	stats, err := cat.Stats(ctx)
	if err != nil || stats.Tenants[catalog.StateProvisioning] != 5 || stats.Operations[catalog.OperationPending] != 5 || len(stats.Servers) != 6 || stats.Servers[0].Databases != 5 {
		t.Errorf("got %+v, %v", stats, err)
	}
}

func keysOf[Row any](rows []Row, of func(Row) (key, name string), err error) (keys, names []string, _ error) {
	for _, row := range rows {
		key, name := of(row)
		keys, names = append(keys, key), append(names, name)
	}
	return keys, names, err
}

func reversed(names []string) []string {
	names = slices.Clone(names)
	slices.Reverse(names)
	return names
}

func update(t *testing.T, cat *catalog.Catalog, fn func(*catalog.Tx) error) {
	t.Helper()
	if err := cat.Update(t.Context(), catalog.Event{Action: "test"}, fn); err != nil {
		t.Fatal(err)
	}
}
