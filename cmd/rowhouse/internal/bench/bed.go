package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/deploy/localpg"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// Bed is a private PostgreSQL with a catalog and as many tenant databases as a benchmark wants, made for the run and
// thrown away after it. It does not survive a crash: what is measured here waits for no disk.
type Bed struct {
	Catalog   *catalog.Catalog
	Directory *tenants.Directory

	pg        *localpg.Server
	admin     *pgx.Conn
	server    catalog.ServerID
	password  string
	made      int      // databases
	leftovers []string // directories that Remove deletes
}

// BedConfig says where a bed is made.
type BedConfig struct {
	// Dir is the server's directory, which must not be there yet. Required.
	Dir string
	// PGBin is where postgres is. Empty means what is found.
	PGBin string
	// Budget is how many connections the server's row allows. Zero means 80.
	Budget int
}

// The names of what a bed makes on its server.
const (
	bedTemplate = "bench_template"
	bedLogin    = "bench_data"
)

// bedKey is the key of the one row that each tenant has, so that nobody needs to look for it.
var bedKey = [16]byte{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 15, 16}

// bedTable is the application's part of a tenant database, bound as any application's.
const bedTable = `
create table public.projects (id uuid primary key default gen_random_uuid(), name text not null, status text not null default 'active', created_at timestamptz not null default now());
select rowhouse.bind('public.projects')`

// MakeBed starts the server and makes the catalog and the template that databases are cloned from.
func MakeBed(ctx context.Context, cfg BedConfig) (b *Bed, err error) {
	b = &Bed{server: catalog.NewID[catalog.Server]()}
	defer func() {
		if err != nil {
			b.Remove()
		}
	}()
	if b.pg, err = localpg.Start(ctx, localpg.Config{Dir: cfg.Dir, PGBin: cfg.PGBin, Settings: map[string]string{
		"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "400", "autovacuum": "off", "max_wal_size": "1GB",
	}}); err != nil {
		return b, err
	}
	if b.admin, err = pgx.Connect(ctx, b.pg.DSN("postgres")); err != nil {
		return b, errors.New("private postgres does not answer")
	}
	if b.password, err = newPassword(); err != nil {
		return b, err
	}
	for _, sql := range []string{
		"create role anon nologin", "create role authenticated nologin", "create role service_role nologin",
		"create role " + bedLogin + " login noinherit password '" + b.password + "'",
		"grant anon, authenticated, service_role to " + bedLogin,
		"create database catalog", "create database " + bedTemplate,
	} {
		if _, err := b.admin.Exec(ctx, sql); err != nil {
			return b, fmt.Errorf("private postgres: %w", err)
		}
	}
	if err := b.makeCatalog(ctx, cfg); err != nil {
		return b, err
	}
	return b, b.makeTemplate(ctx)
}

func newPassword() (string, error) {
	random := make([]byte, 16)
	_, err := rand.Read(random)
	return hex.EncodeToString(random), err
}

func (b *Bed) makeCatalog(ctx context.Context, cfg BedConfig) error {
	m, err := migrations.ForCatalog(migrations.Config{})
	if err != nil {
		return err
	}
	if _, err := m.Up(ctx, b.target("catalog")); err != nil {
		return err
	}
	keys, err := keyring.New()
	if err != nil {
		return err
	}
	if b.Catalog, err = catalog.Open(ctx, b.pg.DSN("catalog"), catalog.Config{Keys: keys}); err != nil {
		return err
	}
	b.Directory = tenants.NewDirectory(b.Catalog)
	budget := cfg.Budget
	if budget == 0 {
		budget = 80
	}
	return b.update(ctx, func(tx *catalog.Tx) error {
		return tx.CreateServer(ctx, &catalog.Server{ID: b.server, Name: "bench", Hosts: []string{b.pg.Socket() + ":5432"}, SSLMode: "disable", MaxConnections: budget, MaxDatabases: 10_000})
	})
}

func (b *Bed) makeTemplate(ctx context.Context) error {
	m, err := migrations.ForTenants(nil, migrations.Config{})
	if err != nil {
		return err
	}
	if _, err := m.Up(ctx, b.target(bedTemplate)); err != nil {
		return err
	}
	return b.on(ctx, bedTemplate, bedTable, "grant select, insert, update, delete on public.projects to anon, authenticated, service_role", "vacuum analyze")
}

func (b *Bed) target(database string) migrations.Target {
	return migrations.Target{Name: database, Key: 1, Connect: func(ctx context.Context) (*pgx.Conn, error) {
		cfg, err := pgx.ParseConfig(b.pg.DSN(database))
		if err != nil {
			return nil, err
		}
		migrations.ConnConfig(cfg, "")
		return pgx.ConnectConfig(ctx, cfg)
	}}
}

// on runs statements in a database as superuser.
func (b *Bed) on(ctx context.Context, database string, statements ...string) error {
	conn, err := pgx.Connect(ctx, b.pg.DSN(database))
	if err != nil {
		return fmt.Errorf("database %s does not answer", database)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("database %s: %w", database, err)
		}
	}
	return nil
}

func (b *Bed) update(ctx context.Context, fn func(*catalog.Tx) error) error {
	if err := b.Catalog.Update(ctx, catalog.Event{Action: "bench"}, fn); err != nil {
		return err
	}
	return b.Directory.Load(ctx)
}

// Remove ends all of it. The directory is the caller's to delete.
func (b *Bed) Remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if b.Catalog != nil {
		b.Catalog.Close()
	}
	if b.admin != nil {
		_ = b.admin.Close(ctx)
	}
	if b.pg != nil {
		_ = b.pg.Stop(ctx)
	}
	for _, dir := range b.leftovers {
		_ = os.RemoveAll(dir)
	}
}

// databases clones the template and puts perDatabase tenants into each clone, one row each.
func (b *Bed) databases(ctx context.Context, kind catalog.Placement, number, perDatabase int) ([]*catalog.Tenant, error) {
	type home struct {
		id      catalog.DatabaseID
		name    string
		tenants []catalog.NewTenant
	}
	homes := make([]home, number)
	for i := range homes {
		h := home{id: catalog.NewID[catalog.Database](), name: fmt.Sprintf("bench_%d", b.made)}
		b.made++
		rows := ""
		for j := range perDatabase {
			t := catalog.NewTenant{ID: catalog.NewID[catalog.Tenant](), Name: fmt.Sprintf("%s-%d", "t"+h.name[len("bench_"):], j), Database: h.id}
			h.tenants = append(h.tenants, t)
			if j > 0 {
				rows += ","
			}
			rows += fmt.Sprintf("('%s', '%s', '%s')", t.ID, pgUUID(bedKey), t.Name)
		}
		if _, err := b.admin.Exec(ctx, "create database "+h.name+" template "+bedTemplate+" strategy file_copy"); err != nil {
			return nil, fmt.Errorf("clone: %w", err)
		}
		if err := b.on(ctx, h.name,
			fmt.Sprintf("insert into rowhouse.identity (database_id, catalog_id) values ('%s', '%s')", h.id, b.Catalog.ID()),
			"insert into public.projects (tenant_id, id, name) values "+rows,
			"analyze public.projects",
		); err != nil {
			return nil, err
		}
		homes[i] = h
	}
	err := b.update(ctx, func(tx *catalog.Tx) error {
		for _, h := range homes {
			if err := tx.CreateDatabase(ctx, catalog.NewDatabase{ID: h.id, Server: b.server, Name: h.name, Kind: kind, State: catalog.DatabaseActive}); err != nil {
				return err
			}
			if err := tx.SetCredential(ctx, catalog.Credential{
				Server: b.server, Database: h.id, Login: catalog.LoginData, Version: 1, Role: bedLogin, Secret: catalog.NewSecret(b.password),
			}); err != nil {
				return err
			}
			for _, t := range h.tenants {
				if err := tx.CreateTenant(ctx, t); err != nil {
					return err
				}
			}
		}
		_, err := tx.Exec(ctx, "update rowhouse.tenants set state = 'active' where state <> 'active'")
		return err
	})
	if err != nil {
		return nil, err
	}
	var made []*catalog.Tenant
	for _, h := range homes {
		for _, t := range h.tenants {
			found, err := b.Directory.Tenant(ctx, t.Name)
			if err != nil {
				return nil, err
			}
			made = append(made, found)
		}
	}
	return made, nil
}

// follow keeps the directory up to date in the background, as a service does, until it is stopped.
func (b *Bed) follow(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	followed := make(chan struct{})
	go func() { defer close(followed); _ = b.Directory.Run(ctx) }()
	return func() { cancel(); <-followed }
}

func (b *Bed) router(cfg router.Config) (*router.Router, error) {
	cfg.Logger = slog.New(slog.DiscardHandler)
	return router.New(b.Directory, cfg)
}

// client asks a router for a tenant's row.
type client struct {
	tenant *catalog.Tenant
	ctx    context.Context // the tenant's
}

// clients are the contexts of tenants, as their requests have them.
func clients(ctx context.Context, ts []*catalog.Tenant) ([]client, error) {
	cs := make([]client, len(ts))
	for i, t := range ts {
		if err := tenants.With(ctx, t, func(inner context.Context) error {
			session, err := tenants.FromContext(inner)
			cs[i] = client{t, tenants.NewContext(ctx, session)} // many requests' context, and not one piece of work's
			return err
		}); err != nil {
			return nil, err
		}
	}
	return cs, nil
}

// read is a whole request: the tenant's row by its key, in one flight. An answer that is not the tenant's own is an error.
func (c client) read(rt *router.Router) error {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	var body []byte
	err := rt.Lend(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
		return flight(ctx, conn, open, bedKey, Tenant{Tenant: c.tenant}, &body)
	})
	if err != nil {
		return err
	}
	return c.isOwn(body)
}

func (c client) isOwn(body []byte) error {
	if !bytes.Contains(body, []byte(`"name":"`+c.tenant.Name+`"`)) {
		return fmt.Errorf("tenant %s was answered with another row: %s", c.tenant.Name, body)
	}
	return nil
}

// write is a whole request that changes the tenant's row.
func (c client) write(rt *router.Router) error {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	return rt.BeginFunc(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "update public.projects set status = 'active' where id = $1", bedKey)
		if err == nil && tag.RowsAffected() != 1 {
			return fmt.Errorf("tenant %s: %d rows changed", c.tenant.Name, tag.RowsAffected())
		}
		return err
	})
}

// tally is what became of a phase's requests.
type tally struct {
	mu     sync.Mutex // guards the fields below
	took   []time.Duration
	errors int
	first  error

	span time.Duration // of the whole phase; read after it
}

func (t *tally) note(took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.took = append(t.took, took)
		return
	}
	t.errors++
	if t.first == nil {
		t.first = err
	}
}

// add counts another phase as part of this one.
func (t *tally) add(u *tally) {
	t.took, t.errors, t.span = append(t.took, u.took...), t.errors+u.errors, t.span+u.span
	if t.first == nil {
		t.first = u.first
	}
}

// why tells of the first error, if there was one.
func (t *tally) why() string {
	if t.first == nil {
		return ""
	}
	if connect, ok := errors.AsType[*pgconn.ConnectError](t.first); ok { // it tells where and as whom
		return "; the first: no connection: " + errors.Unwrap(connect).Error()
	}
	return "; the first: " + t.first.Error()
}

// quantile is in milliseconds.
func (t *tally) quantile(q float64) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.took) == 0 {
		return 0
	}
	slices.Sort(t.took)
	return float64(t.took[min(int(q*float64(len(t.took))), len(t.took)-1)].Microseconds()) / 1000
}

func (t *tally) perSecond() float64 { return float64(len(t.took)) / max(t.span.Seconds(), 1e-9) }

// saturate has workers ask one after the other, each as fast as it is answered.
func saturate(each time.Duration, workers int, ask func(worker, i int) error) *tally {
	t := &tally{}
	began := time.Now()
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			for i := 0; time.Since(began) < each; i++ {
				asked := time.Now()
				err := ask(w, i)
				t.note(time.Since(asked), err)
				if err != nil {
					time.Sleep(time.Millisecond) // no client comes again at once
				}
			}
		})
	}
	working.Wait()
	t.span = time.Since(began)
	return t
}

// offer asks at a fixed rate, whether or not earlier requests are answered, and counts from the moment that each was due.
func offer(each time.Duration, perSecond float64, ask func(i int) error) *tally {
	t := &tally{}
	offerTo(each, perSecond, ask, func(int) *tally { return t })
	return t
}

// offerTo does so, and notes each request where in says.
func offerTo(each time.Duration, perSecond float64, ask func(i int) error, in func(i int) *tally) {
	began := time.Now()
	var asking sync.WaitGroup
	for i := range int(each.Seconds() * perSecond) {
		due := began.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		time.Sleep(time.Until(due))
		asking.Go(func() {
			err := ask(i)
			in(i).note(time.Since(due), err)
		})
	}
	asking.Wait()
}

// watch asks the server again and again how many connections the data login has, and keeps the highest number.
func (b *Bed) watch(ctx context.Context) (stop func() (most int, err error), err error) {
	conn, err := pgx.Connect(ctx, b.pg.DSN("postgres"))
	if err != nil {
		return nil, errors.New("private postgres does not answer")
	}
	var most atomic.Int64
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		for {
			var n int64
			if err := conn.QueryRow(ctx, "select count(*) from pg_stat_activity where usename like $1", bedLogin+"%").Scan(&n); err != nil {
				ended <- err
				return
			}
			most.Store(max(most.Load(), n))
			select {
			case <-done:
				ended <- nil
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() (int, error) {
		close(done)
		err := <-ended
		return int(most.Load()), err
	}, nil
}

// alone waits until nobody is connected to a tenant database any more, so that no phase pays for the one before.
func (b *Bed) alone(ctx context.Context) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var n int
		if err := b.admin.QueryRow(ctx, "select count(*) from pg_stat_activity where usename like $1", bedLogin+"%").Scan(&n); err != nil || n == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d connections are left open", n)
		}
	}
}
