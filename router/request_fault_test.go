package router_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestFault_F11_slow_server(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{MaxConnsPerDatabase: 4})
	if err := f.read(f.acme); err != nil {
		t.Fatal(err)
	}
	f.proxy.On(pgtest.OnBind, "").Always().Delay(2 * time.Second)
	var asking sync.WaitGroup
	var mu sync.Mutex
	heard := map[told]int{}
	for range 30 {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(f.acme, 300*time.Millisecond)
			defer cancel()
			began := time.Now()
			got := f.tell(http.MethodPost, f.write(ctx, "acme", "slow"))
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("a deadline of 300ms ended after %v", took)
			}
			mu.Lock()
			defer mu.Unlock()
			got.hint = ""
			heard[got]++
		})
	}
	asking.Wait()
	for got := range heard {
		if got.status != 504 && got.status != 429 && got.status != 503 || got.outcome != "not_started" && got.outcome != "rolled_back" {
			t.Errorf("a client hears %+v", got)
		}
	}
	if heard[told{status: 504, code: "statement_timeout", outcome: "not_started"}] == 0 {
		t.Errorf("nobody hears of the deadline: %v", heard)
	}
	if n := f.open(); n > 4 {
		t.Errorf("%d connections", n)
	}
	f.proxy.Clear()
	f.recovers(10 * time.Second)
	if n := f.rows("slow"); n != 0 {
		t.Errorf("%d rows of writes that came to nothing", n)
	}
}

func TestFault_F17_too_many_connections(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	f.proxy.On(pgtest.OnStartup, "").Always().Fail("53300")
	share := f.rt.Stat().Servers[f.faulty].Share
	for range 40 {
		f.wants(f.write(f.acme, "acme", "full"), told{status: 503, code: "overloaded", outcome: "not_started"})
	}
	f.names("full")
	st := f.rt.Stat().Servers[f.faulty]
	if n := f.proxy.Stat().Startups; n > 8 || n == 0 { // two a second, and this may take some
		t.Errorf("%d log-ins tried for 40 requests", n)
	}
	if st.BreakerOpen || st.Share > share && share > 0 {
		t.Errorf("a server that answers counts as dead: %+v", st)
	}
	f.proxy.Clear()
	f.recovers(10 * time.Second)
	if n := f.rows("full"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestFault_F21_suspended_in_mid_request(t *testing.T) {
	t.Parallel()
	w := newCatalogWorld(t)
	ctx := w.as("acme", "service_role")
	tx, err := w.rt.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	began := time.Now()
	w.change("update rowhouse.tenants set state = 'suspended', epoch = epoch + 1 where name = 'acme'")
	await(t, "new requests are refused", 10*time.Second, func() bool { status, _ := w.ask("acme"); return status == 403 })
	t.Logf("refused %v after", time.Since(began).Round(time.Millisecond))
	w.hears("acme", 403, "tenant_suspended")
	w.hears("globex", 200, "")
	if err := w.rt.BeginFunc(ctx, func(pgx.Tx) error { return nil }); !errors.Is(err, tenants.ErrSuspended) {
		t.Errorf("a session from before: %v", err)
	}
	if _, err := tx.Exec(ctx, "insert into projects (owner, name) values ('acme', 'running')"); err != nil {
		t.Errorf("what ran is cut off: %v", err)
	}
	if err := tx.Commit(ctx); err != nil || w.acme.count(t, "select count(*) from public.projects where name = 'running'") != 1 {
		t.Errorf("what ran is lost: %v", err)
	}
}

func TestFault_F27_disk_full(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	// A disk that is full cannot be had without one; what the server says of it can.
	f.db.exec(t, `create function public.exhausted() returns trigger language plpgsql as $$ begin
		raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$`)
	f.db.exec(t, `create trigger exhausted before insert on public.projects for each row execute function public.exhausted()`)
	inserts := f.proxy.On(pgtest.OnExecute, "(?i)^insert into projects").Always().Delay(0)
	for range 5 {
		f.wants(f.write(f.acme, "acme", "full"), told{status: 503, code: "database_unavailable", outcome: "rolled_back"})
		if err := f.read(f.acme); err != nil {
			t.Errorf("a read: %v", err)
		}
	}
	f.names("53100")
	if n := inserts.Hits(); n != 5 {
		t.Errorf("5 writes were tried %d times", n)
	}
	if st := f.rt.Stat().Servers[f.faulty]; st.BreakerOpen || st.Retried > 0 {
		t.Errorf("a full disk is no dead server: %+v", st)
	}
}

func TestFault_F33_DDL_holds_a_table(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	if err := f.read(f.acme); err != nil {
		t.Fatal(err)
	}
	ddl := f.db.Conn(t)
	if _, err := ddl.Exec(t.Context(), "begin; lock table public.projects in access exclusive mode"); err != nil {
		t.Fatal(err)
	}
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() {
			began := time.Now()
			f.wants(f.write(f.acme, "acme", "locked"), told{status: 503, code: "overloaded", outcome: "rolled_back"})
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("waited %v for a lock", took)
			}
		})
	}
	waiting.Wait()
	f.names("55P03")
	if _, err := ddl.Exec(t.Context(), "commit"); err != nil {
		t.Fatal(err)
	}
	if err := f.write(f.acme, "acme", "free"); err != nil || f.rows("free") != 1 || f.rows("locked") != 0 {
		t.Errorf("after it: %v", err)
	}
}

func TestFault_F42_noisy_neighbour_on_a_shared_server(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{MaxConnsPerDatabase: 8, AcquireTimeout: 20 * time.Second})
	f.update(func(ctx context.Context, tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.servers set max_connections = 8, max_in_use = 4 where id = $1", f.faulty)
		return err
	})
	f.tenant("initech", f.databaseOn(f.faulty))
	initech := f.as("initech", "service_role")
	ctx, stop := context.WithCancel(f.acme)
	var noise sync.WaitGroup
	for range 20 {
		noise.Go(func() {
			for ctx.Err() == nil {
				_ = f.rt.BeginFunc(ctx, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, "select pg_sleep(0.05)"); return err })
			}
		})
	}
	await(t, "the noise has what it gets", 20*time.Second, func() bool { return f.rt.Stat().Servers[f.faulty].InUse >= 4 })
	var took []time.Duration
	for range 20 {
		began := time.Now()
		if err := f.read(initech); err != nil {
			t.Errorf("the quiet tenant: %v", err)
		}
		took = append(took, time.Since(began))
	}
	stop()
	noise.Wait()
	slices.Sort(took)
	if p50 := took[len(took)/2]; p50 > 5*time.Second { // in turns, not behind all
		t.Errorf("the quiet one waits %v", p50)
	}
	if st := f.rt.Stat().Servers[f.faulty]; st.Open > 8 {
		t.Errorf("%d connections of 8", st.Open)
	}
	t.Logf("the quiet tenant waits %v, at most %v", took[len(took)/2], took[len(took)-1])
}

func TestFault_F38_client_that_takes_nothing(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	s := httptest.NewServer(router.Edge(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write(make([]byte, 256<<20)) // more than the system takes for it
		ended <- err
	}), router.EdgeConfig{Stall: 100 * time.Millisecond}))
	t.Cleanup(s.Close)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: acme.example.com\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("an answer that nobody took was written")
		}
	case <-time.After(30 * time.Second):
		t.Error("the handler waits for a client that takes nothing")
	}
	t.Run("a connection that was idle for longer answers, with a body and without", func(t *testing.T) {
		s := httptest.NewServer(router.Edge(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				w.WriteHeader(http.StatusNoContent)
			}
			if r.Method == http.MethodGet {
				_, _ = io.WriteString(w, "rows")
			}
		}), router.EdgeConfig{Stall: 50 * time.Millisecond}))
		t.Cleanup(s.Close)
		client := s.Client()
		for _, method := range []string{"GET", "PUT", "POST", "GET", "PUT"} {
			req, _ := http.NewRequest(method, s.URL, nil)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", method, err)
			}
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Errorf("%s: %v", method, err)
			}
			resp.Body.Close()
			time.Sleep(100 * time.Millisecond) // longer than the time that was set for the answer
		}
	})
	t.Run("one that takes it has it whole", func(t *testing.T) {
		resp, err := http.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 256<<20 {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

// endless is a body that has no end.
type endless struct{ read atomic.Int64 }

func (e *endless) Read(b []byte) (int, error) {
	e.read.Add(int64(len(b)))
	return len(b), nil
}

func TestFault_F39_huge_and_endless_bodies(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(router.Edge(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			router.WriteError(w, r, err)
		}
	}), router.EdgeConfig{MaxBody: 1 << 20}))
	t.Cleanup(s.Close)
	post := func(body io.Reader, length int64, encoding string) (int, string, error) {
		req, err := http.NewRequest(http.MethodPost, s.URL, body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		if encoding != "" {
			req.Header.Set("Content-Encoding", encoding)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text) + resp.Header.Get("Rowhouse-Outcome"), nil
	}
	without := &endless{}
	if status, text, err := post(without, -1, ""); err == nil && (status != 413 || !strings.Contains(text, "payload_too_large") || !strings.Contains(text, "not_started")) {
		t.Errorf("an endless body: %d %s", status, text)
	}
	if n := without.read.Load(); n > 64<<20 {
		t.Errorf("%d bytes of it were taken", n)
	}
	if status, text, err := post(&endless{}, 1<<40, ""); err == nil && status != 413 {
		t.Errorf("a huge body: %d %s", status, text)
	}
	if status, text, err := post(strings.NewReader("bomb"), 4, "gzip"); err != nil || status != 415 {
		t.Errorf("a bomb: %d %s %v", status, text, err)
	}
	if status, text, err := post(strings.NewReader("good"), 4, ""); err != nil || status != 200 {
		t.Errorf("after them: %d %s %v", status, text, err)
	}
}

func TestFault_F44_many_large_bodies(t *testing.T) {
	t.Parallel()
	const each, all = 1 << 20, 4 << 20
	reading, release := make(chan struct{}, 100), make(chan struct{})
	s := httptest.NewServer(router.Edge(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		reading <- struct{}{}
		<-release
	}), router.EdgeConfig{MaxBodies: all}))
	t.Cleanup(s.Close)
	var posting sync.WaitGroup
	post := func() {
		resp, err := http.Post(s.URL, "application/json", strings.NewReader(strings.Repeat("x", each)))
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("one within the budget: %d", resp.StatusCode)
		}
	}
	for range all / each {
		posting.Go(post)
	}
	for range all / each {
		<-reading
	}
	resp, err := http.Post(s.URL, "application/json", strings.NewReader(strings.Repeat("x", each)))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Rowhouse-Outcome") != "not_started" || !strings.Contains(string(body), "overloaded") {
		t.Errorf("one beyond: %d %v %s", resp.StatusCode, resp.Header, body)
	}
	small := make(chan string, 1)
	go func() { // what has no body is served all the same
		resp, err := http.Get(s.URL)
		if err == nil {
			defer resp.Body.Close()
			small <- fmt.Sprint(resp.StatusCode)
		}
	}()
	<-reading
	close(release)
	posting.Wait()
	if status := <-small; status != "200" {
		t.Errorf("one without a body: %s", status)
	}
	posting.Go(post)
	posting.Wait()
}
