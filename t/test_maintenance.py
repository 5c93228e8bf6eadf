"""Housekeeping: what is over is cleared, carts that were left are told of once, in every shop."""

from stack import wait_for


def test_a_round_for_every_shop(shop):
    with shop.db() as db:
        for tenant in (1, 2):
            db.execute("INSERT INTO shop.idempotency (tenant_id, scope, key, operation, fingerprint, status, expires_at) "
                       "VALUES (%s, 's', 'old', 'op', '\\x00', 200, now() - interval '1 second'), "
                       "       (%s, 's', 'new', 'op', '\\x00', 200, now() + interval '1 hour')", (tenant, tenant))

    customer = shop.user(tenant="demo")
    added = customer.post("/api/v1/cart/items", json={"product_id": 1})
    assert added.status_code == 201, added.text
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.cart_backup"), 10, "the cart is backed up")
    with shop.db() as db:
        db.execute("UPDATE shop.cart_backup SET updated_at = now() - interval '2 days'")

    with shop.configured(http="commerce_maintenance 200ms;"):
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.idempotency WHERE key = 'old'") == 0, 15,
                 "expired records are gone")
        wait_for(lambda: shop.value("SELECT count(*) FROM event.outbox WHERE topic = 'cart.abandoned'"), 15,
                 "the abandoned cart is told of")
        first = shop.value("SELECT max(created_at) FROM shop.idempotency")
        # several rounds later it is still one event
        with shop.db() as db:
            db.execute("INSERT INTO shop.idempotency (tenant_id, scope, key, operation, fingerprint, expires_at) "
                       "VALUES (2, 's', 'old', 'op', '\\x00', now() - interval '1 second')")
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.idempotency WHERE key = 'old'") == 0, 15, "another round")
        assert first is not None

    assert shop.value("SELECT count(*) FROM event.outbox WHERE topic = 'cart.abandoned'") == 1
    assert shop.value("SELECT count(*) FROM shop.idempotency WHERE key = 'new'") == 2
    # tomorrow has its partition already
    assert shop.value("SELECT to_regclass('event.outbox_' || to_char(current_date + 1, 'YYYYMMDD')) IS NOT NULL")
