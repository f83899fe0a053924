package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
)

// cutoverRate is how many reads and how many writes a second go on while something changes below them.
const cutoverRate = 200.0

// Cutover measures what requests feel while their database's password, and their server's address, is changed.
func Cutover(ctx context.Context, b *Bed, l Length) (Report, error) {
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
	cut(rt, who, l.Each, func() error { return nil }) // warm
	calm := cut(rt, who, phase, func() error { return nil })
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
		g := cut(rt, who, phase, change.make)
		if g.err != nil {
			return report, fmt.Errorf("change of %s: %w", change.name, g.err)
		}
		rows = append(rows, g.rows("_"+change.name, "while the "+change.name+" changes", calm)...)
		all = all.with(g)
	}
	report.Results = append(all.rows("", "over all changes: a new login with a new password, the old one closed, and a new address of the server", calm), rows...)
	return report, nil
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

// cut reads and writes at a fixed rate and makes a change in the middle.
func cut(rt *router.Router, who []client, phase time.Duration, change func() error) (g gaps) {
	var going sync.WaitGroup
	var reads, writes *tally
	going.Go(func() { reads = offer(phase, cutoverRate, func(i int) error { return who[i%len(who)].read(rt) }) })
	going.Go(func() { writes = offer(phase, cutoverRate, func(i int) error { return who[i%len(who)].write(rt) }) })
	going.Go(func() { time.Sleep(phase / 2); g.err = change() })
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
			Means: "the longest that a read at 200 a second took " + what,
		},
		{
			Name: "longest_write_gap" + suffix, Value: g.longestWrite, Unit: "ms", Baseline: "without_a_change", BaselineValue: calm.longestWrite, Ratio: g.longestWrite / calm.longestWrite,
			Means: "the longest that a write at 200 a second took " + what,
		},
	}
}
