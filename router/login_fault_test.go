package router_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/router"
)

// credential stores a credential of acme's database and makes its version the current one.
func (f *faultWorld) credential(version int64, role, password string) {
	f.t.Helper()
	f.update(func(ctx context.Context, tx *catalog.Tx) error {
		if err := tx.SetCredential(ctx, catalog.Credential{
			Server: f.faulty, Database: f.db.id, Login: catalog.LoginData, Version: version, Role: role, Secret: catalog.NewSecret(password),
		}); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "update rowhouse.databases set credential_version = $2 where id = $1", f.db.id, version)
		return err
	})
}

// load is acme at work: every error is counted, and each acknowledged row is looked for at the end.
type load struct {
	stop    chan struct{}
	working sync.WaitGroup
	done    atomic.Int64
	mu      sync.Mutex // guards the fields below
	acked   []string
	unknown []string
	refused []string
	errs    []error
}

// startLoad has workers write rows of unique names until the load is stopped.
func (f *faultWorld) startLoad(workers int) *load {
	l := &load{stop: make(chan struct{})}
	for w := range workers {
		l.working.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				name := fmt.Sprintf("load-%d-%d", w, i)
				err := f.write(f.acme, "acme", name)
				l.done.Add(1)
				l.note(name, err)
			}
		})
	}
	return l
}

func (l *load) note(name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.acked = append(l.acked, name)
		return
	case outcome(err) == "unknown":
		l.unknown = append(l.unknown, name)
	default:
		l.refused = append(l.refused, name)
	}
	l.errs = append(l.errs, err)
}

// more waits until so many requests more have ended.
func (l *load) more(t testing.TB, n int64) {
	t.Helper()
	target := l.done.Load() + n
	await(t, fmt.Sprint(n, " more requests"), 30*time.Second, func() bool { return l.done.Load() >= target })
}

// end stops the load and checks the promises: what was acknowledged is there once, what was refused is not there, and
// what nobody knows is there at most once.
func (l *load) end(f *faultWorld) {
	f.t.Helper()
	close(l.stop)
	l.working.Wait()
	there := map[string]int{}
	conn, err := pgx.Connect(f.t.Context(), f.db.DSN())
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close(f.t.Context())
	rows, _ := conn.Query(f.t.Context(), "select name, count(*) from public.projects where name like 'load-%' group by 1")
	var name string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { there[name] = n; return nil }); err != nil {
		f.t.Fatal(err)
	}
	for _, name := range l.acked {
		if there[name] != 1 {
			f.t.Errorf("%s was acknowledged and is there %d times", name, there[name])
		}
	}
	for _, name := range l.refused {
		if there[name] != 0 {
			f.t.Errorf("%s was refused and is there", name)
		}
	}
	for _, name := range l.unknown {
		if there[name] > 1 {
			f.t.Errorf("%s is there %d times", name, there[name])
		}
	}
}

// unhurt ends a load that nothing may have failed.
func (l *load) unhurt(f *faultWorld) {
	f.t.Helper()
	l.end(f)
	if len(l.errs) > 0 {
		f.t.Errorf("%d of %d requests failed, the first: %v", len(l.errs), l.done.Load(), l.errs[0])
	}
}

func TestFault_F18_password_rotated(t *testing.T) {
	t.Parallel()
	t.Run("the newer secret is read, and no request fails", func(t *testing.T) {
		t.Parallel()
		f := newFaultWorld(t, router.Config{})
		l := f.startLoad(2)
		l.more(t, 20)
		for version := range int64(3) {
			password := fmt.Sprint("another", version)
			f.db.exec(t, "alter role "+f.db.login+" password '"+password+"'") // the connections that are open go on
			f.credential(1, f.db.login, password)
			f.proxy.KillAll() // and are all made anew
			l.more(t, 20)
		}
		l.end(f)
		for _, err := range l.errs { // those whose connection, or the making of one, was cut under them
			if _, ok := errors.AsType[*pgconn.PgError](err); ok {
				t.Errorf("the server refused a request: %v", err)
			}
		}
	})
	t.Run("a password that is wrong and stays wrong is a 503, and the server is not hammered", func(t *testing.T) {
		t.Parallel()
		f := newFaultWorld(t, router.Config{})
		f.db.exec(t, "alter role "+f.db.login+" password 'another'")
		for range 3 {
			f.wants(f.write(f.acme, "acme", "wrong"), notThere)
		}
		before := f.proxy.Stat().Startups
		for range 30 {
			f.wants(f.read(f.acme), notThere)
		}
		f.names("auth")
		if n := f.proxy.Stat().Startups - before; n > 3 {
			t.Errorf("%d log-ins tried for 30 requests", n)
		}
		f.credential(2, f.db.login, "another") // another generation is another key
		f.recovers(2 * time.Second)
	})
}

func TestFault_F19_database_dropped(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	if err := f.read(f.acme); err != nil {
		t.Fatal(err)
	}
	f.bystander.exec(t, "drop database "+f.db.Name()+" with (force)")
	for range 5 {
		f.wants(f.write(f.acme, "acme", "gone"), notThere)
	}
	f.names("missing")
	if n := f.bystander.count(t, "select count(*) from pg_database where datname = '"+f.db.Name()+"'"); n != 0 {
		t.Error("the database was created on the way")
	}
}

func TestFault_F20_route_and_secret_changed_under_load(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	elsewhere := pgtest.Proxy(t, pgtest.ServerDSN(t))
	second, password := pgtest.Role(t, "LOGIN NOINHERIT")
	f.db.exec(t, "grant anon, authenticated, service_role to "+second)
	l := f.startLoad(3)
	l.more(t, 30)

	f.credential(2, second, password) // two generations are valid while the new one spreads
	l.more(t, 30)
	await(t, "no connection of the old login is left", 10*time.Second, func() bool {
		return f.db.count(t, "select count(*) from pg_stat_activity where usename = '"+f.db.login+"'") == 0
	})
	f.db.exec(t, "alter role "+f.db.login+" nologin")
	l.more(t, 30)

	before := elsewhere.Stat().Startups
	f.update(func(ctx context.Context, tx *catalog.Tx) error {
		return tx.SetServerHosts(ctx, f.faulty, []string{elsewhere.Addr()})
	})
	l.more(t, 30)
	await(t, "nothing goes the old way", 10*time.Second, func() bool { return f.proxy.Stat().Open == 0 })
	if elsewhere.Stat().Startups == before {
		t.Error("nothing went the new way")
	}
	f.proxy.Refuse()
	l.more(t, 30)
	l.unhurt(f)
}

func TestFault_F22_pool_evicted_while_in_use(t *testing.T) {
	t.Parallel()
	const budget = 3
	f := newFaultWorld(t, router.Config{MaxPools: 1, AcquireTimeout: 20 * time.Second})
	f.update(func(ctx context.Context, tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.servers set max_connections = $2 where id = $1", f.faulty, budget)
		return err
	})
	// Straight to the server, without a proxy: only there a closed connection and its backend end together.
	straight, err := f.cat.Server(t.Context(), "here")
	if err != nil {
		t.Fatal(err)
	}
	f.update(func(ctx context.Context, tx *catalog.Tx) error {
		return tx.SetServerHosts(ctx, f.faulty, straight.Hosts)
	})
	logins := "'" + f.db.login + "'"
	others := []context.Context{}
	for i := range 3 {
		db := f.databaseOn(f.faulty)
		logins += ",'" + db.login + "'"
		f.tenant(fmt.Sprint("other", i), db)
		others = append(others, f.as(fmt.Sprint("other", i), "service_role"))
	}
	sampled, most := sample(t, f.bystander, "select count(*) from pg_stat_activity where usename in ("+logins+")")

	held, err := f.rt.Begin(f.acme)
	if err != nil {
		t.Fatal(err)
	}
	var churn sync.WaitGroup
	for w := range 3 {
		churn.Go(func() {
			for i := range 20 {
				ctx := others[(w+i)%len(others)]
				if err := f.rt.BeginFunc(ctx, func(tx pgx.Tx) error { _, err := owners(ctx, tx); return err }); err != nil {
					t.Errorf("churn: %v", err)
				}
			}
		})
	}
	churn.Wait()
	if _, err := held.Exec(f.acme, "insert into projects (owner, name) values ('acme', 'held')"); err != nil {
		t.Errorf("the request whose pool was evicted: %v", err)
	}
	if err := held.Commit(f.acme); err != nil || f.rows("held") != 1 {
		t.Errorf("its commit: %v", err)
	}
	sampled()
	if n := most.Load(); n > budget || n == 0 {
		t.Errorf("the server saw %d connections, the budget is %d", n, budget)
	}
	if st := f.rt.Stat().Pools; st.EvictionsLent == 0 {
		t.Errorf("nothing was evicted in use: %+v", st)
	}
}

// sample asks the server again and again and keeps the highest number.
func sample(t testing.TB, db *database, sql string) (stop func(), most *atomic.Int64) {
	t.Helper()
	conn := db.Conn(t)
	done, stopped := make(chan struct{}), make(chan struct{})
	most = new(atomic.Int64)
	go func() {
		defer close(stopped)
		for {
			var n int64
			if err := conn.QueryRow(context.Background(), sql).Scan(&n); err != nil {
				t.Errorf("sample: %v", err)
				return
			}
			most.Store(max(most.Load(), n))
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { close(done); <-stopped }) }
	t.Cleanup(stop)
	return stop, most
}

func TestFault_F26_a_name_that_leads_elsewhere(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	other := newPrivateServer(t)
	foreign := other.database(t, f.db.Name(), f.db.login, f.db.password, catalog.NewID[catalog.Database]())
	if err := f.read(f.acme); err != nil {
		t.Fatal(err)
	}
	network, socket := other.address()
	f.proxy.Target(network, socket)
	f.proxy.KillAll()
	for range 3 {
		err := f.rt.BeginFunc(f.acme, func(tx pgx.Tx) error {
			seen, err := owners(f.acme, tx)
			t.Errorf("the wrong database was asked and gave %v, %v", seen, err)
			return err
		})
		f.wants(err, notThere)
	}
	if f.write(f.acme, "acme", "astray") == nil || foreign.count(t, "select count(*) from public.projects where name = 'astray'") != 0 {
		t.Error("a row was written into the wrong database")
	}
	for _, host := range []string{"nowhere.invalid:5432", "localhost:1"} {
		f.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.SetServerHosts(ctx, f.faulty, []string{host})
		})
		f.wants(f.write(f.acme, "acme", "astray"), notThere)
	}
	f.names("identity")
	if f.rows("astray") != 0 {
		t.Error("a refused write was made")
	}
}

func TestFault_F32_tls(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	f.update(func(ctx context.Context, tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.servers set sslmode = 'verify-full' where id = $1", f.faulty)
		return err
	})
	for name, certificate := range map[string]*tls.Config{
		"a server that has no TLS is not spoken to in plain text": nil,
		"an unknown issuer":     certificate(t, "127.0.0.1", time.Now().Add(time.Hour)),
		"an expired one":        certificate(t, "127.0.0.1", time.Now().Add(-time.Hour)),
		"one of another server": certificate(t, "elsewhere.example.com", time.Now().Add(time.Hour)),
	} {
		t.Run(name, func(t *testing.T) {
			f.proxy.TLS(certificate)
			f.wants(f.write(f.acme, "acme", "tls"), notThere)
		})
	}
	f.names("tls")
	if st := f.proxy.Stat(); st.Startups != 0 || st.Accepted == 0 {
		t.Errorf("somebody began a session: %+v", st)
	}
}

func certificate(t *testing.T, name string, until time.Time) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: until.Add(-24 * time.Hour), NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestFault_F40_herd_of_cold_tenants(t *testing.T) {
	t.Parallel()
	const tenants, budget = 20, 6
	f := newFaultWorld(t, router.Config{AcquireTimeout: 30 * time.Second})
	f.update(func(ctx context.Context, tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.servers set max_connections = $2 where id = $1", f.faulty, budget)
		return err
	})
	var who []context.Context
	for i := range tenants {
		name := fmt.Sprint("cold", i)
		f.tenant(name, f.databaseOn(f.faulty))
		who = append(who, f.as(name, "service_role"))
	}
	var asking sync.WaitGroup
	var failed atomic.Int64
	began := time.Now()
	for _, ctx := range who {
		for range 3 {
			asking.Go(func() {
				err := f.rt.BeginFunc(ctx, func(tx pgx.Tx) error { _, err := owners(ctx, tx); return err })
				if err == nil {
					return
				}
				failed.Add(1)
				if !errors.Is(err, router.ErrOverloaded) {
					t.Errorf("neither served nor told to come again: %v", err)
				}
			})
		}
	}
	asking.Wait()
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("answered after %v", took)
	}
	st, router := f.proxy.Stat(), f.rt.Stat()
	if failed.Load() > 0 {
		t.Errorf("%d of %d were refused", failed.Load(), 3*tenants)
	}
	if st.MostStarting > 16 {
		t.Errorf("%d connections were made at once", st.MostStarting)
	}
	if router.Pools.Opens > tenants+1 { // and the bystander's
		t.Errorf("%d pools were opened for %d tenants", router.Pools.Opens, tenants)
	}
	if open := router.Servers[f.faulty].Open; open > budget {
		t.Errorf("%d are open, the budget is %d", open, budget)
	}
	t.Logf("%d cold tenants in %v: %d connections, at most %d being made at once", tenants, time.Since(began).Round(time.Millisecond), st.Startups, st.MostStarting)
}
