"""Carts through the edge: guests and customers, Redis and PostgreSQL, both lost in turn."""

import concurrent.futures
import uuid

import pytest

from stack import wait_for
from test_health import told

CART = "/api/v1/cart"
ITEMS = "/api/v1/cart/items"

# products of our own: 900001 … are of tenant 1, with one variant of the same id; 900004 has two
CATALOGUE = """
INSERT INTO shop.location (tenant_id, id, code, name) VALUES (1, 900000, 'cart', 'Cart test');
INSERT INTO shop.product (tenant_id, id, slug, name, image)
SELECT 1, n, 'cart-' || n, 'Cart ' || n, 'i.png' FROM generate_series(900001, 900004) n;
INSERT INTO shop.variant (tenant_id, id, product_id, sku, price_amount)
SELECT 1, n, least(n, 900004), 'CART-' || n, 1000 FROM generate_series(900001, 900005) n;
INSERT INTO shop.stock (tenant_id, variant_id, location_id, product_id, on_hand, allow_backorder)
SELECT 1, n, 900000, least(n, 900004), 10, n = 900002 FROM generate_series(900001, 900005) n;
"""
PLAIN, BACKORDER, OTHER, SEVERAL = 900001, 900002, 900003, 900004


@pytest.fixture(scope="module")
def shop(shop):
    with shop.db() as db:
        db.execute(CATALOGUE)
    return shop


@pytest.fixture
def guest(shop):
    """A guest with a token of their own."""
    edge = shop.edge()
    edge.headers["X-Cart-Token"] = edge.get(CART).headers["X-Cart-Token"]
    yield edge
    edge.close()


@pytest.fixture
def buyer(shop):
    """A customer of their own."""
    user = uuid.uuid4()
    edge = shop.edge(token=shop.token(user))
    edge.user_id = str(user)
    yield edge
    edge.close()


def add(edge, product, quantity=1, **more):
    return edge.post(ITEMS, json={"product_id": product, "quantity": quantity}, **more)


def lines(edge):
    return {item["product_id"]: item["quantity"] for item in edge.get(CART).json()["items"]}


def backup(shop, edge):
    rows = shop.rows("SELECT * FROM shop.cart_backup WHERE tenant_id = 1 AND owner = %s", f"u:{edge.user_id}")
    return rows[0] if rows else None


def saved(shop, edge):
    """The write-behind has brought the cart that the edge shows."""
    version = edge.get(CART).json()["version"]
    wait_for(lambda: (row := backup(shop, edge)) and row["version"] == version, 10, "the cart is in PostgreSQL")


# ---- what a cart does ----

def test_a_customer_fills_changes_and_empties(buyer):
    answer = add(buyer, PLAIN, 2)
    assert answer.status_code == 201
    assert answer.json()["item"]["line_total"] == {"amount": 2000, "currency": "USD"}
    assert add(buyer, BACKORDER, 50).status_code == 201
    cart = buyer.get(CART).json()
    assert cart["id"] == answer.json()["cart"]["id"] and cart["subtotal"]["amount"] == 52000
    assert cart["total"]["amount"] == (cart["subtotal"]["amount"] - cart["discount"]["amount"]
                                       + cart["shipping"]["amount"]
                                       + (0 if cart["tax_inclusive"] else cart["tax"]["amount"]))
    assert buyer.put(f"{ITEMS}/{PLAIN}", json={"quantity": 1}).json()["cart"]["quantity"] == 51
    assert buyer.delete(f"{ITEMS}/{BACKORDER}").json()["item"]["quantity"] == 50
    assert lines(buyer) == {PLAIN: 1}
    assert buyer.delete(CART).json()["cart"]["item_count"] == 0
    assert lines(buyer) == {}


def test_guests_get_a_token_and_do_not_meet(shop, guest):
    add(guest, PLAIN)
    other = shop.edge().post(ITEMS, json={"product_id": OTHER})
    assert other.headers["X-Cart-Token"] != guest.headers["X-Cart-Token"]
    assert other.json()["cart"]["item_count"] == 1 and lines(guest) == {PLAIN: 1}


def test_never_more_than_available(buyer):
    add(buyer, PLAIN, 8)
    answer = add(buyer, PLAIN, 3)
    assert answer.status_code == 409
    assert answer.json()["code"] == "out-of-stock" and answer.json()["available"] == 10
    assert buyer.put(f"{ITEMS}/{PLAIN}", json={"quantity": 11}).status_code == 409
    assert lines(buyer) == {PLAIN: 8}


@pytest.mark.parametrize("body, status", [
    ({"product_id": PLAIN, "quantity": 0}, 422), ({"product_id": PLAIN, "quantity": -1}, 422),
    ({"product_id": PLAIN, "quantity": 10000}, 422), ({"product_id": PLAIN, "quantity": 1.5}, 422),
    ({"product_id": PLAIN, "unit_price": 1}, 422), ({"product_id": 999999999}, 404), ({"product_id": SEVERAL}, 422),
    ({"product_id": PLAIN, "variant_id": BACKORDER}, 404), ({}, 422)])
def test_refused(buyer, body, status):
    assert buyer.post(ITEMS, json=body).status_code == status
    assert lines(buyer) == {}


def test_a_variant_of_several(buyer):
    assert buyer.post(ITEMS, json={"product_id": SEVERAL, "variant_id": 900005}).json()["item"]["id"] == 900005


def test_unknown_items(buyer):
    assert buyer.put(f"{ITEMS}/{PLAIN}", json={"quantity": 1}).status_code == 404
    assert buyer.delete(f"{ITEMS}/{PLAIN}").status_code == 404


def test_an_idempotent_add_counts_once(buyer):
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first, again = add(buyer, PLAIN, headers=key), add(buyer, PLAIN, headers=key)
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert add(buyer, PLAIN, 2, headers=key).json()["code"] == "idempotency-key-reused"
    assert lines(buyer) == {PLAIN: 1}


def test_parallel_adds_are_all_there_and_no_more(buyer):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        codes = [f.result().status_code for f in [pool.submit(add, buyer, PLAIN) for _ in range(30)]]
    assert codes.count(201) == 10 and codes.count(409) == 20
    assert lines(buyer) == {PLAIN: 10}


def test_the_view_tells_what_has_changed(shop, buyer):
    for product in (PLAIN, OTHER):
        add(buyer, product, 5)
    with shop.db() as db:
        db.execute("UPDATE shop.variant SET price_amount = 1200 WHERE tenant_id = 1 AND id = %s", (PLAIN,))
        db.execute("UPDATE shop.stock SET on_hand = 3 WHERE tenant_id = 1 AND variant_id = %s", (OTHER,))
    try:
        cart = buyer.get(CART).json()
    finally:
        with shop.db() as db:
            db.execute("UPDATE shop.variant SET price_amount = 1000 WHERE tenant_id = 1 AND id = %s", (PLAIN,))
            db.execute("UPDATE shop.stock SET on_hand = 10 WHERE tenant_id = 1 AND variant_id = %s", (OTHER,))
    assert cart["changed"] is True and cart["subtotal"]["amount"] == 5 * 1200 + 5 * 1000
    dearer, scarce = cart["items"]
    assert dearer["notices"] == ["price-changed"] and dearer["previous_unit_price"]["amount"] == 1000
    assert scarce["notices"] == ["insufficient-stock"] and scarce["available"] == 3


# ---- backup and recovery ----

def test_changes_reach_postgresql_and_the_outbox(shop, buyer):
    add(buyer, PLAIN, 2)
    buyer.delete(f"{ITEMS}/{PLAIN}")
    saved(shop, buyer)
    events = shop.rows("SELECT topic, payload::json AS payload FROM event.outbox WHERE aggregate_id = %s ORDER BY id", f"u:{buyer.user_id}")
    assert [(e["topic"], e["payload"]["action"], e["payload"]["affected_product_id"]) for e in events] == [
        ("cart.updated", "add", PLAIN), ("cart.updated", "remove", PLAIN)]
    assert events[0]["payload"]["user_id"] == buyer.user_id


def test_carts_come_back_after_redis_was_wiped(shop, buyer):
    add(buyer, PLAIN, 2)
    before = buyer.get(CART).json()
    saved(shop, buyer)
    shop.flush_redis()
    assert buyer.get(CART).json() == before
    assert add(buyer, PLAIN).json()["cart"]["id"] == before["id"]
    assert lines(buyer) == {PLAIN: 3}


def test_an_expired_backup_does_not_come_back(shop, buyer):
    add(buyer, PLAIN)
    saved(shop, buyer)
    with shop.db() as db:
        db.execute("UPDATE shop.cart_backup SET updated_at = now() - interval '8 days' WHERE owner = %s",
                   (f"u:{buyer.user_id}",))
    shop.flush_redis()
    assert lines(buyer) == {}
    version = add(buyer, OTHER).json()["cart"]["version"]
    assert version == 2
    # nobody meets an old row
    saved(shop, buyer)


def test_an_ordered_cart_is_replaced_at_the_next_view(shop, buyer):
    """A worker died between an order's commit and the clearing of its cart."""
    cart = add(buyer, PLAIN).json()["cart"]["id"]
    with shop.db() as db:
        db.execute("INSERT INTO shop.orders (tenant_id, id, cart_id, number, user_id, status, currency, tax_inclusive, "
                   "subtotal_amount, discount_amount, tax_amount, shipping_amount, total_amount, payment_method, timeline) "
                   "VALUES (1, %s, %s, %s, %s, 'confirmed', 'USD', false, 0, 0, 0, 0, 0, 'manual', '[]')",
                   (uuid.uuid4(), cart, str(uuid.uuid4()), buyer.user_id))
    seen = buyer.get(CART).json()
    assert seen["items"] == [] and seen["ordered_cart_id"] == cart
    assert buyer.get(CART).json()["ordered_cart_id"] is None
    assert add(buyer, PLAIN).json()["cart"]["id"] != cart


def test_the_sweep_tells_of_an_abandoned_cart_once(shop, buyer):
    add(buyer, PLAIN)
    saved(shop, buyer)
    # the housekeeping does not see it before it was told of
    with shop.db() as db, db.transaction():
        db.execute("UPDATE shop.cart_backup SET updated_at = now() - interval '2 days' WHERE owner = %s",
                   (f"u:{buyer.user_id}",))
        db.execute("SET ROLE commerce_edge")
        assert db.execute("SELECT api.cart_sweep() AS n").fetchone()["n"] == 1
        assert db.execute("SELECT api.cart_sweep() AS n").fetchone()["n"] == 0
    assert shop.value("SELECT count(*) FROM event.outbox WHERE topic = 'cart.abandoned' AND aggregate_id = %s",
                      f"u:{buyer.user_id}") == 1


def test_quit_saves_what_waits(shop, buyer):
    with shop.configured(replace=[(r"commerce_redis_backup_interval\s+\S+;", "commerce_redis_backup_interval 1h;")]):
        add(buyer, PLAIN, 4)
        assert backup(shop, buyer) is None
    assert backup(shop, buyer)["document"]["items"][0]["quantity"] == 4


# ---- merging ----

def test_merge_sums_caps_and_is_safe_to_repeat(shop, guest, buyer):
    add(guest, PLAIN, 6)
    add(guest, OTHER, 1)
    add(buyer, PLAIN, 7)
    token = {"X-Cart-Token": guest.headers["X-Cart-Token"]}
    for _ in range(2):
        answer = buyer.post(CART + "/merge", headers=token)
        assert answer.status_code == 200, answer.text
        assert {i["product_id"]: i["quantity"] for i in answer.json()["items"]} == {PLAIN: 10, OTHER: 1}
    assert lines(guest) == {}


def test_login_merges(shop, guest):
    add(guest, PLAIN, 3)
    customer = shop.edge()
    customer.headers["X-Cart-Token"] = guest.headers["X-Cart-Token"]
    before = lines(shop.user()).get(PLAIN, 0)
    customer.login("test@example.com")
    assert lines(customer) == {**lines(shop.user()), PLAIN: before + 3}
    assert lines(guest) == {}
    customer.login("test@example.com")
    assert lines(customer)[PLAIN] == before + 3


def test_parallel_merges_are_one(shop, guest, buyer):
    add(guest, OTHER, 2)
    token = {"X-Cart-Token": guest.headers["X-Cart-Token"]}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: buyer.post(CART + "/merge", headers=token).status_code, range(8)))
    assert set(answers) == {200} and lines(buyer) == {OTHER: 2}


def test_merge_without_a_guest_cart(buyer):
    add(buyer, PLAIN)
    assert buyer.post(CART + "/merge").json()["items"][0]["quantity"] == 1


# ---- Redis away ----

@pytest.mark.slow
def test_carts_go_on_without_redis_and_their_changes_win(shop, buyer):
    add(buyer, PLAIN, 2)
    saved(shop, buyer)
    shop.redis().save()                     # so that an older copy is there when it comes back
    shop.kill("redis")
    try:
        wait_for(lambda: buyer.get(CART).status_code == 200, 10, "carts are served by PostgreSQL")
        key = {"Idempotency-Key": str(uuid.uuid4())}
        assert add(buyer, PLAIN, 3, headers=key).status_code == 201
        assert add(buyer, PLAIN, 3, headers=key).headers["Idempotent-Replayed"] == "true"
        assert add(buyer, PLAIN, 6).status_code == 409
        assert buyer.post(ITEMS, json={"product_id": OTHER}).json()["item"]["quantity"] == 1
        assert buyer.put(f"{ITEMS}/{OTHER}", json={"quantity": 2}).status_code == 200
        assert backup(shop, buyer)["redis_stale"] is True
    finally:
        shop.start("redis")
        # this file's carts would come again with each later start, in another file's shop
        (shop.folder / "redis" / "dump.rdb").unlink()
    wait_for(lambda: backup(shop, buyer)["redis_stale"] is False, 15, "the mark is off")
    assert lines(buyer) == {PLAIN: 5, OTHER: 2}
    changed = add(buyer, OTHER).json()["cart"]
    assert changed["quantity"] == 8
    # one of them may have been without it until now
    wait_for(lambda: shop.redis().hget(f"cart:{{1:u:{buyer.user_id}}}", "v") == str(changed["version"]), 15, "Redis has the change")
    wait_for(lambda: told(shop, "/health/ready", "status") == {(200, "ready")}, 15, "both workers use Redis")
    with shop.each_worker(token=shop.token(buyer.user_id)) as edges:
        assert [lines(edge) for edge in edges.values()] == [{PLAIN: 5, OTHER: 3}] * 2


def test_a_merge_without_redis(shop, guest, buyer):
    with shop.configured(replace=[(r"commerce_redis\s+\S[^;]*;", "commerce_redis off;")]):
        add(guest, PLAIN, 6)
        add(buyer, PLAIN, 7)
        token = {"X-Cart-Token": guest.headers["X-Cart-Token"]}
        for _ in range(2):
            assert buyer.post(CART + "/merge", headers=token).json()["items"][0]["quantity"] == 10
        assert lines(guest) == {}
        assert buyer.delete(CART).json()["cart"]["item_count"] == 0
    # the rows go on in Redis
    assert lines(buyer) == {} and add(buyer, PLAIN).status_code == 201


def test_a_reload_sends_no_cart_to_postgresql(shop, buyer):
    shop.reload()
    for _ in range(4):
        assert add(buyer, BACKORDER).status_code == 201
    saved(shop, buyer)
    assert backup(shop, buyer)["version"] < 1000


def test_a_checkout_tells_once_of_its_cart(shop):
    """In its own transaction; the write-behind that follows says nothing more."""
    user, token = shop.customers(1)[0]
    customer = shop.edge(token=token)
    assert add(customer, PLAIN).status_code == 201
    owner = f"u:{user}"
    wait_for(lambda: shop.rows("SELECT FROM shop.cart_backup WHERE owner = %s", owner), 10, "the cart is backed up")
    assert customer.post("/api/v1/checkout", json={}).status_code == 201
    wait_for(lambda: shop.value("SELECT document -> 'items' = '[]' FROM shop.cart_backup WHERE owner = %s", owner), 10,
             "the emptied cart is backed up")
    actions = [row["action"] for row in shop.rows(
        "SELECT payload::json ->> 'action' AS action FROM event.outbox WHERE topic = 'cart.updated' AND aggregate_id = %s "
        "ORDER BY id", owner)]
    assert actions == ["add", "clear"]
