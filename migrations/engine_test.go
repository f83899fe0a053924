package migrations_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/migrations"
)

// The form of the fence is text from functions that look at nothing.
func TestFenceStatements(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	conn := d.asOwner()
	const inline = "tenant_id = nullif(nullif(current_setting('rowhouse.tenant_id', true), ''), 'host')::uuid"
	cases := []struct {
		kind, engine string
		own          bool
		want         []string
	}{
		{"bind", "postgresql", false, []string{
			"create policy rh_tenant on t as restrictive for all to public using (tenant_id = (select rowhouse.tenant_id())) with check (tenant_id = (select rowhouse.tenant_id()))",
			"create policy rh_all on t for all to public using (true) with check (true)",
		}},
		{"bind", "postgresql", true, []string{
			"create policy rh_tenant on t as restrictive for all to public using (tenant_id = (select rowhouse.tenant_id())) with check (tenant_id = (select rowhouse.tenant_id()))",
		}},
		{"bind", "citus", false, []string{"create policy rh_tenant on t as permissive for all to public using (" + inline + ") with check (" + inline + ")"}},
		{"bind", "citus", true, []string{"create policy rh_tenant on t as permissive for all to public using (" + inline + ") with check (" + inline + ")"}},
	}
	for _, c := range cases {
		got := one[[]string](t, conn, "select rowhouse.fence_statements('t', $1, $2, $3)", c.kind, c.engine, c.own)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s on %s: %s", c.kind, c.engine, diff)
		}
	}
	for _, kind := range []string{"bind", "bind_optional"} {
		text := strings.Join(one[[]string](t, conn, "select rowhouse.fence_statements('t', $1, 'citus', false)", kind), ";")
		if strings.Contains(text, "restrictive") || strings.Contains(text, "select") {
			t.Errorf("%s: Citus drops restrictive policies and refuses subselects: %s", kind, text)
		}
	}
	if one[bool](t, conn, "select bool_or(provolatile <> 'i') from pg_proc where proname in ('fence_condition', 'fence_statements')") {
		t.Error("they look at something")
	}
	if engine := one[string](t, conn, "select rowhouse.engine()"); engine != "postgresql" {
		t.Errorf("engine %s", engine)
	}
}

// On Citus every policy of an application takes the fence in.
func TestWrapPolicies(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	d.pretend("citus")
	owner := d.asOwner()
	const bound = "create table t (id int primary key, n int); select rowhouse.bind('t');"
	const fence = "(tenant_id = (NULLIF(NULLIF(current_setting('rowhouse.tenant_id'::text, true), ''::text), 'host'::text))::uuid)"
	policies := func(tx pgx.Tx) string {
		return oneTx[string](t, tx, `select string_agg(concat_ws(' | ', polname, polcmd, pg_get_expr(polqual, polrelid), 'check ' || pg_get_expr(polwithcheck, polrelid)), E'\n' order by polname)
			from pg_policy where polrelid = 't'::regclass`)
	}
	t.Run("alone, the fence is the permissive policy", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, bound)
			if diff := cmp.Diff("rh_tenant | * | "+fence+" | check "+fence, policies(tx)); diff != "" {
				t.Error(diff)
			}
		})
	})
	t.Run("at the end of a file the application's own hold it and the lone one is gone, once", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, bound+`create policy r on t for select using (n > 0 or n < -5); create policy i on t for insert with check (n > 1);
				create policy a on t using (n > 2) with check (n > 3); create policy u on t for update using (n > 4);`)
			want := strings.Join([]string{
				"a | * | (" + fence + " AND (n > 2)) | check (" + fence + " AND (n > 3))",
				"i | a | check (" + fence + " AND (n > 1))",
				"r | r | (" + fence + " AND ((n > 0) OR (n < '-5'::integer)))",
				"u | w | (" + fence + " AND (n > 4))",
			}, "\n")
			for range 2 {
				execTx(t, tx, "select rowhouse.check_migration(); select rowhouse.check_contract()")
				if diff := cmp.Diff(want, policies(tx)); diff != "" {
					t.Error(diff)
				}
			}
			execTx(t, tx, "drop policy r on t; drop policy i on t; drop policy a on t; drop policy u on t; select rowhouse.bind('t')")
			if got := policies(tx); !strings.HasPrefix(got, "rh_tenant") {
				t.Errorf("the lone one does not come back: %s", got)
			}
		})
	})
	refused := map[string]string{
		"create policy p on t as restrictive using (n > 0)":                          "drops without a word",
		"create policy p on t using (n in (select id from t))":                       "subselect",
		"create policy p on t for insert with check (exists (select 1 where n = 1))": "subselect",
	}
	for sql, says := range refused {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, bound+sql)
			_, err := tx.Exec(t.Context(), "select rowhouse.check_migration()")
			wantState(t, err, "0A000")
			wantText(t, err, says)
		})
	}
	unfenced := []string{
		"create policy p on t using (true)",
		"create policy p on t as restrictive using (true)",
		"create policy p on t using (" + fence + " or n = 1)",
		"create policy p on t for update using (" + fence + ") with check (true)",
		"create policy p on t for insert with check (n = 1)",
		"alter policy rh_tenant on t using (true)",
	}
	for _, sql := range unfenced {
		t.Run("L2 "+sql, func(t *testing.T) {
			inTx(t, owner, func(tx pgx.Tx) {
				execTx(t, tx, bound+sql)
				found, err := migrations.LintDatabase(t.Context(), owner)
				if err != nil || len(found) == 0 || found[0].Rule != "L2" || !strings.Contains(found[0].Reason, "tenant's condition") {
					t.Errorf("%v, %v", found, err)
				}
			})
		})
	}
	t.Run("a file whose policy has no fence yet passes, and shows no foreign row", func(t *testing.T) {
		d := newDatabase(t)
		d.migrate(nil)
		d.pretend("citus")
		d.migrate(set(table("a") + "create policy careless on a using (true) with check (true)"))
		conn := d.asLogin()
		for i, tenant := range []string{acme, globex} {
			d.mustDo(conn, "authenticated", tenant, fmt.Sprintf("insert into a values (%d)", i))
			if n := d.mustDo(conn, "authenticated", tenant, "select from a"); n != 1 {
				t.Errorf("%d rows", n)
			}
		}
		if _, err := d.do(conn, "authenticated", acme, "insert into a (id, tenant_id) values (9, '"+globex+"')"); migrations.SQLState(err) != "42501" {
			t.Errorf("a foreign row: %v", err)
		}
	})
}
