"""Orders paid at Stripe's double, over the edge: outcomes, faults, events, refunds."""

import concurrent.futures
import hashlib
import hmac
import importlib.machinery
import importlib.util
import json
import threading
import time
import uuid

import httpx
import pytest

from stack import ROOT, free_ports, wait_for

PATIENCE = 90
ORDERS, HOOK = "/api/v1/orders", "/api/v1/webhooks/payments/stripe"
SECRET = "whsec_of_this_test"


def double():
    """scripts/payment-double as a module."""
    loader = importlib.machinery.SourceFileLoader("payment_double", str(ROOT / "scripts" / "payment-double"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("payment_double", loader))
    loader.exec_module(module)
    return module


class Provider:
    def __init__(self, server, port):
        self.double, self.url = server.double, f"http://127.0.0.1:{port}"

    def ask(self, path, body=None):
        answer = httpx.request("GET" if body is None else "POST", f"{self.url}/_double/{path}", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ledger(self, order):
        return [(line["kind"], line["amount"]) for line in self.ask("ledger") if line["order_id"] == order]

    def intent(self, order):
        with self.double.lock:
            return next(i["id"] for i in reversed(self.double.intents.values()) if i["metadata"]["order_id"] == order)

    def refunds(self, order):
        with self.double.lock:
            return [r["id"] for r in self.double.refunds.values() if r["metadata"]["order_id"] == order]

    def events(self, order):
        with self.double.lock:
            return [e for e in self.double.events.values() if e["data"]["object"]["metadata"].get("order_id") == order]


@pytest.fixture(scope="module")
def provider(shop):
    port, = free_ports(1)
    server = double().serve(port, key="sk_test_double", url=shop.url + HOOK, secrets=[SECRET])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    for name, text in (("stripe", "sk_test_double"), ("stripe-webhook", SECRET)):
        secret = shop.folder / "secrets" / name
        secret.write_text(text + "\n")
        secret.chmod(0o400)
    with shop.staff() as staff:
        path = "/api/v1/admin/settings"
        staff.patch(path, headers={"If-Match": staff.get(path).headers["ETag"]}, json={
            "payments": {"methods": ["manual", "stripe"], "attempts": 3, "stripe": {"statement_suffix": "DEMO"}}}).raise_for_status()
    sweep = "" if "saga_sweep" in (ROOT / "conf" / "jobs.conf").read_text() else "commerce_job saga_sweep call=api.saga_sweep interval=1s;"
    with shop.configured(http=f"""
            commerce_fetch_url stripe http://127.0.0.1:{port};
            commerce_secret stripe.demo file={shop.folder}/secrets/stripe for=http://127.0.0.1:{port};
            commerce_secret stripe.demo.webhook file={shop.folder}/secrets/stripe-webhook;
            commerce_fetch_timeout 15s; {sweep}"""):
        assert shop.staff().put("/api/v1/inventory/1", json={"on_hand": 10000}).status_code == 200
        yield Provider(server, port)
        server.double.closing.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def buy(shop, provider):
    """Orders of one buyer each."""
    def buy(token, quantity=1, **more):
        (person, signed), = shop.customers(1)
        edge = shop.edge(token=signed, timeout=PATIENCE)
        edge.user_id = person
        body = {"items": [{"product_id": 1, "quantity": quantity}], "payment_method": "stripe", **({"payment_token": token} if token else {})}
        return edge, edge.post(ORDERS, json={**body, **more}, headers={"Idempotency-Key": str(uuid.uuid4())})
    return buy


def status(shop, order):
    return shop.value("SELECT status FROM shop.orders WHERE id = %s", order)


def reached(shop, order, *wanted):
    return wait_for(lambda: status(shop, order) in wanted and status(shop, order), PATIENCE, f"{order} is {wanted}")


def total(order):
    return order["total"]["amount"]


def signed(body, secret=SECRET, stamp=None):
    stamp = int(time.time()) if stamp is None else stamp
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


# ---- outcomes ----

def test_a_card_pays(shop, provider, buy):
    edge, answer = buy("pm_card_visa", quantity=2)
    assert answer.status_code == 201, answer.text
    order = answer.json()
    assert order["status"] == "confirmed" and order["payment"]["status"] == "captured"
    assert provider.ledger(order["id"]) == [("charge", total(order))]
    call = next(c for c in provider.ask("calls") if c["form"].get("metadata", {}).get("order_id") == order["id"])
    assert call["key"] == f"{order['id']}:1" and call["form"]["amount"] == str(total(order))
    assert call["form"]["currency"] == order["total"]["currency"].lower() and call["form"]["statement_descriptor_suffix"] == "DEMO"
    # its events say the same once more
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.payment_event WHERE order_id = %s AND applied_at IS NOT NULL", order["id"])
             == len(provider.events(order["id"])), PATIENCE, "all events are kept")
    assert shop.value("SELECT captured_amount FROM shop.payment WHERE order_id = %s", order["id"]) == total(order)
    assert "sk_test_double" not in "\n".join(shop.log_lines()) and SECRET not in "\n".join(shop.log_lines())


@pytest.mark.parametrize("token, code", [
    ("pm_card_chargeDeclinedInsufficientFunds", "insufficient-funds"),
    ("pm_card_chargeDeclinedExpiredCard", "expired-card"),
    ("pm_card_chargeDeclinedStolenCard", "card-declined"),
])
def test_a_declined_card_and_another_one(shop, provider, buy, token, code):
    edge, answer = buy(token)
    assert answer.status_code == 402 and answer.json()["code"] == "payment-declined", answer.text
    assert answer.json()["payment_code"] == code and "stolen" not in answer.text
    order = answer.json()["order_id"]
    again = edge.post(f"{ORDERS}/{order}/payments", json={"payment_token": "pm_card_visa"}, headers={"Idempotency-Key": str(uuid.uuid4())})
    assert again.status_code == 201 and again.json()["payment"]["attempt"] == 2, again.text
    assert provider.ledger(order) == [("charge", total(again.json()))]


def test_the_customer_has_to_act(shop, provider, buy):
    for token, more in (("pm_card_authenticationRequired", {"return_url": "https://shop.example/back"}), (None, {})):
        edge, answer = buy(token, **more)
        assert answer.status_code == 202, answer.text
        order = answer.json()
        action = order["payment"]["action"]
        assert action["client_secret"].startswith(provider.intent(order["id"])) and ("url" in action) == bool(token)
        assert provider.ledger(order["id"]) == []
        provider.ask("customer", {"intent": provider.intent(order["id"]), "result": "succeeded"})
        assert reached(shop, order["id"], "confirmed")
        assert provider.ledger(order["id"]) == [("charge", total(order))]


def test_the_customer_does_not(shop, provider, buy):
    edge, answer = buy("pm_card_authenticationRequired")
    order = answer.json()["id"]
    provider.ask("customer", {"intent": provider.intent(order), "result": "failed"})
    wait_for(lambda: shop.value("SELECT status FROM shop.payment WHERE order_id = %s", order) == "failed", PATIENCE, "the attempt failed")
    assert edge.post(f"{ORDERS}/{order}/cancel", json={}).status_code == 200
    assert provider.ledger(order) == []


def test_cancelled_while_the_customer_pays(shop, provider, buy):
    """The void comes too late: what was paid is given back, once."""
    edge, answer = buy("pm_card_authenticationRequired")
    order = answer.json()
    provider.ask("webhook", {"hold": True})
    try:
        provider.ask("customer", {"intent": provider.intent(order["id"]), "result": "succeeded"})
        assert edge.post(f"{ORDERS}/{order['id']}/cancel", json={}).status_code == 200
    finally:
        provider.ask("webhook", {"hold": False})
    wait_for(lambda: provider.ledger(order["id"]) == [("charge", total(order)), ("refund", total(order))], PATIENCE, "it is given back")
    wait_for(lambda: shop.rows("SELECT 1 FROM shop.refund WHERE order_id = %s AND status = 'SUCCEEDED'", order["id"]), PATIENCE, "and known")
    assert status(shop, order["id"]) == "cancelled"


# ---- faults ----

FAULTS = [(kind, when) for kind in ("cut", "garbage", "500", "503") for when in ("before", "after")] + [("429", "before"), ("409", "before")]


def test_whatever_goes_wrong_charges_once(shop, provider, buy):
    """Each fault once, side by side; the sweeper finds out under the same key."""
    orders = []
    for kind, when in FAULTS:
        provider.ask("faults", [{"kind": kind, "when": when, "path": "/v1/payment_intents"}])
        edge, answer = buy("pm_card_visa")
        # 201: an event was faster, or the call was repeated on a new connection where a kept one ended without a byte
        assert answer.status_code in (201, 202), (kind, when, answer.text)
        orders.append((kind, when, answer.json()))
    assert {kind for kind, _ in FAULTS} <= {call["fault"] for call in provider.ask("calls")}
    for kind, when, order in orders:
        reached(shop, order["id"], "confirmed")
        assert provider.ledger(order["id"]) == [("charge", total(order))], (kind, when)
    assert not shop.rows("SELECT 1 FROM shop.payment WHERE method = 'stripe' AND todo IS NOT NULL AND status = 'captured'")


def test_a_provider_that_hangs_does_not_hold_the_customer(shop, provider, buy):
    provider.ask("faults", [{"kind": "slow", "after_ms": 3000, "when": "after", "path": "/v1/payment_intents"}])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        slow = pool.submit(buy, "pm_card_visa")
        edge, quick = buy("pm_card_visa")
        answers = [quick, slow.result()[1]]
    for answer in answers:
        assert answer.status_code in (201, 202), answer.text
        reached(shop, answer.json()["id"], "confirmed")
        assert provider.ledger(answer.json()["id"]) == [("charge", total(answer.json()))]


def test_a_refused_call_is_no_decline_of_the_customer(shop, provider, buy):
    """Without a good key nothing is known of what was charged before, so nothing is taken back."""
    key, provider.double.key = provider.double.key, "sk_test_another"
    try:
        edge, answer = buy("pm_card_visa")
        assert answer.status_code == 202, answer.text
    finally:
        provider.double.key = key
    reached(shop, answer.json()["id"], "confirmed")
    assert provider.ledger(answer.json()["id"]) == [("charge", total(answer.json()))]


# ---- refunds, capture, void ----

def refunds(staff, order, **body):
    return staff.post(f"{ORDERS}/{order}/refunds", json=body, headers={"Idempotency-Key": str(uuid.uuid4())})


def test_refunds_in_parts(shop, provider, buy, staff):
    edge, answer = buy("pm_card_visa", quantity=3)
    order = answer.json()
    provider.ask("faults", [{"kind": "cut", "when": "after", "path": "/v1/refunds"}])
    assert refunds(staff, order["id"], amount=100).status_code == 202
    assert refunds(staff, order["id"], amount=total(order)).status_code == 409
    assert refunds(staff, order["id"]).status_code == 202
    wait_for(lambda: sorted(a for k, a in provider.ledger(order["id"]) if k == "refund") == sorted([100, total(order) - 100]),
             PATIENCE, "both are given back")
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.refund WHERE order_id = %s AND status = 'SUCCEEDED'", order["id"]) == 2,
             PATIENCE, "both are known")
    assert refunds(staff, order["id"]).status_code == 409
    assert len(provider.ledger(order["id"])) == 3


def test_refunds_that_are_late_or_fail(shop, provider, buy, staff):
    edge, answer = buy("pm_card_pendingRefund")
    late = answer.json()
    assert refunds(staff, late["id"]).status_code == 202
    pending = wait_for(lambda: provider.refunds(late["id"]), PATIENCE, "it is asked for")
    assert shop.value("SELECT status FROM shop.refund WHERE order_id = %s", late["id"]) == "PENDING"
    provider.ask("customer", {"intent": pending[0], "result": "succeeded"})
    wait_for(lambda: shop.value("SELECT status FROM shop.refund WHERE order_id = %s", late["id"]) == "SUCCEEDED", PATIENCE, "it came")
    assert len(pending) == 1 and provider.ledger(late["id"])[1:] == [("refund", total(late))]

    edge, answer = buy("pm_card_refundFail")
    failed = answer.json()["id"]
    assert refunds(staff, failed).status_code == 202
    wait_for(lambda: shop.value("SELECT status FROM shop.refund WHERE order_id = %s", failed) == "FAILED", PATIENCE, "it failed")
    assert shop.value("SELECT refunded_amount FROM shop.payment WHERE order_id = %s", failed) == 0


def test_authorised_now_captured_later(shop, provider, buy, staff):
    later = "UPDATE shop.tenant SET settings = jsonb_set(settings, '{{payments,capture}}', '\"{}\"') WHERE id = 1 RETURNING 1"
    shop.rows(later.format("later"))
    try:
        edge, first = buy("pm_card_visa")
        edge, second = buy("pm_card_visa")
    finally:
        shop.rows(later.format("now"))
    first, second = first.json(), second.json()
    assert first["payment"]["status"] == "authorized" and provider.ledger(first["id"]) == []
    taken = staff.post(f"{ORDERS}/{first['id']}/payments/1/capture", json={"amount": total(first) - 1})
    assert taken.status_code in (200, 201), taken.text
    assert provider.ledger(first["id"]) == [("charge", total(first) - 1)]
    let = staff.post(f"{ORDERS}/{second['id']}/payments/1/void")
    assert let.status_code < 300, let.text
    assert provider.double.intents[provider.intent(second["id"])]["status"] == "canceled" and provider.ledger(second["id"]) == []
    wait_for(lambda: shop.value("SELECT status FROM shop.payment WHERE order_id = %s", second["id"]) == "voided", PATIENCE, "it is void")


# ---- events ----

def test_events_often_and_in_any_order(shop, provider, buy):
    provider.ask("webhook", {"hold": True, "times": 3, "shuffle": True})
    try:
        orders = []
        for token in ("pm_card_authenticationRequired", "pm_card_visa", "pm_card_authenticationRequired"):
            edge, answer = buy(token)
            orders.append(answer.json())
        for order in (orders[0], orders[2]):
            provider.ask("customer", {"intent": provider.intent(order["id"]), "result": "succeeded"})
    finally:
        provider.ask("webhook", {"hold": False, "times": 1})
    for order in orders:
        reached(shop, order["id"], "confirmed")
        assert provider.ledger(order["id"]) == [("charge", total(order))]
    provider.ask("webhook", {"shuffle": False})
    wait_for(lambda: not provider.double.pending, PATIENCE, "all are delivered")
    for order in orders:
        for event in provider.events(order["id"]):
            provider.ask("deliver", {"event": event["id"]})
    wait_for(lambda: not provider.double.pending, PATIENCE, "all are delivered again")
    for order in orders:
        rows = shop.rows("SELECT event_id FROM shop.payment_event WHERE order_id = %s", order["id"])
        assert {r["event_id"] for r in rows} == {e["id"] for e in provider.events(order["id"])}
        assert shop.value("SELECT count(*) FROM shop.payment_transaction WHERE order_id = %s", order["id"]) == 1


def test_events_that_nobody_signed(shop, provider, anyone):
    body = json.dumps({"id": "evt_forged", "type": "payment_intent.succeeded", "data": {"object": {}}}).encode()
    now = int(time.time())
    good = signed(body)

    def post(signature, sent=body, provider="stripe"):
        headers = {"Content-Type": "application/json", **({"Stripe-Signature": signature} if signature is not None else {})}
        return anyone.post(f"/api/v1/webhooks/payments/{provider}", content=sent, headers=headers)

    for signature in (None, "", "t=1", "v1=" + "0" * 64, f"t={now}", f"t={now},v1=xyz", f"t={now},v1={'0' * 64}", f"t={now},v0={good[-64:]}",
                      signed(body, "whsec_other"), signed(body, stamp=now - 400), signed(body, stamp=now + 400),
                      signed(body, stamp="1e9"), signed(body + b" "), good.replace("t=", "t=1")):
        answer = post(signature)
        assert answer.status_code == 400 and answer.json()["code"] == "signature-invalid", (signature, answer.text)
    assert post(good, body.replace(b"evt_forged", b"evt_forgex")).status_code == 400
    assert post(good, provider="paypal").status_code == 404
    assert post(good, provider="manual").status_code == 404
    assert not shop.rows("SELECT 1 FROM shop.payment_event WHERE event_id LIKE 'evt_forge%%'")
    # a key that is being replaced signs beside the new one; escapes and spaces are part of the bytes
    spaced = b'{ "id": "evt_forged", "type": "caf\\u00e9 \xc3\xa9 e\xcc\x81", "data": {"object": {}} }\n'
    assert post(signed(spaced, "whsec_old") + "," + signed(spaced).split(",")[1], spaced).status_code == 200
    assert shop.value("SELECT count(*) FROM shop.payment_event WHERE event_id = 'evt_forged'") == 1
    # the same event under a signature of today changes nothing
    assert post(signed(spaced), spaced).status_code == 200
    assert shop.value("SELECT count(*) FROM shop.payment_event WHERE event_id = 'evt_forged'") == 1
    assert post(signed(b'{"id": 1}'), b'{"id": 1}').status_code == 422


def test_an_event_of_another_shop(shop, provider, buy):
    """A shop without this secret takes nothing, and an order is found in its own shop only."""
    edge, answer = buy("pm_card_authenticationRequired")
    order = answer.json()["id"]
    body = json.dumps({"id": "evt_foreign", "type": "payment_intent.succeeded", "data": {"object": {
        "object": "payment_intent", "id": "pi_x", "status": "succeeded", "amount_received": total(answer.json()), "currency": "usd",
        "metadata": {"order_id": order, "attempt": "1"}}}}).encode()
    with shop.edge(tenant="acme") as other:
        refused = other.post(HOOK, content=body, headers={"Content-Type": "application/json", "Stripe-Signature": signed(body)})
    assert refused.status_code == 400 and status(shop, order) == "pending"
    assert edge.post(f"{ORDERS}/{order}/cancel", json={}).status_code == 200
    wait_for(lambda: provider.double.intents[provider.intent(order)]["status"] == "canceled", PATIENCE, "the authorisation is let go")
