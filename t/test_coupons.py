"""Coupons through the edge: staff makes them, carts show them, orders use them, crowds cannot overuse them (H1, H2, CHECKOUT §3, 6)."""

import concurrent.futures
import uuid

import pytest

from stack import wait_for


@pytest.fixture(scope="module")
def maker(shop):
    """Makes coupons as staff."""
    staff = shop.staff()

    def make(**given):
        body = {"code": f"T{uuid.uuid4().hex[:8].upper()}", "name": "Test", "kind": "percent", "value": 1000, "target": "order", **given}
        answer = staff.post("/api/v1/admin/coupons", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    make.staff = staff
    return make


@pytest.fixture(scope="module")
def customers(shop):
    """Customers that nobody else is."""
    return iter([token for _, token in shop.customers(70)])


@pytest.fixture
def buyer(shop, customers):
    customer = shop.edge(token=next(customers))
    assert customer.post("/api/v1/cart/items", json={"product_id": 1, "quantity": 2}).status_code == 201
    return customer


def problem(answer, status, code):
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    return answer.json()


def test_staff_manages_coupons(shop, maker):
    made = maker(code="Autumn-5", usage_limit=5)
    assert (made["code"], made["used"], made["version"]) == ("AUTUMN-5", 0, 1)
    path = f"/api/v1/admin/coupons/{made['id']}"
    staff = maker.staff
    assert staff.get(path).json() == made
    problem(staff.post("/api/v1/admin/coupons", json={**{k: made[k] for k in ("code", "name", "kind", "value", "target")}}), 409, "code-taken")
    problem(staff.post("/api/v1/admin/coupons", json={"code": "X1", "name": "x", "kind": "percent", "value": 10001, "target": "order"}),
            422, "invalid-value")

    problem(staff.patch(path, json={"value": 2000}), 428, "if-match-required")
    changed = staff.patch(path, json={"value": 2000, "usage_limit": None}, headers={"If-Match": '"1"'})
    assert (changed.status_code, changed.json()["value"], changed.json()["usage_limit"]) == (200, 2000, None), changed.text
    problem(staff.patch(path, json={"value": 1}, headers={"If-Match": '"1"'}), 412, "version-mismatch")

    more = [maker()["id"] for _ in range(3)]
    seen, cursor = [], None
    while cursor is not None or not seen:
        page = staff.get("/api/v1/admin/coupons", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [c["id"] for c in page["data"]]
        cursor = page["page"]["next"]
        if cursor is None:
            break
    assert seen[:3] == more[::-1] and made["id"] in seen and len(seen) == len(set(seen))

    assert shop.user().get(path).status_code == 403
    assert staff.delete(path, headers={"If-Match": "*"}).status_code == 204
    assert staff.get(path).status_code == 404
    actions = [r["action"] for r in shop.rows("SELECT action FROM shop.audit_log WHERE entity = 'coupon' AND entity_id = %s ORDER BY id",
                                              str(made["id"]))]
    assert actions == ["CouponCreated", "CouponUpdated", "CouponDeleted"]


def test_cart_and_checkout(shop, maker, buyer):
    made = maker(value=1500)
    before = buyer.get("/api/v1/cart").json()
    cart = buyer.post("/api/v1/cart/coupons", json={"code": made["code"].lower()})
    assert cart.status_code == 200, cart.text
    cart = cart.json()
    off = (before["subtotal"]["amount"] * 1500 + 5000) // 10000
    assert (cart["discount"]["amount"], cart["version"]) == (off, before["version"] + 1)
    assert cart["coupons"] == [{"code": made["code"], "name": "Test", "target": "order",
                                "amount": {"amount": off, "currency": "USD"}}]
    assert buyer.post("/api/v1/cart/coupons", json={"code": made["code"]}).json() == cart     # again: nothing new
    assert buyer.get("/api/v1/cart").json() == cart

    # it is in PostgreSQL too, and comes back when Redis has lost the cart
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.cart_backup WHERE cart_id = %s AND document -> 'coupons' ->> 0 = %s",
                                cart["id"], made["code"]), 10, "the cart is backed up")
    shop.redis().flushdb()
    assert buyer.get("/api/v1/cart").json()["coupons"] == cart["coupons"]

    removed = buyer.delete(f"/api/v1/cart/coupons/{made['code'].lower()}").json()
    assert (removed["coupons"], removed["discount"]["amount"]) == ([], 0)
    problem(buyer.delete(f"/api/v1/cart/coupons/{made['code']}"), 404, "not-found")

    buyer.post("/api/v1/cart/coupons", json={"code": made["code"]})
    order = buyer.post("/api/v1/checkout", json={"expected_total": cart["total"]["amount"]})
    assert order.status_code == 201, order.text
    order = order.json()
    assert (order["discount"]["amount"], order["total"]) == (off, cart["total"])
    assert sum(i["discount"]["amount"] for i in order["items"]) == off
    assert buyer.get("/api/v1/cart").json()["coupons"] == []
    assert maker.staff.get(f"/api/v1/admin/coupons/{made['id']}").json()["used"] == 1
    assert buyer.post(f"/api/v1/orders/{order['id']}/cancel").status_code == 200
    assert maker.staff.get(f"/api/v1/admin/coupons/{made['id']}").json()["used"] == 0


def test_a_coupon_that_went_bad_is_told(shop, maker, buyer):
    made = maker()
    buyer.post("/api/v1/cart/coupons", json={"code": made["code"]})
    maker.staff.patch(f"/api/v1/admin/coupons/{made['id']}", json={"active": False}, headers={"If-Match": "*"})

    cart = buyer.get("/api/v1/cart").json()
    assert cart["discount"]["amount"] == 0
    assert cart["coupons"][0]["problem"]["code"] == "coupon-unknown"
    assert problem(buyer.post("/api/v1/checkout"), 422, "coupon-unknown")["coupon"] == made["code"]
    buyer.delete(f"/api/v1/cart/coupons/{made['code']}")
    assert buyer.post("/api/v1/checkout").status_code == 201


def test_what_a_cart_cannot_have(shop, maker, buyer, customers):
    subtotal = buyer.get("/api/v1/cart").json()["subtotal"]["amount"]
    dear = maker(minimum_amount=subtotal + 7)
    assert problem(buyer.post("/api/v1/cart/coupons", json={"code": dear["code"]}), 409, "minimum-spend")["missing"]["amount"] == 7
    problem(buyer.post("/api/v1/cart/coupons", json={"code": "NO-SUCH"}), 422, "coupon-unknown")
    assert buyer.post("/api/v1/cart/coupons", json={"code": "no such"}).status_code == 422
    other = maker(target="item", product_ids=[2])
    problem(buyer.post("/api/v1/cart/coupons", json={"code": other["code"]}), 409, "coupon-not-applicable")
    problem(shop.edge(token=next(customers)).post("/api/v1/cart/coupons", json={"code": maker()["code"]}), 409, "cart-empty")

    buyer.post("/api/v1/cart/coupons", json={"code": maker()["code"]})
    alone = maker(stacking="alone")
    problem(buyer.post("/api/v1/cart/coupons", json={"code": alone["code"]}), 409, "coupons-not-combinable")
    for _ in range(4):
        assert buyer.post("/api/v1/cart/coupons", json={"code": maker(value=1)["code"]}).status_code == 200
    problem(buyer.post("/api/v1/cart/coupons", json={"code": maker()["code"]}), 409, "coupons-too-many")


def test_a_guests_coupon_comes_along(shop, maker, customers):
    made = maker()
    guest = shop.edge()
    guest.headers["X-Cart-Token"] = guest.get("/api/v1/cart").headers["X-Cart-Token"]
    guest.post("/api/v1/cart/items", json={"product_id": 1})
    assert guest.post("/api/v1/cart/coupons", json={"code": made["code"]}).status_code == 200

    customer = shop.edge(token=next(customers))
    customer.headers["X-Cart-Token"] = guest.headers["X-Cart-Token"]
    merged = customer.post("/api/v1/cart/merge")
    assert merged.status_code == 200, merged.text
    assert [c["code"] for c in merged.json()["coupons"]] == [made["code"]]


def test_while_redis_is_away(shop, maker, buyer):
    made = maker()
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.cart_backup WHERE cart_id = %s", buyer.get("/api/v1/cart").json()["id"]),
             10, "the cart is backed up")
    shop.kill("redis")
    try:
        cart = wait_for(lambda: (a := buyer.post("/api/v1/cart/coupons", json={"code": made["code"]})).status_code == 200 and a.json(),
                        15, "PostgreSQL serves the cart")
        assert [c["code"] for c in cart["coupons"]] == [made["code"]]
        assert buyer.delete(f"/api/v1/cart/coupons/{made['code']}").json()["coupons"] == []
        assert buyer.post("/api/v1/cart/coupons", json={"code": made["code"]}).status_code == 200
    finally:
        shop.start("redis")
    wait_for(lambda: not shop.value("SELECT count(*) FROM shop.cart_backup WHERE redis_stale"), 15, "Redis has the cart again")
    assert [c["code"] for c in buyer.get("/api/v1/cart").json()["coupons"]] == [made["code"]]


def test_the_last_use(maker, shop, customers):
    """One use, 50 customers at once, through the edge."""
    made = maker(usage_limit=1)
    tokens = [next(customers) for _ in range(50)]

    def buy(token):
        edge = shop.edge(token=token)
        return edge.post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex},
                         json={"items": [{"product_id": 1, "quantity": 1}], "coupon_codes": [made["code"]]})

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(buy, tokens))
    assert sorted({a.status_code for a in answers}) == [201, 409]
    assert [a.status_code for a in answers].count(201) == 1
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"coupon-exhausted"}


def test_calculate_discounts(shop, maker):
    made = maker(kind="fixed", value=100, target="item")
    anyone = shop.edge()
    body = {"items": [{"product_id": 1, "quantity": 3}], "coupon_codes": [made["code"], "NO-SUCH"]}
    for path in ("/api/v1/calculate-discounts", "/calculate-discounts"):
        answer = anyone.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["total_discount_cents"], answer.json()["coupons"][-1]["problem"]["code"]) == (300, "coupon-unknown")
    assert anyone.get(f"/api/v1/coupons/{made['code']}").json()["value"] == 100
    assert anyone.get("/api/v1/coupons/NO-SUCH").status_code == 404
    assert shop.edge(tenant="acme").get(f"/api/v1/coupons/{made['code']}").status_code == 404
