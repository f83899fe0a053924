package migrations

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// guardSQL makes the event trigger. Its schema and function belong to the superuser, or the database's owner could give everybody's next
// statement another meaning.
//
// A session of a superuser is left alone: everything below would run with a superuser's rights, and the tables and functions that it
// calls belong to the database's owner. What superusers make is found by LintDatabase.
const guardSQL = `
create schema if not exists rowhouse_guard;
revoke all on schema rowhouse_guard from public;
create or replace function rowhouse_guard.watch() returns event_trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
begin
  if (select rolsuper from pg_roles where rolname = session_user) then
    return;
  end if;
  insert into rowhouse.made_tables
  select distinct d.objid
  from pg_event_trigger_ddl_commands() d join pg_class c on c.oid = d.objid
  where d.classid = 'pg_class'::regclass and c.relkind in ('r', 'p') and c.relpersistence <> 't'
    and c.relnamespace <> 'rowhouse'::regnamespace and not d.in_extension
  on conflict do nothing;
end
$$;
drop event trigger if exists rowhouse_guard;
create event trigger rowhouse_guard on ddl_command_end
  when tag in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
  execute function rowhouse_guard.watch();`

// InstallGuard puts an event trigger into a database that refuses, when a transaction ends, any table that was made in it and not declared
// (rowhouse.bind, bind_optional, reference), whoever made it but a superuser. The database has rowhouse's baseline already.
//
// Only a superuser can; on any other connection nothing is done and the answer is false: there the contract's check after each migration, and
// LintDatabase, are the gate alone. Installing it again does nothing new. CREATE DATABASE … TEMPLATE copies it.
func InstallGuard(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var super bool
	err := conn.QueryRow(ctx, "select rolsuper from pg_catalog.pg_roles where rolname = current_user").Scan(&super)
	if err != nil {
		return false, fmt.Errorf("guard: %w", err)
	}
	if !super {
		return false, nil
	}
	// One message, thus one transaction: there is no moment without a trigger.
	if _, err := conn.PgConn().Exec(ctx, guardSQL).ReadAll(); err != nil {
		return false, fmt.Errorf("guard: %w", err)
	}
	return true, nil
}
