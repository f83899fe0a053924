-- May.
create table shop.warehouses (
  code    text primary key,
  country text not null references shop.countries
);

create table shop.stock_levels (
  product_id uuid references shop.products on delete cascade,
  warehouse  text references shop.warehouses on update cascade,
  quantity   int not null default 0 check (quantity >= 0),
  primary key (product_id, warehouse)
);

create table shop.stock_movements (
  id         bigint generated always as identity primary key,
  product_id uuid not null,
  warehouse  text not null,
  delta      int not null check (delta <> 0),
  reason     text not null,
  foreign key (product_id, warehouse) references shop.stock_levels on update cascade on delete cascade
);
create index on shop.stock_movements (product_id, warehouse);

create function shop.move_stock() returns trigger
  language plpgsql
  as $$
begin
  update shop.stock_levels set quantity = quantity + new.delta where product_id = new.product_id and warehouse = new.warehouse;
  if not found then
    insert into shop.stock_levels (product_id, warehouse, quantity) values (new.product_id, new.warehouse, new.delta);
  end if;
  return new;
end
$$;
create trigger stock_moves before insert on shop.stock_movements for each row execute function shop.move_stock();

-- Products for hire: nothing is given out twice at a time.
create table shop.bookings (
  id          uuid primary key default gen_random_uuid(),
  product_id  uuid not null references shop.products on delete cascade,
  customer_id uuid not null references shop.customers on delete cascade,
  during      tstzrange not null,
  constraint bookings_no_overlap exclude using gist (product_id with =, during with &&)
);
