-- March. Orders are numbered without gaps, by a counter of our own.
create type shop.order_state as enum ('cart', 'placed', 'paid', 'shipped', 'cancelled');

create table shop.counters (
  name  text primary key,
  value bigint not null default 0
);

create function shop.next_number(counter text) returns bigint
  language sql
  as $$
    insert into shop.counters as c (name, value) values (counter, 1)
    on conflict on constraint counters_pkey do update set value = c.value + 1
    returning value
  $$;

create table shop.orders (
  id          uuid primary key default gen_random_uuid(),
  number      bigint not null unique,
  customer_id uuid not null references shop.customers on delete restrict,
  state       shop.order_state not null default 'cart',
  currency    text not null default 'EUR' references shop.currencies,
  note        text,
  placed_at   timestamptz,
  check (state = 'cart' or placed_at is not null)
);
create index orders_customer on shop.orders (customer_id, placed_at desc nulls last) include (state);

create table shop.order_items (
  order_id   uuid not null references shop.orders on delete cascade,
  line       int not null check (line > 0),
  product_id uuid references shop.products on delete set null,
  title      text not null,
  quantity   int not null check (quantity > 0),
  unit_price shop.money_amount not null,
  discount   shop.money_amount not null default 0,
  total      numeric(12, 2) generated always as (quantity * unit_price::numeric - discount::numeric) stored,
  primary key (order_id, line)
);
create index on shop.order_items (product_id) where product_id is not null;

create table shop.order_item_options (
  order_id uuid not null,
  line     int not null,
  name     text not null,
  value    text not null,
  primary key (order_id, line, name),
  foreign key (order_id, line) references shop.order_items on update cascade on delete cascade
);

-- One row for whatever happens to an order; it grows without end, hence the partitions.
create table shop.order_events (
  order_id uuid not null references shop.orders on delete cascade,
  at       timestamptz not null,
  event    text not null,
  detail   jsonb not null default '{}',
  primary key (order_id, at)
) partition by range (at);
create table shop.order_events_2025 partition of shop.order_events for values from ('2025-01-01 00:00+00') to ('2026-01-01 00:00+00');
create table shop.order_events_2026 partition of shop.order_events for values from ('2026-01-01 00:00+00') to ('2027-01-01 00:00+00');
create table shop.order_events_rest partition of shop.order_events default;
create index order_events_at on shop.order_events (at);
create index order_events_at_brin on shop.order_events using brin (at);

create function shop.log_order() returns trigger
  language plpgsql
  as $$
begin
  if tg_op = 'INSERT' or old.state is distinct from new.state then
    insert into shop.order_events (order_id, at, event, detail)
    values (new.id, coalesce(new.placed_at, 'epoch') + make_interval(secs => (select count(*) from shop.order_events e where e.order_id = new.id)),
            new.state::text, jsonb_build_object('number', new.number));
  end if;
  return null;
end
$$;
create trigger orders_log after insert or update on shop.orders for each row execute function shop.log_order();
