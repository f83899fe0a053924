-- February.
create table shop.customers (
  id         uuid primary key default gen_random_uuid(),
  email      text not null,
  name       text not null,
  country    text references shop.countries,
  birthday   date,
  created_at timestamptz not null default now()
);
create unique index customers_email on shop.customers (lower(email));

create table shop.addresses (
  id          uuid primary key default gen_random_uuid(),
  customer_id uuid not null references shop.customers on delete cascade,
  kind        text not null check (kind in ('billing', 'shipping')),
  street      text not null,
  city        text not null,
  country     text not null references shop.countries,
  is_default  boolean not null default false
);
create index on shop.addresses (customer_id);
create unique index addresses_one_default on shop.addresses (customer_id, kind) where is_default;

create table shop.customer_groups (
  code     text primary key,
  discount numeric(4, 2) not null default 0 check (discount between 0 and 100)
);
create table shop.customer_group_members (
  group_code  text references shop.customer_groups on update cascade on delete cascade,
  customer_id uuid references shop.customers on delete cascade,
  since       date not null default current_date,
  primary key (group_code, customer_id)
);
