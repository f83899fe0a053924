package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// ProvisionHouse is an empty house on a private server, which writes to the disk as a production server does.
type ProvisionHouse struct {
	Catalog *catalog.Catalog
	Runner  *jobs.Runner
	Service *tenants.Service
	// DSN is how the server's superuser connects to a database.
	DSN func(database string) string
	// Files is the set that tenants are born with.
	Files []migrations.File
	// Leftovers is how many tenants are made and taken away before what is left of them is counted.
	Leftovers int
	// Within bounds the whole: no round is begun that would not end in it.
	Within time.Duration
}

// atOnce is how many tenants are made at the same time where more than one is.
const atOnce = 8

// provision is the house, its template, and how many databases were made of it.
type provision struct {
	ProvisionHouse
	admins   [atOnce]*pgx.Conn
	template string
	made     int
	end      time.Time // no round is begun after it
}

// Provision measures how long it takes until a tenant is ready, beside the bare statement that clones its database.
// Databases are not dropped between the rounds: that would force a checkpoint on whoever comes next.
func Provision(ctx context.Context, h ProvisionHouse, l Length) (Report, error) {
	report := Report{Bench: "provision"}
	p := &provision{ProvisionHouse: h, end: time.Now().Add(24 * time.Hour)}
	if h.Within > 0 {
		p.end = time.Now().Add(h.Within)
	}
	if err := p.open(ctx); err != nil {
		return report, err
	}
	defer p.close(ctx)
	rows := []struct {
		result         Result
		rounds         int
		ours, baseline func(context.Context) error
	}{
		{
			Result{Name: "dedicated", Means: "a tenant with a database of its own, from the request to ready, by the process that was asked, against CREATE DATABASE … TEMPLATE … STRATEGY wal_log of the same template"},
			4 * l.Rounds, p.dedicated, p.bare,
		},
		{
			Result{Name: "dedicated_8_at_once", Means: "the same, eight at the same time, against eight bare statements at the same time; the time of one is an eighth of all"},
			l.Rounds, p.eight(p.dedicatedAt), p.eight(p.bareAt),
		},
		{
			Result{Name: "dedicated_spare", Means: "a tenant that takes a database which stands ready"},
			4 * l.Rounds, p.dedicated, p.bare,
		},
		{Result{Name: "shared", Means: "a tenant in the shared database"}, 8 * l.Rounds, p.shared, nil},
	}
	for _, r := range rows {
		if r.result.Name == "dedicated_spare" {
			if err := p.stock(ctx, r.rounds); err != nil {
				return report, fmt.Errorf("%s: %w", r.result.Name, err)
			}
		}
		result, err := p.compare(ctx, r.result, r.rounds, r.ours, r.baseline)
		if err != nil {
			return report, fmt.Errorf("%s: %w", r.result.Name, err)
		}
		if r.result.Name == "dedicated_8_at_once" {
			result.Value, result.BaselineValue = result.Value/atOnce, result.BaselineValue/atOnce
		}
		report.Results = append(report.Results, result)
	}
	left, err := p.leftovers(ctx)
	report.Results = append(report.Results, left)
	return report, err
}

// stock has n databases stand ready.
func (p *provision) stock(ctx context.Context, n int) error {
	server, err := p.server(ctx)
	if err != nil {
		return err
	}
	if _, err := p.Service.SetServer(ctx, server.Name, tenants.ServerLimits{Spares: &n, MaxDatabases: new(100_000)}); err != nil {
		return err
	}
	for {
		begun, err := p.Runner.Restock(ctx)
		if err != nil || len(begun) == 0 {
			return err
		}
		for _, op := range begun {
			if err := p.work(ctx, op); err != nil {
				return err
			}
		}
	}
}

func (p *provision) server(ctx context.Context) (*catalog.Server, error) {
	for server, err := range p.Catalog.Servers(ctx) {
		return server, err
	}
	return nil, errors.New("the house has no server")
}

// leftovers makes tenants and takes them away again: half of them purged after they were whole, half undone in the middle of
// being made. Then it counts what is there on the server and was not before.
func (p *provision) leftovers(ctx context.Context) (Result, error) {
	r := Result{Name: "leftovers", Unit: "objects", Means: fmt.Sprintf("databases and roles on the server, and unfinished rows in the catalog, after %d dedicated tenants were made and purged or begun and undone", p.Leftovers)}
	if err := p.stock(ctx, 0); err != nil {
		return r, err
	}
	before, err := p.objects(ctx)
	if err != nil {
		return r, err
	}
	for i := range p.Leftovers {
		away := p.madeAndPurged
		if i%2 == 1 {
			away = p.begunAndUndone
		}
		if err := away(ctx, fmt.Sprintf("gone-%d", i), time.Duration(i%40)*5*time.Millisecond); err != nil {
			return r, fmt.Errorf("tenant gone-%d: %w", i, err)
		}
	}
	after, err := p.objects(ctx)
	r.Value = float64(after - before)
	return r, err
}

func (p *provision) madeAndPurged(ctx context.Context, name string, _ time.Duration) error {
	if err := p.make(ctx, tenants.TenantSpec{Name: name, Placement: catalog.Dedicated}); err != nil {
		return err
	}
	op, err := p.Service.DeleteTenant(ctx, name, tenants.DeleteSpec{NoExport: true})
	if err != nil {
		return err
	}
	if err := p.work(ctx, op); err != nil {
		return err
	}
	if op, err = p.Service.PurgeTenant(ctx, name); err != nil {
		return err
	}
	return p.work(ctx, op)
}

// begunAndUndone lets the tenant be made for a while, which is another each time.
func (p *provision) begunAndUndone(ctx context.Context, name string, after time.Duration) error {
	op, err := p.Service.CreateTenant(ctx, tenants.TenantSpec{Name: name, Placement: catalog.Dedicated})
	if err != nil {
		return err
	}
	working, stop := context.WithTimeout(ctx, after)
	_, _ = p.Runner.Work(working, op.ID) // it is ended in the middle
	stop()
	if op, err = p.Service.CancelOperation(ctx, op.ID, true); errors.Is(err, catalog.ErrConflict) { // it was whole already
		if op, err = p.Service.DeleteTenant(ctx, name, tenants.DeleteSpec{NoExport: true}); err != nil {
			return err
		}
		if err := p.work(ctx, op); err != nil {
			return err
		}
		if op, err = p.Service.PurgeTenant(ctx, name); err != nil {
			return err
		}
		return p.work(ctx, op)
	}
	if err != nil {
		return err
	}
	if op, err = p.Runner.Work(ctx, op.ID); err == nil && op.Effects != catalog.EffectsUndone {
		err = fmt.Errorf("operation is %s: %s", op.State, op.Error)
	}
	return err
}

// objects counts what stands on the server, and what the catalog has not finished.
func (p *provision) objects(ctx context.Context) (n int, err error) {
	if err := p.admins[0].QueryRow(ctx, `select (select count(*) from pg_database) + (select count(*) from pg_roles)`).Scan(&n); err != nil {
		return 0, err
	}
	var open int
	err = p.Catalog.Pool().QueryRow(ctx, `
		select (select count(*) from rowhouse.databases where state <> 'gone') + (select count(*) from rowhouse.tenants where state <> 'deleted')
		     + (select count(*) from rowhouse.operations where state not in ('done', 'cancelled')) + (select count(*) from rowhouse.credentials)`).Scan(&open)
	return n + open, err
}

// open makes the template, the shared database and what a process pays for once.
func (p *provision) open(ctx context.Context) error {
	if _, err := p.Runner.MigrateFleet(ctx, p.Files, jobs.FleetConfig{}, nil); err != nil {
		return err
	}
	for i := range p.admins {
		conn, err := pgx.Connect(ctx, p.DSN("postgres"))
		if err != nil {
			return errors.New("private postgres does not answer")
		}
		p.admins[i] = conn
	}
	if err := errors.Join(p.dedicated(ctx), p.shared(ctx)); err != nil {
		return err
	}
	return p.admins[0].QueryRow(ctx, `select datname from pg_database where datistemplate and datname like 'rh\_tpl\_v%' order by oid desc limit 1`).Scan(&p.template)
}

func (p *provision) close(ctx context.Context) {
	for _, conn := range p.admins {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}
}

// compare alternates ours and the baseline, and which of them is first.
func (p *provision) compare(ctx context.Context, r Result, rounds int, ours, baseline func(context.Context) error) (Result, error) {
	r.Unit = "ms"
	var values, baselines []float64
	for round := range rounds {
		if round >= 3 && time.Now().After(p.end) {
			break
		}
		both := []func(context.Context) error{ours, baseline}
		into := []*[]float64{&values, &baselines}
		for i := range both {
			i = (i + round) % 2
			if both[i] == nil {
				continue
			}
			began := time.Now()
			if err := both[i](ctx); err != nil {
				return r, err
			}
			*into[i] = append(*into[i], milliseconds(time.Since(began)))
		}
	}
	r.Value = median(values)
	if baseline != nil {
		r.Baseline, r.BaselineValue, r.Ratio = "create_database_template", median(baselines), median(ratios(values, baselines))
	}
	return r, nil
}

// next is a name that nothing has yet.
func (p *provision) next() int {
	p.made++
	return p.made
}

func (p *provision) dedicated(ctx context.Context) error { return p.dedicatedAt(ctx, 0, p.next()) }

func (p *provision) dedicatedAt(ctx context.Context, _, n int) error {
	return p.make(ctx, tenants.TenantSpec{Name: fmt.Sprintf("tenant-%d", n), Placement: catalog.Dedicated})
}

func (p *provision) shared(ctx context.Context) error {
	return p.make(ctx, tenants.TenantSpec{Name: fmt.Sprintf("tenant-%d", p.next()), Placement: catalog.Shared})
}

func (p *provision) make(ctx context.Context, spec tenants.TenantSpec) error {
	op, err := p.Service.CreateTenant(ctx, spec)
	if err != nil {
		return err
	}
	return p.work(ctx, op)
}

// work carries an operation out in this process.
func (p *provision) work(ctx context.Context, op *catalog.Operation) error {
	op, err := p.Runner.Work(ctx, op.ID)
	if err == nil && op.State != catalog.OperationDone {
		err = fmt.Errorf("operation is %s: %s", op.State, op.Error)
	}
	return err
}

func (p *provision) bare(ctx context.Context) error { return p.bareAt(ctx, 0, p.next()) }

func (p *provision) bareAt(ctx context.Context, worker, n int) error {
	_, err := p.admins[worker].Exec(ctx, fmt.Sprintf("create database bare_%d template %s allow_connections false strategy wal_log", n, pgx.Identifier{p.template}.Sanitize()))
	return err
}

// eight does the same for eight names at once.
func (p *provision) eight(do func(ctx context.Context, worker, n int) error) func(context.Context) error {
	return func(ctx context.Context) error {
		all, ctx := errgroup.WithContext(ctx)
		for worker := range atOnce {
			n := p.next()
			all.Go(func() error { return do(ctx, worker, n) })
		}
		return all.Wait()
	}
}
