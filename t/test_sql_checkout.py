"""Checkout, orders and stock as SQL alone, with crowds of clients of the edge's role: CHECKOUT's invariants."""

import json
import random
import re
import uuid

import pytest

from sql_shop import TENANTS, Problem, clients, codes, crowd, half_up, lost, shop, sound, won  # noqa: F401


# ---- stock ----

@pytest.mark.parametrize("buyers,stock", [(2, 1), (16, 5), (200, 1), (200, 7)])
def test_last_units(shop, clients, buyers, stock):
    variant = shop.product(stock)
    answers = crowd(clients, [lambda c: c.checkout([(variant, 1)])] * buyers)

    assert len(won(answers)) == stock
    assert codes(answers) == {("409", "out-of-stock")}
    assert shop.stock(variant) == 0
    assert lost(answers)[0].body["lines"] == [{"variant_id": variant, "product_id": variant - 1, "requested": 1, "available": 0}]


def test_what_was_sold_lately_is_found_without_what_was_sold_before(shop, clients):
    """Lists learn of sales every few seconds, with the settings of the edge's role: what that reads must not grow with the shop's history."""
    variant = shop.product(10)
    clients[0].checkout([(variant, 1)])
    with shop.eyes.transaction(force_rollback=True):
        shop.eyes.execute("INSERT INTO shop.stock_movement (tenant_id, variant_id, location_id, delta, on_hand, reason, created_at) "
                          "SELECT m.tenant_id, m.variant_id, m.location_id, 0, m.on_hand, m.reason, now() - interval '2 days' "
                          "FROM shop.stock_movement m, generate_series(1, 5000) WHERE m.variant_id = %s AND m.reason IN ('sale', 'reserved')",
                          (variant,))
        shop.eyes.execute("ANALYZE shop.stock_movement")
        shop.eyes.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        shop.eyes.execute("SET LOCAL enable_seqscan = off")
        read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = 'shop.stock_movement'::regclass"
        before = shop.value(read)
        shop.rows("SELECT api.stock_publish()")
        assert shop.value(read) - before < 5000
        assert shop.value("SELECT stock FROM shop.product_stock WHERE product_id = %s", variant - 1) == 9


def test_both_orders_of_lines_never_deadlock(shop, clients):
    a, b, c = (shop.product(150) for _ in range(3))
    carts = [[(a, 1), (b, 1), (c, 1)], [(c, 1), (b, 1), (a, 1)], [(b, 1), (a, 2)]]
    before = shop.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    answers = crowd(clients, [lambda client, i=i: client.checkout(carts[i % 3]) for i in range(240)])

    assert codes(answers) <= {("409", "out-of-stock")}
    assert (shop.stock(a), min(shop.stock(b), shop.stock(c)) >= 0) == (150 - sum(
        line["quantity"] for _, order, _ in won(answers) for line in order["items"] if line["variant_id"] == a), True)
    shop.eyes.execute("SELECT pg_stat_clear_snapshot()")
    assert shop.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == before


def test_all_lines_or_none(shop, clients):
    plenty, scarce = shop.product(100), shop.product(1)
    answers = crowd(clients, [lambda c: c.checkout([(plenty, 2), (scarce, 1)])] * 30)

    assert len(won(answers)) == 1
    assert (shop.stock(plenty), shop.stock(scarce)) == (98, 0)


def test_lines_of_one_variant_are_summed(shop):
    variant = shop.product(3)
    buyer = shop.client()
    with pytest.raises(Problem) as refused:
        buyer.checkout([(variant, 2), (variant, 2)])
    assert refused.value.body["lines"] == [{"variant_id": variant, "product_id": variant - 1, "requested": 4, "available": 3}]

    _, order, edge = buyer.checkout([(variant, 2), (variant, 1)])
    assert [(i["variant_id"], i["quantity"], i["total"]["amount"]) for i in order["items"]] == [(variant, 3, 3000)]
    assert edge == {"invalidate": [f"product:{variant - 1}"]}
    assert shop.stock(variant) == 0


def test_locations_fill_a_line_and_get_back_what_they_gave(shop):
    variant = shop.product(4, locations=3)
    buyer = shop.client()
    _, order, _ = buyer.checkout([(variant, 6)])
    levels = "SELECT on_hand FROM shop.stock WHERE variant_id = %s ORDER BY location_id"
    assert shop.rows(levels, variant) == [(0,), (2,), (4,)]

    buyer.call("order_cancel", id=uuid.UUID(order["id"]))
    assert shop.rows(levels, variant) == [(4,), (4,), (4,)]


def test_backorders_owe(shop):
    variant = shop.product(2, locations=2, backorder=True)
    shop.client().checkout([(variant, 10)])
    assert shop.rows("SELECT on_hand FROM shop.stock WHERE variant_id = %s ORDER BY location_id", variant) == [(-6,), (0,)]
    # the reading side counts what is there, not what is owed
    assert shop.value("SELECT in_stock FROM shop.product_stock WHERE product_id = %s", variant - 1)


def test_low_stock_is_told_once(shop):
    variant = shop.product(6, threshold=3)
    told = "SELECT payload::json ->> 'stock' FROM event.outbox WHERE type = 'InventoryLow' AND aggregate_id = %s"
    buyer, keeper = shop.client(), shop.staff()
    buyer.checkout([(variant, 2)])
    assert shop.rows(told, str(variant)) == []
    buyer.checkout([(variant, 2)])
    buyer.checkout([(variant, 1)])
    assert shop.rows(told, str(variant)) == [("2",)]

    low = keeper.call("inventory_low", limit=100)[1]["data"]
    assert [p["stock"] for p in low if p["product_id"] == variant - 1] == [1]


def test_levels_have_versions_and_movements(shop):
    variant = shop.product(10)
    product = variant - 1
    keeper = shop.staff()
    _, seen, _ = keeper.call("inventory_get", product_id=product)
    version = seen["variants"][0]["levels"][0]["version"]

    keeper.call("inventory_set", product_id=product, delta=-3, if_match=f'"{version}"', note="broken")
    with pytest.raises(Problem) as stale:
        keeper.call("inventory_set", product_id=product, on_hand=50, if_match=f'"{version}"')
    assert (stale.value.status, stale.value.body["current_version"]) == ("412", version + 1)
    with pytest.raises(Problem) as below:
        keeper.call("inventory_set", product_id=product, delta=-8)
    assert below.value.code == "stock-too-low"

    _, page, edge = keeper.call("inventory_movements", product_id=product, limit=1)
    assert [(m["delta"], m["on_hand"], m["note"]) for m in page["data"]] == [(-3, 7, "broken")]
    _, page, edge = keeper.call("inventory_movements", product_id=product, limit=1, cursor=edge["page"]["next"])
    assert [(m["delta"], m["reason"]) for m in page["data"]] == [(10, "adjustment")]
    assert edge["page"]["has_more"] is False

    _, plain, _ = shop.client().call("inventory_get", product_id=product)
    assert plain["variants"] == [{"variant_id": variant, "sku": f"S-{variant}", "available": 7, "in_stock": True}]


# ---- one order for each key and each cart ----

def test_fifty_identical_requests_make_one_order(shop, clients):
    variant = shop.product(100)
    user, cart = shop.client().principal, uuid.uuid4()

    def post(client):
        client = shop.client(principal=user)
        try:
            return client.checkout([(variant, 1)], cart=cart, key="same")
        finally:
            client.connection.close()

    answers = crowd([None] * 25, [post] * 50)
    assert lost(answers) == []
    assert len({order["id"] for _, order, _ in answers}) == 1
    assert {status for status, _, _ in answers} == {201}
    assert len([a for a in answers if a[2] != "replayed"]) == 1
    assert shop.stock(variant) == 99

    with pytest.raises(Problem) as reused:
        shop.client(principal=user).checkout([(variant, 1)], cart=cart, key="same", fingerprint=b"another")
    assert (reused.value.status, reused.value.code) == ("422", "idempotency-key-reused")


def test_two_keys_one_cart(shop, clients):
    variant = shop.product(100)
    for _ in range(10):
        cart = uuid.uuid4()
        answers = crowd(clients, [lambda c, i=i: c.checkout([(variant, 1)], cart=cart, key=f"{cart} {i}") for i in range(6)])
        assert len(won(answers)) == 1
        order = won(answers)[0][1]
        assert {(p.status, p.code, p.body["order_id"]) for p in lost(answers)} == {("409", "cart-already-ordered", order["id"])}
    assert shop.stock(variant) == 90


def test_an_ordered_cart_is_ordered_whatever_changed_since(shop):
    variant = shop.product(1)
    buyer, cart = shop.client(), uuid.uuid4()
    buyer.checkout([(variant, 1)], cart=cart)
    for more in ({}, {"expected_total": 1}):
        with pytest.raises(Problem) as again:
            buyer.checkout([(variant, 1)], cart=cart, **more)
        assert again.value.code == "cart-already-ordered"


def test_a_key_outlives_its_record(shop):
    variant = shop.product(10)
    buyer = shop.client()
    items = [{"product_id": variant - 1, "quantity": 2}]
    _, order, _ = buyer.order(items, "forever")
    assert buyer.order(items, "forever")[1:] == (order, "replayed")

    shop.eyes.execute("DELETE FROM shop.idempotency WHERE key = 'forever'")
    with pytest.raises(Problem) as again:
        buyer.order(items, "forever")
    assert (again.value.status, again.value.code, again.value.body["order_id"]) == ("409", "order-exists", order["id"])
    shop.client().order(items, "forever")           # somebody else's key of the same name
    assert shop.stock(variant) == 6


def test_refusals_leave_nothing(shop):
    variant = shop.product(1)
    buyer = shop.client()
    tables = ("shop.orders", "shop.order_item", "shop.payment", "shop.stock_movement", "event.outbox", "shop.idempotency")
    count = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
    before = shop.rows(count)
    for lines, more in (([(variant, 2)], {}), ([(variant, 1)], {"expected_total": 1}), ([(999, 1)], {}), ([], {}),
                        ([(variant, 1)], {"shipping_address_id": uuid.uuid4()})):
        with pytest.raises(Problem):
            buyer.checkout(lines, key="refused", **more)
    assert shop.rows(count) == before
    buyer.checkout([(variant, 1)], key="refused")   # a refusal was not stored under its key


# ---- status ----

def test_cancel_races_ship(shop, clients):
    variant = shop.product(1000)
    staff = [shop.staff() for _ in range(4)]
    for _ in range(25):
        buyer = shop.client()
        order = uuid.UUID(buyer.checkout([(variant, 3)])[1]["id"])
        before = shop.stock(variant)
        jobs = [lambda c: buyer.call("order_cancel", id=order)] + [lambda c: c.call("order_status_put", id=order, status="shipped")] * 3
        random.shuffle(jobs)
        answers = crowd(staff, jobs)
        final = shop.value("SELECT status FROM shop.orders WHERE id = %s", order)
        assert {body["status"] for _, body, _ in won(answers)} == {final}
        assert shop.stock(variant) == before + (3 if final == "cancelled" else 0)
        assert codes(answers) == ({("409", "order-status-conflict")} if final == "cancelled" else {("409", "order-not-cancellable")})
        kinds = [r[0] for r in shop.rows("SELECT type FROM event.outbox WHERE aggregate_id = %s AND aggregate_version > 4", str(order))]
        assert sorted(kinds) == (["InventoryReleased", "OrderCancelled"] if final == "cancelled" else ["OrderShipped"])
        buyer.connection.close()


def test_cancelling_again_gives_nothing_again(shop, clients):
    variant = shop.product(5)
    buyer = shop.client()
    order = uuid.UUID(buyer.checkout([(variant, 5)])[1]["id"])
    mine = [shop.client(principal=buyer.principal) for _ in range(5)]
    answers = crowd(mine, [lambda c: c.call("order_cancel", id=order)] * 20)
    assert lost(answers) == []
    assert shop.stock(variant) == 5
    assert shop.value("SELECT status FROM shop.payment WHERE order_id = %s", order) == "voided"


def test_state_machine(shop):
    variant = shop.product(100)
    staff, buyer = shop.staff(), shop.client()
    states = ("pending", "confirmed", "processing", "shipped", "delivered", "cancelled")
    allowed = {("confirmed", "processing"), ("confirmed", "shipped"), ("confirmed", "cancelled"), ("processing", "shipped"),
               ("processing", "cancelled"), ("shipped", "delivered")}
    reach = {"confirmed": [], "processing": ["processing"], "shipped": ["shipped"], "delivered": ["shipped", "delivered"],
             "cancelled": ["cancelled"]}
    for start, path in reach.items():
        for target in states:
            order = uuid.UUID(buyer.checkout([(variant, 1)])[1]["id"])
            for status in path:
                staff.call("order_status_put", id=order, status=status)
            if start == target or (start, target) in allowed:
                _, body, _ = staff.call("order_status_put", id=order, status=target, note="why")
                assert body["status"] == target
                assert [t["status"] for t in body["timeline"]] == ["pending", "confirmed", *path, *([target] if start != target else [])]
            else:
                with pytest.raises(Problem) as refused:
                    staff.call("order_status_put", id=order, status=target)
                assert refused.value.status == "409"

    order = buyer.checkout([(variant, 1)])[1]
    with pytest.raises(Problem) as stale:
        staff.call("order_status_put", id=uuid.UUID(order["id"]), status="shipped", if_match='"7"')
    assert stale.value.status == "412"


# ---- who ----

def test_orders_are_their_owners(shop):
    variant = shop.product(10)
    owner, other = shop.client(), shop.client()
    order = uuid.UUID(owner.checkout([(variant, 1)])[1]["id"])
    guest = shop.client(principal=None, roles="")
    left = uuid.UUID(guest.checkout([(variant, 1)], guest="g:abc", email="guest@example.com")[1]["id"])
    stranger = shop.client(tenant=2, principal=owner.principal, roles="staff orders.read orders.write owner")

    for client, guest_hash in ((other, None), (guest, "g:abc"), (guest, None), (stranger, None)):
        for call in ("order_get", "order_cancel"):
            with pytest.raises(Problem) as hidden:
                client.call(call, id=order, guest=guest_hash)
            assert (hidden.value.status, hidden.value.code) == ("404", "not-found")
    for client, guest_hash in ((other, None), (guest, "g:abd"), (guest, ""), (guest, None), (other, "")):
        with pytest.raises(Problem) as hidden:
            client.call("order_get", id=left, guest=guest_hash)
        assert hidden.value.status == "404"
    with pytest.raises(Problem) as hidden:
        stranger.call("order_status_put", id=order, status="shipped")
    assert hidden.value.status == "404"

    assert owner.call("order_get", id=order)[0] == 200
    assert guest.call("order_get", id=left, guest="g:abc")[1]["email"] == "guest@example.com"
    assert shop.staff().call("order_get", id=order)[0] == 200
    assert [o["id"] for o in owner.call("order_list")[1]["data"]] == [str(order)]
    assert other.call("order_list")[1]["data"] == []
    assert guest.call("order_list")[1]["data"] == []


def test_guests_name_an_address(shop):
    variant = shop.product(10)
    guest = shop.client(principal=None, roles="")
    with pytest.raises(Problem) as refused:
        guest.checkout([(variant, 1)], guest="g:abc")
    assert (refused.value.status, refused.value.code) == ("422", "email-required")


def test_pages_are_complete_and_keep_their_filter(shop):
    variant = shop.product(100)
    buyer = shop.client()
    # UUIDv7 as the edge makes them: ordered by time
    ids = [uuid.UUID(int=(0x019000000000 + i) << 80 | 7 << 76 | 2 << 62 | random.getrandbits(62)) for i in range(7)]
    for order in ids:
        buyer.checkout([(variant, 1)], order=order)
    seen, cursor = [], None
    while True:
        _, page, edge = buyer.call("order_list", **{"limit": 3, "cursor": cursor, "status": None})
        seen += [o["id"] for o in page["data"]]
        if not edge["page"]["has_more"]:
            break
        cursor = edge["page"]["next"]
    assert seen == [str(i) for i in reversed(ids)]
    # and back again
    pages = []
    while cursor := edge["page"]["prev"]:
        _, page, edge = buyer.call("order_list", **{"limit": 3, "cursor": cursor, "status": None})
        pages.insert(0, [o["id"] for o in page["data"]])
    assert [id for page in pages for id in page] == seen[:6]
    # whoever else holds it (the edge refuses that) sees what is theirs
    assert shop.client().call("order_list", **{"limit": 3, "cursor": {"id": str(ids[6])}, "status": None})[1]["data"] == []


def test_addresses_go_with_the_order(shop):
    variant = shop.product(10)
    buyer = shop.client()
    where = dict(name="Ann", line1="1 Road", city="Town", country="DE")
    _, home, _ = buyer.call("address_create", address_id=uuid.uuid4(), type="SHIPPING", **where)
    _, work, _ = buyer.call("address_create", address_id=uuid.uuid4(), type="SHIPPING", **{**where, "name": "Ann at work"})
    assert (home["is_default"], work["is_default"]) == (True, False)
    assert buyer.checkout([(variant, 1)])[1]["shipping_address"] == where

    buyer.call("address_default", id=uuid.UUID(work["id"]))
    order = buyer.checkout([(variant, 1)])[1]
    assert (order["shipping_address"]["name"], order["billing_address"]["name"]) == ("Ann at work", "Ann at work")

    order = buyer.checkout([(variant, 1)], billing_address_id=uuid.UUID(home["id"]))[1]
    assert (order["shipping_address"]["name"], order["billing_address"]["name"]) == ("Ann at work", "Ann")

    with pytest.raises(Problem) as foreign:
        shop.client().checkout([(variant, 1)], shipping_address_id=uuid.UUID(home["id"]))
    assert foreign.value.code == "address-unknown"

    buyer.call("address_delete", id=uuid.UUID(work["id"]))
    assert [(a["id"], a["is_default"]) for a in buyer.call("address_list")[1]["data"]] == [(home["id"], True)]


def test_one_default_survives_a_race(shop):
    buyer = shop.client()
    ids = [uuid.uuid4() for _ in range(8)]
    for i in ids:
        buyer.call("address_create", address_id=i, type="BILLING", name="A", line1="1", city="C", country="FR")
    mine = [shop.client(principal=buyer.principal) for _ in range(8)]
    assert lost(crowd(mine, [lambda c, i=i: c.call("address_default", id=i) for i in ids * 5])) == []
    assert shop.value("SELECT count(*) FROM shop.address WHERE user_id = %s AND is_default", buyer.principal) == 1


# ---- money ----

@pytest.mark.parametrize("quantity", [0, -1, 10000])
def test_quantities_are_refused(shop, quantity):
    variant = shop.product(100)
    with pytest.raises(Problem) as refused:
        shop.client().checkout([(variant, quantity)])
    assert (refused.value.status, refused.value.code) == ("422", "quantity-invalid")


def test_prices_come_from_the_shop(shop):
    variant = shop.product(100, price=1234)
    buyer = shop.client()
    _, order, _ = buyer.call("checkout", order_id=uuid.uuid4(), cart_id=uuid.uuid4(), cart_version=1, guest=None, expected_total=None,
                             email=None, shipping_address=None, billing_address=None, shipping_address_id=None,
                             billing_address_id=None,
                             lines=[{"variant_id": variant, "quantity": 2, "unit_price": 1, "name": "Free"}])
    assert order["total"] == {"amount": 2468, "currency": "USD"}
    assert order["items"][0]["name"] == f"Product {variant - 1}"


def test_a_price_change_is_asked_back(shop):
    variant = shop.product(100, price=1000)
    buyer = shop.client()
    shop.eyes.execute("UPDATE shop.variant SET price_amount = 1100 WHERE tenant_id = 1 AND id = %s", (variant,))
    with pytest.raises(Problem) as changed:
        buyer.checkout([(variant, 2)], expected_total=2000)
    assert (changed.value.status, changed.value.code) == ("409", "cart-changed")
    assert changed.value.body["current_total"] == {"amount": 2200, "currency": "USD"}
    assert buyer.checkout([(variant, 2)], expected_total=2200)[0] == 201


@pytest.mark.parametrize("tenant", TENANTS)
def test_money_conserves(shop, tenant):
    """Random prices, rates, tax modes and shipping rules in currencies of 2, 0 and 3 decimals, against exact arithmetic."""
    dice = random.Random(tenant)
    buyer = shop.client(tenant)
    variants = [shop.product(10 ** 6, tenant=tenant) for _ in range(6)]
    for _ in range(60):
        prices = {v: dice.choice([0, 1, 3, 99, 10 ** 11, dice.randrange(10 ** 7)]) for v in variants}
        for v, price in prices.items():
            shop.eyes.execute("UPDATE shop.variant SET price_amount = %s, sale_amount = NULL WHERE tenant_id = %s AND id = %s",
                              (price, tenant, v))
        rate, inclusive = dice.choice([0, 1, 700, 1900, 2000, 825, 10000, dice.randrange(10001)]), dice.random() < 0.5
        flat, free_from = dice.choice([0, 1, 499]), dice.choice([None, 0, 1000, 10 ** 7])
        settings = {"tax_rate_bp": rate, "tax_inclusive": inclusive, "shipping_flat": flat, "shipping_free_from": free_from}
        shop.eyes.execute("UPDATE shop.tenant SET settings = %s WHERE id = %s", (json.dumps(settings), tenant))

        lines = [(v, dice.choice([1, 2, 3, dice.randrange(1, 100)])) for v in dice.sample(variants, dice.randrange(1, 6))]
        _, order, _ = buyer.checkout(lines)

        subtotal = sum(prices[v] * q for v, q in lines)
        taxes = [prices[v] * q - half_up(prices[v] * q * 10000, 10000 + rate) if inclusive else half_up(prices[v] * q * rate, 10000)
                 for v, q in lines]
        shipping = 0 if subtotal == 0 or (free_from is not None and subtotal >= free_from) else flat
        assert [i["tax"]["amount"] for i in order["items"]] == taxes
        assert order["subtotal"] == {"amount": subtotal, "currency": TENANTS[tenant]}
        assert (order["tax"]["amount"], order["shipping"]["amount"]) == (sum(taxes), shipping)
        assert order["total"]["amount"] == subtotal + shipping + (0 if inclusive else sum(taxes))
    shop.eyes.execute("UPDATE shop.tenant SET settings = '{}' WHERE id = %s", (tenant,))


def test_order_numbers_never_repeat(shop):
    """A permutation of the counter: 20,000 numbers of each of two tenants, all different, and unlike each other's."""
    numbers = {}
    for tenant in (1, 2):
        with shop.eyes.transaction():
            shop.eyes.execute("SELECT set_config('commerce.tenant_id', %s, true)", (str(tenant),))
            numbers[tenant] = [r[0] for r in shop.rows("SELECT domain.order_number() FROM generate_series(1, 20000)")]
        assert len(set(numbers[tenant])) == 20000
        assert all(re.fullmatch("[0-9A-HJKMNP-TV-Z]{8}", n) for n in numbers[tenant])
    assert len(set(numbers[1]) & set(numbers[2])) < 10
    # neighbours differ everywhere: no digit of one tells the other
    same = [sum(a == b for a, b in zip(x, y)) for x, y in zip(numbers[1], numbers[1][1:])]
    assert sum(same) / len(same) < 0.5


# ---- events ----

def test_payloads(shop):
    variant = shop.product(10, price=700)
    buyer = shop.client()
    _, order, _ = buyer.checkout([(variant, 2)])
    events = dict(shop.rows("SELECT topic, payload::json FROM event.outbox WHERE aggregate_id IN (%s, %s) AND type <> 'OrderConfirmed'",
                            order["id"], f"u:{buyer.principal}"))
    done = events["order.completed"]
    assert sorted(done) == ["items", "order_id", "order_number", "timestamp", "total", "user_id"]
    assert (done["order_id"], done["order_number"], done["user_id"]) == (order["id"], order["number"], str(buyer.principal))
    assert done["items"] == [{"product_id": variant - 1, "variant_id": variant, "quantity": 2, "unit_price": 700}]
    assert done["total"] == {"amount": 1400, "currency": "USD"}
    assert events["cart.updated"] == {"user_id": str(buyer.principal), "action": "clear", "affected_product_id": None, "items": [],
                                      "timestamp": done["timestamp"]}

    buyer.call("interaction_add", product_id=variant - 1, action="view", metadata={"from": "search"})
    seen = shop.rows("SELECT payload::json FROM event.outbox WHERE topic = 'user.interaction' AND payload::json ->> 'user_id' = %s",
                     str(buyer.principal))
    assert sorted(seen[0][0]) == ["action", "metadata", "product_id", "timestamp", "user_id"]
    assert shop.rows("SELECT action, metadata FROM shop.interaction WHERE user_id = %s", buyer.principal) == [("view", {"from": "search"})]


def test_versions_of_an_order_rise(shop):
    variant = shop.product(10)
    buyer, staff = shop.client(), shop.staff()
    order = buyer.checkout([(variant, 1)])[1]["id"]
    for status in ("processing", "cancelled"):
        staff.call("order_status_put", id=uuid.UUID(order), status=status)
    versions = [r[0] for r in shop.rows("SELECT aggregate_version FROM event.outbox WHERE aggregate_id = %s ORDER BY id", order)]
    assert versions == sorted(set(versions)) and len(versions) == 7
