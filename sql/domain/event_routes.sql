-- Made by scripts/contract events of api/asyncapi.yaml: change it there.

-- Types of events, with the topic and the consumers of each.
CREATE OR REPLACE FUNCTION domain.event_types() RETURNS TABLE (type text, ce_type text, topic text, consumers text[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    VALUES ('shop.order.completed.v1', 'shop.order.completed.v1', 'order.completed', '{consumer.recommend_signal,consumer.webhooks}'::text[]),
           ('shop.review.created.v1', 'shop.review.created.v1', 'review.created', '{consumer.recommend_signal,consumer.webhooks}'::text[]),
           ('shop.user.interaction.v1', 'shop.user.interaction.v1', 'user.interaction', '{consumer.recommend_signal}'::text[]),
           ('shop.cart.updated.v1', 'shop.cart.updated.v1', 'cart.updated', '{consumer.recommend_signal}'::text[]),
           ('shop.cart.abandoned.v1', 'shop.cart.abandoned.v1', 'cart.abandoned', '{consumer.webhooks}'::text[]),
           ('ProductCreated', 'shop.product.created.v1', 'product-events', '{consumer.webhooks}'::text[]),
           ('ProductUpdated', 'shop.product.updated.v1', 'product-events', '{consumer.webhooks}'::text[]),
           ('ProductDeleted', 'shop.product.deleted.v1', 'product-events', '{consumer.webhooks}'::text[]),
           ('ReviewUpdated', 'shop.review.updated.v1', 'product-events', '{consumer.webhooks}'::text[]),
           ('ReviewApproved', 'shop.review.approved.v1', 'product-events', '{consumer.webhooks}'::text[]),
           ('ReviewRejected', 'shop.review.rejected.v1', 'product-events', '{consumer.webhooks}'::text[]),
           ('ReviewDeleted', 'shop.review.deleted.v1', 'product-events', '{consumer.webhooks}'::text[]),
           ('OrderCreated', 'shop.order.created.v1', 'order-events', '{consumer.webhooks}'::text[]),
           ('OrderConfirmed', 'shop.order.confirmed.v1', 'order-events', '{consumer.webhooks,consumer.notify_order}'::text[]),
           ('OrderPaymentReview', 'shop.order.payment-review.v1', 'order-events', '{consumer.webhooks}'::text[]),
           ('OrderCancelled', 'shop.order.cancelled.v1', 'order-events', '{consumer.webhooks,consumer.inventory_order,consumer.notify_order,consumer.recommend_signal}'::text[]),
           ('OrderProcessing', 'shop.order.processing.v1', 'order-events', '{consumer.webhooks}'::text[]),
           ('OrderShipped', 'shop.order.shipped.v1', 'order-events', '{consumer.webhooks,consumer.notify_order}'::text[]),
           ('OrderDelivered', 'shop.order.delivered.v1', 'order-events', '{consumer.webhooks,consumer.notify_order}'::text[]),
           ('PaymentProcessed', 'shop.payment.processed.v1', 'payment-events', '{consumer.webhooks}'::text[]),
           ('PaymentFailed', 'shop.payment.failed.v1', 'payment-events', '{consumer.webhooks}'::text[]),
           ('PaymentAuthorized', 'shop.payment.authorized.v1', 'payment-events', '{consumer.webhooks}'::text[]),
           ('PaymentVoided', 'shop.payment.voided.v1', 'payment-events', '{consumer.webhooks}'::text[]),
           ('PaymentRefunded', 'shop.payment.refunded.v1', 'payment-events', '{consumer.webhooks,consumer.notify_order}'::text[]),
           ('PaymentRefundFailed', 'shop.payment.refund-failed.v1', 'payment-events', '{consumer.webhooks}'::text[]),
           ('InitiateCheckoutCommand', 'InitiateCheckoutCommand', 'checkout.checkout-command', '{consumer.saga_command}'::text[]),
           ('checkout.ProcessPayment', 'ProcessPayment', 'checkout.payment-command', '{consumer.saga_command}'::text[]),
           ('checkout.CompensatePayment', 'CompensatePayment', 'checkout.payment-command', '{consumer.saga_command}'::text[]),
           ('checkout.CreateOrder', 'CreateOrder', 'checkout.order-command', '{consumer.saga_command}'::text[]),
           ('checkout.ClearCart', 'ClearCart', 'checkout.cart-command', '{consumer.saga_command}'::text[]),
           ('checkout.CompensateInventory', 'CompensateInventory', 'checkout.inventory-command', '{consumer.inventory_order}'::text[]),
           ('checkout.OrderCreated', 'OrderCreated', 'checkout.checkout-events', '{}'::text[]),
           ('checkout.OrderCreationFailed', 'OrderCreationFailed', 'checkout.checkout-events', '{}'::text[]),
           ('checkout.PaymentProcessed', 'PaymentProcessed', 'checkout.checkout-events', '{}'::text[]),
           ('checkout.PaymentFailed', 'PaymentFailed', 'checkout.checkout-events', '{}'::text[]),
           ('checkout.CartCleared', 'CartCleared', 'checkout.checkout-events', '{}'::text[]),
           ('checkout.CartClearanceFailed', 'CartClearanceFailed', 'checkout.checkout-events', '{}'::text[]),
           ('InventoryReserved', 'shop.inventory.reserved.v1', 'inventory-events', '{consumer.webhooks}'::text[]),
           ('InventoryAdjusted', 'shop.inventory.adjusted.v1', 'inventory-events', '{consumer.webhooks}'::text[]),
           ('InventoryDeducted', 'shop.inventory.deducted.v1', 'inventory-events', '{consumer.webhooks}'::text[]),
           ('InventoryReleased', 'shop.inventory.released.v1', 'inventory-events', '{consumer.webhooks}'::text[]),
           ('InventoryLow', 'shop.inventory.low.v1', 'inventory-events', '{consumer.webhooks}'::text[]),
           ('NotificationRequested', 'shop.notification.requested.v1', 'notifications', '{consumer.notification_request}'::text[]),
           ('NotificationSent', 'shop.notification.sent.v1', 'notification-events', '{consumer.webhooks}'::text[]),
           ('NotificationFailed', 'shop.notification.failed.v1', 'notification-events', '{consumer.webhooks}'::text[]),
           ('NotificationExpired', 'shop.notification.expired.v1', 'notification-events', '{consumer.webhooks}'::text[]),
           ('NotificationSuppressed', 'shop.notification.suppressed.v1', 'notification-events', '{consumer.webhooks}'::text[]),
           ('UserErased', 'shop.user.erased.v1', 'user-events', '{consumer.webhooks}'::text[]),
           ('DeadLettered', 'shop.dead-letter.v1', 'dead-letters', '{}'::text[])
$$;

-- All topics, those too of which nobody here tells.
CREATE OR REPLACE FUNCTION domain.event_topics() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT '{order.completed,review.created,user.interaction,cart.updated,cart.abandoned,product-events,order-events,payment-events,checkout.checkout-command,checkout.payment-command,checkout.order-command,checkout.cart-command,checkout.inventory-command,checkout.checkout-events,inventory-events,notifications,notification-events,user-events,dead-letters}'::text[]
$$;

-- Whether a consumer wants events of a type just now, in the context of the tenant: what its function (x-wanted) says, else yes.
CREATE OR REPLACE FUNCTION domain.event_wanted(consumer text, type text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    CASE consumer
        WHEN 'consumer.webhooks' THEN RETURN consumer.webhooks_wanted(type);
        ELSE RETURN true;
    END CASE;
END
$$;

-- Hands an event to a consumer.
CREATE OR REPLACE FUNCTION domain.event_dispatch(consumer text, m event.message) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    CASE consumer
        WHEN 'consumer.recommend_signal' THEN PERFORM consumer.recommend_signal(m);
        WHEN 'consumer.webhooks' THEN PERFORM consumer.webhooks(m);
        WHEN 'consumer.notify_order' THEN PERFORM consumer.notify_order(m);
        WHEN 'consumer.inventory_order' THEN PERFORM consumer.inventory_order(m);
        WHEN 'consumer.saga_command' THEN PERFORM consumer.saga_command(m);
        WHEN 'consumer.notification_request' THEN PERFORM consumer.notification_request(m);
        ELSE RAISE EXCEPTION USING ERRCODE = '42883', MESSAGE = 'There is no consumer ' || consumer || ' in api/asyncapi.yaml.';
    END CASE;
END
$$;

-- Hands events of one tenant to a consumer, in their order: at once to one that takes many (x-many), else each in its own context.
CREATE OR REPLACE FUNCTION domain.event_dispatch_many(consumer text, ms event.message[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    m  event.message;
BEGIN
    CASE consumer
        WHEN 'consumer.notify_order' THEN PERFORM consumer.notify_orders(ms);
        ELSE
            FOREACH m IN ARRAY ms LOOP
                PERFORM domain.event_context(m.tenant_id, m.correlation_id, m.traceparent);
                PERFORM domain.event_dispatch(consumer, m);
            END LOOP;
    END CASE;
END
$$;
