package migrations_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/migrations"
)

func TestUnbind(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	owner := d.asOwner()
	print := func() string {
		s, err := migrations.Fingerprint(t.Context(), owner)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	mustExec(t, owner, `
		create table p (id int primary key, a int, b text, at date, constraint u unique nulls not distinct (a) include (b) with (fillfactor = 70), constraint w unique (a, b) deferrable initially deferred, unique (b));
		create unique index ui on p (lower(b), (a + 1)) include (at) where a > 0;
		create index pi on p (at desc nulls last);
		create index pg on p using gin (to_tsvector('simple', b));
		create table r (id int primary key);
		create table t (id int primary key, p int references p on delete cascade, q int, up int references t, r int references r,
			constraint x exclude using btree (id with =));
		alter table t add constraint q foreign key (q) references p (a) not valid;
		create table parts (id int, at date, v text unique, primary key (v)) partition by list (v);
		create table parts1 partition of parts default;
		create index on parts (at);`)
	before := print()
	mustExec(t, owner, "select rowhouse.bind('t')", "select rowhouse.bind('p')", "select rowhouse.reference('r')", "select rowhouse.bind('parts')")
	if print() == before {
		t.Fatal("bind did nothing")
	}

	t.Run("takes back what bind did, in any order", func(t *testing.T) {
		for _, order := range [][]string{{"t", "p", "r", "parts"}, {"parts", "r", "p", "t"}} {
			inTx(t, owner, func(tx pgx.Tx) {
				for _, name := range order {
					execTx(t, tx, "select rowhouse.unbind('"+name+"')")
				}
				if n := oneTx[int](t, tx, "select count(*) from rowhouse.parked_keys"); n != 0 {
					t.Errorf("%d keys wait", n)
				}
				if n := oneTx[int](t, tx, "select count(*) from rowhouse.tables where relation::text not like 'rowhouse.%'"); n != 0 {
					t.Errorf("%d tables still declared", n)
				}
				if after := print(); after != before {
					t.Errorf("order %v: the tables are not as they were", order)
				}
				execTx(t, tx, "select rowhouse.unbind('public.t')") // and once more, which does nothing
			})
		}
	})
	t.Run("rows of one tenant stay, rows of two are refused", func(t *testing.T) {
		conn := d.asLogin()
		d.mustDo(conn, "authenticated", acme, "insert into p (id, b) values (1, 'x')")
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, "select rowhouse.unbind('t'); select rowhouse.unbind('p')")
			if n := oneTx[int](t, tx, "select count(*) from p"); n != 1 {
				t.Errorf("%d rows", n)
			}
		})
		d.mustDo(conn, "authenticated", globex, "insert into p (id, b) values (1, 'x')")
		inTx(t, owner, func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), "select rowhouse.unbind('p')")
			wantState(t, err, "55000")
			wantText(t, err, "several tenants")
		})
		if n := one[int](t, owner, "select count(*) from pg_class where relname = 'p' and relforcerowsecurity"); n != 1 {
			t.Error("the refusal left the fence open")
		}
	})
	t.Run("refuses", func(t *testing.T) {
		for sql, state := range map[string]string{
			"select rowhouse.unbind('rowhouse.users')":                                                                                                                      "42501",
			"create table o (id uuid primary key); select rowhouse.bind_optional('o'); select rowhouse.unbind('o')":                                                         "0A000",
			"create view v with (security_invoker) as select tenant_id from p; select rowhouse.unbind('p')":                                                                 "55000",
			"create table o (id int primary key); select rowhouse.bind('o'); create view v with (security_invoker) as select tenant_id from o; select rowhouse.unbind('o')": "2BP01",
		} {
			inTx(t, owner, func(tx pgx.Tx) {
				_, err := tx.Exec(t.Context(), sql)
				wantState(t, err, state)
			})
		}
	})
}

func TestAdmitHost(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(kinds)
	owner := d.asOwner()
	first, password := pgtest.Role(t, "login noinherit")
	second, _ := pgtest.Role(t, "login noinherit")
	mustExec(t, d.Conn(t), "grant connect on database "+d.Name()+" to "+first)
	_, err := owner.Exec(t.Context(), "select rowhouse.admit_host($1)", first)
	wantState(t, err, "55000")
	mustExec(t, owner, "insert into rowhouse.identity (database_id, catalog_id) values (gen_random_uuid(), gen_random_uuid())",
		"select rowhouse.admit_host('"+first+"')",
		"create table later (id int primary key)", "select rowhouse.reference('later')")
	host, err := pgx.Connect(t.Context(), d.DSNAs(first, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(host) })
	asHost := func(sql string) error {
		return pgx.BeginFunc(t.Context(), host, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "set local rowhouse.tenant_id = 'host';"+sql)
			return err
		})
	}
	for _, sql := range []string{
		"insert into common values (7, 'H')", "update common set who = 'HH' where id = 7", "delete from common where id = 7",
		"insert into later values (1)", "insert into maybe (who) values ('H')", "delete from maybe",
	} {
		if err := asHost(sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	wantState(t, asHost("select from own"), "42501")
	if found, err := migrations.LintDatabase(t.Context(), owner); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
	mustExec(t, owner, "select rowhouse.admit_host('"+second+"')")
	wantState(t, asHost("insert into common values (7, 'H')"), "42501")
	mustExec(t, owner, "select rowhouse.admit_host(null)")
	if one[bool](t, owner, "select has_table_privilege('"+second+"', 'common', 'insert')") {
		t.Error("a login that was sent away keeps its grants")
	}
}
