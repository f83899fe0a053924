-- August.
create table shop.coupons (
  id       uuid primary key default gen_random_uuid(),
  code     text not null,
  percent  int check (percent between 1 and 100),
  amount   shop.money_amount,
  active   boolean not null default true,
  max_uses int,
  check (num_nonnulls(percent, amount) = 1)
);
create unique index coupons_active_code on shop.coupons (upper(code)) where active;

create table shop.coupon_redemptions (
  coupon_id uuid references shop.coupons,
  order_id  uuid unique references shop.orders on delete cascade,
  primary key (coupon_id, order_id)
);

create table shop.price_lists (
  id         uuid primary key default gen_random_uuid(),
  name       text not null unique,
  group_code text references shop.customer_groups on update cascade on delete set null
);
create table shop.price_list_items (
  list_id    uuid references shop.price_lists on delete cascade,
  product_id uuid references shop.products on delete cascade,
  valid      daterange not null,
  price      shop.money_amount not null,
  primary key (list_id, product_id, valid),
  exclude using gist (list_id with =, product_id with =, valid with &&)
);

create function shop.price_for(product uuid, customer uuid, day date) returns numeric
  language sql stable
  as $$
    select coalesce(min(i.price), (select price from shop.products where id = product))
    from shop.price_list_items i
    join shop.price_lists l on l.id = i.list_id
    join shop.customer_group_members m on m.group_code = l.group_code and m.customer_id = customer
    where i.product_id = product and i.valid @> day
  $$;
