package migrations_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/migrations"
)

// effects tries files on a scratch database that stands at the version before them.
func effects(t *testing.T, before []string, body string) ([]migrations.FileEffects, error) {
	t.Helper()
	d := newDatabase(t)
	d.migrate(set(before...))
	files, err := migrations.ReadSet(set(append(slices.Clone(before), body)...))
	if err != nil {
		t.Fatal(err)
	}
	return migrations.Effects(t.Context(), d.asOwner(), files[len(before):])
}

var standing = []string{
	table("a") + "alter table a add n int, add s varchar(10), add checked int, add constraint c check (checked is not null);",
	"create table b (id int primary key, a int, v text); select rowhouse.bind('b'); create table p (id int, at int) partition by list (at); create table p1 partition of p default; select rowhouse.bind('p');" +
		"create view av with (security_invoker) as select id, checked from a; create function f(int) returns int language sql return 1;",
}

func TestEffects_rules(t *testing.T) {
	t.Parallel()
	const fk = "alter table a no force row level security; alter table b no force row level security; alter table b add constraint fk foreign key (tenant_id, a) references a (tenant_id, id)%s; alter table a force row level security; alter table b force row level security;"
	cases := []struct {
		name, sql string
		want      []string // line, rule and a part of the reason
	}{
		{"a column with a default, an index on a new table, a new child", "alter table a add x int not null default 7;\n" +
			"create table c (id int primary key, a int references b, unique (id, a)); create index on c (a); select rowhouse.bind('c')", []string{"error"}},
		{"what may be done any time", "alter table a add x int not null default 7, add y text;\nalter table a alter s type varchar(20), alter n set default 4, alter n drop not null", nil},
		{"a new bound child of a bound table", "create table c (id int primary key, tenant_id uuid not null default rowhouse.tenant_id(), a int, foreign key (tenant_id, a) references a (tenant_id, id));\nselect rowhouse.bind('c'); create index on c (tenant_id, a)", nil},
		{"a rewrite", "\nalter table a alter n type bigint", []string{"2 rewrite public.a"}},
		{"a rewrite by a volatile default", "alter table a add x float default random()", []string{"1 rewrite public.a"}},
		{"an index", "create index i on a (tenant_id, n)", []string{"1 index index i"}},
		{"a unique constraint", "alter table a add constraint u unique (tenant_id, n)", []string{"1 index index u"}},
		{"an index of a partitioned table is one", "create index pi on p (tenant_id, id)", []string{"1 index index pi"}},
		{"binding again builds indexes again", "create unique index u on a (n);\nselect rowhouse.bind('a')", []string{"1 index index u", "2 index index u"}},
		{"a foreign key", fmt.Sprintf(fk, ""), []string{"1 constraint constraint fk"}},
		{"a foreign key not valid", fmt.Sprintf(fk, " not valid"), nil},
		{"a check", "alter table a add constraint k check (n > 0)", []string{"1 constraint constraint k"}},
		{"a check not valid", "alter table a add constraint k check (n > 0) not valid", nil},
		{"a check not valid and validated in one file", "alter table a add constraint k check (n > 0) not valid; alter table a validate constraint k", nil},
		{"not null", "alter table a alter n set not null", []string{"1 not-null"}},
		{"not null behind a check", "alter table a alter checked set not null", nil},
		{"a new column that cannot be filled", "alter table a add x int not null", []string{"1 column column x"}},
		{"a dropped column", "select 1;\nalter table a drop n", []string{"2 contract public.a.n"}},
		{"a renamed column", "alter table a rename n to m", []string{"1 contract public.a.n"}},
		{"a dropped table", "drop table b", []string{"1 contract public.b"}},
		{"a renamed table", "alter table b rename to bb", []string{"1 contract public.b"}},
		{"a dropped function", "drop function f(int)", []string{"1 contract f(integer)"}},
		{"a view made anew", "drop view av; create view av with (security_invoker) as select checked, id from a", nil},
		{"a view made anew with less", "drop view av;\ncreate view av with (security_invoker) as select id from a", []string{"1 contract public.av.checked"}},
		{"two tables", "alter table a add x int; alter table b add x int", []string{"0 locks public.a and public.b"}},
		{"a table and its partition are one", "alter table p add x int; alter table p1 alter x set default 1", nil},
		{"the contract", "create view v as select 1 as one", []string{"0 L6 public.v"}},
		{"declared contract", "-- rowhouse:contract\ndrop table b", nil},
		{"allowed", "-- rowhouse:allow rewrite the table is small\n-- rowhouse:allow locks both are small\nalter table a alter n type bigint; alter table b add x int", nil},
		{"allowed without need", "-- rowhouse:allow rewrite who knows\n-- rowhouse:allow L8 who knows\nalter table a add x int", []string{"0 directive allows L8", "0 directive allows rewrite"}},
		{"allowed of the contract", "-- rowhouse:allow L8 looked at\ncreate function g() returns int language sql security definer set search_path = pg_catalog as 'select 1'", nil},
		{"alone", "-- rowhouse:no-transaction\ncreate index concurrently ci on a (tenant_id, n)", nil},
		{"an undeclared table", "create table x (id int)", []string{"error"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			all, err := effects(t, standing, c.sql)
			if err != nil {
				if !slices.Equal(c.want, []string{"error"}) {
					t.Fatal(err, hint(err))
				}
				return
			}
			var got []string
			for i, p := range all[0].Problems {
				line := fmt.Sprint(p.Line, " ", p.Rule, " ", p.Reason)
				if i < len(c.want) && strings.HasPrefix(line, c.want[i]) || i < len(c.want) && strings.HasPrefix(line, strings.Join(strings.Fields(c.want[i])[:2], " ")) && strings.Contains(line, strings.Join(strings.Fields(c.want[i])[2:], " ")) {
					line = c.want[i]
				}
				got = append(got, line)
				if p.File != "000003_c.up.sql" || p.Hint == "" {
					t.Errorf("%+v", p)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEffects(t *testing.T) {
	t.Parallel()
	t.Run("locks and rewrites of each statement", func(t *testing.T) {
		t.Parallel()
		_, err := effects(t, standing, "alter table a add x int;\nupdate rowhouse.settings set key = key where false;\n\nalter table b alter id type bigint;\nlock table p in share mode; create table z (id int primary key);\nselect rowhouse.reference('z'); select count(*) from b where false")
		if migrations.SQLState(err) != "42501" {
			t.Fatalf("an update under FORCE: %v", err)
		}
		all, err := effects(t, standing, "alter table a add x int;\n\nalter table b alter v type int using v::int;\nlock table only p in share mode; create table z (id int primary key);\nselect rowhouse.reference('z')")
		if err != nil {
			t.Fatal(err)
		}
		want := []migrations.Effect{
			{Line: 1, Statement: "alter table a add x int", Locks: []migrations.TableLock{{Table: "public.a", Mode: "AccessExclusiveLock"}}},
			{Line: 3, Statement: "alter table b alter v type int using v::int", Locks: []migrations.TableLock{{Table: "public.b", Mode: "AccessExclusiveLock"}}, Rewritten: []string{"public.b"}},
			{Line: 4, Statement: "lock table only p in share mode", Locks: []migrations.TableLock{{Table: "public.p", Mode: "ShareLock"}}},
			{Line: 4, Statement: "create table z (id int primary key)"},
			{Line: 5, Statement: "select rowhouse.reference('z')"},
		}
		if diff := cmp.Diff(want, all[0].Statements); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a file that is refused says where", func(t *testing.T) {
		t.Parallel()
		_, err := effects(t, standing, "select 1;\n\nalter table a add x nosuchtype")
		wantState(t, err, "42704")
		wantText(t, err, "000003_c:3")
	})
	t.Run("a scratch database is brought to the version before, whatever the contract says of that", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		app := set(table("a")+"create view v as select 1 as one", "alter view v set (security_invoker = true)", "alter table a add x int, add y int not null")
		m, err := migrations.ForTenants(app, migrations.Config{})
		if err != nil {
			t.Fatal(err)
		}
		all, err := m.Try(t.Context(), d.target(), 1)
		if err != nil || len(all) != 2 || len(all[0].Problems) != 0 || len(all[1].Problems) != 1 || all[1].Problems[0].Rule != "column" {
			t.Errorf("%+v, %v", all, err)
		}
		if all, err := m.Try(t.Context(), newDatabase(t).target(), 0); err != nil || len(all) != 3 {
			t.Errorf("from the beginning: %d files, %v", len(all), err)
		}
		if all, err := m.Try(t.Context(), newDatabase(t).target(), 3); err != nil || len(all) != 0 {
			t.Errorf("nothing to try: %d files, %v", len(all), err)
		}
	})
	t.Run("leaves the database as the migrator does", func(t *testing.T) {
		t.Parallel()
		one, other := newDatabase(t), newDatabase(t)
		one.migrate(sample)
		other.migrate(nil)
		files, err := migrations.ReadSet(sample)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := migrations.Effects(t.Context(), other.asOwner(), files); err != nil {
			t.Fatal(err)
		}
		var prints []string
		for _, d := range []*database{one, other} {
			print, err := migrations.Fingerprint(t.Context(), d.asOwner())
			if err != nil {
				t.Fatal(err)
			}
			prints = append(prints, print)
		}
		if prints[0] != prints[1] {
			t.Errorf("%v", prints)
		}
	})
}
