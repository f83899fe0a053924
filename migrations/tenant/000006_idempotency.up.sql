-- Answers of writes that were sent with an Idempotency-Key. An answer is a row of the same transaction as the data, so that neither is
-- there without the other, and the same request sent again within a day gets the answer again instead of a second write.

create table rowhouse.idempotency (
  key        bytea primary key check (length(key) = 32),  -- a digest of the key and of whose it is
  request    bytea not null check (length(request) = 32), -- a digest of the request that was answered
  status     int not null check (status between 200 and 599),
  header     text not null,                               -- a JSON object of lists
  body       bytea,                                       -- null: none
  created_at timestamptz not null default now()
);
create index idempotency_created_at on rowhouse.idempotency (created_at);

select rowhouse.bind_relation('rowhouse.idempotency', 'bind');

-- Nobody reads or writes the table itself: an answer may hold what another user of the tenant may not see. Who knows a digest knows the
-- key and who sent it. The functions run as the owner, which may be a superuser that no policy binds, so they name the tenant themselves.
revoke all on rowhouse.idempotency from public, anon, authenticated, service_role;

-- Claims a key until the end of the transaction. State is new, same (then with the answer), other or busy.
create function rowhouse.idempotency_claim(wanted bytea, asked bytea, out state text, out status int, out header text, out body bytea)
  language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp
  as $$
declare
  tenant uuid := rowhouse.tenant_id();
  kept rowhouse.idempotency;
begin
  if not pg_try_advisory_xact_lock(hashtextextended(concat('rowhouse.idempotency ', tenant, ' ', wanted), 0)) then
    state := 'busy';
    return;
  end if;
  select i.* into kept
  from rowhouse.idempotency i
  where i.tenant_id = tenant and i.key = wanted and i.created_at > now() - interval '24 hours';
  state := case when kept.key is null then 'new' when kept.request = asked then 'same' else 'other' end;
  if state = 'same' then
    status := kept.status;
    header := kept.header;
    body := kept.body;
  end if;
end
$$;

-- Keeps an answer under a key that was claimed, and deletes some that are older than a day.
create function rowhouse.idempotency_keep(wanted bytea, asked bytea, answer_status int, answer_header text, answer_body bytea) returns void
  language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp
  as $$
declare
  tenant uuid := rowhouse.tenant_id();
begin
  insert into rowhouse.idempotency (tenant_id, key, request, status, header, body)
  values (tenant, wanted, asked, answer_status, answer_header, answer_body)
  on conflict (tenant_id, key) do update
  set request = excluded.request, status = excluded.status, header = excluded.header, body = excluded.body, created_at = excluded.created_at
  where idempotency.created_at <= now() - interval '24 hours';
  if not found then
    raise exception 'the key was used meanwhile' using errcode = '55000'; -- it was not claimed
  end if;
  delete from rowhouse.idempotency i
  where i.tenant_id = tenant and i.key in
    (select o.key
     from rowhouse.idempotency o
     where o.tenant_id = tenant and o.created_at <= now() - interval '24 hours'
     order by o.created_at
     limit 100
     for update skip locked);
end
$$;

revoke all on function rowhouse.idempotency_claim(bytea, bytea), rowhouse.idempotency_keep(bytea, bytea, int, text, bytea) from public;
grant execute on function rowhouse.idempotency_claim(bytea, bytea), rowhouse.idempotency_keep(bytea, bytea, int, text, bytea)
  to anon, authenticated, service_role;
