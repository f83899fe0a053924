package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/deploy/localpg"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// What stands in the directory of a dev, beside what the server keeps there.
const (
	devDirDefault   = ".rowhouse"
	devStateFile    = "dev.json"
	keysFile        = "keys.json"
	jwtSecretFile   = "jwt.secret"
	exportsDir      = "exports"
	catalogDatabase = "rowhouse"
	devServer       = "local"
	devProvisioner  = "rowhouse_provisioner"
	devTokenTTL     = 30 * 24 * time.Hour
)

//go:embed sample/*.sql
var sampleFiles embed.FS

// devTenants are the tenants a dev begins with.
var devTenants = []struct {
	name      string
	placement catalog.Placement
}{{"acme", catalog.Shared}, {"globex", catalog.Shared}, {"initech", catalog.Dedicated}}

// devTenant is a tenant in the line that dev prints.
type devTenant struct {
	Name      string            `json:"name"`
	ID        catalog.TenantID  `json:"id"`
	Placement catalog.Placement `json:"placement"`
	URL       string            `json:"url"`
	Token     string            `json:"token"`
	AnonToken string            `json:"anon_token"`
}

// devState is the line that dev prints when everything serves, and what it leaves for other commands.
type devState struct {
	DataURL       string      `json:"data_url"`
	AdminURL      string      `json:"admin_url"`
	ConsoleURL    string      `json:"console_url"`
	CatalogURL    string      `json:"catalog_url"`
	OperatorToken string      `json:"operator_token"`
	PID           int         `json:"pid"`
	Postgres      devPostgres `json:"postgres"`
	Tenants       []devTenant `json:"tenants"`
}

type devPostgres struct {
	Version string `json:"version"`
	Data    string `json:"data"`
}

func devFile(dir, name string) string { return filepath.Join(dir, name) }

// devDir is where a dev keeps its data: --data, ROWHOUSE_DATA or .rowhouse.
func (a *app) devDir() string {
	for _, dir := range []string{a.data, a.env("ROWHOUSE_DATA")} {
		if dir != "" {
			return dir
		}
	}
	return devDirDefault
}

func (a *app) dev() *cobra.Command {
	var listen, adminListen, migrationsFrom string
	c := &cobra.Command{
		Use: "dev", Short: "Run a whole rowhouse on this machine, with nothing configured", Args: exactly(),
		Long: "Starts a private PostgreSQL (socket only), makes a catalog, a shared and a dedicated database and three tenants with\nsample rows, and serves them. Ctrl-C stops all of it; the next run goes on with the same data. Not for production.",
		RunE: a.do(func(ctx context.Context, _ []string) error {
			return a.runDev(ctx, listen, adminListen, migrationsFrom)
		}),
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address of the data plane; port 0 picks a free one")
	c.Flags().StringVar(&adminListen, "admin-listen", "127.0.0.1:8081", "address of the control plane")
	c.Flags().StringVar(&a.data, "data", "", "directory of the data (ROWHOUSE_DATA; default .rowhouse)")
	c.Flags().StringVar(&migrationsFrom, "migrations", "", "migrations to use instead of the sample's")
	return c
}

func (a *app) runDev(ctx context.Context, listen, adminListen, migrationsFrom string) error {
	files, err := devMigrations(migrationsFrom)
	if err != nil {
		return err
	}
	level := "warn"
	if a.env("ROWHOUSE_LOG_LEVEL") != "" {
		level = a.env("ROWHOUSE_LOG_LEVEL")
	}
	log := a.logger(level, "text")
	slog.SetDefault(log)
	dir := a.devDir()
	server, err := localpg.Start(ctx, localpg.Config{Dir: dir, PGBin: a.env("ROWHOUSE_PG_BIN"), RuntimeDir: a.env("XDG_RUNTIME_DIR"), Logger: log})
	if err != nil {
		return err
	}
	// The server ends last, whatever happens before.
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		if err := server.Stop(stopping); err != nil {
			log.Error("postgres did not stop in order", "error", err)
		}
	}()
	defer os.Remove(devFile(dir, devStateFile))
	// A server that dies takes the dev with it.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		<-server.Done()
		cancel(errors.New("postgres ended; its log is " + filepath.Join(dir, "postgres.log")))
	}()

	d := &devHouse{app: a, dir: dir, server: server, log: log}
	if err := d.prepare(ctx, listen, adminListen); err != nil {
		return cause(ctx, err)
	}
	defer d.house.catalog.Close()
	l, err := d.house.config.listen()
	if err != nil {
		return err
	}
	err = d.house.run(ctx, l, 0, func(ctx context.Context) error {
		if err := d.furnish(ctx, files, migrationsFrom == ""); err != nil {
			return err
		}
		return d.announce(ctx, l)
	})
	return cause(ctx, err)
}

// cause prefers what ended the context to what that made of a call.
func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil && !errors.Is(why, context.Canceled) {
		return why
	}
	return err
}

func devMigrations(dir string) ([]migrations.File, error) {
	if dir == "" {
		sample, err := fs.Sub(sampleFiles, "sample")
		if err != nil {
			return nil, err
		}
		return migrations.ReadSet(sample)
	}
	fsys, closeDir, err := openMigrations([]string{dir})
	if err != nil {
		return nil, err
	}
	defer closeDir()
	return migrations.ReadSet(fsys)
}

// devHouse is a house over a private server.
type devHouse struct {
	app    *app
	dir    string
	server *localpg.Server
	log    *slog.Logger
	house  *house
}

// prepare makes what is missing below the house: secrets, the catalog, the server's row. A second run finds it all.
func (d *devHouse) prepare(ctx context.Context, listen, adminListen string) error {
	if _, err := keyring.OpenOrCreate(devFile(d.dir, keysFile)); err != nil {
		return err
	}
	secret, err := openOrCreateSecret(devFile(d.dir, jwtSecretFile))
	if err != nil {
		return err
	}
	cfg, err := loadConfig("", environOf(d.app), map[string]string{
		"catalog.url": d.server.DSN(catalogDatabase), "catalog.keys": devFile(d.dir, keysFile), "auth.jwt_secret": secret, "exports.dir": devFile(d.dir, exportsDir),
		"listen": listen, "admin.listen": adminListen, "rest.tx_end": "commit",
	})
	if err != nil {
		return err
	}
	if err := d.ensureCatalog(ctx, cfg); err != nil {
		return err
	}
	cat, err := openCatalog(ctx, cfg, d.log)
	if err != nil {
		return err
	}
	if d.house, err = newHouse(ctx, cfg, cat, "dev", devLease, d.log); err != nil {
		cat.Close()
		return err
	}
	if err := d.ensureServer(ctx); err != nil {
		cat.Close()
		return err
	}
	return nil
}

// environOf is the environment as far as it configures a dev: what it decides by itself is left out.
func environOf(a *app) []string {
	var environ []string
	for _, k := range keys {
		name := variable(k.name)
		for _, n := range []string{name, name + "_FILE"} {
			if value, ok := a.lookupEnv(n); ok && !strings.HasPrefix(k.name, "catalog.") && k.name != "auth.jwt_secret" && !strings.HasSuffix(k.name, "listen") {
				environ = append(environ, n+"="+value)
			}
		}
	}
	return environ
}

// closeConn says goodbye, to a server that may not listen any more.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing is left to lose
}

func openOrCreateSecret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if len(text) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return string(text), err
	}
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	secret := hex.EncodeToString(random)
	return secret, writeState(file, []byte(secret))
}

func (d *devHouse) ensureCatalog(ctx context.Context, cfg *config) error {
	conn, err := pgx.Connect(ctx, d.server.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("private postgres: %s", err)
	}
	defer closeConn(conn)
	var there bool
	if err := conn.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, catalogDatabase).Scan(&there); err != nil {
		return err
	}
	if !there {
		if _, err := conn.Exec(ctx, `create database `+pgx.Identifier{catalogDatabase}.Sanitize()); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `revoke all on database `+pgx.Identifier{catalogDatabase}.Sanitize()+` from public`); err != nil {
			return err
		}
	}
	_, err = migrateCatalog(ctx, cfg.String("catalog.url"))
	return err
}

// ensureServer registers the private server by a provisioner that is no superuser, as a production server would be; and
// corrects the address when the directory has moved.
func (d *devHouse) ensureServer(ctx context.Context) error {
	cat := d.house.catalog
	hosts := []string{d.server.Socket() + ":5432"}
	server, err := cat.Server(ctx, devServer)
	switch {
	case err == nil && strings.Join(server.Hosts, ",") == hosts[0]:
		return nil
	case err == nil:
		return cat.Update(ctx, catalog.Event{Action: "server.hosts", Target: server.Ref()}, func(tx *catalog.Tx) error {
			return tx.SetServerHosts(ctx, server.ID, hosts)
		})
	case !errors.Is(err, catalog.ErrNotFound):
		return err
	}
	password := make([]byte, 24)
	if _, err := rand.Read(password); err != nil {
		return err
	}
	secret := hex.EncodeToString(password)
	conn, err := pgx.Connect(ctx, d.server.DSN("postgres"))
	if err != nil {
		return fmt.Errorf("private postgres: %s", err)
	}
	defer closeConn(conn)
	// The password is hexadecimal, so it needs no quoting; a role from an interrupted first run gets the new one.
	for _, sql := range []string{
		`do $$ begin create role ` + devProvisioner + `; exception when duplicate_object then null; end $$`,
		`alter role ` + devProvisioner + ` login createdb createrole password '` + secret + `'`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	_, err = d.house.service.AddServer(ctx, tenants.ServerSpec{Name: devServer, DSN: catalog.NewSecret(d.server.DSNAs(devProvisioner, secret, "postgres"))})
	return err
}

// furnish brings the databases to the migrations, and makes the tenants that are missing.
func (d *devHouse) furnish(ctx context.Context, files []migrations.File, sample bool) error {
	summary, err := d.migrate(ctx, files)
	if sample && errors.Is(err, catalog.ErrConflict) {
		// Another set was brought here by rowhouse migrate up: it stays.
		var set *catalog.MigrationSet
		if set, err = d.house.catalog.ActiveSet(ctx); err == nil {
			summary, err = d.migrate(ctx, jobs.FilesOf(set))
		}
	}
	if err != nil {
		return err
	}
	if summary.Failed > 0 {
		return fmt.Errorf("%d databases could not be migrated", summary.Failed)
	}
	for _, want := range devTenants {
		_, err := d.house.catalog.Tenant(ctx, want.name)
		if errors.Is(err, catalog.ErrNotFound) {
			err = d.createTenant(ctx, want.name, want.placement, sample)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *devHouse) migrate(ctx context.Context, files []migrations.File) (jobs.Summary, error) {
	return d.house.runner.MigrateFleet(ctx, files, jobs.FleetConfig{}, func(r migrations.Result) {
		if r.Err != nil {
			d.log.Error("migration failed", "database", r.Target, "error", r.Err)
		}
	})
}

func (d *devHouse) createTenant(ctx context.Context, name string, placement catalog.Placement, sample bool) error {
	op, err := d.house.service.CreateTenant(ctx, tenants.TenantSpec{Name: name, Placement: placement})
	if err != nil {
		return err
	}
	if op, err = d.house.runner.Work(ctx, op.ID); err != nil {
		return err
	}
	if op.State != catalog.OperationDone {
		return fmt.Errorf("tenant %q: %s", name, op.Error)
	}
	if !sample {
		return nil
	}
	if err := d.house.directory.Load(ctx); err != nil {
		return err
	}
	t, err := d.house.directory.Tenant(ctx, name)
	if err != nil {
		return err
	}
	return tenants.With(ctx, t, func(ctx context.Context) error {
		return d.house.router.BeginFunc(ctx, func(tx pgx.Tx) error { return insertSample(ctx, tx, name) })
	})
}

// insertSample writes a tenant's first rows, as the tenant.
func insertSample(ctx context.Context, tx pgx.Tx, tenant string) error {
	for i, project := range []string{"Website", "Billing", "Onboarding"} {
		var id [16]byte
		err := tx.QueryRow(ctx, `
			insert into projects (name, status, budget, labels) values ($1, $2, $3, $4) returning id`,
			tenant+" "+project, []string{"active", "active", "planned"}[i], 1000*(i+1), map[string]any{"owner": tenant, "rank": i + 1}).Scan(&id)
		if err != nil {
			return err
		}
		for j, title := range []string{"Plan", "Build", "Ship"} {
			if _, err := tx.Exec(ctx, `
				insert into tasks (project_id, title, state, position) values ($1, $2, $3::text::task_state, $4)`,
				id, fmt.Sprintf("%s %s", title, project), []string{"done", "doing", "open"}[j], j+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// announce says what serves, to whoever started the dev and to the commands that will look for it.
func (d *devHouse) announce(ctx context.Context, l listeners) error {
	state := devState{
		DataURL: l.publicURL(), AdminURL: l.adminURL(), ConsoleURL: l.adminURL() + "/console/", CatalogURL: d.house.config.String("catalog.url"),
		PID: os.Getpid(), Postgres: devPostgres{d.server.Version(), d.server.DataDir()}, Tenants: []devTenant{},
	}
	secret, _, err := d.house.service.CreateToken(ctx, tenants.TokenSpec{Subject: "dev", Permissions: []string{"*"}, TTL: devTokenTTL})
	if err != nil {
		return err
	}
	state.OperatorToken = secret.Reveal()
	if err := d.house.directory.Load(ctx); err != nil {
		return err
	}
	for t, err := range d.house.catalog.Tenants(ctx) {
		if err != nil {
			return err
		}
		if t.State != catalog.StateActive {
			continue
		}
		shown, err := d.describe(t, l)
		if err != nil {
			return err
		}
		state.Tenants = append(state.Tenants, shown)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // URLs stay as they are
	if err := encoder.Encode(state); err != nil {
		return err
	}
	line := text.Bytes()
	if err := writeState(devFile(d.dir, devStateFile), line); err != nil {
		return err
	}
	if d.app.output == "json" {
		_, err = d.app.stdout.Write(line)
		return err
	}
	d.banner(state)
	return nil
}

func (d *devHouse) describe(t *catalog.Tenant, l listeners) (devTenant, error) {
	token, err := mintFor(d.house.config, t, "authenticated", "dev", devTokenTTL)
	if err != nil {
		return devTenant{}, err
	}
	anon, err := mintFor(d.house.config, t, d.house.config.String("rest.anon_role"), "", devTokenTTL)
	if err != nil {
		return devTenant{}, err
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(l.publicURL(), "http://"), ":")
	return devTenant{t.Name, t.ID, t.Placement, fmt.Sprintf("http://%s.localhost:%s", t.Name, port), token, anon}, nil
}

// writeState replaces the file as a whole: whoever reads it sees one dev or the other.
func writeState(file string, line []byte) error {
	fresh := file + ".new"
	if err := os.WriteFile(fresh, line, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, file)
}

func (d *devHouse) banner(state devState) {
	w := d.app.stdout
	fmt.Fprintf(w, "rowhouse serves (PostgreSQL %s, data in %s; not for production)\n\n", state.Postgres.Version, d.dir)
	fmt.Fprintf(w, "  data     %s\n  admin    %s\n  console  %s\n\n", state.DataURL, state.AdminURL, state.ConsoleURL)
	for _, t := range state.Tenants {
		fmt.Fprintf(w, "%s (%s)\n  curl -H 'Authorization: Bearer %s' \\\n    %s/rest/v1/projects\n\n", t.Name, t.Placement, t.Token, t.URL)
	}
	fmt.Fprintf(w, "Ctrl-C stops it; the next run goes on with the same data.\n")
}
