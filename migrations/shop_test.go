package migrations_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/migrations"
)

// The shop is an application of real size: a year of migrations written for one shop, until a file binds its tables.
const (
	shopTables     = 41 // with partitions
	shopConversion = 13 // the file that binds
)

// shop is the application's migrations up to a version; 0 means all.
func shop(t testing.TB, last int64) fs.FS {
	t.Helper()
	files, err := migrations.ReadSet(os.DirFS("testdata/shop/migrations"))
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		if f.Version == last {
			return migrations.FS(files[:i+1])
		}
	}
	return migrations.FS(files)
}

// shopText is a file of the shop's with a shop's own words in it.
func shopText(t testing.TB, name, word string, number int) []string {
	t.Helper()
	data, err := os.ReadFile("testdata/shop/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var statements []string
	for _, s := range strings.Split(string(data), ";\n") {
		var lines []string
		for _, line := range strings.Split(s, "\n") {
			if !strings.HasPrefix(line, "--") {
				lines = append(lines, line)
			}
		}
		if s = strings.TrimSpace(strings.Join(lines, "\n")); s != "" {
			statements = append(statements, strings.NewReplacer("{{v}}", word, "{{n}}", fmt.Sprint(number)).Replace(s))
		}
	}
	return statements
}

// answers runs statements, each in a transaction as begin prepares it, and gives what they answered.
func answers(t testing.TB, conn *pgx.Conn, begin string, statements []string) []string {
	t.Helper()
	all := make([]string, len(statements))
	for i, sql := range statements {
		mustExec(t, conn, "begin")
		for _, s := range strings.Split(begin, ";") {
			mustExec(t, conn, s)
		}
		all[i] = sql + "\n" + answer(t.Context(), conn, sql)
		if strings.Contains(all[i], "ERROR") {
			mustExec(t, conn, "rollback")
			continue
		}
		if _, err := conn.Exec(t.Context(), "commit"); err != nil {
			all[i] += "\nERROR " + migrations.SQLState(err) // a deferred constraint
		}
	}
	return all
}

func answer(ctx context.Context, conn *pgx.Conn, sql string) string {
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return "ERROR " + migrations.SQLState(err)
	}
	var out strings.Builder
	for _, r := range results {
		out.WriteString(r.CommandTag.String())
		for _, row := range r.Rows {
			out.WriteString("\n")
			for _, v := range row {
				fmt.Fprintf(&out, "|%s", v)
			}
		}
	}
	return out.String()
}

func asTenant(tenant string) string {
	return "set local rowhouse.tenant_id = '" + tenant + "';set local role authenticated"
}

func (d *database) seedShop(conn *pgx.Conn, begin, word string, number int) {
	d.t.Helper()
	for _, a := range answers(d.t, conn, begin, shopText(d.t, "seed.sql", word, number)) {
		if strings.Contains(a, "ERROR") {
			d.t.Fatalf("seed of %s: %s", word, a)
		}
	}
}

// One shop answers the same to everything it is asked: as it was written, with nobody else in the database; converted with its rows in
// place; bound in a database of its own; and bound in one that it shares with others who have the same keys.
func TestShop_sameAnswersEverywhere(t *testing.T) {
	t.Parallel()
	ask := func(conn *pgx.Conn, begin string) []string {
		return answers(t, conn, begin, shopText(t, "corpus.sql", "", 0))
	}

	original := newDatabase(t)
	original.migrate(shop(t, shopConversion-1))
	owner := original.asOwner()
	original.seedShop(owner, "select 1", "acme", 3)
	want := ask(owner, "select 1")
	answered, refused := 0, 0
	for _, a := range want {
		if strings.Contains(a, "ERROR") {
			refused++
		} else if strings.Contains(a, "\n|") {
			answered++
		}
	}
	if answered < 60 || refused < 15 {
		t.Fatalf("%d answers and %d refusals: too little to compare", answered, refused)
	}
	compare := func(t *testing.T, want, got []string) {
		t.Helper()
		for i := range want {
			w, g := want[i], got[i]
			if (strings.HasPrefix(w, "truncate ") || strings.HasPrefix(w, "insert into shop.countries ")) && strings.HasSuffix(g, "ERROR 42501") {
				continue // the two things that a tenant may not do
			}
			if diff := cmp.Diff(w, g); diff != "" {
				t.Error(diff)
			}
		}
	}

	t.Run("in a database of its own", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(shop(t, 0))
		conn := d.asLogin()
		d.seedShop(conn, asTenant(acme), "acme", 3)
		compare(t, want, ask(conn, asTenant(acme)))
	})
	t.Run("beside others", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(shop(t, 0))
		conn := d.asLogin()
		const noise = "018f0000-0000-7000-8000-0000000000%02d"
		for i := range 3 {
			d.seedShop(conn, asTenant(fmt.Sprintf(noise, i)), fmt.Sprintf("noise%d", i), 4+i)
		}
		d.seedShop(conn, asTenant(acme), "acme", 3)
		d.seedShop(conn, asTenant(globex), "globex", 7)
		got := ask(conn, asTenant(acme))
		compare(t, want, got)
		for _, a := range got {
			if strings.Contains(a, "globex") || strings.Contains(a, "noise") {
				t.Errorf("another shop's word: %s", a)
			}
		}
		t.Run("the second shop, too, after all that the first one has done", func(t *testing.T) {
			alone := newDatabase(t)
			alone.migrate(shop(t, shopConversion-1))
			owner := alone.asOwner()
			alone.seedShop(owner, "select 1", "globex", 7)
			compare(t, ask(owner, "select 1"), ask(conn, asTenant(globex)))
		})
		t.Run("nobody sees anything", func(t *testing.T) {
			if err := migrations.SelfTest(t.Context(), conn, []string{"anon", "authenticated", "service_role"}); err != nil {
				t.Error(err)
			}
		})
		t.Run("a rule of the application's own stays within the tenant", func(t *testing.T) {
			for _, tenant := range []string{acme, globex} {
				for i := 1; i <= 2; i++ {
					d.mustDo(conn, "authenticated", tenant, fmt.Sprintf("insert into shop.wish_lists (customer_id, name) values (md5('customer%d')::uuid, 'mine')", i))
				}
			}
			d.mustDo(conn, "authenticated", acme, "insert into shop.wish_list_items (list_id, product_id) select id, md5('product1')::uuid from shop.wish_lists")
			got := answers(t, conn, asTenant(acme)+";set local request.customer = '"+one[string](t, d.Conn(t), "select md5('customer1')::uuid::text")+"'",
				[]string{"select count(*) from shop.wish_lists"})
			if got[0] != "select count(*) from shop.wish_lists\nSELECT 1\n|1" {
				t.Error(got[0])
			}
			if _, err := d.do(conn, "authenticated", globex, "insert into shop.wish_list_items (list_id, product_id) values ($1, md5('product1')::uuid)",
				one[string](t, d.Conn(t), "select id::text from shop.wish_lists where tenant_id = '"+acme+"' limit 1")); migrations.SQLState(err) != "23503" {
				t.Errorf("a foreign list: %v", err)
			}
		})
	})
	t.Run("converted with its rows in place", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(shop(t, shopConversion-1))
		d.seedShop(d.asOwner(), "select 1", "acme", 3)
		// Whoever adopts a filled database says on the migrator's connection whose rows they are.
		target := d.target()
		target.Connect = func(ctx context.Context) (*pgx.Conn, error) {
			config, err := pgx.ParseConfig(d.DSNAs(d.migrator, d.migratorPass))
			if err != nil {
				return nil, err
			}
			migrations.ConnConfig(config, d.owner)
			config.RuntimeParams["rowhouse.tenant_id"] = acme
			return pgx.ConnectConfig(ctx, config)
		}
		if _, err := d.migratorOf(shop(t, 0)).Up(t.Context(), target); err != nil {
			t.Fatal(err, hint(err))
		}
		compare(t, want, ask(d.asLogin(), asTenant(acme)))
		if n := d.mustDo(d.asLogin(), "authenticated", globex, "select from shop.products"); n != 0 {
			t.Errorf("globex sees %d of acme's products", n)
		}
		other := newDatabase(t)
		other.migrate(shop(t, 0))
		var prints []string
		for _, d := range []*database{d, other} {
			print, err := migrations.Fingerprint(t.Context(), d.asOwner())
			if err != nil {
				t.Fatal(err)
			}
			prints = append(prints, print)
		}
		if prints[0] != prints[1] {
			t.Error("converted with rows and without, the schemas differ")
		}
	})
}

func TestShop_schema(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	before, err := migrations.ReadSet(shop(t, shopConversion-1))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		if strings.Contains(f.Up, "rowhouse") || strings.Contains(f.Up, "tenant") {
			t.Errorf("%s knows of tenants", f)
		}
	}
	d.migrate(shop(t, shopConversion-1))
	all, err := migrations.ReadSet(shop(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	owner := d.asOwner()
	effects, err := migrations.Effects(t.Context(), owner, all[len(before):])
	if err != nil {
		t.Fatal(err, hint(err))
	}
	for _, e := range effects {
		for _, p := range e.Problems {
			t.Errorf("%s", p)
		}
	}
	if n := one[int](t, owner, "select count(*) from pg_class where relnamespace = 'shop'::regnamespace and relkind in ('r', 'p')"); n != shopTables {
		t.Errorf("%d tables", n)
	}
	if n := one[int](t, owner, "select count(*) from pg_class c where relnamespace = 'shop'::regnamespace and relkind in ('r', 'p') and relforcerowsecurity"); n != shopTables-3 {
		t.Errorf("%d fenced", n)
	}
	const global = `
		select coalesce(string_agg(conrelid::regclass || ' ' || pg_get_constraintdef(oid), '; '), '') from pg_constraint
		where connamespace = 'shop'::regnamespace and contype in ('p', 'u', 'x', 'f')
		  and conrelid not in ('shop.countries'::regclass, 'shop.currencies'::regclass, 'shop.carriers'::regclass)
		  and pg_get_constraintdef(oid) !~ 'tenant_id' and pg_get_constraintdef(oid) !~ 'REFERENCES shop.(countries|currencies|carriers)'`
	if got := one[string](t, owner, global); got != "" {
		t.Errorf("keys without the tenant: %s", got)
	}
}

// The shop as Citus would fence it, on plain PostgreSQL: the same answers.
func TestShop_onCitusPolicies(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the whole corpus twice more")
	}
	var got [][]string
	for _, engine := range engines {
		d := newDatabase(t)
		d.migrate(nil)
		d.pretend(engine)
		// Its triggers and functions would not do there; here it is the policies that count.
		if _, err := d.migratorOf(shop(t, shopConversion)).Proven().Up(t.Context(), d.target()); err != nil {
			t.Fatal(err, hint(err))
		}
		conn := d.asLogin()
		d.seedShop(conn, asTenant(globex), "globex", 7)
		d.seedShop(conn, asTenant(acme), "acme", 3)
		got = append(got, answers(t, conn, asTenant(acme), shopText(t, "corpus.sql", "", 0)))
	}
	if diff := cmp.Diff(got[0], got[1]); diff != "" {
		t.Error(diff)
	}
}
