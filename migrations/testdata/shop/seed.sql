-- One shop's data. {{v}} is a word of the shop's own that stands in its texts, {{n}} a number that its prices differ by. The keys are the
-- same in every shop: what is unique in one shop must be free in the next.
insert into shop.brands select md5('brand' || i)::uuid, '{{v}} brand ' || i from generate_series(1, 4) i;
insert into shop.categories (id, parent_id, slug, title, position)
  select md5('cat' || i)::uuid, case when i > 2 then md5('cat' || i / 3)::uuid end, 'c' || i, '{{v}} category ' || i, i from generate_series(1, 12) i;
insert into shop.products (id, brand_id, sku, name, description, state, price, currency, attributes, created_at)
  select md5('product' || i)::uuid, case when i % 5 > 0 then md5('brand' || i % 5)::uuid end, 'SKU-' || i,
    (array['red lamp', 'green chair', 'wooden table', 'running shoes', 'paper lantern'])[1 + i % 5] || ' ' || i || ' {{v}}',
    case when i % 2 = 0 then 'A lamp for every table, made of wood' else 'Running with chairs' end,
    (enum_range(null::shop.product_state))[1 + i % 3], i * 1.25 + {{n}}, (array['EUR', 'CHF', 'JPY'])[1 + i % 3],
    jsonb_build_object('size', i % 4, 'shop', '{{v}}'), timestamptz '2025-01-01 00:00+00' + i * interval '3 days'
  from generate_series(1, 60) i;
insert into shop.product_categories select md5('product' || i)::uuid, md5('cat' || 1 + i % 12)::uuid, i from generate_series(1, 60) i;
insert into shop.product_categories select md5('product' || i)::uuid, md5('cat' || 1 + (i + 5) % 12)::uuid, i from generate_series(1, 30) i;
insert into shop.product_images select md5('product' || i)::uuid, p, 'https://{{v}}.example/' || i || '/' || p, 'picture ' || p from generate_series(1, 20) i, generate_series(1, 2) p;
insert into shop.tags values ('new', 'green'), ('sale', 'red'), ('{{v}}', 'blue');
insert into shop.product_tags select md5('product' || i)::uuid, (array['new', 'sale', '{{v}}'])[1 + i % 3] from generate_series(1, 45) i;
insert into shop.customers (id, email, name, country, birthday, created_at)
  select md5('customer' || i)::uuid, 'Person' || i || '@example.com', '{{v}} person ' || i, (array['AT', 'CH', 'DE', 'FR'])[1 + i % 4],
    date '1980-01-01' + i * 100, timestamptz '2025-02-01 00:00+00' + i * interval '1 hour' from generate_series(1, 25) i;
insert into shop.addresses (id, customer_id, kind, street, city, country)
  select md5('address' || i || k)::uuid, md5('customer' || i)::uuid, k, '{{v}} street ' || i, 'Town ' || i % 3, 'AT' from generate_series(1, 25) i, unnest(array['billing', 'shipping']) k;
insert into shop.customer_groups values ('vip', 10 + {{n}}), ('staff', 25);
insert into shop.customer_group_members select case when i % 2 = 0 then 'vip' else 'staff' end, md5('customer' || i)::uuid, date '2025-03-01' from generate_series(1, 10) i;
insert into shop.orders (id, number, customer_id, state, placed_at)
  select md5('order' || i)::uuid, shop.next_number('orders'), md5('customer' || 1 + i % 25)::uuid,
    (enum_range(null::shop.order_state))[1 + i % 5], timestamptz '2025-06-01 12:00+00' + i * interval '5 days' from generate_series(1, 80) i;
insert into shop.order_items (order_id, line, product_id, title, quantity, unit_price, discount)
  select md5('order' || i)::uuid, l, md5('product' || 1 + (i * l) % 60)::uuid, '{{v}} item ' || l, 1 + (i + l) % 4, (i % 7) + l + {{n}}, (i % 2)
  from generate_series(1, 80) i, generate_series(1, 3) l where (i + l) % 4 > 0;
insert into shop.order_item_options select order_id, line, 'color', (array['red', 'blue'])[1 + line % 2] from shop.order_items where line < 3;
insert into shop.payment_methods select md5('method' || i)::uuid, md5('customer' || i)::uuid, 'card', 'tok-' || i from generate_series(1, 25) i;
insert into shop.payments (id, order_id, method_id, customer_id, amount, reference, paid_at)
  select md5('payment' || i)::uuid, md5('order' || i)::uuid, md5('method' || 1 + i % 25)::uuid, md5('customer' || 1 + i % 25)::uuid, i + {{n}}, 'ref-' || i,
    timestamptz '2025-07-01 00:00+00' + i * interval '1 day' from generate_series(1, 60) i where i % 5 in (2, 3);
insert into shop.refunds select id, 1, 1, '{{v}} did not like it' from shop.payments where amount > 40;
insert into shop.warehouses (code, country) values ('north', 'DE'), ('south', 'AT');
insert into shop.stock_movements (product_id, warehouse, delta, reason)
  select md5('product' || i)::uuid, (array['north', 'south'])[1 + i % 2], 10 + i % 5 + {{n}}, 'delivery' from generate_series(1, 60) i;
insert into shop.stock_movements (product_id, warehouse, delta, reason)
  select md5('product' || i)::uuid, (array['north', 'south'])[1 + i % 2], -(i % 5) - 1, 'sale' from generate_series(1, 40) i;
insert into shop.bookings select md5('booking' || i)::uuid, md5('product' || 1 + i % 5)::uuid, md5('customer' || i)::uuid,
    tstzrange(timestamptz '2025-09-01 00:00+00' + i * interval '1 day', timestamptz '2025-09-02 00:00+00' + i * interval '1 day') from generate_series(1, 10) i;
insert into shop.reviews (id, product_id, customer_id, stars, body, written_at)
  select md5('review' || i)::uuid, md5('product' || 1 + i % 20)::uuid, md5('customer' || 1 + i / 2)::uuid, 1 + (i + {{n}}) % 5,
    case when i % 3 = 0 then 'The lamps of {{v}} shine brightly' else 'Broke after running once' end, timestamptz '2025-08-01 00:00+00' + i * interval '1 hour' from generate_series(1, 40) i;
insert into shop.review_votes select md5('review' || i)::uuid, md5('customer' || c)::uuid, (i + c) % 3 > 0 from generate_series(1, 20) i, generate_series(1, 4) c;
insert into shop.coupons (id, code, percent, amount, active) values (md5('coupon1')::uuid, 'Summer', 10 + {{n}}, null, true), (md5('coupon2')::uuid, 'summer', 5, null, false), (md5('coupon3')::uuid, 'FIVE', null, 5, true);
insert into shop.coupon_redemptions select md5('coupon1')::uuid, md5('order' || i)::uuid from generate_series(1, 9) i;
insert into shop.price_lists values (md5('list1')::uuid, '{{v}} vip', 'vip'), (md5('list2')::uuid, 'staff', 'staff');
insert into shop.price_list_items select md5('list' || l)::uuid, md5('product' || i)::uuid, daterange('2025-01-01', '2026-01-01'), i + l + {{n}} from generate_series(1, 20) i, generate_series(1, 2) l;
insert into shop.tickets (id, number, customer_id, order_id, subject, opened_at, closed_at)
  select md5('ticket' || i)::uuid, shop.next_number('tickets'), md5('customer' || 1 + i % 25)::uuid, md5('order' || i)::uuid, '{{v}} broken ' || i,
    timestamptz '2025-09-01 00:00+00' + i * interval '1 day', case when i % 3 = 0 then timestamptz '2025-10-20 00:00+00' end from generate_series(1, 15) i;
insert into shop.ticket_messages (ticket_id, position, reply_to, author, body)
  select md5('ticket' || i)::uuid, p, nullif(p - 1, 0), (array['customer', 'support'])[1 + p % 2], 'The {{v}} lamp number ' || i || ' fell over, message ' || p from generate_series(1, 15) i, generate_series(1, 3) p;
insert into shop.shipments (id, order_id, carrier, tracking, shipped_at)
  select md5('shipment' || i)::uuid, md5('order' || i)::uuid, (array['post', 'rail'])[1 + i % 2], 'T' || i, timestamptz '2025-10-01 00:00+00' from generate_series(1, 80) i where i % 5 = 3;
insert into shop.shipment_items select md5('shipment' || i)::uuid, order_id, line, quantity from shop.order_items join generate_series(1, 80) i on order_id = md5('order' || i)::uuid where i % 5 = 3;
