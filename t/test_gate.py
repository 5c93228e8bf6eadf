"""The gate before an order: what is sold out is refused from shared memory, never granted, and for two seconds at most."""

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from stack import wait_for

ORDERS, CHECKOUT, CART = "/api/v1/orders", "/api/v1/checkout", "/api/v1/cart/items"
TTL = 2


@pytest.fixture
def thing(shop):
    """A product of its own with so many pieces: its id."""
    def make(stock, tenant="demo", **more):
        name = f"gate-{uuid.uuid4()}"
        with shop.staff(tenant) as staff:
            currency = shop.value("SELECT currency FROM shop.tenant WHERE slug = %s", tenant)
            made = staff.post("/api/v1/products", json={"name": name, "slug": name, "sku": name, "stock": stock,
                                                        "price": {"amount": 1000, "currency": currency}, **more})
            assert made.status_code == 201, made.text
            return made.json()["id"]
    return make


def order(edge, product, quantity=1, key=None, **more):
    return edge.post(ORDERS, json={"items": [{"product_id": product, "quantity": quantity, **more}], "payment_method": "manual"},
                     headers={"Idempotency-Key": key or str(uuid.uuid4())})


def restock(shop, product, level, tenant="demo"):
    with shop.staff(tenant) as staff:
        staff.put(f"/api/v1/inventory/{product}", json={"on_hand": level}).raise_for_status()


def asked(shop, answer):
    """How often PostgreSQL was asked for this answer: what the access log says."""
    name = answer.headers["X-Correlation-Id"]

    def line():
        # a worker may be writing its last line
        text = (shop.folder / "logs" / "access.log").read_text().rpartition("\n")[0]
        return next((json.loads(row) for row in reversed(text.splitlines()) if name in row), None)

    found = wait_for(line, 10, "the access log has the request")
    return int(found["pg_calls"] or 0)


def closed(shop, edge, product, **more):
    """The gate is closed: a refusal that PostgreSQL knows nothing of."""
    def refused():
        # at once after each other: reading the log may take longer than a refusal counts
        answers = [order(edge, product, **more) for _ in range(2)]
        assert [a.status_code for a in answers] == [409, 409], [a.text for a in answers]
        return asked(shop, answers[-1]) == 0 and answers[-1]
    return wait_for(refused, 20, "the gate is closed")


def test_a_crowd_for_the_last_one(shop, thing):
    product = thing(1)
    people = [shop.edge(token=token) for _, token in shop.customers(200)]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda edge: order(edge, product), people))
    assert sorted(a.status_code for a in answers) == [201] + [409] * 199
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"out-of-stock"}

    # and who comes later: each time a refusal is too old those that are under way ask, nobody else does
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda edge: order(edge, product), people))
    rounds = (time.monotonic() - began) / TTL + 2
    assert {(a.status_code, a.json()["code"]) for a in answers} == {(409, "out-of-stock")}
    assert sum(asked(shop, a) > 0 for a in answers) <= 4 * rounds
    assert shop.value("SELECT count(*) FROM shop.order_item WHERE product_id = %s", product) == 1
    assert shop.value("SELECT on_hand FROM shop.stock WHERE product_id = %s", product) == 0


def test_the_same_refusal(shop, thing, customer):
    product = thing(2)
    variant = shop.value("SELECT id FROM shop.variant WHERE product_id = %s", product)
    first = order(customer, product, 3, variant_id=variant)
    assert first.status_code == 409 and asked(shop, first) == 1
    from_gate = closed(shop, customer, product, quantity=3, variant_id=variant)
    for name in ("code", "available", "lines", "status", "title"):
        assert from_gate.json()[name] == first.json()[name], name
    assert from_gate.headers["Content-Type"] == "application/problem+json"
    # lines of one thing are summed, and what is left is sold
    answer = customer.post(ORDERS, headers={"Idempotency-Key": str(uuid.uuid4())}, json={"payment_method": "manual", "items": [
        {"product_id": product, "variant_id": variant, "quantity": 1}, {"product_id": product, "variant_id": variant, "quantity": 2}]})
    assert answer.status_code == 409 and answer.json()["lines"][0]["requested"] == 3
    assert order(customer, product, 2, variant_id=variant).status_code == 201


def test_restocked_is_sold_at_once(shop, thing, customer):
    product = thing(0)
    closed(shop, customer, product)
    restock(shop, product, 1)
    assert order(customer, product).status_code == 201


def test_a_cancelled_order_opens_it(shop, thing, customer):
    product = thing(1)
    made = order(customer, product)
    assert made.status_code == 201
    closed(shop, customer, product)
    assert customer.post(f"{ORDERS}/{made.json()['id']}/cancel", json={}).status_code == 200
    assert order(customer, product).status_code == 201


def test_behind_our_back_it_is_sold_within_two_seconds(shop, thing, customer):
    """Stock that comes by no function of ours, so that nobody is told."""
    product = thing(0)
    closed(shop, customer, product)
    with shop.db() as db:
        db.execute("INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, on_hand, reason) "
                   "SELECT tenant_id, variant_id, location_id, 1, 1, 'correction' FROM shop.stock WHERE product_id = %s", [product])
        db.execute("UPDATE shop.stock SET on_hand = 1 WHERE product_id = %s", [product])
    wait_for(lambda: order(customer, product).status_code == 201, 10, "a refusal becomes too old")


def test_a_repetition_is_answered_as_before(shop, thing, customer):
    """Whose order was made gets it again, gate or not; so does the other tab of a cart."""
    product = thing(2)
    key = str(uuid.uuid4())
    mine = order(customer, product, key=key)
    assert mine.status_code == 201

    customer.delete("/api/v1/cart")
    assert customer.post(CART, json={"product_id": product, "quantity": 1}).status_code in (200, 201)
    paid = customer.post(CHECKOUT, json={"payment_method": "manual"}, headers={"Idempotency-Key": "tab-1-" + key})
    assert paid.status_code == 201, paid.text

    closed(shop, shop.staff(), product)
    again = order(customer, product, key=key)
    assert (again.status_code, again.json()["id"]) == (201, mine.json()["id"]) and again.headers["Idempotent-Replayed"] == "true"
    assert customer.post(CHECKOUT, json={"payment_method": "manual"}, headers={"Idempotency-Key": "tab-1-" + key}).status_code in (201, 422)


def test_a_refused_key_is_refused_again_and_sold_later(shop, thing, customer):
    product, key = thing(0), str(uuid.uuid4())
    assert order(customer, product, key=key).status_code == 409
    closed(shop, customer, product, key=key)
    restock(shop, product, 1)
    assert order(customer, product, key=key).status_code == 201


def test_through_the_cart(shop, thing, customer):
    product = thing(1)
    customer.delete("/api/v1/cart")
    assert customer.post(CART, json={"product_id": product, "quantity": 1}).status_code in (200, 201)
    assert order(shop.staff(), product).status_code == 201

    def refused():
        answers = [customer.post(CHECKOUT, json={"payment_method": "manual"}) for _ in range(2)]
        assert {(a.status_code, a.json()["code"]) for a in answers} == {(409, "out-of-stock")}, [a.text for a in answers]
        return asked(shop, answers[-1]) == 0
    wait_for(refused, 20, "the checkout is refused by the gate")
    restock(shop, product, 1)
    assert customer.post(CHECKOUT, json={"payment_method": "manual"}).status_code == 201


def test_shops_do_not_meet(shop, thing):
    """The ids of what is closed here are asked about in another shop."""
    product = thing(0)
    theirs = thing(5, "acme")
    closed(shop, shop.user(), product)
    other = shop.user(tenant="acme")
    assert asked(shop, order(other, product)) == 1
    assert order(other, theirs).status_code == 201


def test_reload_and_death_are_harmless(shop, thing, customer):
    product = thing(0)
    closed(shop, customer, product)
    shop.reload()
    assert order(shop.user(), product).status_code == 409
    shop.kill_worker()
    shop.ready()
    assert order(shop.user(), product).status_code == 409
    closed(shop, shop.user(), product)
    restock(shop, product, 3)
    with ThreadPoolExecutor(8) as pool:
        people = [shop.edge(token=token) for _, token in shop.customers(8)]
        assert sorted(a.status_code for a in pool.map(lambda edge: order(edge, product), people)) == [201] * 3 + [409] * 5


def test_without_a_zone_everybody_asks(shop, thing):
    product = thing(0)
    with shop.configured(replace=[(r"commerce_gate_zone\s[^;]*;", "")]):
        edge = shop.user()
        answers = [order(edge, product) for _ in range(5)]
        assert {a.status_code for a in answers} == {409} and all(asked(shop, a) == 1 for a in answers)
