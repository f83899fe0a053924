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
	// Leftovers is how many tenants are begun and taken back before what is left of them is counted.
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
		{Result{Name: "shared", Means: "a tenant in the shared database"}, 8 * l.Rounds, p.shared, nil},
	}
	for _, r := range rows {
		result, err := p.compare(ctx, r.result, r.rounds, r.ours, r.baseline)
		if err != nil {
			return report, fmt.Errorf("%s: %w", r.result.Name, err)
		}
		if r.result.Name == "dedicated_8_at_once" {
			result.Value, result.BaselineValue = result.Value/atOnce, result.BaselineValue/atOnce
		}
		report.Results = append(report.Results, result)
	}
	return report, nil
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
	if op, err = p.Runner.Work(ctx, op.ID); err == nil && op.State != catalog.OperationDone {
		err = errors.New(op.Error)
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
