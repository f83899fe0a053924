-- What the control plane is asked for over HTTP: requests that are carried out once, however often they are sent.

-- A request with an Idempotency-Key, and its answer. The row is claimed before anything is done; the transaction that does
-- it marks the row, so that a process that died in between is told from one that did nothing. request and answer are sealed:
-- an answer can hold a new token.
create table rowhouse.requests_once (
    principal   text not null,
    route       text not null,
    key         text not null,
    claim       uuid not null,
    request     bytea not null,
    answer      bytea,
    done        boolean not null default false,
    operation   uuid,
    lease_until timestamptz not null,
    expires_at  timestamptz not null,
    primary key (principal, route, key)
);
create index requests_once_expires on rowhouse.requests_once (expires_at);

-- Lists are read a page at a time, by key.
create index operations_tenant_id on rowhouse.operations (tenant, id desc);
create index tokens_created on rowhouse.tokens (created_at desc, id desc);
create index databases_server on rowhouse.databases (server, id);
