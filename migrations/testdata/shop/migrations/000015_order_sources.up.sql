-- December. Written so that nobody waits.
alter table shop.orders add column source text not null default 'web';
alter table shop.orders add constraint orders_source check (source in ('web', 'phone', 'fair')) not valid;
