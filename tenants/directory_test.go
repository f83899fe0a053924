package tenants_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/tenants"
)

func newRequest() *http.Request { return httptest.NewRequest(http.MethodGet, "/", nil) }

func addTenant(t testing.TB, cat *catalog.Catalog, name string) catalog.TenantID {
	t.Helper()
	id := catalog.NewID[catalog.Tenant]()
	err := cat.Update(t.Context(), catalog.Event{Action: "tenant.create"}, func(tx *catalog.Tx) error {
		if err := tx.CreateTenant(t.Context(), catalog.NewTenant{ID: id, Name: name}); err != nil {
			return err
		}
		return tx.SetTenantState(t.Context(), id, catalog.StateActive, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func suspend(t testing.TB, cat *catalog.Catalog, id catalog.TenantID) {
	t.Helper()
	err := cat.Update(t.Context(), catalog.Event{Action: "tenant.suspend"}, func(tx *catalog.Tx) error {
		return tx.SetTenantState(t.Context(), id, catalog.StateSuspended, "unpaid")
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDirectory_follows(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	d := tenants.NewDirectory(cat)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { _ = d.Run(ctx); close(ended) }()
	defer func() { stop(); <-ended }()

	id := addTenant(t, cat, "acme")
	eventually(t, func() bool { _, err := d.Tenant(ctx, "acme"); return err == nil })
	suspend(t, cat, id)
	eventually(t, func() bool {
		found, err := d.Tenant(ctx, id.String())
		return err == nil && found.State == catalog.StateSuspended
	})
	if _, err := d.Tenant(ctx, "nobody"); !errors.Is(err, tenants.ErrNotFound) {
		t.Errorf("an unknown name: %v", err)
	}
	if err := d.Ready(); err != nil {
		t.Error(err)
	}
}

// Every notification is lost: nobody listens, and the directory asks only when it is asked.
func TestDirectory_withoutRun(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	d := tenants.NewDirectory(cat)
	if err := d.Ready(); !errors.Is(err, tenants.ErrNotReady) {
		t.Errorf("ready before it has read anything: %v", err)
	}
	id := addTenant(t, cat, "acme")
	if _, err := d.Tenant(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	suspend(t, cat, id)
	eventually(t, func() bool {
		found, err := d.Tenant(t.Context(), "acme")
		return err == nil && found.State == catalog.StateSuspended
	})
}

func TestDirectory_renamesAndNewcomers(t *testing.T) {
	t.Parallel()
	cat, dsn := catalogtest.New(t)
	d := tenants.NewDirectory(cat)
	one := addTenant(t, cat, "one")
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	// one becomes uno; another takes its name, in the same change.
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	two := catalog.NewID[catalog.Tenant]()
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		for _, sql := range []string{
			`insert into rowhouse.audit_events (action, side, actor) values ('test', 'system', 'test')`,
			`update rowhouse.tenants set name = 'uno' where name = 'one'`,
			`insert into rowhouse.tenants (id, name, state) values ('` + two.String() + `', 'one', 'active')`,
			`insert into rowhouse.domains (host, tenant, is_primary) values ('www.uno.example', '` + one.String() + `', true)`,
		} {
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]catalog.TenantID{"uno": one, "one": two, one.String(): one, two.String(): two} {
		if found, err := d.Tenant(t.Context(), ref); err != nil || found.ID != want {
			t.Errorf("%s is %v, %v", ref, found, err)
		}
	}
	r := newRequest()
	r.Host = "WWW.uno.example:443"
	rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromCustomDomain(d)}}
	if s, err := rs.Resolve(r, d); err != nil || s.Tenant().ID != one {
		t.Errorf("a custom domain: %v", err)
	}
}

// The range of versions that are served reaches every process; an adopted database is its owner's affair.
func TestDirectory_serves(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	d := tenants.NewDirectory(cat)
	err := cat.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		return tx.SetServedVersions(t.Context(), catalog.ServedVersions{Min: 3, Max: 4})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[int64]bool{0: false, 2: false, 3: true, 4: true, 5: false} {
		if got := d.Serves(&catalog.Database{SchemaVersion: version}); got != want {
			t.Errorf("version %d: %v", version, got)
		}
		if !d.Serves(&catalog.Database{SchemaVersion: version, Adopted: true}) {
			t.Errorf("adopted at version %d", version)
		}
	}
}

// nowhere is the queue of a service that is asked for no work.
type nowhere struct{}

func (nowhere) Enqueue(context.Context, pgx.Tx, *catalog.Operation) error {
	return errors.New("no work is taken here")
}

func TestService_namesAndDomains(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	ctx := t.Context()
	s, d := tenants.NewService(cat, nowhere{}), tenants.NewDirectory(cat)
	acme := addTenant(t, cat, "acme")
	addTenant(t, cat, "other")
	load := func() {
		t.Helper()
		if err := d.Load(ctx); err != nil {
			t.Fatal(err)
		}
	}
	leadsTo := func(ref string, want catalog.TenantID) {
		t.Helper()
		if found, err := d.Tenant(ctx, ref); err != nil || found.ID != want {
			t.Errorf("%s leads to %v, %v", ref, found, err)
		}
	}

	t.Run("an old name leads to the tenant and goes to nobody else", func(t *testing.T) {
		for _, c := range []struct {
			name string
			err  error
		}{{"www", catalog.ErrInvalid}, {"Umbrella", catalog.ErrInvalid}, {"other", catalog.ErrExists}, {"umbrella", nil}, {"umbrella", nil}} {
			if err := s.RenameTenant(ctx, acme.String(), c.name); !errors.Is(err, c.err) {
				t.Errorf("to %q: %v", c.name, err)
			}
		}
		load()
		leadsTo("umbrella", acme)
		leadsTo("acme", acme)
		if err := s.RenameTenant(ctx, "other", "acme"); !errors.Is(err, catalog.ErrExists) {
			t.Errorf("another took the old name: %v", err)
		}
		if _, err := s.CreateTenant(ctx, tenants.TenantSpec{Name: "acme"}); !errors.Is(err, catalog.ErrExists) {
			t.Errorf("a new tenant took the old name: %v", err)
		}
		if err := s.RenameTenant(ctx, "umbrella", "acme"); err != nil {
			t.Errorf("back to its own old name: %v", err)
		}
		load()
		leadsTo("acme", acme)
		leadsTo("umbrella", acme)
	})

	t.Run("a host name is one tenant's", func(t *testing.T) {
		for _, host := range []string{"", "acme", "10.0.0.1", "a.b:80", "a..b", "a b.example", strings.Repeat("a", 64) + ".example"} {
			if err := s.AddDomain(ctx, "acme", host); !errors.Is(err, catalog.ErrInvalid) && !errors.Is(err, tenants.ErrInvalid) {
				t.Errorf("%q: %v", host, err)
			}
		}
		if err := s.AddDomain(ctx, "acme", "Shop.Example.com."); err != nil {
			t.Fatal(err)
		}
		if err := s.AddDomain(ctx, "other", "shop.example.com"); !errors.Is(err, catalog.ErrExists) {
			t.Errorf("two tenants have one host: %v", err)
		}
		load()
		if !d.Hosts("shop.example.com") || d.Hosts("nobody.example.com") || d.Hosts("bad host") {
			t.Error("the certificate's question is answered wrongly")
		}
		suspend(t, cat, acme)
		load()
		if d.Hosts("shop.example.com") {
			t.Error("a certificate for a suspended tenant")
		}
		if err := s.RemoveDomain(ctx, "other", "shop.example.com"); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("another's host was taken back: %v", err)
		}
		if err := s.RemoveDomain(ctx, "acme", "shop.example.com"); err != nil {
			t.Error(err)
		}
		load()
		if d.Hosts("shop.example.com") {
			t.Error("it still leads to the tenant")
		}
	})
}

func eventually(t testing.TB, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never held")
		}
	}
}

func BenchmarkDirectory_Tenant(b *testing.B) {
	cat, _ := catalogtest.New(b)
	d := tenants.NewDirectory(cat)
	addTenant(b, cat, "acme")
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { _ = d.Run(ctx); close(ended) }()
	defer func() { stop(); <-ended }()
	eventually(b, func() bool { _, err := d.Tenant(ctx, "acme"); return err == nil })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Tenant(ctx, "acme"); err != nil {
			b.Fatal(err)
		}
	}
}
