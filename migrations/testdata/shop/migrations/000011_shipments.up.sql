-- October. Carriers are the same for everybody; what they carry is not.
create table shop.carriers (
  code text primary key,
  name text not null
);
insert into shop.carriers values ('post', 'Post'), ('rail', 'Rail');

create table shop.shipments (
  id         uuid primary key default gen_random_uuid(),
  order_id   uuid not null references shop.orders on delete cascade,
  carrier    text not null references shop.carriers,
  tracking   text,
  shipped_at timestamptz,
  unique (carrier, tracking),
  unique (id, order_id)
);
create table shop.shipment_items (
  shipment_id uuid not null,
  order_id    uuid not null,
  line        int not null,
  quantity    int not null check (quantity > 0),
  primary key (shipment_id, line),
  foreign key (shipment_id, order_id) references shop.shipments (id, order_id) on delete cascade,
  foreign key (order_id, line) references shop.order_items (order_id, line) on update cascade on delete cascade
);
