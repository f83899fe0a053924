package router

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// Recording is what is kept of a tenant's requests.
type Recording struct {
	// Writes keeps requests that may change something, Reads the others. What an operator asks in a tenant's name is kept
	// with either of them.
	Writes, Reads bool
	// Retention is how long a record is kept. Zero means for ever; less than a day means a day.
	Retention time.Duration
}

// RequestsStat counts the records of requests.
type RequestsStat struct {
	// Waiting are to be written. Written are in their tenants' databases; Dropped are lost: there were too many, or the
	// tenant's database did not take them.
	Waiting          int
	Written, Dropped int64
}

// Records wait in memory until they are written, so many at most, and of one tenant no more than its part: one that is
// down takes nobody's place.
const (
	maxRecords       = 8192
	maxTenantRecords = maxRecords / 8
	batchRecords     = 500
	recorders        = 4
	recordLinger     = time.Second      // how long the first of a batch waits for others
	recordTime       = 10 * time.Second // how long writing a batch may take
	recordDrain      = 5 * time.Second  // how long stopping waits for what is left
	sweepEvery       = 24 * time.Hour   // how often a tenant's old records are deleted
	sweepRecords     = 5000             // how many at a time
)

// record is one request, as it is written.
type record struct {
	At           time.Time    `json:"at"`
	Duration     int64        `json:"duration_us"`
	Side         tenants.Side `json:"side"`
	Subject      string       `json:"subject"`
	Impersonator string       `json:"impersonator"`
	Role         string       `json:"role"`
	Method       string       `json:"method"`
	Route        string       `json:"route"`
	Status       int          `json:"status"`
	Code         string       `json:"code"`
	Rows         *int64       `json:"rows"`
	Address      string       `json:"address"`
	Agent        string       `json:"agent"`
	RequestID    string       `json:"request_id"`
	TraceID      string       `json:"trace_id"`
}

// records are those that wait, by tenant. A tenant is written by one recorder at a time.
type records struct {
	waiting          atomic.Int64
	written, dropped atomic.Int64
	wake             chan struct{}

	mu      sync.Mutex // guards the fields below
	tenants map[catalog.TenantID]*tenantRecords
	due     []catalog.TenantID // those with records that nobody writes, in the order of their first
	swept   map[catalog.TenantID]time.Time
}

type tenantRecords struct {
	tenant    *catalog.Tenant
	retention time.Duration
	since     time.Time // when the first of all came
	all       []record
	busy      bool
}

func newRecords() *records {
	return &records{wake: make(chan struct{}, 1), tenants: map[catalog.TenantID]*tenantRecords{}, swept: map[catalog.TenantID]time.Time{}}
}

// add keeps a record until it is written, or drops it. It never waits.
func (rs *records) add(t *catalog.Tenant, retention time.Duration, r record) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	of := rs.tenants[t.ID]
	if rs.waiting.Load() >= maxRecords || of != nil && len(of.all) >= maxTenantRecords {
		rs.dropped.Add(1)
		return
	}
	if of == nil {
		of = &tenantRecords{}
		rs.tenants[t.ID] = of
	}
	of.tenant, of.retention = t, retention
	if len(of.all) == 0 {
		of.since = time.Now()
		if !of.busy {
			rs.due = append(rs.due, t.ID)
		}
	}
	of.all = append(of.all, r)
	if rs.waiting.Add(1); len(of.all) == 1 || len(of.all) == batchRecords {
		rs.rouse()
	}
}

func (rs *records) rouse() {
	select {
	case rs.wake <- struct{}{}:
	default:
	}
}

// take gives a batch that is due, or says after how long there may be one. With all it gives any.
func (rs *records) take(all bool) (of *tenantRecords, batch []record, wait time.Duration) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	wait = time.Hour
	for i, id := range rs.due {
		of := rs.tenants[id]
		if left := recordLinger - time.Since(of.since); left > 0 && len(of.all) < batchRecords && !all {
			wait = min(wait, left)
			continue
		}
		rs.due = append(rs.due[:i:i], rs.due[i+1:]...)
		n := min(len(of.all), batchRecords)
		batch, of.all, of.busy = of.all[:n:n], of.all[n:], true
		rs.waiting.Add(-int64(n))
		if len(rs.due) > 0 {
			rs.rouse() // another recorder may go on
		}
		return of, batch, 0
	}
	return nil, nil, wait
}

// done says that nobody writes the tenant's records any more.
func (rs *records) done(of *tenantRecords) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	of.busy = false
	if len(of.all) == 0 {
		delete(rs.tenants, of.tenant.ID)
		return
	}
	rs.due = append(rs.due, of.tenant.ID)
	rs.rouse()
}

// sweeps says whether a tenant's old records are to be looked for, which is then done.
func (rs *records) sweeps(id catalog.TenantID) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if time.Since(rs.swept[id]) < sweepEvery {
		return false
	}
	rs.swept[id] = time.Now()
	return true
}

func (rs *records) stat() RequestsStat {
	return RequestsStat{Waiting: int(rs.waiting.Load()), Written: rs.written.Load(), Dropped: rs.dropped.Load()}
}

// record writes records until ctx ends, and what is left then.
func (rt *Router) record(ctx context.Context) {
	var all sync.WaitGroup
	for range recorders {
		all.Go(func() {
			for rt.recordNext(ctx) {
			}
		})
	}
	all.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordDrain)
	defer cancel()
	for {
		of, batch, _ := rt.requests.take(true)
		if of == nil {
			return
		}
		rt.recordBatch(last, of, batch)
	}
}

// recordNext waits for a batch and writes it; false when ctx has ended.
func (rt *Router) recordNext(ctx context.Context) bool {
	of, batch, wait := rt.requests.take(false)
	if of != nil {
		rt.recordBatch(context.WithoutCancel(ctx), of, batch)
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-rt.requests.wake:
	case <-timer.C:
	}
	return true
}

func (rt *Router) recordBatch(ctx context.Context, of *tenantRecords, batch []record) {
	defer rt.requests.done(of)
	ctx, cancel := context.WithTimeout(ctx, recordTime)
	defer cancel()
	if err := rt.writeRecords(ctx, of, batch); err != nil {
		rt.requests.dropped.Add(int64(len(batch)))
		rt.log.Warn("records of requests are lost", "tenant", of.tenant.ID, "records", len(batch), "error", err)
		return
	}
	rt.requests.written.Add(int64(len(batch)))
}

// writeRecords writes as the program itself, whoever asked.
func (rt *Router) writeRecords(ctx context.Context, of *tenantRecords, batch []record) error {
	text, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	return tenants.With(tenants.NewContext(ctx, tenants.Session{}), of.tenant, func(ctx context.Context) error {
		err := rt.BeginFunc(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `
				insert into rowhouse.requests (slot, at, duration_us, side, subject, impersonator, role, method, route, status, code, rows,
				                               address, agent, request_id, trace_id)
				select ((extract(year from at at time zone 'UTC') * 12 + extract(month from at at time zone 'UTC'))::int % 4)::smallint,
				       at, duration_us, side, subject, impersonator, role, method, route, status, code, rows, address, agent, request_id, trace_id
				  from jsonb_to_recordset($1::jsonb)
				    as r (at timestamptz, duration_us bigint, side text, subject text, impersonator text, role text, method text, route text,
				          status smallint, code text, rows bigint, address text, agent text, request_id text, trace_id text)`, string(text))
			return err
		})
		if err != nil || of.retention <= 0 || !rt.requests.sweeps(of.tenant.ID) {
			return err
		}
		if err := rt.sweepRecords(ctx, max(of.retention, 24*time.Hour)); err != nil {
			rt.log.Warn("old records of requests are not deleted", "tenant", of.tenant.ID, "error", err)
		}
		return nil
	})
}

// sweepRecords deletes what is older than retention, a part at a time, so that no transaction is long.
func (rt *Router) sweepRecords(ctx context.Context, retention time.Duration) error {
	for {
		var deleted int64
		err := rt.BeginFunc(ctx, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, `
				delete from rowhouse.requests where (slot, id) in (
					select slot, id from rowhouse.requests where at < now() - $1::interval order by at limit $2)`, retention, sweepRecords)
			deleted = tag.RowsAffected()
			return err
		})
		if err != nil || deleted < sweepRecords {
			return err
		}
	}
}

// recording says whether a request is to be recorded. Adopted databases have no place for it.
func (rt *Router) recording(r *http.Request, session tenants.Session) (Recording, bool) {
	t := session.Tenant()
	if rt.cfg.Recording == nil || t == nil {
		return Recording{}, false
	}
	rec := rt.cfg.Recording(t)
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	switch {
	case session.Impersonator() != "":
		if !rec.Reads && !rec.Writes {
			return rec, false
		}
	case reads && !rec.Reads, !reads && !rec.Writes:
		return rec, false
	}
	db, err := rt.dir.Database(r.Context(), t.Database)
	return rec, err == nil && !db.Adopted
}

// recorded remembers what became of an answer.
type recorded struct {
	http.ResponseWriter
	status   int
	returned bool // its handler has, and did not panic
}

func (w *recorded) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorded) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *recorded) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush is for handlers that ask the writer itself.
func (w *recorded) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// note keeps what became of a request.
func (rt *Router) note(w *recorded, r *http.Request, session tenants.Session, rec Recording, began time.Time) {
	h := w.Header()
	_, code, _ := strings.Cut(h.Get("Proxy-Status"), "error=")
	switch {
	case w.status == 0 && w.returned:
		w.status = http.StatusOK // net/http answers so where nobody wrote anything
	case w.status == 0:
		w.status = http.StatusInternalServerError // it panicked
	}
	rt.requests.add(session.Tenant(), rec.Retention, record{
		At: began.UTC(), Duration: time.Since(began).Microseconds(), Side: session.Side(), Subject: bounded(session.Subject(), 200),
		Impersonator: bounded(session.Impersonator(), 200), Role: bounded(session.Role(), 63), Method: r.Method, Route: bounded(r.URL.Path, 300), Status: w.status,
		Code: bounded(code, 64), Rows: rowsIn(h.Get("Content-Range")), Address: peer(r), Agent: bounded(r.UserAgent(), 200),
		RequestID: bounded(RequestID(r), 128), TraceID: traceIn(r.Header.Get("Traceparent")),
	})
}

func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return bounded(r.RemoteAddr, 64)
	}
	return host
}

// rowsIn reads how many rows an answer's Content-Range tells of.
func rowsIn(header string) *int64 {
	span, _, _ := strings.Cut(header, "/")
	from, to, ok := strings.Cut(span, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	if !ok || errors.Join(err, err2) != nil || last < first {
		return nil
	}
	n := last - first + 1
	return &n
}

// traceIn is the trace's id in a Traceparent, or empty.
func traceIn(header string) string {
	parts := strings.Split(header, "-")
	if len(parts) < 4 || len(parts[1]) != 32 || strings.Trim(parts[1], "0123456789abcdef") != "" {
		return ""
	}
	return parts[1]
}

// bounded is cut for a text that clients make up: without what PostgreSQL cannot store.
func bounded(s string, most int) string {
	if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
		s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	}
	return cut(s, most)
}
