package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
)

// cutoverRate is how many reads and how many writes a second go on while something changes below them.
const cutoverRate = 200.0

// placementRate is the same for the one tenant that is brought elsewhere. While its writes wait they pile up, and a tenant of
// a shared database may have twenty-five requests at a time, waiting ones included.
const placementRate = 25.0

// Placement is a tenant that can be brought to another database.
type Placement struct {
	Router *router.Router
	Tenant *catalog.Tenant
	// Change brings it there, and comes back when it is there.
	Change func(context.Context) error
}

// Cutover measures what requests feel while their database's password, their server's address, and with a placement their
// tenant's database is changed.
func Cutover(ctx context.Context, b *Bed, l Length, p *Placement) (Report, error) {
	report := Report{Bench: "cutover"}
	ts, err := b.databases(ctx, catalog.Dedicated, 1, 1)
	if err != nil {
		return report, err
	}
	shared, err := b.databases(ctx, catalog.Shared, 1, 4)
	if err != nil {
		return report, err
	}
	defer b.follow(ctx)()
	rt, err := b.router(router.Config{})
	if err != nil {
		return report, err
	}
	defer rt.Close()
	who, err := clients(ctx, append(ts, shared...))
	if err != nil {
		return report, err
	}
	second, err := newPassword()
	if err != nil {
		return report, err
	}
	phase := 4 * l.Each
	cut(rt, who, cutoverRate, l.Each, func() error { return nil }) // warm
	calm := cut(rt, who, cutoverRate, phase, func() error { return nil })
	changes := []struct {
		name string
		make func() error
	}{
		{"password", func() error { return b.changePassword(ctx, who, second) }},
		{"server", func() error { return b.changeAddress(ctx) }},
	}
	var all gaps
	var rows []Result
	for _, change := range changes {
		g := cut(rt, who, cutoverRate, phase, change.make)
		if g.err != nil {
			return report, fmt.Errorf("change of %s: %w", change.name, g.err)
		}
		rows = append(rows, g.rows("_"+change.name, "while the "+change.name+" changes", calm)...)
		all = all.with(g)
	}
	what := "over all changes: a new login with a new password, the old one closed, and a new address of the server"
	if p != nil {
		g, before, err := p.cut(ctx, l)
		if err != nil {
			return report, fmt.Errorf("change of placement: %w", err)
		}
		rows = append(rows, g.rows("_placement", "while its tenant is brought from a shared database to one of its own", before)...)
		all, what = all.with(g), what+", and a database of its own for the tenant"
	}
	report.Results = append(all.rows("", what, calm), rows...)
	return report, nil
}

// cut changes the placement below readers and writers, after it looked at them without a change.
func (p *Placement) cut(ctx context.Context, l Length) (g, calm gaps, err error) {
	who, err := clients(ctx, []*catalog.Tenant{p.Tenant})
	if err != nil {
		return g, calm, err
	}
	err = p.Router.BeginFunc(who[0].ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(who[0].ctx, "insert into public.projects (id, name) values ($1, $2)", bedKey, p.Tenant.Name)
		return err
	})
	if err != nil {
		return g, calm, err
	}
	nothing := func() error { return nil }
	cut(p.Router, who, placementRate, l.Each, nothing) // warm
	calm = cut(p.Router, who, placementRate, 4*l.Each, nothing)
	g = cut(p.Router, who, placementRate, 4*l.Each, func() error { return p.Change(ctx) })
	return g, calm, g.err
}

// changePassword has the second generation of the login valid beside the first, tells the catalog, and closes the first.
func (b *Bed) changePassword(ctx context.Context, who []client, password string) error {
	next := bedLogin + "_2"
	if _, err := b.admin.Exec(ctx, "create role "+next+" login noinherit password '"+password+"'"); err != nil {
		return err
	}
	if _, err := b.admin.Exec(ctx, "grant anon, authenticated, service_role to "+next); err != nil {
		return err
	}
	err := b.update(ctx, func(tx *catalog.Tx) error {
		for _, c := range who {
			if err := tx.SetCredential(ctx, catalog.Credential{
				Server: b.server, Database: c.tenant.Database, Login: catalog.LoginData, Version: 2, Role: next, Secret: catalog.NewSecret(password),
			}); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "update rowhouse.databases set credential_version = 2")
		return err
	})
	if err != nil {
		return err
	}
	_, err = b.admin.Exec(ctx, "alter role "+bedLogin+" nologin")
	return err
}

// changeAddress gives the server another address, which leads to the same one.
func (b *Bed) changeAddress(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "rowhouse-")
	if err != nil {
		return err
	}
	b.leftovers = append(b.leftovers, dir)
	other := filepath.Join(dir, "moved")
	if err := os.Symlink(b.pg.Socket(), other); err != nil {
		return err
	}
	return b.update(ctx, func(tx *catalog.Tx) error { return tx.SetServerHosts(ctx, b.server, []string{other + ":5432"}) })
}

// gaps is what readers and writers felt.
type gaps struct {
	failedReads, failedWrites int
	longestRead, longestWrite float64 // ms
	first                     error
	err                       error // of the change
}

// cut reads and writes at a fixed rate and makes a change in the middle, for as long as that takes.
func cut(rt *router.Router, who []client, rate float64, phase time.Duration, change func() error) (g gaps) {
	var going sync.WaitGroup
	var reads, writes tally
	changed := make(chan struct{})
	on := func(t *tally, ask func(client) error) {
		for over := false; !over; {
			select {
			case <-changed:
				over = true // and half a phase more
			default:
			}
			offerTo(phase/2, rate, func(i int) error { return ask(who[i%len(who)]) }, func(int) *tally { return t })
		}
	}
	going.Go(func() { on(&reads, func(c client) error { return c.read(rt) }) })
	going.Go(func() { on(&writes, func(c client) error { return c.write(rt) }) })
	going.Go(func() { defer close(changed); time.Sleep(phase / 4); g.err = change() })
	going.Wait()
	g.failedReads, g.failedWrites = reads.errors, writes.errors
	g.longestRead, g.longestWrite = reads.quantile(1), writes.quantile(1)
	if g.first = reads.first; g.first == nil {
		g.first = writes.first
	}
	return g
}

func (g gaps) with(h gaps) gaps {
	g.failedReads += h.failedReads
	g.failedWrites += h.failedWrites
	g.longestRead, g.longestWrite = max(g.longestRead, h.longestRead), max(g.longestWrite, h.longestWrite)
	if g.first == nil {
		g.first = h.first
	}
	return g
}

func (g gaps) rows(suffix, what string, calm gaps) []Result {
	failed := ""
	if g.first != nil {
		failed = "; the first: " + g.first.Error()
	}
	return []Result{
		{Name: "failed_reads" + suffix, Value: float64(g.failedReads), Unit: "requests", Means: "reads that failed " + what + failed},
		{Name: "failed_writes" + suffix, Value: float64(g.failedWrites), Unit: "requests", Means: "writes that failed " + what + failed},
		{
			Name: "longest_read_gap" + suffix, Value: g.longestRead, Unit: "ms", Baseline: "without_a_change", BaselineValue: calm.longestRead, Ratio: g.longestRead / calm.longestRead,
			Means: "the longest that a read took " + what,
		},
		{
			Name: "longest_write_gap" + suffix, Value: g.longestWrite, Unit: "ms", Baseline: "without_a_change", BaselineValue: calm.longestWrite, Ratio: g.longestWrite / calm.longestWrite,
			Means: "the longest that a write took " + what,
		},
	}
}
