-- Revert nginx-commerce:75_promotions from pg

BEGIN;

DROP TABLE shop.coupon_redemption;
DROP TABLE shop.coupon;

ALTER TABLE shop.order_item DROP COLUMN discount_amount;
-- orders with cheaper shipping cannot be told without its column: the discount becomes part of the shipping
ALTER TABLE shop.orders NO FORCE ROW LEVEL SECURITY;
ALTER TABLE shop.orders DROP CONSTRAINT orders_total;
UPDATE shop.orders SET shipping_amount = shipping_amount - shipping_discount_amount WHERE shipping_discount_amount > 0;
ALTER TABLE shop.orders
    DROP COLUMN shipping_discount_amount,
    DROP COLUMN coupons,
    ADD CONSTRAINT orders_total CHECK (
        discount_amount <= subtotal_amount AND
        total_amount = subtotal_amount - discount_amount + shipping_amount
                       + CASE WHEN tax_inclusive THEN 0 ELSE tax_amount END);
ALTER TABLE shop.orders FORCE ROW LEVEL SECURITY;

COMMIT;
