-- What was asked of a tenant: a record a request, written after the answer, in the tenant's own database. It moves with the tenant.
--
-- The table has a partition for each month, in a ring of four: every database has the same ones whatever its age, so all of them keep
-- one fingerprint and none has to be altered at midnight. What is older than the tenant keeps is deleted out of a partition that
-- nobody writes to.

create table rowhouse.requests (
  slot         smallint not null, -- the month, counted from year 0, modulo 4
  id           uuid not null default gen_random_uuid(),
  at           timestamptz not null,
  duration_us  bigint not null check (duration_us >= 0),
  side         text not null check (side in ('anonymous', 'tenant', 'host')),
  subject      text not null default '',
  impersonator text not null default '',
  role         text not null default '',
  method       text not null,
  route        text not null, -- the path, without its query: filters hold values
  status       smallint not null,
  code         text not null default '', -- SQLSTATE or our own, of what failed
  rows         bigint,
  address      text not null default '',
  agent        text not null default '',
  request_id   text not null default '',
  trace_id     text not null default '',
  primary key (slot, id)
) partition by list (slot);
create table rowhouse.requests_0 partition of rowhouse.requests for values in (0);
create table rowhouse.requests_1 partition of rowhouse.requests for values in (1);
create table rowhouse.requests_2 partition of rowhouse.requests for values in (2);
create table rowhouse.requests_3 partition of rowhouse.requests for values in (3);
create index requests_at on rowhouse.requests (at, id);

select rowhouse.bind_relation('rowhouse.requests', 'bind');

-- Only rowhouse itself writes and reads it, as service_role; nobody changes what stands there, and nobody deletes what is young.
revoke all on rowhouse.requests, rowhouse.requests_0, rowhouse.requests_1, rowhouse.requests_2, rowhouse.requests_3 from anon, authenticated;
revoke update on rowhouse.requests from service_role;
revoke all on rowhouse.requests_0, rowhouse.requests_1, rowhouse.requests_2, rowhouse.requests_3 from service_role;

create function rowhouse.refuse_young() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $$
begin
  if old.at > now() - interval '1 day' then
    -- What a tenant leaves behind when it moves or is purged is the owner's to clear away: its gate is not open there.
    if current_user = (select pg_get_userbyid(relowner) from pg_class where oid = 'rowhouse.gate'::regclass) then
      if not exists (select from rowhouse.gate where tenant_id = old.tenant_id and state = 'open') then
        return old;
      end if;
    end if;
    raise exception 'a record of the last day is not deleted' using errcode = '42501';
  end if;
  return old;
end
$$;
revoke all on function rowhouse.refuse_young() from public;
create trigger refuse_young before delete on rowhouse.requests for each row execute function rowhouse.refuse_young();
