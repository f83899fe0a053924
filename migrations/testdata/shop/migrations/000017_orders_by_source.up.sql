-- rowhouse:no-transaction
-- rowhouse:verify select indisvalid from pg_index where indexrelid = to_regclass('shop.orders_source_placed')
create index concurrently if not exists orders_source_placed on shop.orders (tenant_id, source, placed_at);
