-- April.
create table shop.payment_methods (
  id          uuid primary key default gen_random_uuid(),
  customer_id uuid not null references shop.customers on delete cascade,
  kind        text not null,
  token       text not null,
  unique (customer_id, token),
  unique (id, customer_id)
);

create table shop.payments (
  id          uuid primary key default gen_random_uuid(),
  order_id    uuid not null references shop.orders on delete restrict,
  method_id   uuid,
  customer_id uuid not null,
  amount      shop.money_amount not null,
  reference   text unique,
  paid_at     timestamptz not null,
  -- A payment is made with a method of the same customer; the method may go, the payment stays.
  constraint payments_method foreign key (method_id, customer_id) references shop.payment_methods (id, customer_id)
    on delete set null (method_id)
);
create index on shop.payments (order_id);

create table shop.refunds (
  payment_id uuid not null references shop.payments deferrable initially deferred,
  number     int not null,
  amount     shop.money_amount not null,
  reason     text not null,
  primary key (payment_id, number)
);
