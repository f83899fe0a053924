package migrations_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// shape lists a table's constraints and indexes as PostgreSQL prints them, those of its own before those of its partitions.
func shape(t testing.TB, tx pgx.Tx, table string) []string {
	t.Helper()
	rows, err := tx.Query(t.Context(), `
		select line from (
			select con.conname || ': ' || pg_get_constraintdef(con.oid) as line
			from pg_constraint con where con.conrelid = $1::text::regclass and con.contype <> 'n' and (con.contype <> 'f' or con.conparentid = 0)
			union all
			select split_part(pg_get_indexdef(i.indexrelid), ' ON ', 1) || ' ON ' || regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING ', '')
			from pg_index i where i.indrelid = $1::text::regclass
			  and not exists (select from pg_constraint where conindid = i.indexrelid and conrelid = i.indrelid and contype in ('p', 'u', 'x'))
		) x order by line`, table)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// inTx runs a case as the owner in a transaction that is rolled back, so that many cases share a database.
func inTx(t *testing.T, conn *pgx.Conn, fn func(tx pgx.Tx)) {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	fn(tx)
}

func execTx(t testing.TB, tx pgx.Tx, sql string) {
	t.Helper()
	if _, err := tx.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v%s", sql, err, hint(err))
	}
}

func oneTx[T any](t testing.TB, tx pgx.Tx, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := tx.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func TestBind_keys(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	owner := d.asOwner()

	cases := []struct {
		name  string
		sql   string
		table string // "t" when empty
		want  []string
	}{
		{
			name: "primary key and unique constraint lead with the tenant and keep their names",
			sql:  `create table t (id uuid constraint my_key primary key, name text constraint my_name unique); select rowhouse.bind('t')`,
			want: []string{"my_key: PRIMARY KEY (tenant_id, id)", "my_name: UNIQUE (tenant_id, name)"},
		},
		{
			name: "a key of several columns keeps their order",
			sql:  `create table t (b int, a int, primary key (b, a)); select rowhouse.bind('t')`,
			want: []string{"t_pkey: PRIMARY KEY (tenant_id, b, a)"},
		},
		{
			name: "INCLUDE, NULLS NOT DISTINCT, DEFERRABLE and storage parameters are kept",
			sql: `create table t (a int, b int, c int, constraint u unique nulls not distinct (a) include (b) with (fillfactor = 70) deferrable initially deferred,
				constraint v unique (c) deferrable); select rowhouse.bind('t');
				do $$ begin if (select reloptions from pg_class where relname = 'u') is distinct from '{fillfactor=70}' then raise 'lost fillfactor'; end if; end $$`,
			want: []string{"u: UNIQUE NULLS NOT DISTINCT (tenant_id, a) INCLUDE (b) DEFERRABLE INITIALLY DEFERRED", "v: UNIQUE (tenant_id, c) DEFERRABLE"},
		},
		{
			name:  "names that need quotes",
			sql:   `create table "My ""T""" ("the id" uuid, "a(b" text, constraint "k y" primary key ("the id")); create unique index "i (x" on "My ""T""" ("a(b"); select rowhouse.bind('"My ""T"""')`,
			table: `"My ""T"""`,
			want:  []string{`CREATE UNIQUE INDEX "i (x" ON btree (tenant_id, "a(b")`, `k y: PRIMARY KEY (tenant_id, "the id")`},
		},
		{
			name: "a key that holds the tenant but does not lead with it",
			sql:  `create table t (tenant_id uuid, id uuid, primary key (id, tenant_id)); select rowhouse.bind('t')`,
			want: []string{"t_pkey: PRIMARY KEY (tenant_id, id)"},
		},
		{
			name: "a table that is in form already is left alone",
			sql: `create table t (tenant_id uuid not null default rowhouse.tenant_id(), id uuid, primary key (tenant_id, id));
				create temp table before on commit drop as select conindid from pg_constraint where conname = 't_pkey';
				select rowhouse.bind('t');
				do $$ begin if not exists (select from before b join pg_constraint c using (conindid)) then raise 'built again'; end if; end $$`,
			want: []string{"t_pkey: PRIMARY KEY (tenant_id, id)"},
		},
		{
			name: "foreign keys in form already are left alone, too",
			sql: `create table p (id int primary key); create table r (id int primary key); select rowhouse.bind('p'); select rowhouse.reference('r');
				create table t (tenant_id uuid not null default rowhouse.tenant_id(), p int, r int references r, foreign key (tenant_id, p) references p (tenant_id, id));
				create temp table before on commit drop as select oid from pg_constraint where conrelid = 't'::regclass and contype = 'f';
				select rowhouse.bind('t'); select rowhouse.bind('p'); select rowhouse.reference('r');
				do $$ begin if (select count(*) from before join pg_constraint using (oid)) <> 2 then raise 'made again'; end if; end $$`,
			want: []string{"t_r_fkey: FOREIGN KEY (r) REFERENCES r(id)", "t_tenant_id_p_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id)"},
		},
		{
			name: "a composite foreign key to a key that must be built again",
			sql: `create table p (tenant_id uuid, id int, primary key (id, tenant_id)); create table t (tenant_id uuid, p int, foreign key (p, tenant_id) references p (id, tenant_id));
				select rowhouse.bind('p'); select rowhouse.bind('t')`,
			want: []string{"t_p_tenant_id_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id)"},
		},
		{
			name: "plain, partial, descending and expression indexes lead with the tenant; gin stays",
			sql: `create table t (id int, name text, at timestamptz, doc jsonb);
				create index i1 on t (name); create index i2 on t (at desc nulls last, id) where name <> 'x)'; create index i3 on t (lower(name), (id + 1)) include (at);
				create index i4 on t using gin (doc); create unique index i5 on t (lower(name)) where id > 0; create index i6 on t (name text_pattern_ops);
				create index i7 on t using brin (at);
				select rowhouse.bind('t')`,
			want: []string{
				"CREATE INDEX i1 ON btree (tenant_id, name)",
				"CREATE INDEX i2 ON btree (tenant_id, at DESC NULLS LAST, id) WHERE (name <> 'x)'::text)",
				"CREATE INDEX i3 ON btree (tenant_id, lower(name), ((id + 1))) INCLUDE (at)",
				"CREATE INDEX i4 ON gin (doc)",
				"CREATE INDEX i6 ON btree (tenant_id, name text_pattern_ops)",
				"CREATE INDEX i7 ON brin (at)",
				"CREATE UNIQUE INDEX i5 ON btree (tenant_id, lower(name)) WHERE (id > 0)",
			},
		},
		{
			name: "an index that holds the tenant further back has it once, in front",
			sql: `create table t (tenant_id uuid not null default rowhouse.tenant_id(), id int, name text); create index i1 on t (id, tenant_id);
				create unique index i2 on t (lower(name), tenant_id desc, id) where id > 0; create index i3 on t (id, ("left"(name, 2)), tenant_id nulls first); select rowhouse.bind('t')`,
			want: []string{
				"CREATE INDEX i1 ON btree (tenant_id, id)", "CREATE INDEX i3 ON btree (tenant_id, id, \"left\"(name, 2))",
				"CREATE UNIQUE INDEX i2 ON btree (tenant_id, lower(name), id) WHERE (id > 0)",
			},
		},
		{
			name: "foreign keys become composite, in the order declared",
			sql: `create table p (a int, b int, unique (a, b)); create table t (x int, y int, foreign key (x, y) references p (a, b) on update cascade on delete restrict deferrable initially deferred);
				select rowhouse.bind('p'); select rowhouse.bind('t')`,
			want: []string{"t_x_y_fkey: FOREIGN KEY (tenant_id, x, y) REFERENCES p(tenant_id, a, b) ON UPDATE CASCADE ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED"},
		},
		{
			name: "the child may be bound before the parent",
			sql: `create table p (id int primary key); create table t (p int references p on delete cascade);
				select rowhouse.bind('t'); select rowhouse.bind('p')`,
			want: []string{"t_p_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id) ON DELETE CASCADE"},
		},
		{
			name: "SET NULL is narrowed to the columns it had",
			sql: `create table p (a int, b int, unique (a, b)); create table t (x int, y int, foreign key (x, y) references p (a, b) on delete set null);
				select rowhouse.bind('p'); select rowhouse.bind('t')`,
			want: []string{"t_x_y_fkey: FOREIGN KEY (tenant_id, x, y) REFERENCES p(tenant_id, a, b) ON DELETE SET NULL (x, y)"},
		},
		{
			name: "a SET DEFAULT of some columns keeps them",
			sql: `create table p (a int, b int, unique (a, b)); create table t (x int, y int default 1, foreign key (x, y) references p (a, b) on delete set default (y));
				select rowhouse.bind('p'); select rowhouse.bind('t')`,
			want: []string{"t_x_y_fkey: FOREIGN KEY (tenant_id, x, y) REFERENCES p(tenant_id, a, b) ON DELETE SET DEFAULT (y)"},
		},
		{
			name: "a composite key that would null the tenant is narrowed too",
			sql: `create table p (id int primary key); select rowhouse.bind('p');
				create table t (tenant_id uuid not null default rowhouse.tenant_id(), p int, foreign key (tenant_id, p) references p (tenant_id, id) on delete set null);
				select rowhouse.bind('t')`,
			want: []string{"t_tenant_id_p_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id) ON DELETE SET NULL (p)"},
		},
		{
			name: "MATCH FULL of one column becomes SIMPLE",
			sql:  `create table p (id int primary key); create table t (p int references p match full); select rowhouse.bind('p'); select rowhouse.bind('t')`,
			want: []string{"t_p_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id)"},
		},
		{
			name: "a foreign key that may be deferred but is not at first",
			sql:  `create table p (id int primary key); create table t (p int references p deferrable); select rowhouse.bind('p'); select rowhouse.bind('t')`,
			want: []string{"t_p_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id) DEFERRABLE"},
		},
		{
			name: "a key to itself",
			sql:  `create table t (id int primary key, up int references t); select rowhouse.bind('t')`,
			want: []string{
				"t_pkey: PRIMARY KEY (tenant_id, id)",
				"t_up_fkey: FOREIGN KEY (tenant_id, up) REFERENCES t(tenant_id, id)",
			},
		},
		{
			name: "two tables that refer to each other",
			sql: `create table t (id int primary key, p int); create table p (id int primary key, t int references t); alter table t add foreign key (p) references p;
				select rowhouse.bind('t'); select rowhouse.bind('p')`,
			want: []string{"t_p_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id)", "t_pkey: PRIMARY KEY (tenant_id, id)"},
		},
		{
			name: "a key to a reference table stays plain, whichever is declared first",
			sql:  `create table p (id int primary key); create table t (id int primary key, p int references p); select rowhouse.bind('t'); select rowhouse.reference('p')`,
			want: []string{
				"t_p_fkey: FOREIGN KEY (p) REFERENCES p(id)",
				"t_pkey: PRIMARY KEY (tenant_id, id)",
			},
		},
		{
			name: "a key that was never validated stays so",
			sql: `create table p (id int primary key); create table t (p int); alter table t add foreign key (p) references p not valid;
				select rowhouse.bind('p'); select rowhouse.bind('t')`,
			want: []string{"t_p_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id) NOT VALID"},
		},
		{
			name: "binding again brings what was added since into form",
			sql: `create table p (id int primary key); create table t (id int primary key, p int); select rowhouse.bind('p'); select rowhouse.bind('t');
				alter table t add constraint later unique (p); create index also on t (p); select rowhouse.bind('t'); select rowhouse.bind('t')`,
			want: []string{"CREATE INDEX also ON btree (tenant_id, p)", "later: UNIQUE (tenant_id, p)", "t_pkey: PRIMARY KEY (tenant_id, id)"},
		},
		{
			name: "a foreign key to a unique index without constraint",
			sql: `create table p (code text); create unique index pu on p (code); create table t (code text references p (code));
				select rowhouse.bind('p'); select rowhouse.bind('t')`,
			want: []string{"t_code_fkey: FOREIGN KEY (tenant_id, code) REFERENCES p(tenant_id, code)"},
		},
		{
			name: "an optional table keeps its key and leads with the tenant elsewhere",
			sql: `create table t (id uuid primary key, name text unique, at date); create unique index i1 on t (at) include (name) where at is not null; create index i2 on t (at);
				select rowhouse.bind_optional('t')`,
			want: []string{
				"CREATE INDEX i2 ON btree (tenant_id, at)",
				"CREATE UNIQUE INDEX i1 ON btree (tenant_id, at) INCLUDE (name) NULLS NOT DISTINCT WHERE (at IS NOT NULL)",
				"t_name_key: UNIQUE NULLS NOT DISTINCT (tenant_id, name)",
				"t_pkey: PRIMARY KEY (id)",
			},
		},
		{
			name: "a tenant_id that was there and could be null",
			sql:  `create table t (tenant_id uuid, a int); create index i on t (a); select rowhouse.bind('t')`,
			want: []string{"CREATE INDEX i ON btree (tenant_id, a)"},
		},
		{
			name: "an optional table's unique key that leads with the tenant already, but takes two nulls for different",
			sql: `create table t (id uuid primary key, tenant_id uuid not null, name text, unique (tenant_id, name)); create unique index i on t (tenant_id, lower(name));
				select rowhouse.bind_optional('t')`,
			want: []string{
				"CREATE UNIQUE INDEX i ON btree (tenant_id, lower(name)) NULLS NOT DISTINCT",
				"t_pkey: PRIMARY KEY (id)", "t_tenant_id_name_key: UNIQUE NULLS NOT DISTINCT (tenant_id, name)",
			},
		},
		{
			name: "an optional table's keys out are composite",
			sql: `create table p (id int primary key); create table t (id uuid primary key, p int references p on delete set null);
				select rowhouse.bind('p'); select rowhouse.bind_optional('t')`,
			want: []string{"t_p_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id) ON DELETE SET NULL (p)", "t_pkey: PRIMARY KEY (id)"},
		},
		{
			name: "a reference table stays as declared",
			sql:  `create table t (id int primary key, name text unique); create index on t (name); select rowhouse.reference('t')`,
			want: []string{"CREATE INDEX t_name_idx ON btree (name)", "t_name_key: UNIQUE (name)", "t_pkey: PRIMARY KEY (id)"},
		},
		{
			name: "a partitioned table",
			sql: `create table t (id int, at date, primary key (id, at)) partition by range (at); create index i on t (at);
				create table t1 partition of t for values from ('2026-01-01') to ('2027-01-01'); create index own on t1 (id);
				create table c (id int, at date, foreign key (id, at) references t); select rowhouse.bind('t'); select rowhouse.bind('c')`,
			want: []string{"CREATE INDEX i ON btree (tenant_id, at)", "t_pkey: PRIMARY KEY (tenant_id, id, at)"},
		},
		{
			name: "its partitions",
			sql: `create table t (id int, at date, primary key (id, at)) partition by range (at); create index i on t (at);
				create table t1 partition of t for values from ('2026-01-01') to ('2027-01-01'); create index own on t1 (id);
				select rowhouse.bind('t')`,
			table: "t1",
			want: []string{
				"CREATE INDEX own ON btree (tenant_id, id)", "CREATE INDEX t1_tenant_id_at_idx ON btree (tenant_id, at)",
				"t1_pkey: PRIMARY KEY (tenant_id, id, at)",
			},
		},
		{
			name: "a foreign key to a partitioned table",
			sql: `create table p (id int, at date, primary key (id, at)) partition by range (at); create table p1 partition of p for values from ('2026-01-01') to ('2027-01-01');
				create table t (id int, at date, foreign key (id, at) references p); select rowhouse.bind('t'); select rowhouse.bind('p')`,
			want: []string{"t_id_at_fkey: FOREIGN KEY (tenant_id, id, at) REFERENCES p(tenant_id, id, at)"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTx(t, owner, func(tx pgx.Tx) {
				execTx(t, tx, c.sql)
				table := c.table
				if table == "" {
					table = "t"
				}
				got := shape(t, tx, table)
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("shape of %s (-want +got):\n%s", table, diff)
				}
				if n := oneTx[int](t, tx, "select count(*) from rowhouse.parked_keys"); n != 0 {
					t.Errorf("%d keys are left parked", n)
				}
				if n := oneTx[string](t, tx, "select coalesce(string_agg(concat_ws(' ', rule, object, reason), '; '), '') from rowhouse.findings()"); n != "" {
					t.Errorf("the lint finds: %s", n)
				}
			})
		})
	}

	t.Run("comments, replica identity and cluster order are kept", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, `create table p (id int primary key); create table t (id int primary key, a int not null, p int references p);
				create unique index i on t (a); alter table t replica identity using index i; alter table t cluster on t_pkey;
				comment on constraint t_pkey on t is 'one'; comment on index i is 'two'; comment on constraint t_p_fkey on t is 'three';
				select rowhouse.bind('p'); select rowhouse.bind('t')`)
			got := oneTx[string](t, tx, `select concat_ws(' ', obj_description(c.oid, 'pg_constraint'), obj_description('i'::regclass, 'pg_class'),
					(select obj_description(oid, 'pg_constraint') from pg_constraint where conname = 't_p_fkey'),
					(select indisreplident from pg_index where indexrelid = 'i'::regclass), (select indisclustered from pg_index where indexrelid = 't_pkey'::regclass))
				from pg_constraint c where conname = 't_pkey'`)
			if got != "one two three t t" {
				t.Errorf("got %q", got)
			}
		})
	})
	t.Run("exclusion constraints take the tenant in where gist knows uuid", func(t *testing.T) {
		super := d.Conn(t)
		mustExec(t, owner, "create table x (room int4range, during daterange, constraint no_clash exclude using gist (room with &&, during with &&))")
		_, err := owner.Exec(t.Context(), "select rowhouse.bind('x')")
		wantState(t, err, "0A000")
		wantText(t, err, "btree_gist")
		mustExec(t, super, "create extension btree_gist")
		mustExec(t, owner, "select rowhouse.bind('x')")
		if got := one[string](t, owner, "select pg_get_constraintdef(oid) from pg_constraint where conname = 'no_clash'"); got !=
			"EXCLUDE USING gist (tenant_id WITH =, room WITH &&, during WITH &&)" {
			t.Errorf("got %s", got)
		}
		mustExec(t, owner, "alter table x add constraint mine exclude using gist (during with &&, tenant_id with =)", "select rowhouse.bind('x')")
		if got := one[string](t, owner, "select pg_get_constraintdef(oid) from pg_constraint where conname = 'mine'"); got !=
			"EXCLUDE USING gist (during WITH &&, tenant_id WITH =)" {
			t.Errorf("one that holds the tenant was changed: %s", got)
		}
		if one[int](t, owner, "select current_setting('server_version_num')::int") < 180000 {
			return // keys over a period came with PostgreSQL 18
		}
		mustExec(t, owner, `create table p (id int, during daterange, primary key (id, during without overlaps)); select rowhouse.bind('p')`)
		if got := one[string](t, owner, "select pg_get_constraintdef(oid) from pg_constraint where conname = 'p_pkey'"); got !=
			"PRIMARY KEY (tenant_id, id, during WITHOUT OVERLAPS)" {
			t.Errorf("a key over a period became %s", got)
		}
	})
}

func TestBind_refuses(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	owner := d.asOwner()
	mustExec(t, d.Conn(t), "create schema theirs; create table theirs.t (id int); grant usage on schema theirs to "+d.owner+
		"; create foreign data wrapper w; create server s foreign data wrapper w; grant usage on foreign server s to "+d.owner)

	cases := []struct {
		name, sql, state, says string
	}{
		{"somebody else's table", `select rowhouse.bind('theirs.t')`, "42501", "belongs to role"},
		{"a view", `create view v as select 1; select rowhouse.bind('v')`, "42809", "security_invoker"},
		{"a foreign table", `create foreign table f (id int) server s; select rowhouse.bind('f')`, "42809", "not a table"},
		{"a temporary table", `create temp table t (id int); select rowhouse.bind('t')`, "42809", "temporary"},
		{"a system table", `select rowhouse.bind('pg_class')`, "42501", "system"},
		{"a table of rowhouse", `select rowhouse.bind('rowhouse.users')`, "42501", "rowhouse's own"},
		{"a table of rowhouse as reference", `select rowhouse.reference('rowhouse.users')`, "42501", "rowhouse's own"},
		{"a partition", `create table t (id int) partition by list (id); create table t1 partition of t default; select rowhouse.bind('t1')`, "42809", "rowhouse.bind('public.t')"},
		{"an heir", `create table t (id int); create table t1 () inherits (t); select rowhouse.bind('t1')`, "0A000", "inheritance"},
		{"a parent of heirs", `create table t (id int); create table t1 () inherits (t); select rowhouse.bind('t')`, "0A000", "inheritance"},
		{"a tenant_id of another type", `create table t (tenant_id text); select rowhouse.bind('t')`, "42804", "not uuid"},
		{"a generated tenant_id", `create table t (a uuid, tenant_id uuid generated always as (a) stored); select rowhouse.bind('t')`, "42P16", "generated"},
		{"a filled table without a tenant", `create table t (id int); insert into t values (1); select rowhouse.bind('t')`, "23502", "whose they are"},
		{"another kind than before", `create table t (id uuid primary key); select rowhouse.bind('t'); select rowhouse.bind_optional('t')`, "55000", "keeps its kind"},
		{"an optional table without a key", `create table t (id uuid); select rowhouse.bind_optional('t')`, "42P16", "uuid"},
		{"an optional table whose key is no uuid", `create table t (id int primary key); select rowhouse.bind_optional('t')`, "42P16", "uuid"},
		{"an optional table with a key of two columns", `create table t (a uuid, b uuid, primary key (a, b)); select rowhouse.bind_optional('t')`, "42P16", "uuid"},
		{"an optional table whose key is the tenant", `create table t (tenant_id uuid primary key); select rowhouse.bind_optional('t')`, "42P16", "uuid"},
		{"a key to an optional table", `create table p (id uuid primary key); create table t (p uuid references p); select rowhouse.bind_optional('p'); select rowhouse.bind('t')`, "0A000", "bind_optional"},
		{"a key to an optional table, the other order", `create table p (id uuid primary key); create table t (p uuid references p); select rowhouse.bind('t'); select rowhouse.bind_optional('p')`, "0A000", "bind_optional"},
		{"CASCADE from a reference table", `create table p (id int primary key); create table t (p int references p on delete cascade); select rowhouse.reference('p'); select rowhouse.bind('t')`, "0A000", "reference table"},
		{"SET NULL from a reference table", `create table p (id int primary key); create table t (p int references p on delete set null); select rowhouse.bind('t'); select rowhouse.reference('p')`, "0A000", "reference table"},
		{"ON UPDATE CASCADE from a reference table", `create table p (id int primary key); create table t (p int references p on update cascade); select rowhouse.reference('p'); select rowhouse.bind('t')`, "0A000", "reference table"},
		{"a key from a reference table", `create table p (id int primary key); create table t (p int references p); select rowhouse.reference('t'); select rowhouse.bind('p')`, "0A000", "depend on one tenant"},
		{"ON UPDATE SET NULL", `create table p (id int primary key); create table t (p int references p on update set null); select rowhouse.bind('p'); select rowhouse.bind('t')`, "0A000", "ON UPDATE"},
		{"MATCH FULL of two columns", `create table p (a int, b int, unique (a, b)); create table t (x int, y int, foreign key (x, y) references p (a, b) match full); select rowhouse.bind('p'); select rowhouse.bind('t')`, "0A000", "MATCH FULL"},
		{"a key that pairs the tenant with something else", `create table p (id uuid primary key); create table t (tenant_id uuid references p); select rowhouse.bind('p'); select rowhouse.bind('t')`, "0A000", "pairs tenant_id"},
		{"a reference table with a tenant", `create table t (tenant_id uuid); select rowhouse.reference('t')`, "42P16", "rowhouse.bind"},
		{"a later plain key to a bound table", `create table p (id int primary key); select rowhouse.bind('p'); create table t (p int references p (id))`, "42830", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inTx(t, owner, func(tx pgx.Tx) {
				_, err := tx.Exec(t.Context(), c.sql)
				wantState(t, err, c.state)
				wantText(t, err, c.says)
			})
		})
	}
}

func TestBind_existingRows(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	owner := d.asOwner()

	t.Run("get the tenant of the setting, without a rewrite", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, `create table p (id int primary key); create table t (id int primary key, p int not null references p on delete cascade);
				insert into p values (1), (2); insert into t values (10, 1), (20, 2)`)
			execTx(t, tx, "set constraints all immediate")
			before := oneTx[uint32](t, tx, "select relfilenode from pg_class where oid = 't'::regclass")
			execTx(t, tx, "set local rowhouse.tenant_id = '"+acme+"'; select rowhouse.bind('t'); select rowhouse.bind('p')")
			if after := oneTx[uint32](t, tx, "select relfilenode from pg_class where oid = 't'::regclass"); after != before {
				t.Error("the table was written anew")
			}
			execTx(t, tx, "alter table t no force row level security")
			if n := oneTx[int](t, tx, "select count(*) from t where tenant_id = '"+acme+"'"); n != 2 {
				t.Errorf("%d rows are acme's, want 2", n)
			}
		})
	})
	t.Run("a foreign key is checked against them, whatever the policies would show", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			// p is forced by now; t's row has no parent. The key is restored by t's bind and must find that out.
			execTx(t, tx, `create table p (id int primary key); create table t (id int primary key, p int);
				alter table t add constraint broken foreign key (p) references p not valid;
				select rowhouse.bind('p')`)
			execTx(t, tx, "update rowhouse.parked_keys set validated = true")
			execTx(t, tx, "alter table t disable trigger user; insert into t values (1, 99); set local rowhouse.tenant_id = '"+acme+"'")
			_, err := tx.Exec(t.Context(), "select rowhouse.bind('t')")
			wantState(t, err, "23503")
		})
	})
	t.Run("a key that waits is forgotten with its table", func(t *testing.T) {
		for _, dropped := range []string{"p", "t"} {
			inTx(t, owner, func(tx pgx.Tx) {
				execTx(t, tx, `create table p (id int primary key); create table t (p int references p); select rowhouse.bind('t')`)
				if n := oneTx[int](t, tx, "select count(*) from rowhouse.parked_keys"); n != 1 {
					t.Fatalf("%d keys wait, want 1", n)
				}
				execTx(t, tx, "drop table "+dropped+"; drop table if exists p; select rowhouse.check_migration()")
			})
		}
	})
	t.Run("FORCE stands again after a foreign key was restored", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, `create table p (id int, at int, primary key (id, at)) partition by list (at); create table p1 partition of p default;
				create table t (id int, at int, foreign key (id, at) references p); select rowhouse.bind('p'); select rowhouse.bind('t')`)
			if n := oneTx[int](t, tx, "select count(*) from pg_class where relname in ('p', 'p1', 't') and relrowsecurity and relforcerowsecurity"); n != 3 {
				t.Errorf("%d of 3 tables are forced", n)
			}
		})
	})
	t.Run("a foreign key inside create table needs nothing", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, `create table p (id int primary key); select rowhouse.bind('p');
				create table t (tenant_id uuid not null default rowhouse.tenant_id(), id int primary key, p int, foreign key (tenant_id, p) references p (tenant_id, id));
				select rowhouse.bind('t'); select rowhouse.check_migration(); select rowhouse.check_contract()`)
			want := []string{"t_pkey: PRIMARY KEY (tenant_id, id)", "t_tenant_id_p_fkey: FOREIGN KEY (tenant_id, p) REFERENCES p(tenant_id, id)"}
			if diff := cmp.Diff(want, shape(t, tx, "t")); diff != "" {
				t.Error(diff)
			}
		})
	})
}

func TestBind_policies(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	owner := d.asOwner()
	const bound = "create table t (id int primary key, n serial); select rowhouse.bind('t');"
	policies := func(tx pgx.Tx) string {
		return oneTx[string](t, tx, `select coalesce(string_agg(concat_ws(' ', polname, case when polpermissive then 'permissive' else 'restrictive' end, polcmd,
				polroles::text, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)), '; ' order by polname), '')
			from pg_policy where polrelid = 't'::regclass`)
	}
	const fence = "rh_tenant restrictive * {0} (tenant_id = ( SELECT rowhouse.tenant_id() AS tenant_id)) (tenant_id = ( SELECT rowhouse.tenant_id() AS tenant_id))"
	t.Run("the fence is restrictive, for everybody, with one permissive partner", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, bound)
			if got, want := policies(tx), "rh_all permissive * {0} true true; "+fence; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	})
	t.Run("the application's own policy takes the partner's place", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, bound+"create policy mine on t for select to authenticated using (n > 0); select rowhouse.bind('t')")
			if got := policies(tx); strings.Contains(got, "rh_all") || !strings.Contains(got, fence) || !strings.Contains(got, "mine permissive") {
				t.Errorf("got %s", got)
			}
			execTx(t, tx, "drop policy mine on t; select rowhouse.bind('t')")
			if got := policies(tx); !strings.Contains(got, "rh_all") {
				t.Errorf("the partner does not come back: %s", got)
			}
		})
	})
	t.Run("a changed fence is put right", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, bound+"alter policy rh_tenant on t using (true); alter table t no force row level security; select rowhouse.bind('t')")
			if got := policies(tx); !strings.Contains(got, fence) {
				t.Errorf("got %s", got)
			}
			if !oneTx[bool](t, tx, "select relforcerowsecurity from pg_class where oid = 't'::regclass") {
				t.Error("not forced")
			}
		})
	})
	t.Run("grants", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, `create table t (id int primary key, n serial); grant truncate, references, trigger on t to public, authenticated; select rowhouse.bind('t');
				create table r (id int); grant insert, update, delete, truncate on r to public, service_role; select rowhouse.reference('r')`)
			got := oneTx[string](t, tx, `
				select string_agg(line, '; ' order by line) from (
					select concat_ws(' ', c.relname, case a.grantee when 0 then 'public' else a.grantee::regrole::text end, string_agg(left(privilege_type, 1), '' order by privilege_type)) as line
					from pg_class c, aclexplode(c.relacl) a where c.relname in ('t', 'r', 't_n_seq') and a.grantee <> c.relowner group by c.relname, a.grantee) x`)
			want := "r anon S; r authenticated S; r service_role S; t authenticated DISU; t service_role DISU; t_n_seq authenticated U; t_n_seq service_role U"
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	})
	t.Run("what a migration took away stays away when the table is bound again", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, `create table r (id int); select rowhouse.reference('r'); revoke select on r from anon; select rowhouse.reference('r');
				create table t (id int primary key); select rowhouse.bind('t'); revoke delete on t from authenticated; select rowhouse.bind('t')`)
			if oneTx[bool](t, tx, "select has_table_privilege('authenticated', 't', 'delete') or has_table_privilege('anon', 'r', 'select')") {
				t.Error("it was given back")
			}
		})
	})
	t.Run("only the owner may call what binds", func(t *testing.T) {
		conn := d.asLogin()
		for _, role := range []string{"anon", "authenticated", "service_role"} {
			_, err := d.do(conn, role, acme, "select rowhouse.bind('pg_class')")
			wantState(t, err, "42501")
			_, err = d.do(conn, role, acme, "insert into rowhouse.tables values ('pg_class', 'reference')")
			wantState(t, err, "42501")
			_, err = d.do(conn, role, acme, "select from rowhouse.migrations")
			wantState(t, err, "42501")
			if n := d.mustDo(conn, role, acme, "select from rowhouse.tables"); n == 0 {
				t.Errorf("%s cannot see which tables are bound", role)
			}
		}
		calls := one[[]string](t, owner, `select array_agg(p.proname::text order by p.proname) from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
			where p.pronamespace = 'rowhouse'::regnamespace and a.grantee <> p.proowner`)
		if diff := cmp.Diff([]string{"enter_tenant", "enter_tenant", "enter_tenant", "idempotency_claim", "idempotency_claim", "idempotency_claim", "idempotency_keep", "idempotency_keep", "idempotency_keep", "is_host", "tenant_id"}, calls); diff != "" {
			t.Errorf("callable by others: %s", diff)
		}
	})
}
