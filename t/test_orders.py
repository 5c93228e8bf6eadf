"""Orders, inventory, addresses, wishlist and interactions through the edge."""

import concurrent.futures
import uuid

import pytest

from stack import source_address

CART, CHECKOUT, ORDERS = "/api/v1/cart/items", "/api/v1/checkout", "/api/v1/orders"
WHERE = {"type": "SHIPPING", "name": "Ann", "line1": "1 Road", "city": "Town", "country": "DE"}


@pytest.fixture(scope="module")
def product(shop):
    """A product of the seed with plenty of stock."""
    staff = shop.staff()
    assert staff.put("/api/v1/inventory/1", json={"on_hand": 1000}).status_code == 200
    return 1


@pytest.fixture
def other(shop):
    return shop.edge(token=shop.customers(1)[0][1])


def key():
    return {"Idempotency-Key": str(uuid.uuid4())}


def code(answer):
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_order_life(shop, customer, staff, other, product):
    before = staff.get(f"/api/v1/inventory/{product}").json()["stock"]
    done = customer.post(ORDERS, json={"items": [{"product_id": product, "quantity": 2}]}, headers=key())
    assert done.status_code == 201, done.text
    order = done.json()
    assert done.headers["Location"] == f"{ORDERS}/{order['id']}"
    assert uuid.UUID(order["id"]).version == 7
    assert other.get(f"/api/v1/inventory/{product}").json()["stock"] == before - 2

    read = customer.get(f"{ORDERS}/{order['id']}")
    assert read.json() == order
    assert customer.get(f"{ORDERS}/{order['id']}", headers={"If-None-Match": read.headers["ETag"]}).status_code == 304
    assert code(other.get(f"{ORDERS}/{order['id']}")) == (404, "not-found")
    assert code(other.post(f"{ORDERS}/{order['id']}/cancel")) == (404, "not-found")
    assert customer.put(f"{ORDERS}/{order['id']}/status", json={"status": "shipped"}).status_code == 403
    assert customer.get(f"{ORDERS}/user/{customer.user_id}").status_code == 403
    assert order["id"] in [o["id"] for o in staff.get(f"{ORDERS}/user/{customer.user_id}").json()["data"]]

    assert code(staff.put(f"{ORDERS}/{order['id']}/status", json={"status": "shipped"}, headers={"If-Match": '"9"'})) \
        == (412, "version-mismatch")
    moved = staff.put(f"{ORDERS}/{order['id']}/status", json={"status": "processing"}, headers={"If-Match": read.headers["ETag"]})
    assert (moved.status_code, moved.json()["status"]) == (200, "processing")

    cancelled = customer.post(f"{ORDERS}/{order['id']}/cancel", json={"reason": "too late"})
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert cancelled.json()["timeline"][-1]["note"] == "too late"
    assert other.get(f"/api/v1/inventory/{product}").json()["stock"] == before
    assert code(staff.put(f"{ORDERS}/{order['id']}/status", json={"status": "shipped"})) == (409, "order-status-conflict")


def test_orders_need_a_key_and_it_makes_one(shop, customer, product):
    body = {"items": [{"product_id": product, "quantity": 1}]}
    assert code(customer.post(ORDERS, json=body)) == (400, "idempotency-key-missing")
    same = key()
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: customer.post(ORDERS, json=body, headers=same), range(20)))
    assert {a.status_code for a in answers} == {201}
    assert len({a.json()["id"] for a in answers}) == 1
    assert sum("Idempotent-Replayed" not in a.headers for a in answers) == 1
    assert code(customer.post(ORDERS, json={"items": [{"product_id": product, "quantity": 2}]}, headers=same)) \
        == (422, "idempotency-key-reused")


@pytest.mark.parametrize("item", [
    {"product_id": 1, "quantity": 0}, {"product_id": 1, "quantity": -1}, {"product_id": 1, "quantity": 10000},
    {"product_id": 1, "quantity": 1.5}, {"product_id": 1, "quantity": "1"}, {"product_id": 1},
    {"product_id": 1, "quantity": 1, "unit_price": 1}, {"product_id": 1, "quantity": 1, "price": {"amount": 1, "currency": "USD"}},
])
def test_bodies_are_strict(shop, customer, item):
    before = shop.value("SELECT count(*) FROM shop.orders")
    answer = customer.post(ORDERS, json={"items": [item]}, headers=key())
    assert answer.status_code in (400, 422), answer.text
    assert shop.value("SELECT count(*) FROM shop.orders") == before


def test_checkout_asks_again_when_the_total_changed(shop, other, product):
    assert other.post(CART, json={"product_id": product, "quantity": 2}).status_code == 201
    changed = other.post(CHECKOUT, json={"expected_total": 1})
    assert code(changed) == (409, "cart-changed")
    total = changed.json()["current_total"]
    assert total == other.get("/api/v1/cart").json()["total"]
    done = other.post(CHECKOUT, json={"expected_total": total["amount"]})
    assert (done.status_code, done.json()["total"]) == (201, total)
    assert other.get("/api/v1/cart").json()["items"] == []
    assert code(other.post(CHECKOUT, json={})) == (422, "cart-empty")


def test_guests_buy_and_see_what_they_bought(shop, anyone, product):
    first = anyone.post(CART, json={"product_id": product, "quantity": 1})
    mine = {"X-Cart-Token": first.headers["X-Cart-Token"]}
    assert code(anyone.post(CHECKOUT, json={}, headers=mine)) == (422, "email-required")
    done = anyone.post(CHECKOUT, json={"email": "guest@example.com", "shipping_address": {k: WHERE[k] for k in WHERE if k != "type"}},
                       headers=mine)
    assert done.status_code == 201, done.text
    order = done.json()
    assert (order["user_id"], order["email"], order["shipping_address"]["city"]) == (None, "guest@example.com", "Town")
    assert anyone.get(f"{ORDERS}/{order['id']}", headers=mine).status_code == 200
    assert code(anyone.get(f"{ORDERS}/{order['id']}")) == (404, "not-found")
    assert anyone.get(ORDERS).status_code == 401


def test_pages_of_orders(shop, other, product):
    made = [other.post(ORDERS, json={"items": [{"product_id": product, "quantity": 1}]}, headers=key()).json()["id"] for _ in range(5)]
    seen, path, parameters = [], ORDERS, {"limit": 2}
    while True:
        page = other.get(path, params=parameters).json()
        seen += [o["id"] for o in page["data"]]
        if not page["page"]["has_more"]:
            break
        parameters = {"limit": 2, "cursor": page["page"]["next"]}
    assert seen[:5] == made[::-1] and len(set(seen)) == len(seen)
    assert code(other.get(path, params={**parameters, "status": "shipped"})) == (400, "cursor-mismatch")
    assert other.get(path, params={"limit": 101}).status_code in (400, 422)


def test_a_shop_says_how_it_is_paid(shop, customer, product):
    """The demo takes manual and simulated, a shop that says nothing takes manual, and one that leaves it out does not."""
    def buy(edge, method, product):
        answer = edge.post(ORDERS, json={"items": [{"product_id": product, "quantity": 1}], "payment_method": method}, headers=key())
        return answer.status_code, answer.json().get("code")

    assert buy(customer, "manual", product) == (201, None)
    assert buy(customer, "simulated", product) in ((201, None), (402, "payment-declined"))
    assert buy(customer, "stripe", product) == (422, "payment-method-unknown")

    with shop.staff("acme") as staff:
        mine = staff.post("/api/v1/products", json={"name": "Paid", "slug": "paid", "sku": "PAID", "stock": 9,
                                                    "price": {"amount": 100, "currency": "EUR"}}).json()["id"]
        buyer = shop.user(tenant="acme")
        assert buy(buyer, "manual", mine) == (201, None)
        assert buy(buyer, "simulated", mine) == (422, "payment-method-unknown")
        staff.patch("/api/v1/admin/settings", json={"payments": {"methods": ["simulated"]}},
                    headers={"If-Match": staff.get("/api/v1/admin/settings").headers["ETag"]}).raise_for_status()
        assert buy(buyer, "manual", mine) == (422, "payment-method-unknown")


def test_levels_are_for_staff(shop, customer, staff):
    seen = staff.get("/api/v1/inventory/2").json()
    level = seen["variants"][0]["levels"][0]
    assert "levels" not in customer.get("/api/v1/inventory/2").json()["variants"][0]
    assert customer.put("/api/v1/inventory/2", json={"on_hand": 5}).status_code == 403

    low = staff.put("/api/v1/inventory/2", json={"on_hand": 1, "note": "counted"}, headers={"If-Match": f'"{level["version"]}"'})
    assert (low.status_code, low.json()["stock"]) == (200, 1)
    assert low.headers["ETag"] == f'"{level["version"] + 1}"'
    assert 2 in [p["product_id"] for p in staff.get("/api/v1/admin/inventory/low-stock", params={"limit": 100}).json()["data"]]
    assert staff.patch("/api/v1/inventory/2", json={"delta": 9, "reason": "received"}).json()["stock"] == 10
    page = staff.get("/api/v1/inventory/2/movements", params={"limit": 2}).json()
    assert [(m["delta"], m["on_hand"], m["reason"]) for m in page["data"]] == [(9, 10, "received"), (1 - level["on_hand"], 1, "adjustment")]
    assert code(staff.get("/api/v1/inventory/999999999")) == (404, "not-found")


@pytest.mark.parametrize("base", ["/api/v1/users/addresses", "/api/v1/addresses"])
def test_addresses(shop, customer, other, base):
    made = customer.post(base, json=WHERE)
    assert made.status_code == 201, made.text
    one = made.json()
    two = customer.post(base, json={**WHERE, "name": "Bob", "is_default": True}).json()
    assert two["is_default"] is True
    assert customer.get(f"{base}/{one['id']}").json()["is_default"] is False
    assert customer.post(f"{base}/{one['id']}/default").json()["is_default"] is True
    changed = customer.put(f"{base}/{two['id']}", json={"name": "Rob", "line1": "2", "city": "C", "country": "FR"})
    assert (changed.json()["name"], changed.json()["type"]) == ("Rob", "SHIPPING")
    for path in (f"{base}/{one['id']}",):
        assert code(other.get(path)) == (404, "not-found")
        assert code(other.delete(path)) == (404, "not-found")
        assert code(other.put(path, json={"name": "X", "line1": "2", "city": "C", "country": "FR"})) == (404, "not-found")
        assert code(other.post(f"{path}/default")) == (404, "not-found")
    assert customer.post(base, json={**WHERE, "country": "Germany"}).status_code == 422
    for address in (one, two):
        assert customer.delete(f"{base}/{address['id']}").status_code == 204
    assert code(customer.get(f"{base}/{one['id']}")) == (404, "not-found")


def test_wishlist(shop, other):
    assert other.post("/api/v1/wishlist", json={"product_id": 1}).status_code == 201
    assert other.post("/api/v1/wishlist", json={"product_id": 2}).status_code == 201
    assert other.post("/api/v1/wishlist", json={"product_id": 1}).status_code == 200
    listed = other.get("/api/v1/wishlist").json()["data"]
    assert [p["id"] for p in listed] == [2, 1] and {"name", "price", "in_stock"} <= set(listed[0])
    assert code(other.post("/api/v1/wishlist", json={"product_id": 999999999})) == (404, "not-found")
    assert other.delete("/api/v1/wishlist/1").status_code == 204
    assert code(other.delete("/api/v1/wishlist/1")) == (404, "not-found")


def test_interactions(shop, customer, anyone):
    body = {"product_id": 1, "action": "share", "metadata": {"to": "friend"}}
    assert customer.post("/api/v1/interactions", json=body).status_code == 202
    assert anyone.post("/api/v1/interactions", json=body).status_code == 202
    rows = shop.rows("SELECT user_id::text, metadata FROM shop.interaction WHERE action = 'share' ORDER BY id")
    assert [r["user_id"] for r in rows] == [customer.user_id, None] and rows[0]["metadata"] == {"to": "friend"}
    events = shop.rows("SELECT payload::json AS payload FROM event.outbox WHERE topic = 'user.interaction' AND payload::json ->> 'action' = 'share'")
    assert len(events) == 2
    assert anyone.post("/api/v1/interactions", json={"product_id": 1, "action": "steal"}).status_code == 422
    assert code(anyone.post("/api/v1/interactions", json={"product_id": 999999999, "action": "view"})) == (404, "not-found")

    # a repetition under a key is not a second one; a guest without a token is known by the address
    with shop.edge(address=source_address()) as guest:
        for edge in (customer, guest):
            for path, again in (("", {"product_id": 1, "action": "click"}), ("/batch", {"interactions": [{"product_id": 1, "action": "click"}] * 2})):
                answers = [edge.post(f"/api/v1/interactions{path}", json=again, headers={"Idempotency-Key": f"clicked{path}"}) for _ in range(3)]
                assert {a.status_code for a in answers} == {202} and len({a.text for a in answers}) == 1
                assert [a.headers.get("idempotent-replayed") for a in answers] == [None, "true", "true"]
    assert shop.value("SELECT count(*) FROM shop.interaction WHERE action = 'click'") == 6
    assert shop.value("SELECT count(*) FROM event.outbox WHERE topic = 'user.interaction' AND payload::json ->> 'action' = 'click'") == 6
