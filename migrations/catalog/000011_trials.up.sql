-- What a set's new files did in a scratch database, before any other was touched: after which version they were tried, and
-- the locks, rewrites and problems of each. Tried once, whoever asks again reads it here.
alter table rowhouse.migration_sets
    add column tried_after bigint,
    add column took        interval not null default '0',
    add column effects     jsonb not null default '[]';
