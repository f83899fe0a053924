package catalog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/catalog/keyring"
)

func addTenant(t testing.TB, cat *catalog.Catalog, name string) catalog.TenantID {
	t.Helper()
	id := catalog.NewID[catalog.Tenant]()
	err := cat.Update(t.Context(), catalog.Event{Action: "tenant.create"}, func(tx *catalog.Tx) error {
		return tx.CreateTenant(t.Context(), catalog.NewTenant{ID: id, Name: name})
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func addServer(t testing.TB, cat *catalog.Catalog) *catalog.Server {
	t.Helper()
	s := &catalog.Server{ID: catalog.NewID[catalog.Server](), Name: "one", Hosts: []string{"127.0.0.1:5432"}, SSLMode: "disable"}
	err := cat.Update(t.Context(), catalog.Event{Action: "server.add"}, func(tx *catalog.Tx) error { return tx.CreateServer(t.Context(), s) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func addDatabase(t testing.TB, cat *catalog.Catalog, s *catalog.Server) catalog.DatabaseID {
	t.Helper()
	id := catalog.NewID[catalog.Database]()
	err := cat.Update(t.Context(), catalog.Event{Action: "database.create"}, func(tx *catalog.Tx) error {
		return tx.CreateDatabase(t.Context(), catalog.NewDatabase{ID: id, Server: s.ID, Name: "rh_" + id.Compact(), Kind: catalog.Shared, State: catalog.DatabaseActive})
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCatalog_Update(t *testing.T) {
	t.Parallel()
	cat, dsn := catalogtest.New(t)
	ctx := t.Context()

	t.Run("a change and its audit event stand together", func(t *testing.T) {
		acting := catalog.WithActor(ctx, catalog.Actor{Side: "host", Subject: "ops@example.com"})
		id := catalog.NewID[catalog.Tenant]()
		event := catalog.Event{Action: "tenant.create", Target: catalog.Ref{Kind: "tenant", ID: [16]byte(id), Name: "together"}}
		if err := cat.Update(acting, event, func(tx *catalog.Tx) error {
			return tx.CreateTenant(ctx, catalog.NewTenant{ID: id, Name: "together"})
		}); err != nil {
			t.Fatal(err)
		}
		events, err := cat.Events(ctx, [16]byte(id), 10)
		if err != nil || len(events) != 1 || events[0].Action != "tenant.create" || events[0].Actor.Subject != "ops@example.com" {
			t.Fatalf("events %+v, %v", events, err)
		}
	})

	t.Run("an error of fn comes back as it is and leaves nothing", func(t *testing.T) {
		boom := errors.New("boom")
		before, _ := cat.Revision(ctx)
		err := cat.Update(ctx, catalog.Event{Action: "tenant.create"}, func(tx *catalog.Tx) error {
			if err := tx.CreateTenant(ctx, catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: "vanishes"}); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatalf("got %v", err)
		}
		if _, err := cat.Tenant(ctx, "vanishes"); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("tenant after rollback: %v", err)
		}
		if after, _ := cat.Revision(ctx); after != before {
			t.Errorf("revision rose from %d to %d", before, after)
		}
	})

	t.Run("a panic in fn rolls back and goes on", func(t *testing.T) {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = cat.Update(ctx, catalog.Event{Action: "tenant.create"}, func(tx *catalog.Tx) error {
				_ = tx.CreateTenant(ctx, catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: "panics"})
				panic("boom")
			})
		}()
		if _, err := cat.Tenant(ctx, "panics"); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("tenant after panic: %v", err)
		}
	})

	t.Run("the database refuses a change without its audit event", func(t *testing.T) {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, `insert into rowhouse.tenants (id, name, state) values (gen_random_uuid(), 'unaudited', 'active')`)
		if err == nil || !strings.Contains(err.Error(), "without its audit event") {
			t.Fatalf("got %v", err)
		}
	})

	t.Run("audit events are never changed", func(t *testing.T) {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		for _, sql := range []string{
			`update rowhouse.audit_events set action = 'nothing'`, `delete from rowhouse.audit_events`, `truncate rowhouse.audit_events`,
		} {
			if _, err := conn.Exec(ctx, sql); err == nil {
				t.Errorf("%s went through", sql)
			}
		}
	})

	t.Run("an event needs an action", func(t *testing.T) {
		if err := cat.Update(ctx, catalog.Event{}, func(*catalog.Tx) error { return nil }); !errors.Is(err, catalog.ErrInvalid) {
			t.Fatalf("got %v", err)
		}
	})
}

// A process that stands still in the middle of a change (suspended, swapped out, on a frozen machine) loses it: others go on.
func TestCatalog_Update_standsStill(t *testing.T) {
	t.Parallel()
	cat, dsn := catalogtest.New(t)
	ctx := t.Context()
	var limit string
	if err := cat.Pool().QueryRow(ctx, `show idle_in_transaction_session_timeout`).Scan(&limit); err != nil || limit != "5s" {
		t.Errorf("a change may stand still for %q (%v), want 5s", limit, err)
	}
	still, err := catalog.Open(ctx, dsn+"&idle_in_transaction_session_timeout=100ms", catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(still.Close)
	err = still.Update(ctx, catalog.Event{Action: "tenant.create"}, func(tx *catalog.Tx) error {
		if err := tx.CreateTenant(ctx, catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: "acme"}); err != nil {
			return err
		}
		addTenant(t, cat, "acme") // waits for what comes of this one
		return nil
	})
	if err == nil {
		t.Error("a change that stood still was committed")
	}
	if _, err := cat.Tenant(ctx, "acme"); err != nil {
		t.Error(err)
	}
}

func TestCatalog_Tenant(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	ctx := t.Context()
	id := addTenant(t, cat, "acme")

	for _, ref := range []string{"acme", id.String()} {
		if found, err := cat.Tenant(ctx, ref); err != nil || found.ID != id || found.State != catalog.StateProvisioning {
			t.Errorf("by %q: %+v, %v", ref, found, err)
		}
	}
	for _, ref := range []string{"", "ACME", "acme ", "nobody", catalog.NewID[catalog.Tenant]().String(), strings.ToUpper(id.String())} {
		if found, err := cat.Tenant(ctx, ref); ref != strings.ToUpper(id.String()) && !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("by %q: %+v, %v", ref, found, err)
		}
	}
	err := cat.Update(ctx, catalog.Event{Action: "tenant.create"}, func(tx *catalog.Tx) error {
		return tx.CreateTenant(ctx, catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: "acme"})
	})
	if !errors.Is(err, catalog.ErrExists) {
		t.Errorf("a name twice: %v", err)
	}
	err = cat.Update(ctx, catalog.Event{Action: "tenant.create"}, func(tx *catalog.Tx) error {
		return tx.CreateTenant(ctx, catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: "Not A Name"})
	})
	if !errors.Is(err, catalog.ErrInvalid) {
		t.Errorf("no name: %v", err)
	}
}

func TestCatalog_Watch(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	ctx, stop := context.WithCancel(t.Context())
	changes := make(chan *catalog.Change, 1000)
	ended := make(chan error, 1)
	go func() { ended <- cat.Watch(ctx, 0, func(ch *catalog.Change) { changes <- ch }) }()

	if first := <-changes; !first.Whole {
		t.Fatalf("the first change is no whole: %+v", first)
	}
	id := addTenant(t, cat, "acme")
	deadline := time.After(10 * time.Second)
	for found := false; !found; {
		select {
		case ch := <-changes:
			for _, tenant := range ch.Tenants {
				found = found || tenant.ID == id
			}
		case <-deadline:
			t.Fatal("the new tenant was never told")
		}
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// Writers that commit out of order, against a reader that only ever asks for what is newer: every change must be seen.
func TestCatalog_Changes_missesNothing(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	ctx := t.Context()
	const writers, each = 4, 12

	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				name := fmt.Sprintf("t%d-%d", w, i)
				err := cat.Update(ctx, catalog.Event{Action: "tenant.create"}, func(tx *catalog.Tx) error {
					return tx.CreateTenant(ctx, catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: name})
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	written := make(chan struct{})
	go func() { writing.Wait(); close(written) }()

	seen := map[string]bool{}
	last := false
	for rev := int64(0); ; {
		ch, err := cat.Changes(ctx, rev)
		if err != nil {
			t.Fatal(err)
		}
		rev = ch.Revision
		for _, tenant := range ch.Tenants {
			seen[tenant.Name] = true
		}
		if last {
			break
		}
		select {
		case <-written:
			last = true
		default:
		}
	}
	if len(seen) != writers*each {
		t.Errorf("saw %d of %d tenants", len(seen), writers*each)
	}
}

func TestCatalog_Credential(t *testing.T) {
	t.Parallel()
	cat, dsn := catalogtest.New(t)
	ctx := t.Context()
	s := addServer(t, cat)
	one, two := addDatabase(t, cat, s), addDatabase(t, cat, s)
	canary := catalog.NewSecret("RHCANARY-93f1")
	for _, db := range []catalog.DatabaseID{one, two} {
		secret := canary
		if db == two {
			secret = catalog.NewSecret("another")
		}
		err := cat.Update(ctx, catalog.Event{Action: "credential.set"}, func(tx *catalog.Tx) error {
			return tx.SetCredential(ctx, catalog.Credential{Server: s.ID, Database: db, Login: catalog.LoginData, Version: 1, Role: "r", Secret: secret})
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	t.Run("it opens where it stands", func(t *testing.T) {
		cfg, err := cat.ConnConfig(ctx, one, catalog.LoginData)
		if err != nil || cfg.Password != "RHCANARY-93f1" || cfg.User != "r" || cfg.Host != "127.0.0.1" {
			t.Fatalf("config of %v: %v", cfg.Host, err)
		}
	})

	t.Run("it is not stored in clear, and does not open in another row", func(t *testing.T) {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		var clear bool
		if err := conn.QueryRow(ctx, `select bool_or(position('RHCANARY'::bytea in secret) > 0) from rowhouse.credentials`).Scan(&clear); err != nil || clear {
			t.Fatalf("stored in clear: %v, %v", clear, err)
		}
		tx, err := conn.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{
			`insert into rowhouse.audit_events (action, side, actor) values ('test', 'system', 'test')`,
			`update rowhouse.credentials set secret = (select secret from rowhouse.credentials where database = '` + one.String() + `') where database = '` + two.String() + `'`,
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := cat.ConnConfig(ctx, two, catalog.LoginData); !errors.Is(err, catalog.ErrSealed) {
			t.Errorf("a copied secret opened: %v", err)
		}
	})

	t.Run("other keys are refused at the door", func(t *testing.T) {
		other, err := keyring.New()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := catalog.Open(ctx, dsn, catalog.Config{Keys: other}); !errors.Is(err, catalog.ErrSealed) {
			t.Errorf("opened under other keys: %v", err)
		}
	})
}

func TestOperation_claims(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	ctx := t.Context()
	tenant := addTenant(t, cat, "acme")
	op := &catalog.Operation{ID: catalog.NewID[catalog.Operation](), Kind: "test", Tenant: tenant, Steps: []string{"a", "b"}}
	create := func(op *catalog.Operation) error {
		return cat.Update(ctx, catalog.Event{Action: "test"}, func(tx *catalog.Tx) error { return tx.CreateOperation(ctx, op) })
	}
	if err := create(op); err != nil {
		t.Fatal(err)
	}
	if err := create(&catalog.Operation{ID: catalog.NewID[catalog.Operation](), Kind: "test", Tenant: tenant}); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("a second running operation of a tenant: %v", err)
	}

	first, err := cat.Claim(ctx, op.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cat.Claim(ctx, op.ID, time.Hour); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("claimed twice: %v", err)
	}
	if err := cat.RecordStep(ctx, first, "a", ""); err != nil {
		t.Fatal(err)
	}
	if err := cat.RenewClaim(ctx, first, -time.Second); err != nil { // the lease ends, as if its worker had died
		t.Fatal(err)
	}
	second, err := cat.Claim(ctx, op.ID, time.Hour)
	if err != nil || second.Step != "a" {
		t.Fatalf("taken over at %q: %v", second.Step, err)
	}
	if err := cat.RecordStep(ctx, first, "b", ""); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("a worker that lost its claim recorded a step: %v", err)
	}
	finish := func(op *catalog.Operation) error {
		return cat.Update(ctx, catalog.Event{Action: "test.done"}, func(tx *catalog.Tx) error {
			return tx.FinishOperation(ctx, op, catalog.OperationDone, "")
		})
	}
	if err := finish(first); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("a worker that lost its claim finished: %v", err)
	}
	if err := finish(second); err != nil {
		t.Fatal(err)
	}
	if got, _ := cat.Operation(ctx, op.ID); got.State != catalog.OperationDone || got.Step != "b" {
		t.Errorf("ended as %s at %q", got.State, got.Step)
	}
}

func TestParseAddress(t *testing.T) {
	t.Parallel()
	const secret = "hunter2hunter2"
	for _, c := range []struct{ name, dsn, refused string }{
		{"a loopback URL", "postgres://u:" + secret + "@127.0.0.1:5433/db", ""},
		{"a socket", "postgres://u@/db?host=/tmp/x", ""},
		{"words", "host=localhost user=u password=" + secret + " dbname=db", ""},
		{"far without sslmode means verify-full", "postgres://u:" + secret + "@db.example.com/db", ""},
		{"far in plain text", "postgres://u:" + secret + "@db.example.com/db?sslmode=disable", "sslmode"},
		{"far with a fallback to plain text", "postgres://u:" + secret + "@db.example.com/db?sslmode=prefer", "sslmode"},
		{"options of the session", "postgres://u:" + secret + "@127.0.0.1/db?options=-csearch_path=x", `"options"`},
		{"a role", "postgres://u:" + secret + "@127.0.0.1/db?role=postgres", `"role"`},
		{"a service file", "service=x user=u dbname=db", `"service"`},
		{"a password file", "postgres://u@127.0.0.1/db?passfile=/etc/passwd", `"passfile"`},
		{"a certificate path", "postgres://u@127.0.0.1/db?sslrootcert=/etc/passwd", `"sslrootcert"`},
		{"a line break", "postgres://u:" + secret + "@127.0.0.1/db\nx", "control character"},
		{"no user", "postgres://127.0.0.1/db", "user"},
		{"an empty user", "postgres://:" + secret + "@127.0.0.1/db", "user"},
		{"no host", "postgres://u:" + secret + "@/db", "host"},
		{"no database", "postgres://u:" + secret + "@127.0.0.1", "dbname"},
		{"a template", "postgres://u:" + secret + "@127.0.0.1/template1", "template"},
		{"a password with an @ that is not encoded", "postgres://u:pass@" + secret + "@127.0.0.1/db", "host"},
		{"a host that is none", "host=ev\"il user=u dbname=db", "host"},
		{"a relative path", "host=../x user=u dbname=db", "host"},
		{"nonsense", "mysql://u:" + secret + "@h/db", "cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := catalog.ParseAddress(c.dsn)
			switch {
			case c.refused == "" && err != nil:
				t.Fatalf("refused: %v", err)
			case c.refused == "":
			case !errors.Is(err, catalog.ErrInvalid) || !strings.Contains(err.Error(), c.refused):
				t.Fatalf("got %v, want %s", err, c.refused)
			case strings.Contains(err.Error(), secret):
				t.Fatalf("the secret is in %v", err)
			}
		})
	}
}

func TestSecret_neverPrints(t *testing.T) {
	t.Parallel()
	const text = "RHCANARY-1"
	type holder struct {
		Shown  catalog.Secret
		hidden catalog.Secret
	}
	h := holder{catalog.NewSecret(text), catalog.NewSecret(text)}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, h.Shown, h, &h)
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("x", "secret", h.Shown, "holder", h)
	}
	if err := json.NewEncoder(&out).Encode(h); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), text) || strings.Contains(out.String(), fmt.Sprintf("%x", text)) {
		t.Fatalf("printed: %s", out.String())
	}
	if h.hidden.Reveal() != text {
		t.Fatal("Reveal lost the text")
	}
}
