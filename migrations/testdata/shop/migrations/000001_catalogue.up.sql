-- January. The shop opens: what is for sale. Everything lives in a schema of its own, written for one shop.
create schema shop;
create extension if not exists btree_gist;

create table shop.countries (
  code text primary key check (code ~ '^[A-Z]{2}$'),
  name text not null unique
);
create table shop.currencies (
  code     text primary key check (code ~ '^[A-Z]{3}$'),
  decimals int not null default 2
);
insert into shop.countries values ('AT', 'Austria'), ('CH', 'Switzerland'), ('DE', 'Germany'), ('FR', 'France');
insert into shop.currencies values ('CHF', 2), ('EUR', 2), ('JPY', 0);

create type shop.product_state as enum ('draft', 'listed', 'retired');
create domain shop.money_amount as numeric(12, 2) check (value >= 0);

create table shop.brands (
  id   uuid primary key default gen_random_uuid(),
  name text not null unique
);

create table shop.categories (
  id        uuid primary key default gen_random_uuid(),
  parent_id uuid references shop.categories on delete cascade,
  slug      text not null unique,
  title     text not null,
  position  int not null default 0,
  constraint categories_order unique (parent_id, position) deferrable initially deferred
);

create table shop.products (
  id          uuid primary key default gen_random_uuid(),
  brand_id    uuid references shop.brands on delete set null,
  sku         text not null constraint products_sku_key unique,
  name        text not null,
  description text not null default '',
  state       shop.product_state not null default 'draft',
  price       shop.money_amount not null,
  currency    text not null default 'EUR' references shop.currencies,
  attributes  jsonb not null default '{}',
  search      tsvector generated always as
                (setweight(to_tsvector('english', name), 'A') || setweight(to_tsvector('english', description), 'B')) stored,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now()
);
create index products_search on shop.products using gin (search);
create index products_attributes on shop.products using gin (attributes jsonb_path_ops);
create index products_listed on shop.products (created_at desc) where state = 'listed';

create table shop.product_categories (
  product_id  uuid references shop.products on delete cascade,
  category_id uuid references shop.categories on delete cascade,
  position    int not null default 0,
  primary key (product_id, category_id)
);
create index on shop.product_categories (category_id, position);
