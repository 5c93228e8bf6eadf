"""The shapes of requests to Stripe, by Stripe's own mock: it knows from their published specification what each may hold.

It keeps nothing, so what comes of payments is tested with our double (test_stripe.py).
"""

import json
import re
import subprocess
import uuid

import httpx
import pytest

from stack import ROOT, free_ports, wait_for
from world import made

BUILD = 180         # seconds; scripts/stripe-mock gives up sooner
ORDER, REFUND = "01a2003e-6326-71b1-a8d3-6e1202e8c1e9", "01a2003e-6326-71b1-a8d3-6e1202e8c1ea"
BASE = {"action": "pay", "key": f"{ORDER}:1", "tenant_id": 1, "order_id": ORDER, "order_number": "7AX7W99Z", "attempt": 1, "amount": 1999,
        "currency": "USD", "capture": "now", "expired": False, "settings": {}}
SHAPES = {
    "create": {},
    "create, for a name and a mail": {"email": "ann+a&b@example.com", "order_number": "N\u00b0 1 & 100 %"},
    "create and confirm": {"token": "pm_card_visa"},
    "create and confirm, with a page to come back to": {"token": "pm_card_visa", "return_url": "https://shop.example/back?order=1&x=\u00e9"},
    "create, of these kinds": {"settings": {"payment_method_types": ["card", "klarna"], "statement_suffix": "SHOP"}},
    "create and confirm, of these kinds": {"token": "pm_card_visa", "settings": {"payment_method_types": ["card"]}},
    "authorise": {"token": "pm_card_visa", "capture": "later"},
    "yen": {"currency": "JPY"},
    "two decimals that are none": {"currency": "ISK"},
    "ask by creating again": {"action": "query", "token": "pm_card_visa"},
    "retrieve": {"action": "query", "reference": "pi_123"},
    "search": {"action": "query", "expired": True},
    "capture": {"action": "capture", "reference": "pi_123", "key": f"{ORDER}:1:capture", "amount": 500},
    "cancel": {"action": "void", "reference": "pi_123", "key": f"{ORDER}:1:void"},
    "refund": {"action": "refund", "reference": "pi_123", "key": REFUND, "refund_id": REFUND, "amount": 100},
}
PATHS = {"POST payment_intents", "GET payment_intents/search", "GET payment_intents/:id", "POST payment_intents/:id/capture",
         "POST payment_intents/:id/cancel", "POST refunds"}


class Mock:
    def __init__(self, port, log):
        self.url, self.log = f"http://127.0.0.1:{port}", log
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def send(self, method, url, body=None, **headers):
        assert url.startswith("{url:stripe|https://api.stripe.com}/v1/")
        return self.client.request(method, url.removeprefix("{url:stripe|https://api.stripe.com}"), content=body, headers={
            **headers, "Authorization": "Bearer sk_test_123"})

    def answered(self):
        """(method, path, status) of all it was asked."""
        return re.findall(r"Request: ([A-Z]+) (\S+)\n(?:(?!Request:).*\n)*?Response: .*status=([0-9]+)", self.log.read_text())


@pytest.fixture(scope="module")
def mock(shop):
    built = subprocess.run([ROOT / "scripts" / "stripe-mock"], capture_output=True, text=True, timeout=BUILD)
    if built.returncode:
        pytest.skip("stripe-mock cannot be had: " + " ".join(built.stderr.split()))
    port, = free_ports(1)
    log = shop.folder / "logs" / "stripe-mock.log"
    with log.open("wb") as out:
        program = subprocess.Popen([built.stdout.strip(), "-http-addr", f"127.0.0.1:{port}"], stdout=out, stderr=subprocess.STDOUT)
    mock = Mock(port, log)

    def answers():
        assert program.poll() is None, log.read_text()
        try:
            return mock.client.get("/").status_code == 401
        except httpx.HTTPError:
            return False

    try:
        wait_for(answers, 120, "stripe-mock answers")
        yield mock
    finally:
        mock.client.close()
        program.terminate()
        program.wait(20)


@pytest.fixture(scope="module")
def request_of(shop):
    """A call as SQL asks the edge to make it, and what its answer means."""
    with shop.db() as db:
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")

        def ask(changes):
            call = json.dumps({**BASE, **changes})
            row = db.execute("SELECT payment.stripe_request(jsonb_populate_record(NULL::payment.call, %s)) AS request", [call]).fetchone()

            def outcome(answer):
                return db.execute("SELECT (payment.stripe_outcome(jsonb_populate_record(NULL::payment.call, %s), %s, %s, NULL)).*",
                                  [call, answer.status_code, answer.text]).fetchone()

            return row["request"], outcome

        yield ask


def ask(mock, request, **changes):
    request = {**request, **changes}
    return mock.send(request["method"], request["url"], request.get("body"), **request["headers"])


@pytest.mark.parametrize("name", SHAPES)
def test_stripe_takes_it(mock, request_of, name):
    request, outcome = request_of(SHAPES[name])
    answer = ask(mock, request)
    assert answer.status_code == 200, f"{request}\n{answer.text}"
    assert ("Idempotency-Key" in request["headers"]) == (request["method"] == "POST")
    # and what Stripe's fixtures hold is read: whether it is paid or not is theirs
    found, sent = outcome(answer), answer.json()
    if sent["object"] != "search_result" or sent["data"]:
        sent = sent["data"][0] if sent["object"] == "search_result" else sent
        assert found["reference"] == sent["id"] and found["code"] != "unreadable", (found, answer.text)
        if found["amount"] is not None:
            assert found["currency"] == sent["currency"].upper()


def test_every_kind_of_request_is_among_them(mock, request_of):
    seen = set()
    for changes in SHAPES.values():
        request, _ = request_of(changes)
        path = request["url"].partition("/v1/")[2].partition("?")[0]
        seen.add(request["method"] + " " + re.sub(r"/pi_[0-9]+", "/:id", path))
    assert seen == PATHS
    assert {c.get("action", "pay") for c in SHAPES.values()} == {"pay", "query", "capture", "void", "refund"}


@pytest.mark.parametrize("name, was, becomes", [
    ("create", "amount=", "amuont="), ("create", "amount=1999", "amount=many"), ("create and confirm", "=never", "=perhaps"),
    ("create", "capture_method=automatic", "capture_method=now"), ("capture", "amount_to_capture", "amount_captured"),
    ("cancel", "cancellation_reason=abandoned", "cancellation_reason=weather"), ("refund", "payment_intent=", "intent="),
])
def test_it_does_look(mock, request_of, name, was, becomes):
    """What is spelt wrong is refused, or the tests above would say nothing."""
    request, outcome = request_of(SHAPES[name])
    assert was in request["body"]
    answer = ask(mock, request, body=request["body"].replace(was, becomes))
    assert answer.status_code == 400, answer.text
    assert outcome(answer)["outcome"] == "failed"


def test_what_leaves_the_edge(shop, mock):
    """Two attempts to pay an order with the shop's own key: Stripe's fixture of an intent was declined, the requests were not."""
    shop.rows("UPDATE shop.tenant SET settings = settings || '{\"payments\": {\"methods\": [\"stripe\"], \"attempts\": 3}}' RETURNING 1")
    with shop.configured(http=f"commerce_fetch_url stripe {mock.url};"), shop.staff() as staff:
        made(staff.put("/api/v1/admin/payments/stripe/key", json={"secret": "sk_test_4eC39HqLyjWDarjtT1zdp7dc"}))
        before = len(mock.answered())
        customer = shop.user()
        answer = customer.post("/api/v1/orders", headers={"Idempotency-Key": str(uuid.uuid4())}, json={
            "items": [{"product_id": 1, "quantity": 1}], "payment_method": "stripe", "payment_token": "pm_card_visa"})
        assert answer.status_code == 402 and answer.json()["code"] == "payment-declined", answer.text
        order = answer.json()["order_id"]
        again = customer.post(f"/api/v1/orders/{order}/payments", headers={"Idempotency-Key": str(uuid.uuid4())}, json={
            "payment_token": "pm_card_visa", "return_url": "https://shop.example/back"})
        assert again.status_code == 402 and again.json()["attempt"] == 2, again.text
        made(customer.post(f"/api/v1/orders/{order}/cancel", json={}))
        references = {row["reference"] for row in shop.rows("SELECT reference FROM shop.payment WHERE order_id = %s", order)}
    assert references and all(r.startswith("pi_") for r in references)
    assert mock.answered()[before:] == [("POST", "/v1/payment_intents", "200")] * 2
