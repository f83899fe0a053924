-- What was found the last time that somebody looked into a database without being asked: whether it is as the catalog says, and
-- whether it shows rows to somebody without a tenant.
create table rowhouse.database_looks (
    database uuid primary key references rowhouse.databases on delete cascade,
    at       timestamptz not null default now(),
    version  bigint not null default 0,
    stale    boolean not null default false,
    drift    boolean not null default false,
    leak     text not null default '',
    error    text not null default ''
);
