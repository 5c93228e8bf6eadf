"""Orders that are paid at a provider, over the edge: whatever the provider does, what is charged, sold and told fits together."""

import json
import pathlib
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import provider as providers
from stack import free_ports, wait_for

HERE = pathlib.Path(__file__).parent
ORDERS, CHECKOUT, CART = "/api/v1/orders", "/api/v1/checkout", "/api/v1/cart/items"
PATIENCE = 90
PRODUCT = 1


@pytest.fixture(scope="module")
def world(shop):
    """The provider, and a shop that takes it."""
    with shop.db() as db:
        db.execute((HERE / "contracts" / "payments.sql").read_text())
    [port] = free_ports(1)
    shop.staff().put(f"/api/v1/inventory/{PRODUCT}", json={"on_hand": 100000}).raise_for_status()
    with providers.Provider(port) as double, shop.configured(http=edge_of(double)):
        shop.expect_log("an outbound call for api.payment_result ended with")
        yield double


def edge_of(double, wait="40s"):
    """The lines that know the provider.  What a test does while the provider thinks may take as long as it does on a slow machine: the
    request goes on waiting, and below the 45 s of a payment's lease."""
    return f"commerce_fetch_url double {double.url};\ncommerce_fetch_wait {wait};"


@pytest.fixture
def double(shop, world):
    world.reset()
    settings(shop)
    yield world
    world.reset()
    world.gate.set()


def settings(shop, capture="now", attempts=2, ttl=900, double=None, **simulated):
    with shop.db() as db:
        db.execute("UPDATE shop.tenant SET settings = settings || %s::jsonb WHERE id = 1", [json.dumps({
            "reservation_ttl": ttl, "payments": {"methods": ["manual", "simulated", "double"], "attempts": attempts, "capture": capture,
                                                 "simulated": {"success_percent": 100, **simulated},
                                                 "double": double or {"timeout_ms": 40000}}})])


def buy(client, quantity=1, method="double", key=None, **more):
    return client.post(ORDERS, json={"items": [{"product_id": PRODUCT, "quantity": quantity}], "payment_method": method, **more},
                       headers={"Idempotency-Key": key or str(uuid.uuid4())})


def read(client, order):
    return client.get(f"{ORDERS}/{order}").json()


def payments(client, order):
    return client.get(f"{ORDERS}/{order}/payments").json()


def ended(shop, order):
    """The order's status when its saga is over and nothing is to be asked any more."""
    rows = shop.rows("SELECT o.status FROM shop.orders o JOIN shop.saga s ON (s.tenant_id, s.order_id) = (o.tenant_id, o.id) "
                     "WHERE o.id = %s AND s.next_at IS NULL AND NOT EXISTS (SELECT FROM shop.payment y WHERE y.order_id = o.id "
                     "AND y.next_at IS NOT NULL) AND NOT EXISTS (SELECT FROM shop.refund r WHERE r.order_id = o.id "
                     "AND r.next_at IS NOT NULL)", order)
    return rows[0]["status"] if rows else None


def end(shop, order):
    return wait_for(lambda: ended(shop, order), PATIENCE, f"the saga of {order} ends")


def hurry(shop, order):
    """Time goes by: the deadline is over, leases have run out."""
    with shop.db() as db:
        db.execute("UPDATE shop.saga SET deadline_at = now(), next_at = now() WHERE order_id = %s AND next_at IS NOT NULL", [order])
        db.execute("UPDATE shop.payment SET next_at = now() WHERE order_id = %s AND next_at IS NOT NULL", [order])


def dice(*what):
    return zlib.crc32(repr(what).encode())


def last_order(shop, person):
    rows = shop.rows("SELECT id::text FROM shop.orders WHERE user_id = %s ORDER BY id DESC LIMIT 1", person.user_id)
    return rows[0]["id"] if rows else None


@pytest.fixture
def person(shop):
    email = f"{uuid.uuid4()}@example.com"
    user = shop.value("SELECT domain.user_put(1, %s, '', 'Saga')", email)
    client = shop.edge(token=shop.token(user), timeout=PATIENCE)
    client.user_id = str(user)
    return client


@pytest.fixture(autouse=True)
def sound(shop, world):
    """Stock is the fold of its movements, and of open reservations; what is captured is what the provider has."""
    yield
    assert shop.rows(
        "SELECT s.variant_id, s.on_hand, s.reserved FROM shop.stock s WHERE s.tenant_id = 1 AND "
        "(s.on_hand <> (SELECT coalesce(sum(m.delta), 0) FROM shop.stock_movement m WHERE (m.tenant_id, m.variant_id, m.location_id) = "
        "(s.tenant_id, s.variant_id, s.location_id)) OR s.reserved <> (SELECT coalesce(sum(r.quantity), 0) FROM shop.reservation r "
        "WHERE (r.tenant_id, r.variant_id, r.location_id) = (s.tenant_id, s.variant_id, s.location_id) AND r.state = 'open'))") == []
    ours = {f"{r['order_id']}:{r['attempt']}": (r["captured_amount"], r["refunded_amount"]) for r in shop.rows(
        "SELECT order_id, attempt, captured_amount, refunded_amount FROM shop.payment WHERE method = 'double' AND captured_amount > 0 "
        "AND next_at IS NULL")}
    theirs = {p: (e["amount"], e["refunded"]) for p, e in world.books.items() if e["state"] == "success"}
    assert {p: theirs.get(p) for p in ours} == ours


# ---- the request waits ----

def test_paid_while_the_request_waits(shop, double, person):
    key = str(uuid.uuid4())
    done = buy(person, 2, key=key)
    assert done.status_code == 201, done.text
    order = done.json()
    assert (order["status"], order["payment"]["status"]) == ("confirmed", "captured")
    assert done.headers["Location"] == f"{ORDERS}/{order['id']}"
    assert order["payment"]["reference"] == f"ref-{order['id']}:1"
    assert double.charged(order["id"]) == (order["total"]["amount"], 1) and double.keys(order["id"]) == [f"{order['id']}:1"]
    again = buy(person, 2, key=key)
    assert (again.status_code, again.json(), again.headers["Idempotent-Replayed"]) == (201, order, "true")
    told = payments(person, order["id"])
    assert [t["kind"] for t in told["transactions"]] == ["capture"]


def test_a_cart_is_paid(shop, double, person):
    person.post(CART, json={"product_id": PRODUCT, "quantity": 1}).raise_for_status()
    done = person.post(CHECKOUT, json={"payment_method": "double"}, headers={"Idempotency-Key": str(uuid.uuid4())})
    assert (done.status_code, done.json()["status"]) == (201, "confirmed"), done.text
    assert person.get("/api/v1/cart").json()["items"] == []


def test_a_crowd_under_one_key_pays_once(shop, double, person):
    key = str(uuid.uuid4())
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: buy(person, key=key), range(20)))
    # those who come while the first waits for the provider learn that it waits
    assert {a.status_code for a in answers} <= {201, 202} and 201 in {a.status_code for a in answers}
    assert len({a.json()["id"] for a in answers}) == 1
    assert double.charged(answers[0].json()["id"])[1] == 1
    assert buy(person, key=key).status_code == 201


def test_declined_then_paid(shop, double, person):
    double.decide = lambda payment, amount: "declined" if payment.endswith(":1") else "success"
    key = str(uuid.uuid4())
    no = buy(person, key=key)
    assert (no.status_code, no.json()["code"], no.json()["payment_code"], no.json()["attempts_left"]) \
        == (402, "payment-declined", "card-declined", 1), no.text
    assert no.headers["Content-Type"] == "application/problem+json"
    order = no.json()["order_id"]
    assert read(person, order)["status"] == "pending"
    yes = person.post(f"{ORDERS}/{order}/payments", json={})
    assert (yes.status_code, yes.json()["status"]) == (201, "confirmed"), yes.text
    assert double.charged(order)[1] == 1 and double.keys(order) == [f"{order}:1", f"{order}:2"]
    assert buy(person, key=key).json()["id"] == order


def test_declined_for_good(shop, double, person):
    settings(shop, attempts=1)
    double.decide = lambda payment, amount: "declined"
    no = buy(person, 3)
    assert (no.status_code, no.json()["order_status"], no.json()["attempts_left"]) == (402, "cancelled", 0)
    assert end(shop, no.json()["order_id"]) == "cancelled"


def test_the_customer_has_something_to_do(shop, double, person):
    double.decide = lambda payment, amount: "requires_action"
    waits = buy(person)
    assert (waits.status_code, waits.json()["payment"]["status"]) == (202, "requires_action"), waits.text
    order = waits.json()["id"]
    assert waits.json()["payment"]["action"]["client_secret"] == f"secret-{order}:1"
    still = person.post(f"{ORDERS}/{order}/payments/sync")
    assert (still.status_code, still.json()["payment"]["status"]) == (202, "requires_action"), still.text
    double.confirm(order)
    done = person.post(f"{ORDERS}/{order}/payments/sync")
    assert (done.status_code, done.json()["status"]) == (201, "confirmed")
    assert end(shop, order) == "confirmed" and double.charged(order)[1] == 1


def test_nobody_does_it(shop, double, person):
    double.decide = lambda payment, amount: "requires_action"
    order = buy(person).json()["id"]
    hurry(shop, order)
    assert end(shop, order) == "cancelled"
    assert double.books[f"{order}:1"]["state"] == "voided"


# ---- faults: nothing is charged twice, nothing is left open (invariants 11, 12) ----

@pytest.mark.parametrize("fault", ["500", "cut", "closed", "silent", "late-500", "late-cut", "late-closed", "late-silent"])
def test_no_answer_is_asked_for_again(shop, double, person, fault):
    settings(shop, double={"timeout_ms": 500})
    double.fault = lambda action, payment, nth: fault if action == "pay" and nth == 0 else None
    waits = buy(person, 2)
    if "closed" not in fault:                   # there the answer may be that of a second call under the same key
        assert (waits.status_code, waits.json()["payment"]["status"]) == (202, "processing"), waits.text
    order = waits.json()["id"]
    assert end(shop, order) == "confirmed"
    assert double.charged(order) == (waits.json()["total"]["amount"], 1)
    assert set(double.keys(order)) == {f"{order}:1"}


def test_the_answer_is_no_through_all_faults(shop, double, person):
    settings(shop, attempts=1, double={"timeout_ms": 500})
    double.decide = lambda payment, amount: "declined"
    double.fault = lambda action, payment, nth: ("late-cut", "500", "silent")[nth] if nth < 3 else None
    order = buy(person).json()["id"]
    for tries in range(1, 4):
        wait_for(lambda tries=tries: len(double.keys(order, "pay") + double.keys(order, "query")) > tries or hurry(shop, order), PATIENCE, "asked again")
    assert end(shop, order) == "cancelled" and double.charged(order) == (0, 0)


def test_a_client_that_leaves_has_paid(shop, double, person):
    double.fault = lambda action, payment, nth: "gate"
    impatient = shop.edge(token=person.headers["Authorization"].removeprefix("Bearer "),
                          timeout=httpx.Timeout(PATIENCE, read=1))
    with pytest.raises(httpx.ReadTimeout):
        buy(impatient)
    order = wait_for(lambda: last_order(shop, person), PATIENCE, "the order is there")
    wait_for(lambda: double.keys(order), PATIENCE, "the provider is asked")
    double.gate.set()
    assert end(shop, order) == "confirmed" and double.charged(order)[1] == 1
    assert double.keys(order) == [f"{order}:1"]


def test_a_slow_provider_is_not_waited_for_without_end(shop, double, person):
    double.fault = lambda action, payment, nth: "gate"
    shop.configure(http=edge_of(double, wait="2s"))
    try:
        shop.reload()
        key = str(uuid.uuid4())
        waits = buy(person, key=key)
        assert (waits.status_code, waits.json()["payment"]["status"]) == (202, "processing")
        order = waits.json()["id"]
        double.gate.set()
        assert end(shop, order) == "confirmed"
        wait_for(lambda: buy(person, key=key).status_code == 201, PATIENCE, "the key answers what became of it")
    finally:
        shop.configure(http=edge_of(double))
        shop.reload()


def test_money_that_comes_too_late_goes_back(shop, double, person):
    """Cancelled while the provider takes its time: given back once (invariant 10)."""
    double.fault = lambda action, payment, nth: "gate" if action == "pay" else "late-500" if action == "refund" and nth == 0 else None
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(buy, person)
        wait_for(lambda: last_order(shop, person) and double.keys(last_order(shop, person)), PATIENCE, "the provider is asked")
        order = last_order(shop, person)
        cancelled = person.post(f"{ORDERS}/{order}/cancel", json={})
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled"), cancelled.text
        double.gate.set()
        assert (answer.result().status_code, answer.result().json()["order_status"]) == (402, "cancelled")
    assert end(shop, order) == "cancelled"
    assert double.charged(order) == (0, 1)
    assert [(r["status"], r["reason"]) for r in payments(person, order)["refunds"]] == [("SUCCEEDED", "late-payment")]


def test_the_workers_die_while_the_provider_thinks(shop, double, person):
    double.fault = lambda action, payment, nth: "gate" if nth == 0 else None
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(buy, person)
        wait_for(lambda: last_order(shop, person) and double.keys(last_order(shop, person)), PATIENCE, "the provider is asked")
        order = last_order(shop, person)
        shop.kill_worker(0)
        shop.kill_worker(0)
        with pytest.raises(httpx.TransportError):
            answer.result()
        double.gate.set()
    shop.ready(60)
    hurry(shop, order)
    assert end(shop, order) == "confirmed" and double.charged(order)[1] == 1
    assert set(double.keys(order)) == {f"{order}:1"}


def test_a_reload_loses_no_payment(shop, double, person):
    double.fault = lambda action, payment, nth: "gate"
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(buy, person) for _ in range(4)]
        wait_for(lambda: double.gated == 4, PATIENCE, "the provider is asked")
        shop.reload()
        double.gate.set()
        assert [a.result().status_code for a in answers] == [201] * 4
    for a in answers:
        assert double.charged(a.result().json()["id"])[1] == 1


@pytest.mark.parametrize("orders", [30])
def test_nothing_is_open_or_double_after_a_storm(shop, double, person, orders):
    """Every third call fails in one of eight ways; customers repeat themselves and cancel."""
    faults = ["500", "cut", "closed", "silent", "late-500", "late-cut", "late-closed", "late-silent"]
    settings(shop, double={"timeout_ms": 300})
    double.fault = lambda action, payment, nth: faults[dice(payment, nth) % 8] if nth < 2 and dice(action, payment, nth) % 3 == 0 else None
    double.decide = lambda payment, amount: ("success", "success", "declined", "requires_action")[dice(payment) % 4]

    def customer(i):
        answer = buy(person, key=f"storm-{i}-{person.user_id}")
        assert answer.status_code in (201, 202, 402), answer.text
        order = answer.json().get("order_id") or answer.json()["id"]
        if i % 5 == 0:
            person.post(f"{ORDERS}/{order}/cancel", json={})
        return order

    with ThreadPoolExecutor(10) as pool:
        made = list(pool.map(customer, range(orders)))
    assert len(set(made)) == orders

    for order in made:
        wait_for(lambda order=order: ended(shop, order) or hurry(shop, order), PATIENCE, f"{order} ends")
    for order in made:
        due = shop.value("SELECT CASE WHEN status = 'confirmed' THEN total_amount ELSE 0 END FROM shop.orders WHERE id = %s", order)
        assert double.charged(order)[0] == due, order
        assert len(set(double.keys(order))) == len([p for p in double.books if p.startswith(order)])


# ---- refunds, capture, void by staff (invariant 5) ----

def test_twenty_refunds_at_once(shop, double, person, staff):
    order = buy(person, 3).json()
    total, part = order["total"]["amount"], order["total"]["amount"] // 7
    path = f"{ORDERS}/{order['id']}/refunds"
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda i: staff.post(path, json={"amount": part}, headers={"Idempotency-Key": f"{order['id']}-{i}"}), range(20)))
    good = [a for a in answers if a.status_code == 202]
    assert len(good) == total // part and {a.json()["code"] for a in answers if a not in good} == {"refund-too-large"}
    end(shop, order["id"])
    assert double.charged(order["id"])[0] == total - part * len(good)
    assert len({a.json()["refund_id"] for a in good}) == len(good)

    rest = staff.post(path, json={}, headers={"Idempotency-Key": str(uuid.uuid4())})
    assert (rest.status_code, rest.json()["amount"]["amount"]) == (202, total - part * len(good)), rest.text
    end(shop, order["id"])
    assert double.charged(order["id"])[0] == 0
    shown = payments(staff, order["id"])
    assert shown["payments"][0]["refunded"]["amount"] == total and {r["status"] for r in shown["refunds"]} == {"SUCCEEDED"}
    assert person.post(path, json={}, headers={"Idempotency-Key": str(uuid.uuid4())}).status_code == 403


def test_lines_are_refunded_by_the_piece(shop, double, person, staff):
    order = buy(person, 3).json()
    path, line = f"{ORDERS}/{order['id']}/refunds", order["items"][0]

    def refund(quantity, **more):
        return staff.post(path, json={"lines": [{"variant_id": line["variant_id"], "quantity": quantity, **more}]},
                          headers={"Idempotency-Key": str(uuid.uuid4())})

    assert refund(1, restock=True).json()["code"] == "order-not-shipped"
    for status in ("processing", "shipped"):
        staff.put(f"{ORDERS}/{order['id']}/status", json={"status": status}).raise_for_status()
    before = shop.value("SELECT sum(on_hand) FROM shop.stock WHERE variant_id = %s", line["variant_id"])
    assert refund(4).json()["code"] == "refund-too-large"
    answers = [refund(1, restock=True), refund(2)]
    assert [a.status_code for a in answers] == [202, 202], [a.text for a in answers]
    worth = line["total"]["amount"] - line["discount"]["amount"] + (0 if order["tax_inclusive"] else line["tax"]["amount"])
    assert sum(a.json()["amount"]["amount"] for a in answers) == worth
    assert shop.value("SELECT sum(on_hand) FROM shop.stock WHERE variant_id = %s", line["variant_id"]) == before + 1
    end(shop, order["id"])
    assert double.charged(order["id"])[0] == order["total"]["amount"] - worth


def test_authorise_then_capture(shop, double, person, staff):
    settings(shop, capture="later")
    order = buy(person, 2).json()
    total = order["total"]["amount"]
    assert (order["status"], order["payment"]["status"], double.charged(order["id"])) == ("confirmed", "authorized", (0, 0))
    path = f"{ORDERS}/{order['id']}/payments/1"
    assert person.post(f"{path}/capture", json={}).status_code == 403
    assert staff.post(f"{path}/capture", json={"amount": total + 1}).json()["code"] == "amount-invalid"
    part = staff.post(f"{path}/capture", json={"amount": total - 1})
    assert (part.status_code, part.json()["payment"]["captured"]["amount"]) == (201, total - 1), part.text
    assert staff.post(f"{path}/capture", json={}).status_code == 201
    assert double.charged(order["id"]) == (total - 1, 1)
    assert staff.post(f"{path}/void").json()["code"] == "payment-not-voidable"


def test_authorise_then_void(shop, double, person, staff):
    settings(shop, capture="later")
    order = buy(person).json()["id"]
    gone = staff.post(f"{ORDERS}/{order}/payments/1/void")
    assert gone.json()["payment"]["status"] == "voided", gone.text
    assert double.books[f"{order}:1"]["state"] == "voided"
    # a cancelled order lets its authorisation go by itself
    other = buy(person).json()["id"]
    person.post(f"{ORDERS}/{other}/cancel", json={}).raise_for_status()
    wait_for(lambda: double.books[f"{other}:1"]["state"] == "voided", PATIENCE, "the authorisation is gone")
    assert end(shop, other) == "cancelled"


# ---- without a network, and by commands ----

def test_the_simulated_provider(shop, double, person):
    settings(shop, delay_ms=50)
    done = buy(person, method="simulated")
    assert (done.status_code, done.json()["payment"]["status"]) == (201, "captured"), done.text
    settings(shop, success_percent=0)
    assert buy(person, method="simulated").status_code == 402
    settings(shop, action_percent=100)
    waits = buy(person, method="simulated")
    assert waits.status_code == 202
    assert person.post(f"{ORDERS}/{waits.json()['id']}/payments/sync").status_code == 201
    settings(shop, unknown_percent=100)
    waits = buy(person, method="simulated")
    assert (waits.status_code, end(shop, waits.json()["id"])) == (202, "confirmed")


def test_a_command_buys(shop, double, person):
    key = str(uuid.uuid4())
    with shop.db() as db, db.transaction():
        db.execute("SELECT set_config('commerce.tenant_id', '1', true)")
        db.execute("SELECT domain.emit('checkout.checkout-command', 'InitiateCheckoutCommand', 'command', %s, %s::jsonb)", [key, json.dumps({
            "idempotency_key": key, "user_id": person.user_id, "payment_method": "double",
            "items": [{"product_id": PRODUCT, "quantity": 2}]})])
    order = wait_for(lambda: last_order(shop, person), PATIENCE, "the order is there")
    assert end(shop, order) == "confirmed" and double.charged(order)[1] == 1
    wait_for(lambda: shop.value("SELECT count(*) FROM event.outbox WHERE aggregate_id = %s AND type = 'checkout.CartCleared'", order) == 1,
             PATIENCE, "the saga is told to its end")
