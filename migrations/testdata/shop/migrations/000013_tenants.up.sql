-- November. Many shops from here on. Nothing above was written with that in mind: these lines are all it takes.
-- rowhouse:allow index     keys and indexes take the tenant in, each once; the shop is closed for the night
-- rowhouse:allow constraint foreign keys become composite, each once
-- rowhouse:allow locks     the tables refer to each other and change together

select rowhouse.reference('shop.countries');
select rowhouse.reference('shop.currencies');
select rowhouse.reference('shop.carriers');

select rowhouse.bind('shop.addresses');
select rowhouse.bind('shop.bookings');
select rowhouse.bind('shop.brands');
select rowhouse.bind('shop.categories');
select rowhouse.bind('shop.counters');
select rowhouse.bind('shop.coupon_redemptions');
select rowhouse.bind('shop.coupons');
select rowhouse.bind('shop.customer_group_members');
select rowhouse.bind('shop.customer_groups');
select rowhouse.bind('shop.customers');
select rowhouse.bind('shop.order_events');
select rowhouse.bind('shop.order_item_options');
select rowhouse.bind('shop.order_items');
select rowhouse.bind('shop.orders');
select rowhouse.bind('shop.payment_methods');
select rowhouse.bind('shop.payments');
select rowhouse.bind('shop.price_list_items');
select rowhouse.bind('shop.price_lists');
select rowhouse.bind('shop.product_categories');
select rowhouse.bind('shop.product_images');
select rowhouse.bind('shop.product_tags');
select rowhouse.bind('shop.products');
select rowhouse.bind('shop.refunds');
select rowhouse.bind('shop.review_votes');
select rowhouse.bind('shop.reviews');
select rowhouse.bind('shop.shipment_items');
select rowhouse.bind('shop.shipments');
select rowhouse.bind('shop.stock_levels');
select rowhouse.bind('shop.stock_movements');
select rowhouse.bind('shop.tags');
select rowhouse.bind('shop.ticket_messages');
select rowhouse.bind('shop.tickets');
select rowhouse.bind('shop.warehouses');

alter view shop.order_totals set (security_invoker = true);
alter view shop.bestsellers set (security_invoker = true);
grant select on shop.order_totals, shop.bestsellers to authenticated, service_role;
grant select on shop.products, shop.categories, shop.product_categories to anon;
grant usage on schema shop to anon, authenticated, service_role;
