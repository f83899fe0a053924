-- The gate: whether a tenant's writes are taken here. A tenant that moves has two databases for a while, and at most one of them takes its
-- writes. That is decided in the databases themselves and not in a router's memory, which may be old.

create table rowhouse.gate (
  tenant_id uuid primary key,
  -- open: at home here. incoming: will be, and is not yet. moved: was, and its rows are kept for a while. closed: is being deleted.
  state     text not null check (state in ('open', 'incoming', 'moved', 'closed')),
  -- The placement's number: who knows an older one does not write here, even if the tenant came back.
  epoch     bigint not null,
  operation uuid, -- whose change this was
  -- The key of the advisory lock that writers share and a move takes alone. Nobody who cannot read this can stand in the way of a
  -- neighbour's move.
  lock      bigint not null default (('x' || substr(md5(gen_random_uuid()::text), 1, 16))::bit(64)::bigint)
);
revoke all on rowhouse.gate from public, anon, authenticated, service_role;

-- Those who write for all tenants at once share the lock of this row, which no tenant has.
insert into rowhouse.gate (tenant_id, state, epoch) values ('00000000-0000-0000-0000-000000000000', 'open', 0);

-- Admits a transaction of a tenant, or fails with RH001: the tenant is elsewhere, or is being moved. A router sends it right after BEGIN,
-- before any other statement.
--
-- A writer holds its share of the lock until its transaction ends, so that a move knows when nobody is inside. While a move waits for
-- that, new writers fail at once and do not queue behind it. The state is read after the lock was got: in READ COMMITTED by a
-- younger snapshot. In the other levels the snapshot is as old as the transaction and may show a gate that has been shut since; FOR
-- SHARE then fails with 40001.
create function rowhouse.enter_tenant(tenant uuid, placement bigint, writes boolean) returns void
  language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp
  as $$
begin
  if tenant <> rowhouse.tenant_id() then
    raise exception 'the transaction is another tenant''s' using errcode = '42501';
  elsif not writes then
    perform from rowhouse.gate g where g.tenant_id = tenant and g.state = 'open';
  elsif not coalesce(pg_try_advisory_xact_lock_shared((select g.lock from rowhouse.gate g where g.tenant_id = tenant)), false) then
    raise exception 'the tenant is being moved' using errcode = 'RH001';
  elsif current_setting('transaction_isolation') in ('read committed', 'read uncommitted') then
    perform from rowhouse.gate g where g.tenant_id = tenant and g.state = 'open' and g.epoch = placement;
  else
    perform from rowhouse.gate g where g.tenant_id = tenant and g.state = 'open' and g.epoch = placement for share;
  end if;
  if not found then
    raise exception 'the tenant is not at home here' using errcode = 'RH001';
  end if;
end
$$;
revoke all on function rowhouse.enter_tenant(uuid, bigint, boolean) from public;
grant execute on function rowhouse.enter_tenant(uuid, bigint, boolean) to anon, authenticated, service_role;

-- Admits a transaction that writes for all tenants, as the host's do: no move may be at its last step meanwhile. Who may call it is for
-- whoever makes such a login to say.
create function rowhouse.enter_all() returns void
  language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp
  as $$
begin
  if not pg_try_advisory_xact_lock_shared((select g.lock from rowhouse.gate g where g.tenant_id = '00000000-0000-0000-0000-000000000000')) then
    raise exception 'a tenant is being moved' using errcode = 'RH001';
  end if;
end
$$;
revoke all on function rowhouse.enter_all() from public, anon, authenticated, service_role;
