package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
)

// Cold measures the first request of a tenant whose database this process has never touched, against what it costs at
// least: a connection and the same query.
func Cold(ctx context.Context, b *Bed, l Length) (Report, error) {
	report := Report{Bench: "cold"}
	pairs := 8 * l.Rounds
	fresh, err := b.databases(ctx, catalog.Dedicated, 2*pairs+2, 1)
	if err != nil {
		return report, err
	}
	defer b.follow(ctx)()
	rt, err := b.router(router.Config{})
	if err != nil {
		return report, err
	}
	defer rt.Close()
	who, err := clients(ctx, fresh)
	if err != nil {
		return report, err
	}
	var ours, raws, ratios []float64
	for i := 0; i < len(who); i += 2 { // alternating, each in a database that nobody has used
		began := time.Now()
		if err := who[i].read(rt); err != nil {
			return report, fmt.Errorf("cold_first_request: %w", err)
		}
		first := milliseconds(time.Since(began))
		raw, err := b.rawQuery(ctx, who[i+1])
		if err != nil {
			return report, fmt.Errorf("raw_connect_and_query: %w", err)
		}
		if i > 0 { // the first of a process pays for what is done once
			ours, raws, ratios = append(ours, first), append(raws, raw), append(ratios, first/raw)
		}
	}
	report.Results = []Result{{
		Name: "cold_first_request", Value: median(ours), Unit: "ms", Baseline: "raw_connect_and_query", BaselineValue: median(raws), Ratio: median(ratios),
		Means: "the first request of a tenant whose database was never touched, in its transaction, against one connection and the same query",
	}, {
		Name: "cold_first_request_p5", Value: quickest(ours), Unit: "ms", Baseline: "raw_connect_and_query_p5", BaselineValue: quickest(raws), Ratio: quickest(ours) / quickest(raws),
		Means: "the same at its quickest twentieth: what it costs when nobody else uses the machine",
	}}
	return report, nil
}

// quickest is the quickest twentieth's slowest.
func quickest(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/20]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rawQuery connects and asks, with a configuration that is there already.
func (b *Bed) rawQuery(ctx context.Context, c client) (float64, error) {
	cfg, err := b.Catalog.ConnConfig(ctx, c.tenant.Database, catalog.LoginData)
	if err != nil {
		return 0, err
	}
	// The login sees a tenant's rows only as one of the roles, so the bare connection starts as one, and in the tenant.
	cfg.RuntimeParams["role"], cfg.RuntimeParams["rowhouse.tenant_id"] = "authenticated", c.tenant.ID.String()
	began := time.Now()
	conn, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		return 0, fmt.Errorf("database of tenant %s does not answer", c.tenant.Name)
	}
	result := conn.ExecParams(ctx, keyStatement, [][]byte{[]byte(pgUUID(bedKey)), []byte(c.tenant.ID.String())}, nil, nil, nil).Read()
	took := milliseconds(time.Since(began))
	if err := conn.Close(ctx); err != nil || result.Err != nil {
		return 0, fmt.Errorf("query: %w", result.Err)
	}
	return took, c.isOwn(result.Rows[0][1])
}
