package catalog_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
)

// trail is a catalog with events, of which the one at the end is sealed, and a superuser who can do anything to it.
func trail(t *testing.T) (*catalog.Catalog, *pgx.Conn) {
	t.Helper()
	cat, dsn := catalogtest.New(t)
	for i := range 10 {
		event := catalog.Event{Action: fmt.Sprintf("test.%d", i), Target: catalog.Ref{Kind: "test", Name: "acme"}, Detail: map[string]any{"n": i}}
		if err := cat.Update(t.Context(), event, func(*catalog.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := cat.SealAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	if _, err := conn.Exec(t.Context(), `set session_replication_role = replica`); err != nil { // no trigger refuses anything
		t.Fatal(err)
	}
	return cat, conn
}

// rechain makes the chain of what is there anew, as somebody would who knows how it is made and has no keys.
const rechain = `
truncate rowhouse.audit_chain;
update rowhouse.audit_head set position = 0, hash = sha256(convert_to('rowhouse audit ' || (select id from rowhouse.catalog), 'UTF8'));
do $$
declare
  e rowhouse.audit_events;
begin
  for e in select * from rowhouse.audit_events order by seq loop
    update rowhouse.audit_head set position = position + 1, hash = rowhouse.audit_digest(hash, e);
    insert into rowhouse.audit_chain select position, e.seq, hash from rowhouse.audit_head;
  end loop;
end $$;`

func TestCatalog_VerifyAudit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, sql, says string }{
		{"nothing", `select 1`, ""},
		{"an actor edited", `update rowhouse.audit_events set actor = 'somebody else' where action = 'test.4'`, "changed or moved"},
		{"a detail edited", `update rowhouse.audit_events set detail = '{"n": 5}' where action = 'test.4'`, "changed or moved"},
		{"a time edited", `update rowhouse.audit_events set at = at - interval '1 microsecond' where action = 'test.4'`, "changed or moved"},
		{"an event deleted", `delete from rowhouse.audit_events where action = 'test.4'`, "taken out"},
		{"an event and its link deleted", `delete from rowhouse.audit_chain where event = (select seq from rowhouse.audit_events where action = 'test.4');
			delete from rowhouse.audit_events where action = 'test.4'`, "taken out"},
		{"a link deleted", `delete from rowhouse.audit_chain where event = (select seq from rowhouse.audit_events where action = 'test.4')`, "taken out"},
		{"two events that changed places", `update rowhouse.audit_events e set action = case action when 'test.4' then 'test.5' else 'test.4' end,
			detail = case action when 'test.4' then '{"n": 5}' else '{"n": 4}' end::jsonb where action in ('test.4', 'test.5')`, "changed or moved"},
		{"two links that changed places", `update rowhouse.audit_chain set event = -event;
			update rowhouse.audit_chain set event = case position when 4 then (select -event from rowhouse.audit_chain where position = 5)
			                                                      when 5 then (select -event from rowhouse.audit_chain where position = 4) else -event end`, "changed or moved"},
		{"an event put in", `insert into rowhouse.audit_events (action, side, actor) values ('forged', 'host', 'somebody')`, "put in"},
		{"the last events cut off", `delete from rowhouse.audit_events where action in ('test.8', 'test.9')`, "taken out"},
		{"the last events and links cut off", `delete from rowhouse.audit_events where action in ('test.8', 'test.9');
			delete from rowhouse.audit_chain where position > (select max(position) - 2 from rowhouse.audit_chain)`, "it was cut"},
		{"the end moved back too", `delete from rowhouse.audit_events where action in ('test.8', 'test.9');
			delete from rowhouse.audit_chain where position > (select max(position) - 2 from rowhouse.audit_chain);
			update rowhouse.audit_head set (position, hash) = (select position, hash from rowhouse.audit_chain order by position desc limit 1)`, "sealed"},
		{"everything taken out", `truncate rowhouse.audit_events, rowhouse.audit_chain`, "it was cut"},
		{"an event edited and the whole chain made anew", `update rowhouse.audit_events set actor = 'somebody else' where action = 'test.4';` + rechain, "sealed"},
		{"an event deleted and the whole chain made anew", `delete from rowhouse.audit_events where action = 'test.4';` + rechain, "sealed"},
		{"a seal forged", `update rowhouse.audit_seals set sealed = 'forged'`, "seal does not open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cat, super := trail(t)
			if _, err := super.Exec(t.Context(), c.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Fatal(err)
			}
			v, err := cat.VerifyAudit(t.Context(), "")
			switch {
			case err != nil:
				t.Fatal(err)
			case c.says == "" && (v.Broken != nil || v.Events < 10 || v.Seals != 1):
				t.Errorf("verdict is %+v, broken: %+v", v, v.Broken)
			case c.says != "" && (v.Broken == nil || !strings.Contains(v.Broken.What, c.says)):
				t.Errorf("verdict is %+v, broken: %+v; want %q", v, v.Broken, c.says)
			}
		})
	}
}

// Who rewrites everything and takes the seals out too is found by a head that was kept elsewhere.
func TestCatalog_VerifyAudit_keptHead(t *testing.T) {
	t.Parallel()
	cat, super := trail(t)
	before, err := cat.VerifyAudit(t.Context(), "")
	if err != nil || before.Broken != nil {
		t.Fatalf("verdict is %+v, %v", before, err)
	}
	for _, head := range []string{"", before.Head} {
		if v, err := cat.VerifyAudit(t.Context(), head); err != nil || v.Broken != nil {
			t.Errorf("with head %q the verdict is %+v, %v", head, v, err)
		}
	}
	if _, err := super.Exec(t.Context(), `delete from rowhouse.audit_events where action = 'test.9'; truncate rowhouse.audit_seals;`+rechain, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	if v, err := cat.VerifyAudit(t.Context(), ""); err != nil || v.Broken != nil {
		t.Errorf("what was rewritten whole, seals included, gives %+v, %v", v, err)
	}
	if v, err := cat.VerifyAudit(t.Context(), before.Head); err != nil || v.Broken == nil {
		t.Errorf("with the head that was kept the verdict is %+v, %v", v, err)
	}
	for _, bad := range []string{"1", "x:00", "1:00", "-1:" + strings.Repeat("0", 64)} {
		if _, err := cat.VerifyAudit(t.Context(), bad); err == nil {
			t.Errorf("head %q is taken", bad)
		}
	}
}

// Events of transactions that overlap are chained in the order of their commits, none twice and none missed.
func TestCatalog_Update_chains(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	var writing sync.WaitGroup
	for w := range 4 {
		writing.Go(func() {
			for i := range 15 {
				if err := cat.Update(t.Context(), catalog.Event{Action: fmt.Sprintf("test.%d.%d", w, i)}, func(tx *catalog.Tx) error {
					_, err := tx.Exec(t.Context(), `select pg_sleep(0.001 * ($1::int % 3))`, i)
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	if v, err := cat.VerifyAudit(t.Context(), ""); err != nil || v.Broken != nil || v.Events != 60 {
		t.Errorf("verdict is %+v, %v; want 60 events in a whole chain", v, err)
	}
}
