-- The audit trail is a chain: each event is hashed together with the hash of the one before it, in the order of the commits. What was
-- changed, taken out, put in or moved shows where it happened. Who can rewrite the whole chain is found by its seals.

create table rowhouse.audit_chain (
    position bigint primary key,
    event    bigint not null unique, -- no foreign key: a missing event is to be told, not to be prevented by what can be switched off
    hash     bytea not null
);
create trigger append_only before update or delete on rowhouse.audit_chain
    for each row execute function rowhouse.refuse_change();
create trigger append_only_truncate before truncate on rowhouse.audit_chain
    for each statement execute function rowhouse.refuse_change();

-- The end of the chain. Its lock is held from an event's hash to the commit, so that no two follow the same one.
create table rowhouse.audit_head (
    singleton boolean primary key default true check (singleton),
    position  bigint not null,
    hash      bytea not null
);
insert into rowhouse.audit_head (position, hash) select 0, sha256(convert_to('rowhouse audit ' || id, 'UTF8')) from rowhouse.catalog;

-- The head as it was at some moment, sealed under the catalog's keys: who has the database and not the keys cannot make one.
create table rowhouse.audit_seals (
    position bigint primary key,
    sealed   bytea not null,
    at       timestamptz not null default now()
);

create function rowhouse.audit_digest(before bytea, e rowhouse.audit_events) returns bytea
  language sql immutable
  return sha256(before || convert_to(jsonb_build_array(e.seq, extract(epoch from e.at), e.txid::text, e.action, e.target_kind, e.target_id, e.target,
    e.side, e.actor, e.impersonator, e.address, e.request_id, e.operation, e.detail)::text, 'UTF8'));

-- Deferred, so that the order is that of the commits and a long transaction does not keep others waiting.
create function rowhouse.chain_event() returns trigger language plpgsql as $$
declare
    head rowhouse.audit_head;
    next bytea;
begin
    select * into strict head from rowhouse.audit_head for update;
    next := rowhouse.audit_digest(head.hash, new);
    insert into rowhouse.audit_chain (position, event, hash) values (head.position + 1, new.seq, next);
    update rowhouse.audit_head set position = head.position + 1, hash = next;
    return null;
end $$;
create constraint trigger chain after insert on rowhouse.audit_events
    deferrable initially deferred for each row execute function rowhouse.chain_event();

-- What was there before is chained as it stands.
do $$
declare
    e rowhouse.audit_events;
    head rowhouse.audit_head;
begin
    select * into strict head from rowhouse.audit_head for update;
    for e in select * from rowhouse.audit_events order by seq loop
        head.position := head.position + 1;
        head.hash := rowhouse.audit_digest(head.hash, e);
        insert into rowhouse.audit_chain (position, event, hash) values (head.position, e.seq, head.hash);
    end loop;
    update rowhouse.audit_head set position = head.position, hash = head.hash;
end $$;
