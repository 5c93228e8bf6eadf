"""Phone and date of birth: sealed before PostgreSQL, Redis or a log see them, opened for whom they belong to."""

import pathlib
import re
import secrets
import uuid

import pytest

from operations import Picture
from stack import TENANTS, wait_for
from world import made

PHONE = "+49 30 555123987"
OTHER = "+33 1 23456789"
BORN = "1987-06-05"
SEALED = re.compile(r"v1:f1:[A-Za-z0-9_-]{40,}")


@pytest.fixture(scope="module")
def people(shop):
    """Two customers with everything that holds a phone."""
    found = []
    for (user, token), phone in zip(shop.customers(2), (PHONE, OTHER)):
        edge = shop.edge(token=token)
        edge.user_id = user
        made(edge.put("/api/v1/users/profile", headers={"Idempotency-Key": uuid.uuid4().hex},
                      json={"name": "Ann", "phone": phone, "date_of_birth": BORN}))
        edge.address = made(edge.post("/api/v1/users/addresses", headers={"Idempotency-Key": uuid.uuid4().hex}, json={
            "type": "SHIPPING", "name": "Ann", "line1": "1 Road", "city": "Town", "country": "DE", "phone": phone}))
        found.append(edge)
    return found


def product(shop):
    """The same each time, with enough of it for all orders of this file."""
    return shop.value("SELECT min(p.id) FROM shop.product p JOIN shop.product_stock s ON s.tenant_id = 1 AND s.product_id = p.id "
                      "AND s.stock > 100 WHERE p.tenant_id = 1 AND p.status = 'active' AND p.deleted_at IS NULL "
                      "AND (SELECT count(*) FROM shop.variant v WHERE v.tenant_id = 1 AND v.product_id = p.id) = 1")


def order(edge, shop, key=None, **members):
    return edge.post("/api/v1/orders", headers={"Idempotency-Key": key or uuid.uuid4().hex}, json={
        "items": [{"product_id": product(shop), "quantity": 1}], **members})


ADDRESS = {"name": "Bob", "line1": "2 Road", "city": "Town", "country": "DE", "phone": PHONE}


def profile(edge):
    answer = edge.get("/api/v1/users/profile")
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---- what goes in comes out ----

def test_the_profile(shop, people):
    mine = profile(people[0])
    assert (mine["phone"], mine["date_of_birth"]) == (PHONE, BORN)
    row = shop.rows("SELECT phone, date_of_birth FROM shop.app_user WHERE id = %s", people[0].user_id)[0]
    assert SEALED.fullmatch(row["phone"]) and SEALED.fullmatch(row["date_of_birth"])


def test_members_stay_and_null_empties(people):
    edge = people[0]
    assert made(edge.put("/api/v1/users/profile", json={"name": "Ann"}))["phone"] == PHONE
    assert made(edge.put("/api/v1/users/profile", json={"phone": None}))["phone"] is None
    assert made(edge.put("/api/v1/users/profile", json={"phone": PHONE}))["phone"] == PHONE


def test_a_login_shows_them(shop):
    edge = shop.user()
    made(edge.put("/api/v1/users/profile", json={"phone": PHONE}))
    answer = made(shop.edge().post("/api/v1/auth/login", json={"email": "test@example.com", "password": "password"}))
    assert answer["user"]["phone"] == PHONE


def test_addresses_and_the_orders_that_copy_them(shop, people):
    edge = people[0]
    assert edge.address["phone"] == PHONE
    listed = made(edge.get("/api/v1/users/addresses"))["data"]
    assert [a["phone"] for a in listed] == [PHONE]
    by_id = made(order(edge, shop, shipping_address_id=edge.address["id"]))
    inline = made(order(edge, shop, shipping_address=ADDRESS))
    for answer in (by_id, inline, *made(edge.get("/api/v1/orders"))["data"]):
        assert answer["shipping_address"]["phone"] == answer["billing_address"]["phone"] == PHONE
    seen = made(shop.staff().get(f"/api/v1/orders/{by_id['id']}"))
    assert seen["shipping_address"]["phone"] == PHONE
    seen = made(shop.staff().get(f"/api/v1/orders/user/{edge.user_id}"))["data"]
    assert {o["shipping_address"]["phone"] for o in seen} == {PHONE}


def test_a_guests_order(shop):
    guest = shop.edge()
    guest.headers["X-Cart-Token"] = guest.get("/api/v1/cart").headers["X-Cart-Token"]
    answer = made(order(guest, shop, email="g@example.com", shipping_address=ADDRESS))
    assert answer["shipping_address"]["phone"] == PHONE
    assert made(guest.get(f"/api/v1/orders/{answer['id']}"))["shipping_address"]["phone"] == PHONE
    assert made(shop.staff().get(f"/api/v1/orders/{answer['id']}"))["shipping_address"]["phone"] == PHONE
    # without a token the edge mints one
    answer = made(order(shop.edge(), shop, email="g@example.com", shipping_address=ADDRESS))
    assert answer["shipping_address"]["phone"] == PHONE


def test_a_checkout(shop, people):
    edge = people[1]
    made(edge.post("/api/v1/cart/items", json={"product_id": product(shop)}))
    answer = made(edge.post("/api/v1/checkout", json={"shipping_address": {**ADDRESS, "phone": OTHER}}))
    assert answer["shipping_address"]["phone"] == OTHER


def test_a_retry_is_the_same_request_though_nonces_differ(shop, people):
    key = uuid.uuid4().hex
    first, second = (order(people[0], shop, key=key, shipping_address=ADDRESS) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert second.headers["Idempotent-Replayed"] == "true" and second.json() == first.json()
    assert order(people[0], shop, key=key, shipping_address={**ADDRESS, "phone": OTHER}).status_code == 422


def test_what_is_checked_is_the_plain_value(people):
    for body in ({"phone": "not a phone"}, {"phone": "v1:f1:AAAA"}, {"date_of_birth": "2999-01-01"}, {"date_of_birth": "1987-02-30"}):
        assert people[0].put("/api/v1/users/profile", json=body).status_code == 422, body


# ---- nobody else sees it ----

def test_nothing_in_the_clear(shop, people):
    """Every table, among them outbox, audit log and stored replies; Redis; all logs."""
    test_addresses_and_the_orders_that_copy_them(shop, people)
    made(shop.staff().post(f"/api/v1/orders/{made(order(people[0], shop, shipping_address=ADDRESS))['id']}/cancel"))
    order(people[0], shop, shipping_address={**ADDRESS, "country": "germany"})
    picture = Picture(shop)
    about = picture.about([PHONE, BORN, PHONE.replace(" ", "")])
    picture.close()
    assert {place for place, rows in about.items() if rows} == set()
    assert shop.value("SELECT count(*) FROM shop.idempotency WHERE body LIKE '%%v1:f1:%%'") > 2
    for log in pathlib.Path(shop.folder / "logs").iterdir():
        text = log.read_text(errors="replace")
        assert PHONE not in text and "555123987" not in text, log


def test_replies_that_show_them_are_not_cached(shop):
    """The contract's loader refuses it."""
    contract = shop.folder / "cached-phone.yaml"
    contract.write_text("""
openapi: 3.1.0
info: {title: t, version: '1'}
paths:
  /t:
    get:
      operationId: t
      responses: {'200': {description: t, content: {application/json: {schema: {type: object, properties: {
        phone: {type: string, x-encrypt: phone}}}}}}}
      x-commerce: {auth: public, lane: read, cache: {ttl: 5}, call: api.t}
""")
    bundle = shop.folder / "cached-phone.json"
    bundle.write_text(shop.run("bundle", contract, script="scripts/contract").stdout)
    shop.configure(http=f"commerce_contract {bundle};")
    done = shop.check_conf()
    shop.configure()
    assert done.returncode and "cannot be cached" in done.stdout + done.stderr + "\n".join(shop.log_lines())
    shop.expect_log("cannot be cached")


# ---- bound to its place ----

@pytest.mark.parametrize("statement, member", [
    ("UPDATE shop.app_user SET phone = (SELECT phone FROM shop.app_user WHERE id = %(other)s) WHERE id = %(mine)s", "phone"),
    ("UPDATE shop.app_user SET phone = date_of_birth WHERE id = %(mine)s", "phone"),
    ("UPDATE shop.app_user SET date_of_birth = phone WHERE id = %(mine)s", "date_of_birth"),
    ("UPDATE shop.app_user SET phone = overlay(phone PLACING 'AAAA' FROM 30) WHERE id = %(mine)s", "phone"),
    ("UPDATE shop.app_user SET phone = replace(phone, 'v1:f1:', 'v1:f9:') WHERE id = %(mine)s", "phone"),
    ("UPDATE shop.app_user SET phone = 'v1:f1:' WHERE id = %(mine)s", "phone"),
    ("UPDATE shop.app_user SET phone = 'v1:' WHERE id = %(mine)s", "phone"),
])
def test_what_was_moved_or_changed_reads_null(shop, people, statement, member):
    """Another row's, another column's, changed, under an unknown key: the rest of the profile is answered."""
    edge = people[0]
    made(edge.put("/api/v1/users/profile", json={"phone": PHONE, "date_of_birth": BORN}))
    with shop.db() as db:
        db.execute(statement, {"mine": edge.user_id, "other": people[1].user_id})
    mark = shop.log_size()
    mine = profile(edge)
    assert mine[member] is None and mine["name"] == "Ann"
    said = shop.log_file().read_bytes()[mark:].decode()
    assert re.search(rf'"{member}" in the reply of "profile_get" is answered as null', said)
    assert PHONE not in said
    made(edge.put("/api/v1/users/profile", json={"phone": PHONE, "date_of_birth": BORN}))


def test_another_tenants_is_of_no_use(shop, people):
    with shop.db() as db:
        db.execute("INSERT INTO shop.app_user (tenant_id, id, email, phone) SELECT %s, id, 'twin@example.com', phone "
                   "FROM shop.app_user WHERE id = %s", [TENANTS["acme"], people[0].user_id])
    twin = shop.edge(tenant="acme", token=shop.token(people[0].user_id, tenant_id=TENANTS["acme"]))
    assert profile(twin)["phone"] is None
    assert profile(people[0])["phone"] == PHONE


# ---- keys ----

def keyed(shop, *keys):
    """nginx with these field keys only: (kid, secret, encrypts)."""
    lines = []
    for kid, secret, encrypts in keys:
        path = shop.folder / "secrets" / f"field-{kid}-{secret[:8]}"
        if not path.exists():
            path.write_text(secret)
            path.chmod(0o400)
        lines.append(f"commerce_field_key {kid} {path}{' encrypt' if encrypts else ''};")
    return {"replace": [(r"commerce_field_key .*;", "\n".join(lines))], "http": "commerce_maintenance 300ms;"}


def first_secret(shop):
    return (shop.folder / "secrets" / "field").read_text().strip()


def test_the_wrong_key_costs_the_fields_not_the_profile(shop, people):
    with shop.configured(replace=keyed(shop, ("f1", secrets.token_hex(32), True))["replace"], http="commerce_maintenance 0;"):
        mine = profile(people[0])
        assert (mine["phone"], mine["date_of_birth"], mine["name"]) == (None, None, "Ann")
    assert profile(people[0])["phone"] == PHONE


def kids(shop):
    return {row["kid"] for row in shop.rows(
        "SELECT split_part(v, ':', 2) AS kid FROM (SELECT phone FROM shop.app_user UNION ALL SELECT date_of_birth FROM shop.app_user "
        "UNION ALL SELECT phone FROM shop.address UNION ALL SELECT shipping_address ->> 'phone' FROM shop.orders "
        "UNION ALL SELECT billing_address ->> 'phone' FROM shop.orders UNION ALL SELECT secret FROM shop.totp "
        "UNION ALL SELECT secret FROM shop.notification UNION ALL SELECT secret FROM shop.notification_adapter "
        "UNION ALL SELECT secret FROM shop.webhook_endpoint UNION ALL SELECT previous_secret FROM shop.webhook_endpoint "
        "UNION ALL SELECT secret FROM shop.payment_secret) x (v) "
        "WHERE v IS NOT NULL AND v <> 'v1:'")}


def pending(shop, kid):
    """What docs/privacy.md asks before the old key is dropped."""
    return ", ".join(row["reason"] for row in shop.rows("SELECT DISTINCT reason FROM domain.sealed_pending(%s) ORDER BY 1", kid))


def test_rotation_and_rows_from_before_there_was_a_key(shop, people):
    """What is plain or under the old key is sealed anew; afterwards the old key may go."""
    edge = people[1]
    answer = made(order(edge, shop, shipping_address_id=edge.address["id"]))
    with shop.db() as db:
        db.execute("INSERT INTO shop.app_user (tenant_id, id, email, name, phone, date_of_birth) SELECT 1, domain.uuid7(), "
                   "'old' || i || '@example.com', 'Old', '+1 555 ' || 1000 + i, '1950-01-01' FROM generate_series(1, 450) i")
        db.execute("UPDATE shop.app_user SET phone = NULL, date_of_birth = NULL WHERE tenant_id = 2")
    # sealed by native steps, for places of their own
    staff = shop.staff()
    assert staff.post("/api/v1/auth/totp", json={"password": "password"}).status_code < 300
    made(shop.edge().post("/api/v1/auth/register", json={"email": "rotated@example.com", "password": "a long pass phrase", "name": "R"}))
    made(staff.post("/api/v1/admin/notification-adapters", json={"channel": "sms", "url": "https://sms.example/send"}))
    hook = made(staff.post("/api/v1/admin/webhooks", json={"url": "https://hooks.example/in", "types": ["*"]}))["webhook"]
    made(staff.post(f"/api/v1/admin/webhooks/{hook['id']}/rotate-secret"))
    made(staff.put("/api/v1/admin/payments/stripe/key", json={"secret": "sk_test_rotated"}))
    made(staff.post("/api/v1/admin/payments/stripe/webhook-secrets", json={"secret": "whsec_rotated"}))
    assert shop.value("SELECT count(*) FROM shop.totp") == 1
    assert shop.value("SELECT count(previous_secret) FROM shop.webhook_endpoint") == 1
    assert shop.value("SELECT count(*) FROM shop.notification WHERE secret IS NOT NULL") > 0
    old, new = first_secret(shop), secrets.token_hex(32)
    before = shop.rows("SELECT id, version, updated_at FROM shop.app_user WHERE tenant_id = 1 ORDER BY id")
    with shop.configured(**keyed(shop, ("f1", old, False), ("f2", new, True))):
        wait_for(lambda: kids(shop) == {"f2"}, 120, "everything is sealed with the new key")
        assert shop.rows("SELECT id, version, updated_at FROM shop.app_user WHERE tenant_id = 1 ORDER BY id") == before
    with shop.configured(**keyed(shop, ("f2", new, True))):
        assert profile(edge)["phone"] == OTHER
        assert made(edge.get(f"/api/v1/orders/{answer['id']}"))["shipping_address"]["phone"] == OTHER
        someone = shop.rows("SELECT id, email FROM shop.app_user WHERE email = 'old7@example.com'")[0]
        assert profile(shop.edge(token=shop.token(someone["id"])))["phone"] == "+1 555 1007"
        late = shop.value("SELECT phone FROM shop.app_user WHERE id = %s", someone["id"])
    # an edge that lacks the key that everything is sealed with leaves it alone, and says so
    with shop.configured(**keyed(shop, ("f1", old, True))):
        wait_for(lambda: "fields that none of the keys f1 opens" in pending(shop, "f1"), 120, "a pass that opened nothing")
        assert kids(shop) == {"f2"}
    # with the key it begins anew
    with shop.configured(**keyed(shop, ("f1", old, True), ("f2", new, False))):
        wait_for(lambda: kids(shop) == {"f1"}, 120, "and back")
        wait_for(lambda: pending(shop, "f1") == "looked at once, to be looked at again 2 minutes after the reload", 60, "the pass ends")
        # a worker on its way out seals with the key from before, behind the pass's back
        assert shop.rows("UPDATE shop.app_user SET phone = %s WHERE id = %s RETURNING 1", late, someone["id"])
        shop.rows("UPDATE shop.sealed_renewal SET since = since - interval '3 minutes', finished_at = finished_at - interval '3 minutes' "
                  "RETURNING 1")
        wait_for(lambda: not pending(shop, "f1") and kids(shop) == {"f1"}, 120, "the second look finds it")


def test_every_sealed_column_is_sealed_anew(shop):
    """A column that may only hold sealed text is known to the rotation, or the old key could never go."""
    known = shop.value("SELECT domain.sealed_relations()")
    columns = shop.rows("SELECT conrelid::regclass::text AS relation FROM pg_constraint WHERE pg_get_constraintdef(oid) LIKE '%^v1:%'")
    assert len(columns) >= 2
    for column in columns:
        assert column["relation"] in known, column


def test_no_key_is_told_by_nginx_t(shop):
    shop.configure(replace=[(r"commerce_field_key .*;", "")])
    done = shop.check_conf()
    shop.configure()
    said = done.stdout + done.stderr
    assert done.returncode and "commerce_field_key f1 FILE encrypt" in said
    shop.expect_log("commerce_field_key")
