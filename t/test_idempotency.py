"""Every operation that takes an Idempotency-Key is asked twice under one, and has one effect.

The requests are made from the contract by World; what needs more than a body that fits the schema is prepared in `asked`. An operation
that is added later is tested too, or fails here: give it what it needs.
"""

import concurrent.futures
import hashlib
import json
import re
import secrets
import uuid

import pytest

from operations import Picture, changes, operations
from test_identity import HASH, mail
from test_identity_staff import code, enrol
from world import PUBLIC, WORD, World, made

# These take away what the others stand on.
LAST = ["review_reject", "cart_clear", "session_revoke_all", "customer_erase", "tenant_suspend", "tenant_resume"]

# Whose second request nobody may send any more: the first ends the sessions.
ENDS = {"session_revoke_all": 401}

# Members that are shown once: an answer that is kept has none of them.
ONCE = {"key", "signing_secret", "recovery_codes", "token", "refresh_token", "totp_secret", "otpauth_uri"}


@pytest.fixture(scope="module")
def world(quiet):
    # nobody is told to come again because passwords are compared slowly
    patient = (r"commerce_password_limit\s[^;]*;", "commerce_password_limit auto wait=10m;")
    with quiet.configured(jobs=False, http="commerce_maintenance 0; commerce_password_cost 10;", replace=[patient]):
        yield World(quiet)


@pytest.fixture(scope="module")
def contract(shop):
    return operations(shop.contract)


def takes_key(op):
    return op.edge.get("idempotency", "none") != "none"


def test_every_command_takes_a_key(contract):
    """POST and PATCH do, but those that read, that answer what is never stored, and the carts' whose natural key is the cart."""
    without = {op.id for op in contract if op.method in ("POST", "PATCH") and not takes_key(op)}
    assert without == {
        "auth_login", "auth_refresh", "totp_enrol", "totp_confirm", "totp_recovery_codes", "tenant_act",     # secrets
        "auth_validate", "discounts_calculate", "sentiment_analyze", "sentiment_batch", "template_preview", "customer_export",
        "cart_coupon_add", "cart_merge",            # a second one changes nothing
        "user_erase", "payment_webhook",            # nothing is left of who asked; the event has an id
    }
    assert len([op for op in contract if takes_key(op)]) > 80


def test_the_published_contract_tells_of_it(shop, contract):
    """Those that take a key declare it, and how a repetition is known: what a generated client can send and see."""
    wrong = []
    for op in contract:
        key = op.parameters.get(("header", "Idempotency-Key"))
        if takes_key(op) != (key is not None) or key and key["required"] != (op.edge["idempotency"] == "required"):
            wrong.append(f"{op}: {key}")
        for status, reply in op.spec["responses"].items():
            told = "Idempotent-Replayed" in op.resolve(reply).get("headers", {})
            if told != (takes_key(op) and status not in ("409", "429") and status[0] != "5"):
                wrong.append(f"{op}: {status} {reply}")
    assert not wrong, "\n".join(wrong)
    # said once, as the edge means it
    declared = [p for p in shop.contract["components"]["parameters"].values() if p["name"] == "Idempotency-Key"]
    assert sorted(p["required"] for p in declared) == [False, True] and declared[0]["schema"] == declared[1]["schema"]


def test_the_declared_keys_are_those_that_are_taken(contract, customer):
    op = next(op for op in contract if op.id == "address_create")
    schema = op.parameters["header", "Idempotency-Key"]["schema"]
    fit = ["a", "!", "~", "!\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~", "k" * 255]
    # as one byte for each character
    unfit = ["", "k" * 256, "a b", "a\tb", "\x80", "\u00e9", "a\u00ff"]
    for key in fit + unfit:
        assert (key in fit) == (schema["minLength"] <= len(key) <= schema["maxLength"] and bool(re.search(schema["pattern"], key))), key
        answer = customer.post(op.path, json=op.sample(op.body()), headers={b"Idempotency-Key": key.encode("latin-1")})
        assert answer.status_code == (201 if key in fit else 400), (key, answer.text)
        assert key in fit or answer.json()["code"] == "idempotency-key-invalid"


class Asker:
    """For each operation somebody who may, and a request that succeeds."""

    def __init__(self, world):
        self.world, self.shop, self.staff = world, world.shop, world.staff
        self.platform = self.shop.user("platform@example.com", "platform")
        self.count = 0
        # without a guest's token a key is the address's, and clients here change theirs
        self.nobody = self.shop.edge(headers={"X-Cart-Token": secrets.token_urlsafe(32)})

    def edge(self, op):
        if op.auth == "platform":
            return self.platform
        if op.auth == "public":
            return self.nobody
        return self.staff if op.auth.startswith("staff") else self.world.victim

    def person(self, roles=("customer",)):
        """Somebody new with the password "password"."""
        self.count += 1
        email = f"repeats{self.count}@example.com"
        self.shop.rows("SELECT domain.user_put(1::bigint, %s, %s, 'Repeats', %s::text[])", email, HASH, list(roles))
        edge = self.shop.user(email)
        edge.email = email
        return edge

    def order(self, edge=None, **more):
        answer = (edge or self.world.victim).post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex}, json={
            "items": [{"product_id": self.world.product["id"], "quantity": 1}], **more})
        return made(answer, 201, 202)["id"]

    def unpaid(self):
        """An order whose first payment was declined."""
        with self.shop.db() as db:
            db.execute("UPDATE shop.tenant SET settings = settings || '{\"payments\": {\"methods\": [\"manual\", \"simulated\"], "
                       "\"attempts\": 3, \"simulated\": {\"success_percent\": 0}}}', version = version + 1 WHERE id = 1")
        edge = self.person()
        answer = edge.post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex}, json={
            "items": [{"product_id": self.world.product["id"], "quantity": 1}], "payment_method": "simulated"})
        assert answer.status_code == 402, answer.text
        return edge, made(edge.get("/api/v1/orders"))["data"][0]["id"]

    def asked(self, op):
        """What is changed about the generated request: (edge, members of the body, path values)."""
        make = getattr(self, "of_" + op.id, None)
        edge, body, values = make() if make else (None, None, None)
        return edge or self.edge(op), body, values

    def of_auth_register(self):
        return None, {"email": "registers@example.com", "password": "Some thing"}, None

    def of_auth_verify_email(self):
        made(self.shop.edge().post("/api/v1/auth/register", json={"email": "verifies@example.com", "password": "Some thing"}))
        return None, {"token": mail(self.shop, "verifies@example.com", "verify-email")["token"]}, None

    def of_auth_resend_verification(self):
        made(self.shop.edge().post("/api/v1/auth/register", json={"email": "resends@example.com", "password": "Some thing"}))
        return None, {"email": "resends@example.com"}, None

    def of_password_forgot(self):
        return None, {"email": self.person().email}, None

    def of_password_reset(self):
        email = self.person().email
        made(self.shop.edge().post("/api/v1/auth/password/forgot", json={"email": email}))
        return None, {"token": mail(self.shop, email, "password-reset")["token"], "password": "Another thing"}, None

    def of_password_change(self):
        return self.person(), {"current_password": "password", "new_password": "Another thing"}, None

    def of_email_change(self):
        return self.person(), {"email": "moves@example.com", "password": "password"}, None

    def of_email_confirm(self):
        made(self.person().post("/api/v1/auth/email/change", json={"email": "moved@example.com", "password": "password"}))
        return None, {"token": mail(self.shop, "moved@example.com", "email-change")["token"]}, None

    def of_staff_create(self):
        return None, {"email": "invited@example.com", "permissions": []}, None

    def of_invitation_accept(self):
        made(self.staff.post("/api/v1/admin/users", json={"email": "accepts@example.com"}))
        return None, {"token": mail(self.shop, "accepts@example.com", "staff-invitation")["token"], "password": "Some thing"}, None

    def of_totp_disable(self):
        edge = self.person(("staff",))
        secret, _, step = enrol(self.shop, edge, edge.email)
        return edge, {"password": "password", "totp": code(secret, step + 1)}, None

    def of_session_revoke_all(self):
        return self.person(), {}, None

    def of_auth_logout(self):
        tokens = made(self.shop.edge().post("/api/v1/auth/login", json={"email": self.person().email, "password": "password"}))
        return self.nobody, {"refresh_token": tokens["refresh_token"]}, None

    def of_product_create(self):
        return None, {"name": "Repeated", "price": {"amount": 100, "currency": "USD"}}, None

    def of_product_replace(self):
        return None, {"name": f"{WORD} {PUBLIC} product", "price": {"amount": 1000, "currency": "USD"}}, None

    def of_product_import(self):
        return None, [{"title": "Imported twice", "price": 1, "stock": 3}], None

    def of_inventory_patch(self):
        return None, {"delta": 5}, {"product_id": self.world.product["id"]}

    def of_inventory_put(self):
        return None, {"on_hand": 90}, {"product_id": self.world.product["id"]}

    def of_cart_clear(self):
        edge = self.person()
        made(edge.post("/api/v1/cart/items", json={"product_id": self.world.product["id"]}))
        return edge, None, None

    def of_checkout(self):
        return self.of_cart_clear()[0], {"payment_method": "manual"}, None

    def of_cart_set(self):
        return self.of_cart_clear()[0], {"quantity": 2}, None

    def of_cart_remove(self):
        return self.of_cart_clear()

    def of_dead_letter_redrive(self):
        return None, None, {"id": self.shop.value(
            "INSERT INTO event.dead_letter (tenant_id, reason, consumer, key, topic, type, event_id, payload, error) VALUES (1, 'failed', "
            "'consumer.recommend_signal', 'again', 'user.interaction', 'shop.user.interaction.v1', gen_random_uuid(), '{}', 'an error') "
            "RETURNING id")}

    def of_notification_retry(self):
        self.shop.rows("UPDATE shop.notification SET status = 'failed' WHERE id = %s RETURNING 1", self.world.notification)
        return None, None, None

    def of_template_create(self):
        return None, {"kind": "again", "channel": "email", "language": "en", "subject": "S", "text": "T"}, None

    def of_order_cancel(self):
        return None, None, {"id": self.order()}

    def of_order_status_put(self):
        return None, {"status": "processing"}, {"id": self.order()}

    def of_payment_create(self):
        edge, order = self.unpaid()
        return edge, {"payment_method": "manual"}, {"id": order}

    def of_payment_sync(self):
        return None, None, {"id": self.order()}

    def of_payment_void(self):
        return None, None, {"id": self.order(), "attempt": 1}

    def of_payment_capture(self):
        return None, {}, {"id": self.order(), "attempt": 1}

    def captured(self):
        order = self.order()
        made(self.staff.post(f"/api/v1/orders/{order}/payments/1/capture", json={}))
        return order

    def of_refund_create(self):
        return None, {"amount": 1}, {"id": self.captured()}

    def of_refund_issue(self):
        return None, {"order_id": self.captured(), "amount": 1}, None

    def of_review_create(self):
        return self.person(), {"rating": 5, "comment": "Good"}, {"id": self.world.product["id"]}

    def of_coupon_create(self):
        return None, {"code": "AGAIN", "name": "Again", "kind": "percent", "value": 500, "target": "order"}, None

    def of_personality_interaction(self):
        edge = self.person()
        made(edge.put("/api/v1/user/personality/consent"))
        return edge, None, None

    def of_customer_erase(self):
        return None, None, {"id": self.person().user_id}


def requests(op, asker, values, body):
    """The generated requests under keys of their own, with what the operation needs."""
    for made_up, _ in asker.world.requests(op):
        if values and set(op.kinds()) == set(values):
            made_up["url"] = op.url(values)
        if body is not None:
            made_up["json"] = body
        made_up["headers"] = {**made_up["headers"], "Idempotency-Key": uuid.uuid4().hex}
        if "If-Match" in made_up["headers"]:
            made_up["headers"]["If-Match"] = "*"
        yield made_up


def first(op, asker):
    """(edge, request, answer) of the first request that succeeds."""
    edge, body, values = asker.asked(op)
    answers = []
    for one in requests(op, asker, values, body):
        answer = edge.request(**one)
        if answer.status_code < 300:
            return edge, one, answer
        answers.append(answer.text)
    raise AssertionError(f"{op.id} never succeeds: prepare what it needs in Asker.of_{op.id}(): {answers[-1]}")


def strings(value, name=""):
    """(name, text) of every text in an answer."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from strings(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part, name)
    elif isinstance(value, str):
        yield name, value


def without(value):
    return {k: v for k, v in value.items() if k not in ONCE} if isinstance(value, dict) else value


@pytest.fixture
def look(shop):
    """A picture of the tenants demo and platform."""
    pictures = [Picture(shop, tenant) for tenant in (1, shop.value("SELECT id FROM shop.tenant WHERE slug = 'platform'"))]

    def all_of_it():
        found = {f"{p.tenant} {place}": sum for p in pictures for place, sum in p.sums().items()}
        found["tenants"] = shop.value("SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM shop.tenant t")
        return found

    yield all_of_it
    for picture in pictures:
        picture.close()


def faults_of(op, first, again):
    """What is wrong with the answer to a repetition."""
    body = first.json() if first.content else None
    if op.id in ENDS:
        if again.status_code != ENDS[op.id]:
            yield f"{op.id}: {again.status_code} {again.text}"
    elif again.status_code != first.status_code or again.headers.get("Idempotent-Replayed") != "true":
        yield f"{op.id}: {again.status_code} {again.text} after {first.status_code} {first.text[:200]}"
    elif (again.json() if again.content else None) != without(body) or again.headers.get("Location") != first.headers.get("Location"):
        yield f"{op.id}: {again.text} {again.headers} after {first.text}"


def test_one_effect(shop, world, contract, look):
    """Those that take away what others stand on one by one, all others in one go."""
    asker, faults, shown = Asker(world), [], []
    keyed = [op for op in contract if takes_key(op)]
    goes = [[op for op in keyed if op.id not in LAST], *([op] for name in LAST for op in keyed if op.id == name)]
    for go in goes:
        done = []
        for op in go:
            try:
                done.append((op, *first(op, asker)))
            except AssertionError as fault:
                faults.append(str(fault))
        before = look()
        for op, edge, one, answer in done:
            faults += faults_of(op, answer, edge.request(**one))
            shown += [text for name, text in strings(answer.json() if answer.content else None) if name in ONCE]
        differs = changes(before, look())
        if differs:
            faults.append(f"a repetition of one of {[op.id for op in go]} changed {differs}")
        for op, edge, one, _ in done:
            other = next((r for r, _ in world.requests(op) if r.get("json") not in (one.get("json"), None) and r["url"] == one["url"]), None)
            if other and op.id not in LAST:
                reused = edge.request(**{**one, "json": other["json"]})
                if reused.status_code != 422 or reused.json().get("code") not in ("idempotency-key-reused", "validation-failed"):
                    faults.append(f"{op.id} with another body: {reused.status_code} {reused.text}")
    assert not faults, "\n".join(faults)
    assert len(shown) >= 4          # a key, secrets of hooks
    for text in shown:
        for table in ("shop.idempotency", "shop.audit_log", "event.outbox"):
            assert not shop.rows(f"SELECT 1 FROM {table} x WHERE strpos(x::text, %s) > 0", text), (table, text)


def test_a_refusal_is_asked_again(world):
    """What was refused is not kept: the same key is good for the same request later."""
    asker = Asker(world)
    edge, key = asker.person(), {"Idempotency-Key": uuid.uuid4().hex}
    body = {"current_password": "wrong password", "new_password": "Another thing"}
    for _ in range(2):
        refused = edge.post("/api/v1/auth/password/change", json=body, headers=key)
        assert refused.status_code == 401 and "Idempotent-Replayed" not in refused.headers
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body["current_password"] = "password"
    first, again = (edge.post("/api/v1/auth/password/change", json=body, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code, again.headers["Idempotent-Replayed"]) == (204, 204, "true")
    other = edge.post("/api/v1/auth/password/change", json={**body, "new_password": "A third thing"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")


def test_nothing_to_try_passwords_on(shop, world):
    """Of a request only a keyed hash is stored: two shops of the same name have other ones."""
    key, body = uuid.uuid4().hex, {"email": "keyed@example.com", "password": "correct horse"}
    made(shop.edge().post("/api/v1/auth/register", json=body, headers={"Idempotency-Key": key}), 202)
    row = shop.rows("SELECT scope, fingerprint, body FROM shop.idempotency WHERE key = %s", key)
    assert len(row) == 1 and "correct" not in row[0]["body"]
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    method = (1).to_bytes(4, "little")
    for before in (b"", method + b"1\0\0auth_register\0"):
        assert hashlib.sha256(before + canonical).digest() != bytes(row[0]["fingerprint"])


def test_eight_at_once_are_one(shop, world):
    """The same key while the first is under way, where several steps come before the effect."""
    asker = Asker(world)
    edge = asker.person()
    made(shop.edge().post("/api/v1/auth/password/forgot", json={"email": edge.email}))
    body = {"token": mail(shop, edge.email, "password-reset")["token"], "password": "Another thing"}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    here = asker.nobody
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: here.post("/api/v1/auth/password/reset", json=body, headers=key), range(8)))
    # who came while it was under way may find the link used up; it is told the answer when it asks again
    assert {a.status_code for a in answers} <= {204, 422, 409}
    assert sum(a.status_code == 204 and "Idempotent-Replayed" not in a.headers for a in answers) == 1
    again = here.post("/api/v1/auth/password/reset", json=body, headers=key)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (204, "true")
    assert shop.value("SELECT count(*) FROM shop.idempotency WHERE key = %s", key["Idempotency-Key"]) == 1
