package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// PromoteHouse is a house that serves, in a process of its own.
type PromoteHouse struct {
	Catalog *catalog.Catalog
	Service *tenants.Service
	// URL is where it serves the data API.
	URL string
	// Token is a token of a tenant's.
	Token func(*catalog.Tenant) (string, error)
	// DSN is how the server's superuser connects to a database.
	DSN func(database string) string
	// PGBin is where psql is.
	PGBin string
	// Sizes are how many rows the tenants have that are promoted, the smallest first.
	Sizes []PromoteSize
	// Within bounds the whole: a size is left out that would not end in it, by what the one before took. Zero: no bound.
	Within time.Duration
}

// PromoteSize is one tenant to promote.
type PromoteSize struct {
	Name string
	Rows int
}

// PromoteSizes are how many rows there are, by the names of the contract.
var PromoteSizes = []PromoteSize{{"1k", 1000}, {"50k", 50_000}, {"500k", 500_000}}

// promoteRate is how many writes a second go on while the tenant is promoted.
const promoteRate = 200.0

// promoteTime bounds one promotion.
const promoteTime = 5 * time.Minute

// Promote measures what a tenant's writers feel while it gets a database of its own, and how fast its rows are copied.
func Promote(ctx context.Context, h PromoteHouse) (Report, error) {
	report := Report{Bench: "promote"}
	var lost, doubled, failed int
	var copied float64
	var biggest *catalog.Database
	began := time.Now()
	var last PromoteSize
	var took time.Duration
	for _, size := range h.Sizes {
		more := time.Duration(2 * float64(size.Rows) / max(copied, 1) * float64(time.Second)) // to fill, copy and compare
		if last.Rows > 0 && h.Within > 0 && time.Since(began)+took+more > h.Within {
			break
		}
		started := time.Now()
		p, err := h.promote(ctx, size)
		if err != nil {
			return report, fmt.Errorf("%s: %w", size.Name, err)
		}
		report.Results = append(report.Results,
			Result{Name: "pause_" + size.Name, Value: p.writes.quantile(0.99), Unit: "ms", Means: fmt.Sprintf("p99 of %d writes through the data API, 200 a second, that were due while a tenant of %d rows was promoted (%s)%s", len(p.writes.took), size.Rows, p.mode, p.writes.why())},
			Result{Name: "longest_" + size.Name, Value: p.writes.quantile(1), Unit: "ms", Means: "the longest of them"},
		)
		last, took = size, time.Since(started)
		lost, doubled, failed, copied, biggest = lost+p.lost, doubled+p.doubled, failed+p.writes.errors, p.rate, p.from
	}
	byHand, err := h.byHand(ctx, biggest, last)
	if err != nil {
		return report, fmt.Errorf("copy by hand: %w", err)
	}
	report.Results = append(report.Results,
		Result{
			Name: "copy_rate", Value: copied, Unit: "rows/s", Baseline: "copy_pipe_by_hand", BaselineValue: byHand, Ratio: copied / byHand,
			Means: "rows of the largest tenant copied behind the fence, with their sums taken beside, against psql COPY | psql COPY into a table with the same keys",
		},
		Result{Name: "lost", Value: float64(lost), Unit: "rows", Means: "acknowledged writes that are not in the new database"},
		Result{Name: "doubled", Value: float64(doubled), Unit: "rows", Means: "writes that are there more than once"},
		Result{Name: "failed_writes", Value: float64(failed), Unit: "requests", Means: "writes that were refused for good; a 503 with Retry-After is asked again after that time and counts as one long write"},
	)
	return report, nil
}

// promotion is what became of one.
type promotion struct {
	writes        *tally // those that were due while it ran
	lost, doubled int
	mode          tenants.MoveMode
	rate          float64 // rows a second
	from          *catalog.Database
}

func (h PromoteHouse) promote(ctx context.Context, size PromoteSize) (p promotion, err error) {
	ctx, cancel := context.WithTimeout(ctx, promoteTime)
	defer cancel()
	tenant, err := h.resident(ctx, size)
	if err != nil {
		return p, err
	}
	if p.from, err = h.Catalog.Database(ctx, tenant.Database); err != nil {
		return p, err
	}
	token, err := h.Token(tenant)
	if err != nil {
		return p, err
	}
	w := &restWriter{url: h.URL + "/rest/v1/projects", token: token, client: &http.Client{Transport: &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000}}}
	defer w.client.CloseIdleConnections()
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() { w.write(ctx, stop) })
	time.Sleep(500 * time.Millisecond) // warm
	began := time.Now()
	op, err := h.moved(ctx, tenant)
	ended := time.Now()
	if err == nil {
		time.Sleep(500 * time.Millisecond) // those that waited come in
	}
	close(stop)
	writing.Wait()
	if err != nil {
		return p, err
	}
	p.writes = w.between(began, ended)
	var args tenants.MoveArgs
	if err := json.Unmarshal(op.Args, &args); err != nil {
		return p, err
	}
	p.mode = args.Mode
	if p.rate, err = h.copyRate(ctx, op.ID); err != nil {
		return p, err
	}
	p.lost, p.doubled, err = h.compare(ctx, tenant.ID, w.acked)
	return p, err
}

// resident makes a shared tenant with so many rows.
func (h PromoteHouse) resident(ctx context.Context, size PromoteSize) (*catalog.Tenant, error) {
	name := "promoted-" + size.Name
	op, err := h.Service.CreateTenant(ctx, tenants.TenantSpec{Name: name})
	if err != nil {
		return nil, err
	}
	if _, err := h.done(ctx, op.ID); err != nil {
		return nil, err
	}
	tenant, err := h.Catalog.Tenant(ctx, name)
	if err != nil {
		return nil, err
	}
	db, err := h.Catalog.Database(ctx, tenant.Database)
	if err != nil {
		return nil, err
	}
	return tenant, h.on(ctx, db.Name, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `insert into public.projects (tenant_id, name, budget) select $1, 'before ' || g, g from generate_series(1, $2::int) g`, tenant.ID, size.Rows)
		return err
	})
}

func (h PromoteHouse) on(ctx context.Context, database string, fn func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, h.DSN(database))
	if err != nil {
		return fmt.Errorf("database %s does not answer", database)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return fn(conn)
}

func (h PromoteHouse) moved(ctx context.Context, tenant *catalog.Tenant) (*catalog.Operation, error) {
	pause := time.Minute
	op, err := h.Service.PromoteTenant(ctx, tenant.Name, tenants.MoveSpec{MaxPause: &pause})
	if err != nil {
		return nil, err
	}
	return h.done(ctx, op.ID)
}

// done waits until somebody has carried an operation out.
func (h PromoteHouse) done(ctx context.Context, id catalog.OperationID) (*catalog.Operation, error) {
	for {
		op, err := h.Catalog.Operation(ctx, id)
		switch {
		case err != nil:
			return nil, err
		case op.State == catalog.OperationDone:
			return op, nil
		case op.State.Finished():
			return nil, fmt.Errorf("%s is %s: %s", op.Kind, op.State, op.Error)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// copyRate reads how fast the rows were copied out of the operation's record.
func (h PromoteHouse) copyRate(ctx context.Context, id catalog.OperationID) (float64, error) {
	events, err := h.Catalog.OperationEvents(ctx, id, 0)
	for _, e := range events {
		var rows int64
		var took string
		if n, _ := fmt.Sscanf(e.Message, "%d rows were copied in %s", &rows, &took); n == 2 {
			d, err := time.ParseDuration(strings.TrimSuffix(took, ","))
			return float64(rows) / max(d.Seconds(), 1e-9), err
		}
	}
	return 0, err
}

// compare looks for what was acknowledged, row by row, where the tenant lives now.
func (h PromoteHouse) compare(ctx context.Context, id catalog.TenantID, acked []string) (lost, doubled int, err error) {
	tenant, err := h.Catalog.Tenant(ctx, id.String())
	if err != nil {
		return 0, 0, err
	}
	if tenant.Placement != catalog.Dedicated {
		return 0, 0, errors.New("the tenant has no database of its own")
	}
	db, err := h.Catalog.Database(ctx, tenant.Database)
	if err != nil {
		return 0, 0, err
	}
	there := map[string]int{}
	err = h.on(ctx, db.Name, func(conn *pgx.Conn) error {
		// Budget is what a writer gave its row; the name is unique, and a second one would be refused.
		rows, err := conn.Query(ctx, "select labels ->> 'write' from public.projects where tenant_id = $1 and labels ? 'write'", id)
		if err != nil {
			return err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, name := range names {
			there[name]++
		}
		return err
	})
	for _, name := range acked {
		if there[name] == 0 {
			lost++
		}
	}
	for _, n := range there {
		doubled += n - 1
	}
	return lost, doubled, err
}

// byHand copies the same rows as somebody would without us: psql | psql, into a table with the same keys.
func (h PromoteHouse) byHand(ctx context.Context, from *catalog.Database, size PromoteSize) (float64, error) {
	tenant, err := h.Catalog.Tenant(ctx, "promoted-"+size.Name)
	if err != nil {
		return 0, err
	}
	if err := h.on(ctx, from.Name, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "create schema by_hand; create table by_hand.projects (like public.projects including all)", pgx.QueryExecModeSimpleProtocol)
		return err
	}); err != nil {
		return 0, err
	}
	psql := "psql"
	if h.PGBin != "" {
		psql = filepath.Join(h.PGBin, "psql")
	}
	run := func(sql string) *exec.Cmd {
		return exec.CommandContext(ctx, psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", h.DSN(from.Name), "-c", sql)
	}
	out := run(fmt.Sprintf("copy (select * from public.projects where tenant_id = '%s' and name like 'before %%') to stdout", tenant.ID))
	in := run("copy by_hand.projects from stdin")
	if in.Stdin, err = out.StdoutPipe(); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := in.Start(); err != nil {
		return 0, fmt.Errorf("psql: %w", err)
	}
	if err := errors.Join(out.Run(), in.Wait()); err != nil {
		return 0, fmt.Errorf("psql: %w", err)
	}
	return float64(size.Rows) / time.Since(began).Seconds(), nil
}

// restWriter writes rows through the data API at a fixed rate, whether or not earlier ones are answered.
type restWriter struct {
	url, token string
	client     *http.Client

	mu    sync.Mutex // guards the fields below
	notes []writeNote
	acked []string
}

type writeNote struct {
	due  time.Time
	took time.Duration
	err  error
}

func (w *restWriter) write(ctx context.Context, stop <-chan struct{}) {
	var asking sync.WaitGroup
	defer asking.Wait()
	began := time.Now()
	for i := 0; ; i++ {
		due := began.Add(time.Duration(float64(i) / promoteRate * float64(time.Second)))
		select {
		case <-stop:
			return
		case <-time.After(time.Until(due)):
		}
		asking.Go(func() {
			name := strconv.Itoa(i)
			err := w.one(ctx, name)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.notes = append(w.notes, writeNote{due, time.Since(due), err})
			if err == nil {
				w.acked = append(w.acked, name)
			}
		})
	}
}

// one writes a row. What was not done, and is worth asking again, is asked again when the answer says.
func (w *restWriter) one(ctx context.Context, name string) error {
	body := []byte(`{"name":"` + catalog.NewID[http.Request]().String() + `","labels":{"write":"` + name + `"}}`)
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+w.token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := w.client.Do(req)
		if err != nil {
			return err
		}
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		switch {
		case err != nil:
			return err
		case resp.StatusCode == http.StatusCreated:
			return nil
		case after == 0 || !slices.Contains([]int{http.StatusServiceUnavailable, http.StatusTooManyRequests}, resp.StatusCode) || try == 60:
			return fmt.Errorf("status %d: %s", resp.StatusCode, answer)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(after) * time.Second):
		}
	}
}

// between are the writes that were due then.
func (w *restWriter) between(began, ended time.Time) *tally {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &tally{span: ended.Sub(began)}
	for _, n := range w.notes {
		if n.err != nil || !n.due.Before(began) && n.due.Before(ended) {
			t.note(n.took, n.err)
		}
	}
	return t
}
