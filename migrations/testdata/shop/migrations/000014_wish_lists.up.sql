-- November. The first tables made by somebody who knows about tenants.
create table shop.wish_lists (
  tenant_id   uuid not null default rowhouse.tenant_id(),
  id          uuid not null default gen_random_uuid(),
  customer_id uuid not null,
  name        text not null,
  unique (customer_id, name),
  primary key (tenant_id, id),
  foreign key (tenant_id, customer_id) references shop.customers (tenant_id, id) on delete cascade
);
create table shop.wish_list_items (
  tenant_id  uuid not null default rowhouse.tenant_id(),
  list_id    uuid not null,
  product_id uuid not null,
  position   int not null default 0,
  primary key (list_id, product_id),
  foreign key (tenant_id, product_id) references shop.products (tenant_id, id) on delete cascade
);
alter table shop.wish_list_items add foreign key (tenant_id, list_id) references shop.wish_lists (tenant_id, id) on delete cascade;
select rowhouse.bind('shop.wish_lists');
select rowhouse.bind('shop.wish_list_items');

-- A customer's own rows only: a rule of the application's, within the tenant.
create policy own_lists on shop.wish_lists
  using (nullif(current_setting('request.customer', true), '') is null or customer_id::text = current_setting('request.customer', true));
select rowhouse.bind('shop.wish_lists');
