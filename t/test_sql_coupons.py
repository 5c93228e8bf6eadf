"""Coupons as SQL alone: what they take off to the last minor unit, and limits that crowds cannot pass (CHECKOUT §3, 5 and 6)."""

import itertools
import json
import random
import uuid
from fractions import Fraction

import pytest

from sql_shop import TENANTS, Problem, clients, codes, crowd, half_up, lost, shop, sound, won  # noqa: F401

counter = itertools.count(1)


def coupon(shop, tenant=1, **given):
    """A coupon, straight into its table; answers its code."""
    row = {"code": f"C{next(counter)}", "name": "A coupon", "kind": "percent", "value": 1000, "target": "order", **given}
    names = ", ".join(row)
    shop.eyes.execute(f"INSERT INTO shop.coupon (tenant_id, {names}) VALUES (%s{', %s' * len(row)})", (tenant, *row.values()))
    return row["code"]


def redeemed(shop, code):
    return shop.value("SELECT count(*) FROM shop.coupon_redemption WHERE code = %s AND released_at IS NULL", code)


# ---- limits ----

@pytest.mark.parametrize("limit", [1, 7])
def test_no_more_uses_than_the_limit(shop, clients, limit):
    variant, code = shop.product(1000), coupon(shop, usage_limit=limit)
    answers = crowd(clients, [lambda c: c.checkout([(variant, 1)], coupon_codes=[code])] * 50)

    assert len(won(answers)) == limit == redeemed(shop, code)
    assert codes(answers) == {("409", "coupon-exhausted")}
    assert shop.stock(variant) == 1000 - limit      # who did not get the coupon did not take stock


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_uses_than_the_customers_limit(shop, limit):
    variant, code = shop.product(1000), coupon(shop, customer_limit=limit)
    buyers = [shop.client() for _ in range(3)]
    tabs = [shop.client(principal=buyer.principal) for buyer in buyers for _ in range(10)]
    jobs = [lambda c, tab=tab: tab.checkout([(variant, 1)], coupon_codes=[code]) for tab in tabs]
    answers = crowd(tabs, jobs)
    for tab in tabs:
        tab.connection.close()

    assert len(won(answers)) == 3 * limit == redeemed(shop, code)
    assert codes(answers) == {("409", "coupon-customer-limit")}
    guest = shop.client(principal=None, roles="")
    for address in ("ann@example.com", "Ann@Example.com "):
        try:
            guest.checkout([(variant, 1)], coupon_codes=[code], guest="g:1", email=address.strip())
        except Problem as problem:
            assert (address, problem.code) == ("Ann@Example.com ", "coupon-customer-limit")
    assert redeemed(shop, code) == 3 * limit + min(limit, 2)


def test_released_once(shop):
    variant, code = shop.product(10), coupon(shop, usage_limit=1, customer_limit=1)
    buyer = shop.client()
    order = uuid.UUID(buyer.checkout([(variant, 1)], coupon_codes=[code])[1]["id"])
    mine = [shop.client(principal=buyer.principal) for _ in range(5)]
    assert lost(crowd(mine, [lambda c: c.call("order_cancel", id=order)] * 20)) == []
    assert shop.value("SELECT used FROM shop.coupon WHERE code = %s", code) == 0

    again = buyer.checkout([(variant, 1)], coupon_codes=[code])[1]
    buyer.call("order_cancel", id=order)            # the first order's: nothing of the second is given back
    assert (shop.value("SELECT used FROM shop.coupon WHERE code = %s", code), redeemed(shop, code)) == (1, 1)
    with pytest.raises(Problem) as used:
        shop.client().checkout([(variant, 1)], coupon_codes=[code])
    assert used.value.code == "coupon-exhausted"
    assert again["coupons"][0]["code"] == code


def test_cancels_and_orders_at_once(shop, clients):
    """Uses come back while others wait for them: never above the limit, and in the end as many as orders that stand."""
    variant, code = shop.product(10 ** 5), coupon(shop, usage_limit=3)

    def buy_and_leave(client):
        order = client.checkout([(variant, 1)], coupon_codes=[code])[1]
        client.call("order_cancel", id=uuid.UUID(order["id"]))

    answers = crowd(clients, [buy_and_leave] * 150)
    assert codes(answers) <= {("409", "coupon-exhausted")}
    assert len(won(answers)) >= 3
    assert (shop.value("SELECT used FROM shop.coupon WHERE code = %s", code), redeemed(shop, code)) == (0, 0)


def test_several_coupons_never_deadlock(shop, clients):
    variant = shop.product(10 ** 5)
    a, b = coupon(shop, usage_limit=1000), coupon(shop, usage_limit=1000, target="shipping")
    before = shop.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    answers = crowd(clients, [lambda c, i=i: c.checkout([(variant, 1)], coupon_codes=[a, b][::(-1) ** i]) for i in range(120)])
    assert lost(answers) == []
    shop.eyes.execute("SELECT pg_stat_clear_snapshot()")
    assert shop.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == before


def test_the_cart_that_used_it_up(shop):
    variant, code, cart = shop.product(10), coupon(shop, usage_limit=1), uuid.uuid4()
    buyer = shop.client()
    order = buyer.checkout([(variant, 1)], cart=cart, coupons=[code])[1]
    with pytest.raises(Problem) as again:
        buyer.checkout([(variant, 1)], cart=cart, coupons=[code])
    assert (again.value.code, again.value.body["order_id"]) == ("cart-already-ordered", order["id"])


# ---- rules ----

def refused(buyer, lines, *used):
    with pytest.raises(Problem) as problem:
        buyer.checkout(lines, coupon_codes=list(used))
    return problem.value


def test_rules(shop):
    variant = shop.product(1000, price=1000)
    buyer = shop.client()
    cases = {
        "coupon-unknown": ["NO-SUCH", coupon(shop, active=False), coupon(shop, tenant=2), coupon(shop, deleted_at="2026-01-01")],
        "coupon-not-started": [coupon(shop, starts_at="2100-01-01")],
        "coupon-expired": [coupon(shop, ends_at="2020-01-01")],
        "minimum-spend": [coupon(shop, minimum_amount=2001)],
        "coupon-not-applicable": [coupon(shop, target="item", product_ids=[1])],
    }
    for code, those in cases.items():
        for one in those:
            problem = refused(buyer, [(variant, 2)], one)
            assert (problem.code, problem.status) == (code, "422" if code == "coupon-unknown" else "409")
            assert problem.body["coupon"] == one
    assert refused(buyer, [(variant, 2)], cases["minimum-spend"][0]).body["missing"] == {"amount": 1, "currency": "USD"}
    assert shop.stock(variant) == 1000

    alone, other = coupon(shop, stacking="alone"), coupon(shop)
    assert refused(buyer, [(variant, 1)], other, alone).code == "coupons-not-combinable"
    total = buyer.checkout([(variant, 2)], coupon_codes=[f" {alone.lower()} ", alone])[1]["total"]["amount"]
    assert total == 1800                            # typed in any way, counted once

    # a refusal stores nothing: the customer takes the coupon off and orders with the same key
    with pytest.raises(Problem):
        buyer.checkout([(variant, 1)], key="k", coupon_codes=["NO-SUCH"])
    assert buyer.checkout([(variant, 1)], key="k")[0] == 201


def test_categories_with_what_is_below_them(shop):
    shop.eyes.execute("INSERT INTO shop.category (tenant_id, id, slug, name, path) VALUES (1, 900, 'top', 'Top', '{900}')")
    shop.eyes.execute("INSERT INTO shop.category (tenant_id, id, parent_id, slug, name, path) VALUES (1, 901, 900, 'leaf', 'Leaf', '{900,901}')")
    inside, outside = shop.product(10, price=1000), shop.product(10, price=1000)
    shop.eyes.execute("UPDATE shop.product SET category_id = 901 WHERE id = %s", (inside - 1,))
    order = shop.client().checkout([(outside, 1), (inside, 2)], coupon_codes=[
        coupon(shop, target="item", kind="fixed", value=150, category_ids=[900])])[1]
    assert [i["discount"]["amount"] for i in order["items"]] == [0, 300]
    assert (order["discount"]["amount"], order["total"]["amount"]) == (300, 2700)


# ---- money ----

def expected(prices, lines, shipping, rate, inclusive, coupons):
    """Exact arithmetic: line amounts, their discounts, taxes, shipping's discount."""
    amounts = [prices[v] * q for v, q in lines]
    taken, off_shipping = [0] * len(lines), 0
    for kind, value, target in sorted(coupons, key=lambda c: ["item", "order", "shipping"].index(c[2])):
        rest = [a - t for a, t in zip(amounts, taken)]
        if target == "shipping":
            left = shipping - off_shipping
            off_shipping += half_up(left * value, 10000) if kind == "percent" else min(value, left)
            continue
        if target == "item":
            parts = [half_up(r * value, 10000) if kind == "percent" else min(value * q, r) for r, (_, q) in zip(rest, lines)]
        else:
            whole = sum(rest)
            amount = half_up(whole * value, 10000) if kind == "percent" else min(value, whole)
            shares = [Fraction(amount * r, whole) if whole else Fraction(0) for r in rest]
            parts = [int(s) for s in shares]
            by_rest = sorted(range(len(parts)), key=lambda i: (-(shares[i] - parts[i]), i))
            for i in by_rest[:amount - sum(parts)]:
                parts[i] += 1
        taken = [t + p for t, p in zip(taken, parts)]
    due = [a - t for a, t in zip(amounts, taken)]
    taxes = [d - half_up(d * 10000, 10000 + rate) if inclusive else half_up(d * rate, 10000) for d in due]
    return amounts, taken, taxes, off_shipping


@pytest.mark.parametrize("tenant", TENANTS)
def test_money_conserves(shop, tenant):
    """Random prices, rates, tax modes, shipping and coupons, 100 % among them, in currencies of 2, 0 and 3 decimals."""
    dice = random.Random(100 + tenant)
    buyer = shop.client(tenant)
    variants = [shop.product(10 ** 6, tenant=tenant) for _ in range(6)]
    for _ in range(60):
        prices = {v: dice.choice([0, 1, 3, 99, 10 ** 11, dice.randrange(10 ** 7)]) for v in variants}
        for v, price in prices.items():
            shop.eyes.execute("UPDATE shop.variant SET price_amount = %s, sale_amount = NULL WHERE tenant_id = %s AND id = %s",
                              (price, tenant, v))
        rate, inclusive, flat = dice.choice([0, 1, 700, 1900, dice.randrange(10001)]), dice.random() < 0.5, dice.choice([0, 1, 499])
        shop.eyes.execute("UPDATE shop.tenant SET settings = %s WHERE id = %s",
                          (json.dumps({"tax_rate_bp": rate, "tax_inclusive": inclusive, "shipping_flat": flat}), tenant))
        # a cent off each of many lines and a hundred per cent of all of them
        kinds = [("percent", dice.choice([1, 333, 5000, 10000, dice.randrange(1, 10001)])),
                 ("fixed", dice.choice([1, 2, 100, 10 ** 12, dice.randrange(1, 10 ** 6)]))]
        coupons = [(*dice.choice(kinds), target) for target in dice.sample(["item", "order", "shipping"], dice.randrange(1, 4))]
        used = [coupon(shop, tenant, kind=kind, value=value, target=target) for kind, value, target in coupons]

        lines = [(v, dice.choice([1, 2, 3, dice.randrange(1, 100)])) for v in dice.sample(variants, dice.randrange(1, 6))]
        _, order, _ = buyer.checkout(lines, coupon_codes=dice.sample(used, len(used)))

        subtotal = sum(prices[v] * q for v, q in lines)
        shipping = flat if subtotal else 0
        amounts, taken, taxes, off_shipping = expected(prices, lines, shipping, rate, inclusive, coupons)
        assert [i["total"]["amount"] for i in order["items"]] == amounts
        assert [i["discount"]["amount"] for i in order["items"]] == taken
        assert [i["tax"]["amount"] for i in order["items"]] == taxes
        assert order["discount"] == {"amount": sum(taken), "currency": TENANTS[tenant]}
        assert (order["shipping"]["amount"], order["shipping_discount"]["amount"]) == (shipping, off_shipping)
        assert sum(c["amount"]["amount"] for c in order["coupons"]) == sum(taken) + off_shipping
        total = subtotal - sum(taken) + shipping - off_shipping + (0 if inclusive else sum(taxes))
        assert order["total"]["amount"] == total >= 0
        assert buyer.call("order_get", id=uuid.UUID(order["id"]))[1] == order
    shop.eyes.execute("UPDATE shop.tenant SET settings = '{}' WHERE id = %s", (tenant,))
