"""The saga as SQL alone: reserve, pay, confirm or compensate; crowds, faults and every order of events (CHECKOUT's invariants)."""

import itertools
import json
import uuid

import pytest

from sql_shop import Problem, clients, codes, crowd, lost, shop, sound, won  # noqa: F401

SETTINGS = {"seed": 1, "success_percent": 100, "action_percent": 0, "unknown_percent": 0}


@pytest.fixture(autouse=True)
def settings(shop):
    """The provider of tenant 1 says yes unless a test says otherwise."""
    configure(shop)
    yield lambda **more: configure(shop, **more)


def configure(shop, attempts=3, capture="now", ttl=900, **simulated):
    shop.eyes.execute(
        "UPDATE shop.tenant SET settings = settings || %s::jsonb WHERE id IN (1, 2)",
        (json.dumps({"reservation_ttl": ttl, "payments": {"methods": ["manual", "simulated"], "attempts": attempts, "capture": capture,
                                                          "simulated": {**SETTINGS, **simulated}}}),))


def place(client, variant, quantity=1, **more):
    """P1: the answer and the call that it asks for."""
    status, order, edge = client.checkout([(variant, quantity)], payment_method="simulated", **more)
    assert (status, order["status"], order["payment"]["status"]) == (202, "pending", "processing")
    return order, edge


def pay(client, variant, quantity=1, **more):
    """P1 to P3."""
    order, edge = place(client, variant, quantity, **more)
    return client.fetch(edge)


def event(client, order, outcome, attempt=1, id=None, **more):
    return client.call("payment_webhook", provider="simulated", body=json.dumps(
        {"id": id or str(uuid.uuid4()), "order_id": order, "attempt": attempt, "outcome": outcome, "reference": f"sim_{order}", **more}))


def state(shop, order):
    """Status of the order, of its saga, of its attempts; what was captured and given back."""
    return shop.rows(
        "SELECT o.status::text, s.state::text, array_agg(y.status::text ORDER BY y.attempt), sum(y.captured_amount)::int, "
        "sum(y.refunded_amount)::int FROM shop.orders o JOIN shop.saga s ON (s.tenant_id, s.order_id) = (o.tenant_id, o.id) "
        "JOIN shop.payment y ON (y.tenant_id, y.order_id) = (o.tenant_id, o.id) WHERE o.id = %s GROUP BY 1, 2", order)[0]


def levels(shop, variant):
    return shop.rows("SELECT on_hand, reserved FROM shop.stock WHERE variant_id = %s", variant)[0]


def overdue(shop, order=None):
    """Time goes by: what is due later is due now, and deadlines are over."""
    for table, column in (("saga", "order_id"), ("payment", "order_id"), ("refund", "order_id")):
        shop.eyes.execute(f"UPDATE shop.{table} SET next_at = now() - interval '1 second'"
                          + (", deadline_at = now() - interval '1 second'" if table == "saga" else "")
                          + f" WHERE next_at IS NOT NULL AND (%s::uuid IS NULL OR {column} = %s)", (order, order))


def types(shop, order, topic="%"):
    return [r[0] for r in shop.rows("SELECT type FROM event.outbox WHERE aggregate_id = %s AND topic LIKE %s ORDER BY aggregate_version",
                                    order, topic)]


# ---- the phases ----

def test_reserve_pay_confirm(shop):
    variant = shop.product(5)
    buyer = shop.client()
    order, edge = place(buyer, variant, 2, key="a key")
    assert levels(shop, variant) == (5, 2)
    assert edge["invalidate"] == [f"product:{variant - 1}"]
    assert edge["fetch"]["then"] == "api.payment_result" and edge["fetch"]["tenant_id"] == 1
    assert buyer.checkout([(variant, 2)], payment_method="simulated", key="a key")[0] == 202

    status, paid, _ = buyer.fetch(edge)
    assert (status, paid["status"], paid["payment"]["status"], paid["payment"]["captured"]["amount"]) == (201, "confirmed", "captured", 2000)
    assert levels(shop, variant) == (3, 0)
    assert [e["status"] for e in paid["timeline"]] == ["pending", "confirmed"]
    assert state(shop, order["id"]) == ("confirmed", "completed", ["captured"], 2000, 0)

    # the key answers what has become of it
    status, again, how = buyer.checkout([(variant, 2)], payment_method="simulated", key="a key")
    assert (status, again, how) == (201, paid, "replayed")
    assert types(shop, order["id"]) == [
        "OrderCreated", "InventoryReserved", "checkout.OrderCreated", "checkout.ProcessPayment", "PaymentProcessed", "checkout.PaymentProcessed",
        "OrderConfirmed", "shop.order.completed.v1", "InventoryDeducted", "checkout.ClearCart"]
    reasons = shop.rows("SELECT reason::text, delta, reserved_delta FROM shop.stock_movement WHERE order_id = %s ORDER BY id", order["id"])
    assert reasons == [("reserved", 0, 2), ("sale", -2, -2)]


def test_methods_are_the_shops(shop):
    variant = shop.product(5)
    for method in ("stripe-like", "unheard", "simulated"):
        with pytest.raises(Problem) as refused:
            shop.client(tenant=3).checkout([(variant, 1)], payment_method=method)
    assert refused.value.code in ("product-unavailable", "payment-method-unknown")
    with pytest.raises(Problem) as refused:
        shop.client().checkout([(variant, 1)], payment_method="cash")
    assert (refused.value.status, refused.value.code) == ("422", "payment-method-unknown")
    assert refused.value.body["payment_methods"] == ["manual", "simulated"]
    with pytest.raises(Problem) as refused:
        shop.client(roles="staff settings.write settings.read").call("settings_patch", if_match=None,
                                                                     patch={"payments": {"methods": ["manual", "goats"]}})
    assert refused.value.code == "payment-method-unknown"


def test_nothing_to_pay_needs_no_provider(shop):
    variant = shop.product(5, price=0)
    status, order, edge = shop.client().checkout([(variant, 1)], payment_method="simulated")
    assert (status, order["status"], "fetch" in edge) == (201, "confirmed", False)
    assert levels(shop, variant) == (4, 0)


def test_declined_again_and_again(shop, settings):
    settings(success_percent=0, attempts=2)
    variant = shop.product(5)
    buyer = shop.client()
    cart = uuid.uuid4()
    status, problem, _ = pay(buyer, variant, 3, cart=cart, key="k")
    assert (status, problem["code"], problem["attempts_left"], problem["order_status"]) == (402, "payment-declined", 1, "pending")
    order = problem["order_id"]
    assert state(shop, order)[:3] == ("pending", "declined", ["failed"])
    assert levels(shop, variant) == (5, 3)

    status, waiting, edge = buyer.call("payment_create", id=uuid.UUID(order), payment_method=None)
    assert (status, waiting["payment"]["attempt"]) == (202, 2)
    with pytest.raises(Problem) as busy:
        buyer.call("payment_create", id=uuid.UUID(order), payment_method=None)
    assert busy.value.code == "payment-in-progress"
    status, problem, edge = buyer.fetch(edge)
    assert (status, problem["attempts_left"], problem["order_status"]) == (402, 0, "cancelled")
    assert edge == {"invalidate": [f"product:{variant - 1}"]}
    assert state(shop, order)[:3] == ("cancelled", "compensated", ["failed", "failed"])
    assert levels(shop, variant) == (5, 0)
    with pytest.raises(Problem) as over:
        buyer.call("payment_create", id=uuid.UUID(order), payment_method=None)
    assert over.value.code == "order-not-payable"

    # nothing was paid: the cart is the customer's again
    settings()
    assert pay(buyer, variant, 3, cart=cart)[0] == 201
    assert types(shop, order, "inventory-events") == ["InventoryReserved", "InventoryReleased"]


def test_another_attempt_succeeds(shop, settings):
    settings(success_percent=0)
    variant = shop.product(5)
    buyer = shop.client()
    order = pay(buyer, variant, key="k")[1]["order_id"]
    settings()
    _, _, edge = buyer.call("payment_create", id=uuid.UUID(order), payment_method=None)
    assert buyer.fetch(edge)[0] == 201
    assert state(shop, order) == ("confirmed", "completed", ["failed", "captured"], 1000, 0)
    assert buyer.checkout([(variant, 1)], payment_method="simulated", key="k")[:1] == (201,)

    settings(success_percent=0)
    order = pay(buyer, variant)[1]["order_id"]
    status, cash, _ = buyer.call("payment_create", id=uuid.UUID(order), payment_method="manual")
    assert (status, cash["status"], cash["payment"]["status"]) == (201, "confirmed", "accepted")
    assert state(shop, order)[:3] == ("confirmed", "completed", ["failed", "accepted"])


def test_requires_action(shop, settings):
    settings(action_percent=100)
    variant = shop.product(5)
    buyer = shop.client()
    status, waiting, _ = pay(buyer, variant, key="k")
    assert (status, waiting["payment"]["status"]) == (202, "requires_action")
    assert waiting["payment"]["action"]["client_secret"]
    assert state(shop, waiting["id"])[1] == "action"

    _, _, edge = buyer.call("payment_sync", id=uuid.UUID(waiting["id"]))
    assert buyer.fetch(edge)[0] == 201
    assert state(shop, waiting["id"])[:3] == ("confirmed", "completed", ["captured"])

    # one that nobody confirms in time
    order = pay(buyer, variant, 2)[1]["id"]
    assert levels(shop, variant) == (4, 2)
    assert shop.sweep() == []
    overdue(shop, order)
    assert [c["args"]["action"] for c in shop.sweep()] == ["query"]
    assert state(shop, order)[:3] == ("cancelled", "compensated", ["failed"])
    assert levels(shop, variant) == (4, 0)


def test_webhook_completes_what_waits(shop, settings):
    settings(action_percent=100)
    variant = shop.product(5)
    buyer = shop.client()
    order = pay(buyer, variant, key="k")[1]["id"]
    event(buyer, order, "success", amount=1000, currency="usd")
    assert state(shop, order) == ("confirmed", "completed", ["captured"], 1000, 0)
    assert buyer.checkout([(variant, 1)], payment_method="simulated", key="k")[0] == 201


def test_unknown_is_asked_for_and_never_taken_back(shop, settings):
    """Invariant 12: the key stays the same, and what is not known is not compensated."""
    settings(unknown_percent=100)
    variant = shop.product(5)
    buyer = shop.client()
    status, order, _ = pay(buyer, variant)
    assert (status, order["payment"]["status"]) == (202, "processing")
    assert state(shop, order["id"])[1] == "unknown"
    overdue(shop, order["id"])                  # the deadline is over too
    keys = shop.sweep(lambda call: {"fetch_status": 0, "fetch_error": "timeout"})
    assert {c["args"]["action"] for c in keys} == {"query"}
    settled = state(shop, order["id"])
    assert settled[:3] == ("confirmed", "completed", ["captured"]) and levels(shop, variant) == (4, 0)


# ---- invariant 1: no oversell, in reservations too ----

@pytest.mark.parametrize("buyers,stock", [(2, 1), (16, 5), (200, 7)])
def test_last_units(shop, clients, buyers, stock):
    variant = shop.product(stock)
    answers = crowd(clients, [lambda c: pay(c, variant)] * buyers)
    assert sorted(status for status, _, _ in won(answers)) == [201] * stock
    assert codes(answers) == {("409", "out-of-stock")}
    assert levels(shop, variant) == (0, 0)


def test_both_paths_and_both_orders_of_lines(shop, clients):
    a, b = shop.product(60), shop.product(60)

    def buy(i):
        def job(client):
            lines = [(a, 1), (b, 1)] if i % 2 else [(b, 1), (a, 1)]
            answer = client.checkout(lines, payment_method="simulated" if i % 3 else "manual")
            return client.fetch(answer[2]) if "fetch" in answer[2] else answer
        return job

    answers = crowd(clients, [buy(i) for i in range(90)])
    assert len(won(answers)) == 60 and codes(answers) == {("409", "out-of-stock")}
    assert levels(shop, a) == levels(shop, b) == (0, 0)


def test_declines_give_back_under_a_crowd(shop, clients, settings):
    settings(success_percent=50, attempts=1)
    variant = shop.product(40)
    answers = crowd(clients, [lambda c: pay(c, variant)] * 60)
    paid = [a for a in won(answers) if a[0] == 201]
    assert {a[0] for a in won(answers)} <= {201, 402} and codes(answers) <= {("409", "out-of-stock")}
    assert levels(shop, variant) == (40 - len(paid), 0)
    shop.rows("SELECT 1")


# ---- invariant 6: coupons ----

def test_coupons_go_back_once(shop, settings):
    settings(success_percent=0, attempts=1)
    variant = shop.product(50)
    shop.eyes.execute("INSERT INTO shop.coupon (tenant_id, code, name, kind, value, target, usage_limit) "
                      "VALUES (1, 'SAGA', 'saga', 'percent', 1000, 'order', 1) ON CONFLICT DO NOTHING")
    used = "SELECT used FROM shop.coupon WHERE tenant_id = 1 AND code = 'SAGA'"
    for _ in range(3):
        assert pay(shop.client(), variant, coupon_codes=["SAGA"])[0] == 402
        assert shop.value(used) == 0
    settings()
    order = pay(shop.client(), variant, coupon_codes=["SAGA"])[1]
    assert (shop.value(used), order["discount"]["amount"], order["payment"]["captured"]["amount"]) == (1, 100, 900)


# ---- invariant 9: compensation is idempotent ----

def test_compensation_runs_once(shop, clients, settings):
    settings(action_percent=100)
    variant = shop.product(9)
    order = pay(clients[0], variant, 4)[1]["id"]
    staff = [shop.staff() for _ in range(5)]
    answers = crowd(staff, [lambda c: c.call("order_cancel", id=uuid.UUID(order))] * 10)
    assert [a[1]["status"] for a in won(answers)] == ["cancelled"] * 10
    assert levels(shop, variant) == (9, 0)
    assert types(shop, order).count("InventoryReleased") == 1
    assert [c["args"]["action"] for c in shop.sweep()] == ["void"]
    assert state(shop, order)[:3] == ("cancelled", "compensated", ["voided"])

    # after a success there is nothing to compensate but by cancelling
    settings()
    paid = pay(clients[0], variant, 2)[1]["id"]
    overdue(shop, paid)
    assert shop.sweep() == []
    assert state(shop, paid)[:2] == ("confirmed", "completed")


def test_cancel_races_the_payment(shop, clients, settings):
    """Whoever is first: paid and kept, or cancelled and the money given back; never both, never neither."""
    variant = shop.product(500)
    staff = [shop.staff() for _ in range(8)]
    for _ in range(15):
        buyer = clients[0]
        order, edge = place(buyer, variant)
        crowd(staff[:2] + [buyer], [lambda c: c.call("order_cancel", id=uuid.UUID(order["id"])) if c is not buyer else c.fetch(edge)] * 3)
        if shop.value("SELECT status::text FROM shop.orders WHERE id = %s", order["id"]) == "cancelled":
            buyer.fetch(edge)                   # the answer comes again, in any case
        shop.sweep()
        what = state(shop, order["id"])
        assert what in (("cancelled", "compensated", ["captured"], 1000, 1000), ("confirmed", "completed", ["captured"], 1000, 0))
        assert shop.value("SELECT count(*) FROM shop.refund WHERE order_id = %s", order["id"]) == (what[0] == "cancelled")
    assert levels(shop, variant)[1] == 0


# ---- invariant 10: events in every order, twice, late, unknown ----

@pytest.mark.parametrize("order_of", itertools.permutations(["requires_action", "declined", "success"]))
def test_events_in_every_order(shop, order_of):
    variant = shop.product(5)
    buyer = shop.client()
    order, _ = place(buyer, variant)
    for outcome in order_of:
        for _ in range(2):                      # each twice: under one id, then under another
            for id in (f"{order['id']} {outcome}", None):
                event(buyer, order["id"], outcome, id=id, **({"amount": 1000, "currency": "USD"} if outcome == "success" else {}))
    # success counts, whatever else was told: the decline left attempts
    assert state(shop, order["id"]) == ("confirmed", "completed", ["captured"], 1000, 0)
    assert types(shop, order["id"], "payment-events").count("PaymentProcessed") == 1
    assert shop.value("SELECT count(*) FROM shop.payment_transaction WHERE order_id = %s AND kind = 'capture'", order["id"]) == 1


def test_success_after_cancel_is_given_back_once(shop, clients):
    variant = shop.product(5)
    buyer = shop.client()
    order, edge = place(buyer, variant)
    buyer.call("order_cancel", id=uuid.UUID(order["id"]))
    crowd(clients[:10], [lambda c: event(c, order["id"], "success", amount=1000, currency="USD")] * 20)
    event(buyer, order["id"], "declined")
    assert state(shop, order["id"]) == ("cancelled", "compensated", ["captured"], 1000, 1000)
    shop.sweep()
    assert shop.rows("SELECT status, amount, reason FROM shop.refund WHERE order_id = %s", order["id"]) == [("SUCCEEDED", 1000, "late-payment")]
    assert types(shop, order["id"]).count("checkout.CompensatePayment") == 1 and types(shop, order["id"]).count("PaymentRefunded") == 1
    assert levels(shop, variant) == (5, 0)


def test_events_of_unknown_orders_are_kept(shop):
    variant = shop.product(5)
    buyer = shop.client()
    future = uuid.uuid4()
    assert event(buyer, str(future), "success", amount=1000, currency="USD", id="early")[0] == 200
    assert shop.rows("SELECT applied_at, tries FROM shop.payment_event WHERE event_id = 'early'") == [(None, 1)]
    place(buyer, variant, order=future)
    shop.eyes.execute("UPDATE shop.payment_event SET next_at = now() WHERE event_id = 'early'")
    shop.sweep()
    assert state(shop, str(future))[:2] == ("confirmed", "completed")
    # and in the end given up
    event(buyer, str(uuid.uuid4()), "success", id="never")
    shop.eyes.execute("UPDATE shop.payment_event SET next_at = now(), received_at = now() - interval '2 days' WHERE event_id = 'never'")
    shop.sweep()
    assert shop.rows("SELECT applied_at, next_at FROM shop.payment_event WHERE event_id = 'never'") == [(None, None)]


@pytest.mark.parametrize("amount,currency", [(999, "USD"), (1001, "USD"), (1000, "EUR")])
def test_another_amount_is_for_a_person(shop, amount, currency):
    variant = shop.product(5)
    buyer, staff = shop.client(), shop.staff()
    order, _ = place(buyer, variant)
    event(buyer, order["id"], "success", amount=amount, currency=currency)
    assert state(shop, order["id"])[:3] == ("payment_review", "review", ["captured"])
    assert levels(shop, variant) == (5, 1)      # kept for the customer
    overdue(shop)
    assert shop.sweep() == []

    with pytest.raises(Problem) as no:
        staff.call("order_status_put", id=uuid.UUID(order["id"]), status="shipped")
    assert no.value.code == "order-status-conflict"
    staff.call("order_status_put", id=uuid.UUID(order["id"]), status="cancelled")
    shop.sweep()
    assert levels(shop, variant) == (5, 0)
    given = amount if currency == "USD" else 0
    assert state(shop, order["id"])[3:] == (given, given)


def test_review_can_be_confirmed(shop):
    variant = shop.product(5)
    buyer, staff = shop.client(), shop.staff()
    order, _ = place(buyer, variant)
    event(buyer, order["id"], "success", amount=900, currency="USD")
    staff.call("order_status_put", id=uuid.UUID(order["id"]), status="confirmed")
    assert state(shop, order["id"])[:2] == ("confirmed", "completed")
    assert levels(shop, variant) == (4, 0)


def test_paid_twice_is_given_back(shop, settings):
    settings(success_percent=0)
    variant = shop.product(5)
    buyer = shop.client()
    order = pay(buyer, variant)[1]["order_id"]
    settings()
    buyer.fetch(buyer.call("payment_create", id=uuid.UUID(order), payment_method=None)[2])
    event(buyer, order, "success", attempt=1, amount=1000, currency="USD")
    shop.sweep()
    assert state(shop, order) == ("confirmed", "completed", ["captured", "captured"], 2000, 1000)
    assert shop.rows("SELECT attempt, reason, status FROM shop.refund WHERE order_id = %s", order) == [(1, "paid-twice", "SUCCEEDED")]


# ---- invariant 11: the saga ends ----

@pytest.mark.parametrize("success,attempts", [(100, 3), (0, 1), (0, 3)])
def test_crash_between_reserve_and_pay(shop, settings, success, attempts):
    """The worker dies after P1's commit: nobody made the call, the sweeper does."""
    settings(success_percent=success, attempts=attempts)
    variant = shop.product(5)
    order, _ = place(shop.client(), variant, 2)
    assert shop.sweep() == []                   # not before its time: the request may still be on its way
    overdue(shop, order["id"])
    assert [c["args"]["action"] for c in shop.sweep()] == ["pay"]
    overdue(shop, order["id"])
    shop.sweep()
    assert state(shop, order["id"])[:2] == (("confirmed", "completed") if success else ("cancelled", "compensated"))
    assert levels(shop, variant) == ((3, 0) if success else (5, 0))


def test_crash_between_the_answer_and_its_transaction(shop):
    """The provider has charged and the edge dies before P3: the same call under the same key finds it."""
    variant = shop.product(5)
    buyer = shop.client()
    order, edge = place(buyer, variant)
    overdue(shop, order["id"])
    calls = shop.sweep()
    assert [c["args"] for c in calls] == [{**edge["fetch"]["args"], "source": "sweeper"}]
    assert state(shop, order["id"]) == ("confirmed", "completed", ["captured"], 1000, 0)
    assert buyer.fetch(edge)[0] == 201          # and the first answer comes after all
    assert state(shop, order["id"]) == ("confirmed", "completed", ["captured"], 1000, 0)


def test_crash_within_a_transaction_leaves_nothing(shop):
    """The connection is gone in the middle of P3: no part of it stays, the sweeper does it whole."""
    variant = shop.product(5)
    buyer = shop.client()
    order, edge = place(buyer, variant)
    victim = shop.client()
    args = edge["fetch"]["args"]
    victim.connection.execute("SELECT api.begin_command(1, NULL, '', 'test', NULL, 'x', NULL, NULL, NULL)")
    victim.connection.execute("SELECT * FROM api.payment_result(order_id => %s::uuid, attempt => 1, action => 'pay', fetch_status => 200)",
                              (args["order_id"],))
    shop.eyes.execute("SELECT pg_terminate_backend(%s)", (victim.connection.info.backend_pid,))
    assert state(shop, order["id"])[:3] == ("pending", "paying", ["pending"])
    assert levels(shop, variant) == (5, 1)
    overdue(shop, order["id"])
    shop.sweep()
    assert state(shop, order["id"])[:2] == ("confirmed", "completed") and levels(shop, variant) == (4, 0)


def test_sweepers_do_not_meet(shop, clients, settings):
    """Several nodes sweep at once: each call is made once, and nothing is done twice."""
    settings(success_percent=50, attempts=1)
    variant = shop.product(100)
    orders = [place(clients[i % len(clients)], variant)[0]["id"] for i in range(40)]
    overdue(shop)
    sweepers = [type(clients[0])(shop.url, None, None, "") for _ in range(6)]
    calls = [c for status, body, edge in crowd(sweepers, [lambda c: c.call("saga_sweep", batch=1000)] * 12) for c in (edge or {}).get("fetch", [])]
    assert sorted(c["args"]["order_id"] for c in calls) == sorted(orders)
    crowd(clients, [lambda c, call=call: c.told(call) for call in calls + calls])
    assert shop.rows("SELECT order_id FROM shop.saga WHERE next_at IS NOT NULL AND order_id = ANY (%s::uuid[])", orders) == []
    assert levels(shop, variant)[1] == 0


def test_no_saga_is_open_past_its_deadline(shop, clients, settings):
    settings(success_percent=60, action_percent=20, unknown_percent=20, attempts=2)
    variant = shop.product(300)
    crowd(clients, [lambda c, i=i: pay(c, variant) if i % 3 else place(c, variant) for i in range(90)])
    for _ in range(6):
        overdue(shop)
        shop.sweep()
    assert shop.rows("SELECT order_id, state FROM shop.saga WHERE next_at IS NOT NULL") == []
    assert levels(shop, variant)[1] == 0


# ---- reservations without an order (D2, D3, D8) ----

def test_reservations(shop, clients):
    variant = shop.product(5)
    keeper = shop.staff()
    id = uuid.uuid4()
    status, held, _ = keeper.call("inventory_reserve", reservation_id=id, items=[{"product_id": variant - 1, "quantity": 3}], ttl=60)
    assert (status, held["status"], held["items"][0]["quantity"]) == (201, "open", 3)
    assert levels(shop, variant) == (5, 3)
    with pytest.raises(Problem) as short:
        keeper.call("inventory_reserve", reservation_id=uuid.uuid4(), items=[{"product_id": variant - 1, "quantity": 3}])
    assert (short.value.code, short.value.body["available"]) == ("out-of-stock", 2)
    with pytest.raises(Problem) as short:
        shop.client().checkout([(variant, 3)])
    assert short.value.code == "out-of-stock"
    with pytest.raises(Problem) as low:
        keeper.call("inventory_set", product_id=variant - 1, on_hand=2)
    assert low.value.code == "stock-too-low"

    keepers = [shop.staff() for _ in range(5)]
    answers = crowd(keepers, [lambda c: c.call("inventory_release", reservation_id=id)] * 10)
    assert {a[1]["status"] for a in answers} == {"released"}
    assert levels(shop, variant) == (5, 0)

    order, _ = place(shop.client(), variant)
    with pytest.raises(Problem) as orders:
        keeper.call("inventory_release", reservation_id=uuid.UUID(order["id"]))
    assert orders.value.code == "reservation-of-order"


def test_reservations_expire(shop):
    variant = shop.product(5)
    keeper = shop.staff()
    id = uuid.uuid4()
    keeper.call("inventory_reserve", reservation_id=id, items=[{"product_id": variant - 1, "quantity": 5}], ttl=60)
    shop.sweep()
    assert levels(shop, variant) == (5, 5)
    shop.eyes.execute("UPDATE shop.reservation SET expires_at = now() WHERE id = %s", (id,))
    shop.sweep()
    assert levels(shop, variant) == (5, 0)
    assert keeper.call("inventory_release", reservation_id=id)[1]["status"] == "expired"
    _, page, _ = keeper.call("inventory_movements", product_id=variant - 1, limit=2)
    assert [(m["reason"], m["reserved_delta"]) for m in page["data"]] == [("released", -5), ("reserved", 5)]


# ---- by commands (F7, F8) ----

def command(shop, type, payload, aggregate="somebody", topic="checkout.checkout-command", id=None):
    with shop.eyes.transaction():
        shop.eyes.execute("SELECT set_config('commerce.tenant_id', '1', true)")
        shop.eyes.execute("INSERT INTO event.outbox (tenant_id, event_id, topic, type, aggregate, aggregate_id, payload, shard) VALUES "
                          "(1, %s, %s, %s, 'command', %s, %s, domain.shard(%s))",
                          (id or uuid.uuid4(), topic, type, aggregate, json.dumps(payload), aggregate))


def deliver(shop):
    """What consumers have, until they have had everything."""
    feeder = shop.sweeper()
    while feeder.call("events_feed")[1]["more"]:
        pass
    assert shop.rows("SELECT error FROM event.retry") == [] and shop.rows("SELECT error FROM event.dead_letter") == []


def test_a_command_buys(shop):
    variant = shop.product(5)
    person = shop.client().principal
    wanted = {"idempotency_key": "by command", "user_id": str(person), "payment_method": "simulated",
              "items": [{"product_id": variant - 1, "quantity": 2}]}
    for _ in range(3):                          # told three times, by three messages
        command(shop, "InitiateCheckoutCommand", wanted)
    deliver(shop)                               # the order, and ProcessPayment
    assert levels(shop, variant) == (5, 2)
    deliver(shop)
    assert [c["args"]["action"] for c in shop.sweep()] == ["pay"]
    deliver(shop)
    order = str(shop.value("SELECT id FROM shop.orders WHERE user_id = %s", person))
    assert state(shop, order) == ("confirmed", "completed", ["captured"], 2000, 0)
    assert levels(shop, variant) == (3, 0)
    assert [t.removeprefix("checkout.") for t in types(shop, order, "checkout.%")] == [
        "OrderCreated", "ProcessPayment", "PaymentProcessed", "ClearCart", "CartCleared"]
    # the same types as of an order that a request drives
    inline = pay(shop.client(), variant)[1]["id"]
    deliver(shop)
    assert types(shop, inline) == types(shop, order)

    # one customer and key make one order, by whichever way
    with pytest.raises(Problem) as there:
        shop.client(principal=person).order([{"product_id": variant - 1, "quantity": 2}], key="by command")
    assert (there.value.code, there.value.body["order_id"]) == ("order-exists", order)


def test_a_command_is_refused_with_a_reason(shop):
    variant = shop.product(1)
    person = str(shop.client().principal)
    for n, more in enumerate(({"items": [{"product_id": variant - 1, "quantity": 2}]}, {"items": []},
                              {"items": [{"product_id": variant - 1, "quantity": 1}], "payment_method": "goats"},
                              {"items": [{"product_id": variant - 1, "quantity": 1}], "user_id": str(uuid.uuid4())})):
        command(shop, "InitiateCheckoutCommand", {"idempotency_key": f"refused {n}", "user_id": person, **more}, aggregate=f"refused {n}")
    deliver(shop)
    told = dict(shop.rows("SELECT payload::json ->> 'idempotency_key', payload::json ->> 'code' FROM event.outbox "
                          "WHERE type = 'checkout.OrderCreationFailed'"))
    assert told == {"refused 0": "out-of-stock", "refused 1": "cart-empty", "refused 2": "payment-method-unknown", "refused 3": "not-found"}
    assert levels(shop, variant) == (1, 0)


def test_commands_compensate(shop):
    variant = shop.product(5)
    order, edge = place(shop.client(), variant)
    for _ in range(2):
        command(shop, "checkout.CompensateInventory", {"order_id": order["id"]}, topic="checkout.inventory-command", aggregate=order["id"])
    shop.eyes.execute("UPDATE event.outbox SET aggregate = 'command', aggregate_version = NULL WHERE type = 'checkout.CompensateInventory'")
    deliver(shop)
    assert state(shop, order["id"])[:2] == ("cancelled", "compensated")
    assert levels(shop, variant) == (5, 0)
    shop.client().fetch(edge)                   # the late success is given back
    shop.sweep()
    assert state(shop, order["id"])[3:] == (1000, 1000)
