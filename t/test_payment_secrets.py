"""A shop's own keys at its provider: sealed, sent to that provider alone, never shown again; exchanged, and forgotten."""

import contextlib
import json
import pathlib
import re
import threading
import uuid

import pytest

from operations import Picture
from stack import free_ports, wait_for
from test_sealed import first_secret, keyed
from test_stripe import HOOK, ORDERS, PATIENCE, Provider, double, reached, signed, total
from world import made

AT = "/api/v1/admin/payments/stripe"
OPERATORS, OWN, NEXT = "sk_test_of_the_operator", "sk_test_of_the_shop_Tq7", "rk_test_of_the_shop_Wx8"
FILED, SIGNS, SIGNS_NEXT = "whsec_of_the_operator", "whsec_b2YgdGhlIHNob3A_first1", "whsec_b2YgdGhlIHNob3A_secnd2"
SECRETS = (OWN, NEXT, SIGNS, SIGNS_NEXT)


@pytest.fixture(scope="module")
def provider(shop):
    port, = free_ports(1)
    server = double().serve(port, key=OPERATORS, url=shop.url + HOOK, secrets=[FILED])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    for name, text in (("stripe-filed", OPERATORS), ("stripe-filed-webhook", FILED)):
        secret = shop.folder / "secrets" / name
        secret.write_text(text + "\n")
        secret.chmod(0o400)
    shop.rows("UPDATE shop.tenant SET settings = settings || '{\"payments\": {\"methods\": [\"stripe\"]}}' RETURNING 1")
    shop.rows("UPDATE shop.stock SET on_hand = 10000, version = version + 1 WHERE tenant_id = 1 AND variant_id = "
              "(SELECT min(v.id) FROM shop.variant v WHERE v.tenant_id = 1 AND v.product_id = 1) RETURNING 1")
    yield Provider(server, port)
    server.double.closing.set()
    server.shutdown()
    server.server_close()


def lines(shop, provider, at=None):
    """Directives that lead to the double; at: another address for it."""
    return f"""
        commerce_fetch_url stripe {at or provider.url};
        commerce_secret stripe.demo file={shop.folder}/secrets/stripe-filed for={provider.url};
        commerce_secret stripe.demo.webhook file={shop.folder}/secrets/stripe-filed-webhook;"""


@pytest.fixture(scope="module")
def edge(shop, provider):
    with shop.configured(http=lines(shop, provider)):
        yield shop


@contextlib.contextmanager
def under(shop, provider, **changes):
    """Another configuration than the file's, for a while."""
    def run(**conf):
        shop.stop("nginx")
        shop.configure(**conf)
        shop.start("nginx")
    run(**changes)
    try:
        yield
    finally:
        run(http=lines(shop, provider))


@pytest.fixture
def clean(edge):
    """Without keys of the shop's own, before and after."""
    def forget():
        edge.rows("DELETE FROM shop.payment_secret RETURNING 1")
    forget()
    yield edge
    forget()


def buy(shop):
    (_, token), = shop.customers(1)
    return shop.edge(token=token, timeout=PATIENCE).post(ORDERS, headers={"Idempotency-Key": str(uuid.uuid4())}, json={
        "items": [{"product_id": 1, "quantity": 1}], "payment_method": "stripe", "payment_token": "pm_card_visa"})


def pays(shop, provider, key):
    """Stripe knows this key alone, and an order is paid."""
    provider.double.key = key
    answer = buy(shop)
    assert answer.status_code == 201, answer.text
    assert provider.ledger(answer.json()["id"]) == [("charge", total(answer.json()))]
    return answer.json()


def event(anyone, secret):
    body = json.dumps({"id": "evt_" + uuid.uuid4().hex, "type": "charge.updated", "data": {"object": {}}}).encode()
    return anyone.post(HOOK, content=body, headers={"Content-Type": "application/json", "Stripe-Signature": signed(body, secret)})


def test_a_shop_pays_with_its_own_key(clean, provider, anyone):
    shop = clean
    with shop.staff() as staff:
        assert made(staff.get(AT + "/secrets")) == {"provider": "stripe", "key": None, "webhook_secrets": []}
        pays(shop, provider, OPERATORS)                                 # the file, as long as there is no other
        told = made(staff.put(AT + "/key", json={"secret": OWN}))
        assert told["last4"] == "_Tq7" and told == made(staff.get(AT + "/secrets"))["key"]
        first = pays(shop, provider, OWN)
        assert made(staff.put(AT + "/key", json={"secret": NEXT}))["last4"] == "_Wx8"
        assert shop.value("SELECT count(*) FROM shop.payment_secret") == 1
        provider.double.key = NEXT                                      # refunds go by it too
        assert staff.post(f"{ORDERS}/{first['id']}/refunds", headers={"Idempotency-Key": uuid.uuid4().hex}).status_code == 202
        wait_for(lambda: ("refund", total(first)) in provider.ledger(first["id"]), PATIENCE, "it is given back")
        assert staff.delete(AT + "/key").status_code == 204 and staff.delete(AT + "/key").status_code == 404
        pays(shop, provider, OPERATORS)


def test_events_signed_with_its_own_secrets(clean, anyone):
    with clean.staff() as staff:
        assert event(anyone, FILED).status_code == 200 and event(anyone, SIGNS).status_code == 400
        made_one = staff.post(AT + "/webhook-secrets", json={"secret": SIGNS})
        assert made_one.status_code == 201 and made_one.json()["last4"] == "rst1"
        assert made_one.headers["Location"] == f"{AT}/webhook-secrets/{made_one.json()['id']}"
        # the shop's own replace the operator's
        assert event(anyone, SIGNS).status_code == 200 and event(anyone, FILED).status_code == 400
        made(staff.post(AT + "/webhook-secrets", json={"secret": SIGNS_NEXT}), 201)
        assert [event(anyone, s).status_code for s in (SIGNS, SIGNS_NEXT, OWN)] == [200, 200, 400]
        assert staff.delete(made_one.headers["Location"]).status_code == 204
        assert [event(anyone, s).status_code for s in (SIGNS, SIGNS_NEXT)] == [400, 200]
        for n in range(3):
            made(staff.post(AT + "/webhook-secrets", json={"secret": f"whsec_number_{n}"}), 201)
        full = staff.post(AT + "/webhook-secrets", json={"secret": "whsec_one_too_many"})
        assert full.status_code == 409 and full.json()["code"] == "too-many-secrets"


def test_whoever_may(clean):
    """settings.write sets, settings.read sees the ends; nobody sets another shop's."""
    shop = clean
    reader = shop.edge(token=shop.token(uuid.uuid4(), ["staff", "settings.read"]))
    keeper = shop.edge(token=shop.token(uuid.uuid4(), ["staff", "orders.write"]))
    assert reader.put(AT + "/key", json={"secret": OWN}).status_code == 403 and keeper.get(AT + "/secrets").status_code == 403
    assert shop.edge().put(AT + "/key", json={"secret": OWN}).status_code == 401
    made(shop.staff("acme").put(AT + "/key", json={"secret": OWN}))
    assert made(reader.get(AT + "/secrets"))["key"] is None
    assert [r["tenant_id"] for r in shop.rows("SELECT tenant_id FROM shop.payment_secret")] == [2]
    hook = made(shop.staff("acme").post(AT + "/webhook-secrets", json={"secret": SIGNS}), 201)
    assert shop.staff().delete(f"{AT}/webhook-secrets/{hook['id']}").status_code == 404


@pytest.mark.parametrize("path, secret", [
    ("/key", "sk_short"), ("/key", "pk_test_publishable_key"), ("/key", "sk_test_with a space"), ("/key", "sk_test_with\r\nX-Evil: 1"),
    ("/key", "sk_test_{secret:stripe.demo}"), ("/key", "sk_" + "x" * 300), ("/key", "sk_test_\u00e9\u00e9\u00e9\u00e9\u00e9"),
    ("/webhook-secrets", OWN), ("/webhook-secrets", "whsec_"),
])
def test_what_is_no_key(clean, path, secret):
    with clean.staff() as staff:
        answer = staff.request("PUT" if path == "/key" else "POST", AT + path, json={"secret": secret})
    assert answer.status_code == 422 and secret not in answer.text
    assert not clean.rows("SELECT 1 FROM shop.payment_secret")


def test_it_goes_to_its_provider_and_nowhere_else(clean, provider):
    """Where it may go was sealed with it: neither SQL nor another row can lead it elsewhere."""
    shop = clean
    with shop.staff() as staff:
        made(staff.put(AT + "/key", json={"secret": OWN}))
        hook = made(staff.post(AT + "/webhook-secrets", json={"secret": SIGNS}), 201)
    provider.double.key = OWN
    port, = free_ports(1)
    elsewhere = double().serve(port, key=OWN, url=shop.url + HOOK, secrets=[FILED])
    threading.Thread(target=elsewhere.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    source = shop.value("SELECT pg_get_functiondef('payment.stripe_request(payment.call)'::regprocedure)")
    secret = shop.value("SELECT pg_get_functiondef('payment.stripe_secret()'::regprocedure)")

    def unpaid(why):
        mark = shop.log_size()
        answer = buy(shop)
        assert answer.status_code == 202 and not elsewhere.double.calls, answer.text
        assert why in shop.log_file().read_bytes()[mark:].decode()
        return answer.json()["id"]

    shop.expect_log("may not be sent to the host of this call")
    shop.expect_log("does not open: it was changed")
    shop.expect_log("was changed, or sealed for another place")
    waiting = []
    try:
        with shop.db() as db:               # the function sends it to another host, whose address the operator allows
            db.execute(source.replace("{url:stripe|https://api.stripe.com}", f"http://127.0.0.1:{port}"))
        with under(shop, provider, http=lines(shop, provider) + "commerce_fetch_allow 127.0.0.0/8;"):
            waiting.append(unpaid("may not be sent to the host of this call"))
            with shop.db() as db:           # the word that binds it is left out, or names another place
                db.execute("UPDATE shop.payment_secret SET place = 'for=other,http://127.0.0.1:%s key' WHERE kind = 'key'" % port)
            waiting.append(unpaid("does not open"))
            with shop.db() as db:
                db.execute("UPDATE shop.payment_secret SET place = 'for=stripe,https://api.stripe.com key' WHERE kind = 'key'")
                db.execute(secret.replace("payment.sealed(s)", "replace(payment.sealed(s), ' for=stripe,https://api.stripe.com', '')"))
            waiting.append(unpaid("does not open"))
            with shop.db() as db:           # what signs events never leaves, not even to the provider
                db.execute(source)
                db.execute(secret.replace("'key'", "'webhook'"))
            waiting.append(unpaid("may not be sent to the host of this call"))
    finally:
        with shop.db() as db:
            db.execute(source)
            db.execute(secret)
        elsewhere.double.closing.set()
        elsewhere.shutdown()
        elsewhere.server_close()
    assert hook["last4"] == "rst1"
    for order in waiting:                   # nothing was sent, so nothing is lost: the sweeper asks with the key
        reached(shop, order, "confirmed")


def test_it_is_bound_to_the_address_that_the_operator_set(clean, provider):
    """Without commerce_fetch_url it goes to Stripe itself; an order waits, and the key was not sent to anybody else."""
    shop = clean
    with shop.staff() as staff:
        made(staff.put(AT + "/key", json={"secret": OWN}))
    place = shop.value("SELECT place FROM shop.payment_secret")
    assert place == "for=stripe,https://api.stripe.com key"
    steps = shop.contract["paths"][AT + "/key"]["put"]["x-commerce"]["steps"]
    assert next(s["key"] for s in steps if s.get("native") == "field_encrypt").endswith(" " + place.removesuffix(" key"))
    source = shop.value("SELECT pg_get_functiondef('payment.stripe_request(payment.call)'::regprocedure)")
    shop.expect_log("may not be sent to the host of this call")
    before = len(provider.ask("calls"))
    try:
        with shop.db() as db:
            db.execute(source.replace("{url:stripe|https://api.stripe.com}", provider.url))
        with under(shop, provider, http="commerce_fetch_allow 127.0.0.0/8;"):
            mark = shop.log_size()
            assert buy(shop).status_code == 202
            assert "may not be sent to the host of this call" in shop.log_file().read_bytes()[mark:].decode()
    finally:
        with shop.db() as db:
            db.execute(source)
    assert len(provider.ask("calls")) == before


def test_nobody_sees_it_again(clean, provider, anyone):
    """Every table, among them audit log, outbox and stored replies; Redis; all logs; answers; the exports."""
    shop = clean
    answers = []
    with shop.staff() as staff:
        for secret in (OWN, NEXT):
            answers.append(staff.put(AT + "/key", json={"secret": secret}))
        for secret in (SIGNS, SIGNS_NEXT):
            answers.append(staff.post(AT + "/webhook-secrets", json={"secret": secret}))
        answers += [staff.get(AT + "/secrets"), staff.put(AT + "/key", json={"secret": NEXT + " "}), staff.get("/api/v1/admin/settings"),
                    staff.get("/api/v1/admin/audit"), staff.get("/api/v1/admin/export")]
        order = pays(shop, provider, NEXT)
        answers += [staff.get(f"{ORDERS}/{order['id']}"), staff.get(f"{ORDERS}/{order['id']}/payments"), event(anyone, SIGNS), event(anyone, "whsec_wrong")]
        provider.double.key = "sk_test_nobodys"             # what Stripe refuses is not told with the key
        answers.append(buy(shop))
        provider.double.key = NEXT
        reached(shop, answers[-1].json()["id"], "confirmed")
    platform = shop.user("platform@example.com", "platform")
    page = {}
    while page is not None:
        told = platform.get("/api/v1/platform/tenants/1/export", params={"limit": 500, **page})
        answers.append(told)
        page = {"cursor": told.json()["page"]["next"]} if told.json()["page"]["next"] else None
    assert any('"shop.payment_secret"' in a.text for a in answers)
    shown = re.compile("|".join(re.escape(s[:-4]) for s in SECRETS))
    for answer in answers:
        assert not shown.search(answer.text), answer.request.url
    picture = Picture(shop)
    found = picture.about([s[:-4] for s in SECRETS])
    picture.close()
    assert {place for place, rows in found.items() if rows} == set()
    rows = shop.rows("SELECT action, entity, before, after FROM shop.audit_log WHERE tenant_id = 1 AND action LIKE 'payment_secret.%%' ORDER BY id")
    assert [(r["entity"], r["after"]["last4"]) for r in rows[-4:]] == [
        ("payment_key", "_Tq7"), ("payment_key", "_Wx8"), ("payment_webhook", "rst1"), ("payment_webhook", "cnd2")]
    assert rows[-3]["before"]["last4"] == "_Tq7"
    sealed = [r["secret"] for r in shop.rows("SELECT secret FROM shop.payment_secret")]
    for log in pathlib.Path(shop.folder / "logs").iterdir():
        text = log.read_text(errors="replace")
        assert not shown.search(text), log
        assert not any(s in text for s in sealed), log


def test_a_key_is_sealed_anew_and_still_pays(clean, provider, anyone):
    shop = clean
    with shop.staff() as staff:
        made(staff.put(AT + "/key", json={"secret": OWN}))
        made(staff.post(AT + "/webhook-secrets", json={"secret": SIGNS}), 201)
    was = {r["secret"] for r in shop.rows("SELECT secret FROM shop.payment_secret")}
    old, new = first_secret(shop), "5" * 64

    def change(*keys):
        how = keyed(shop, *keys)
        return {"replace": how["replace"], "http": how["http"] + lines(shop, provider)}

    with under(shop, provider, **change(("f1", old, False), ("f7", new, True))):
        wait_for(lambda: all(r["secret"].startswith("v1:f7:") for r in shop.rows("SELECT secret FROM shop.payment_secret")), 120, "all are sealed anew")
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.sealed_renewal WHERE kid = 'f7' AND finished_at IS NULL") == 0, 120, "the pass ends")
    with under(shop, provider, **change(("f7", new, True))):
        pays(shop, provider, OWN)
        assert event(anyone, SIGNS).status_code == 200
    # and back, so that the file's shop is as it was
    with under(shop, provider, **change(("f1", old, True), ("f7", new, False))):
        wait_for(lambda: all(r["secret"].startswith("v1:f1:") for r in shop.rows("SELECT secret FROM shop.payment_secret")), 120, "and back")
        assert not was & {r["secret"] for r in shop.rows("SELECT secret FROM shop.payment_secret")}
    pays(shop, provider, OWN)


def test_without_the_key_that_sealed_it_nothing_is_charged(clean, provider, anyone):
    """The operator's file does not take its place: the money would go to somebody else."""
    shop = clean
    with shop.staff() as staff:
        made(staff.put(AT + "/key", json={"secret": OWN}))
        made(staff.post(AT + "/webhook-secrets", json={"secret": SIGNS}), 201)
    shop.expect_log("was sealed with a key that no")
    shop.expect_log("does not open: it was changed")
    shop.expect_log("none of the secrets is known")
    provider.double.key = OPERATORS
    before = len(provider.ask("ledger"))
    how = keyed(shop, ("f8", "6" * 64, True))
    with under(shop, provider, replace=how["replace"], http="commerce_maintenance 0;" + lines(shop, provider)):
        assert buy(shop).status_code == 202 and event(anyone, SIGNS).status_code == 400
        assert len(provider.ask("ledger")) == before
