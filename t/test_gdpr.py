"""Export my data, erase me: complete, and nobody else's."""

import json
import re
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from operations import Picture
from stack import ROOT, wait_for
from test_health import told
from test_identity import mail
from world import made

PHONE = "+49 30 777123"
MARK = "qperson7"
# columns that lead to a person, by their names; a foreign key to app_user does too
PERSONAL = (r"^(user_id|principal|actor|owner|customer|customer_id|recipient|email|phone|guest|account|author_(name|email)|created_by|updated_by|"
            r"invited_by|scope|network|date_of_birth)$")
# ... and tables where such a column means something else
OTHERWISE = {"shop.erasure": "its own tombstone", "event.inbox": "no person"}


@pytest.fixture(scope="module")
def password_hash(shop):
    return shop.value("SELECT password_hash FROM shop.app_user WHERE tenant_id = 1 AND email = 'test@example.com'")


def product(shop):
    return shop.value("SELECT id FROM shop.product WHERE tenant_id = 1 AND status = 'active' AND deleted_at IS NULL "
                      "AND (SELECT count(*) FROM shop.variant v WHERE v.tenant_id = 1 AND v.product_id = product.id) = 1 LIMIT 1")


@pytest.fixture
def person(shop, password_hash):
    """Somebody who has left traces in every place that the API has."""
    mark = f"{MARK}{uuid.uuid4().hex[:8]}"
    email = f"{mark}@example.com"
    user = str(shop.value("SELECT domain.user_put(1, %s, %s, %s)", email, password_hash, f"Ann {mark}"))
    edge = shop.edge(email=email)
    edge.email, edge.mark = email, mark
    keyed = {"Idempotency-Key": uuid.uuid4().hex}
    one = product(shop)
    address = {"name": f"Ann {mark}", "line1": f"1 {mark} Road", "city": "Town", "country": "DE", "phone": PHONE}
    made(edge.put("/api/v1/users/profile", headers=keyed, json={
        "phone": PHONE, "date_of_birth": "1980-02-03", "preferences": {"theme": mark}, "avatar_url": f"https://example.com/{mark}.png"}))
    made(edge.post("/api/v1/users/addresses", headers=keyed, json={"type": "SHIPPING", **address}))
    edge.order = made(edge.post("/api/v1/orders", headers=keyed, json={
        "items": [{"product_id": one, "quantity": 2}], "shipping_address": address, "email": email, "note": f"ring at {mark}"}))
    made(edge.post("/api/v1/wishlist", json={"product_id": one}))
    made(edge.post("/api/v1/interactions", json={"product_id": one, "action": "view", "metadata": {"q": mark}}))
    made(edge.post("/api/v1/cart/items", json={"product_id": one}))
    with shop.db() as db:
        db.execute("INSERT INTO shop.review (tenant_id, product_id, user_id, rating, comment, author_name, author_email) "
                   "VALUES (1, %s, %s, 5, 'good', %s, %s)", [one, user, f"Ann {mark}", email])
        db.execute("INSERT INTO shop.login_attempt (tenant_id, account) VALUES (1, domain.login_account(%s)) ON CONFLICT DO NOTHING", [email])
    assert edge.user_id == user
    return edge


def about(shop, *marks):
    picture = Picture(shop)
    found = {place: rows for place, rows in picture.about(marks).items() if rows}
    picture.close()
    return found


# ---- nothing is forgotten ----

def test_every_table_with_persons_is_registered(shop):
    """domain.personal_data() names each table that leads to a person, and each column that does."""
    columns = shop.rows("""
        SELECT format('%I.%I', n.nspname, c.relname) AS relation, a.attname AS name,
               EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'
                          AND k.confrelid = 'shop.app_user'::regclass AND a.attnum = ANY (k.conkey)) AS key
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE n.nspname IN ('shop', 'event', 'audit') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'tenant_id' ORDER BY 1, 2""")
    assert len(columns) > 200
    known = {row["relation"]: row for row in shop.rows("SELECT * FROM domain.personal_data()")}
    known["audit.log"] = known["shop.audit_log"]
    for c in columns:
        if (c["key"] or re.search(PERSONAL, c["name"])) and c["relation"] not in OTHERWISE:
            assert c["relation"] in known, f"{c['relation']}.{c['name']} leads to a person: add the table to domain.personal_data()"
            row = known[c["relation"]]
            told = " ".join(str(v) for v in row.values())
            assert row["erase"] in ("delete", "keep") or c["name"] in told, f"{c['relation']}.{c['name']}: not dealt with"
    for name, row in known.items():
        assert row["erase"] != "keep" or row["why"], f"{name} is kept: say why"
        assert row["export"] or row["why"], f"{name} is not exported: say why"


def test_every_registered_expression_runs(shop, person):
    """Against all tables that exist, those without rows too."""
    for row in shop.rows("SELECT * FROM domain.personal_data() WHERE to_regclass(relation) IS NOT NULL"):
        with shop.db() as db:
            where = row["match"].replace("$1", f"'{person.user_id}'::uuid").replace("$2", "1")
            db.execute(f"SELECT {row['export'] or 1} FROM {row['relation']} t WHERE t.tenant_id = 1 AND ({where})")


# ---- export ----

def settled(shop):
    """What was done has come to all who hear of it later: an interaction is made of what was put into a cart, too."""
    picture = Picture(shop)
    picture.settle()
    picture.close()


def test_an_export_is_complete_and_mine_alone(shop, person):
    settled(shop)
    answer = made(person.get("/api/v1/users/me/export"))
    data = answer["data"]
    assert data["app_user"][0]["email"] == person.email
    assert (data["app_user"][0]["phone"], data["app_user"][0]["date_of_birth"]) == (PHONE, "1980-02-03")
    assert data["address"][0]["phone"] == PHONE and data["orders"][0]["shipping_address"]["phone"] == PHONE
    assert [o["id"] for o in data["orders"]] == [person.order["id"]]
    assert answer["cart"][0]["product_id"] == product(shop)
    for name in ("order_item", "payment", "wishlist_item", "review", "session"):
        assert len(data[name]) == 1, name
    assert sorted(i["action"] for i in data["interaction"]) == ["add_to_cart", "view"]
    text = json.dumps(answer)
    assert "password_hash" not in text and "$2b$" not in text and "v1:f1:" not in text
    other = shop.user()
    assert MARK not in json.dumps(made(other.get("/api/v1/users/me/export")))
    assert shop.edge().get("/api/v1/users/me/export").status_code == 401


def test_an_export_without_redis_has_the_backup(shop, person):
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.cart_backup WHERE owner = %s", "u:" + person.user_id), 15, "the cart is backed up")
    shop.stop("redis")
    try:
        answer = made(person.get("/api/v1/users/me/export"))
    finally:
        shop.start("redis")
    # who is without it does not know the carts that others put there
    wait_for(lambda: told(shop, "/health/ready", "status") == {(200, "ready")}, 20, "both workers use Redis")
    assert answer["data"]["cart_backup"][0]["document"]["items"][0]["product_id"] == product(shop)


def test_staff_exports_and_it_is_noted(shop, person):
    staff = shop.staff()
    path = f"/api/v1/admin/customers/{person.user_id}/export"
    answer = made(staff.post(path))
    assert answer["data"]["app_user"][0]["phone"] == PHONE
    row = shop.rows("SELECT * FROM shop.audit_log ORDER BY id DESC LIMIT 1")[0]
    assert (row["action"], row["entity_id"]) == ("CustomerExported", person.user_id)
    assert PHONE not in str(row) and person.email not in str(row)
    assert person.post(path).status_code == 403
    assert shop.staff("acme").post(path).status_code == 404
    assert staff.post(f"/api/v1/admin/customers/{staff.user_id}/export").status_code == 409


# ---- erasure ----

def test_the_password_is_needed(shop, person):
    assert person.post("/api/v1/users/me/erase", json={}).status_code == 422
    assert person.post("/api/v1/users/me/erase", json={"password": "wrong"}).status_code == 401
    assert shop.edge().post("/api/v1/users/me/erase", json={"password": "password"}).status_code == 401
    assert person.get("/api/v1/users/profile").status_code == 200


def gone(shop, person):
    """Nothing of the person anywhere; the order stands, nobody's."""
    assert about(shop, person.mark, PHONE) == {}
    order = shop.rows("SELECT * FROM shop.orders WHERE id = %s", person.order["id"])[0]
    assert order["total_amount"] == person.order["total"]["amount"] and order["shipping_address"] == {"country": "DE"}
    assert (order["email"], order["note"]) == (None, None)
    assert shop.value("SELECT count(*) FROM shop.order_item WHERE order_id = %s", person.order["id"]) == 1
    user = shop.rows("SELECT * FROM shop.app_user WHERE id = %s", person.user_id)[0]
    assert user["status"] == "disabled" and user["deleted_at"] and not user["password_hash"] and user["phone"] is None
    for table in ("address", "wishlist_item", "interaction", "session"):
        assert shop.value(f"SELECT count(*) FROM shop.{table} WHERE user_id = %s", person.user_id) == 0
    assert not [k for k in shop.redis().scan_iter(f"cart:*{person.user_id}*")]
    assert shop.value("SELECT count(*) FROM shop.cart_backup WHERE owner = %s", "u:" + person.user_id) == 0
    assert shop.value("SELECT count(*) FROM event.outbox WHERE type = 'UserErased' AND aggregate_id = %s", person.user_id) == 1
    assert shop.value("SELECT count(*) FROM shop.erasure WHERE user_id = %s", person.user_id) == 1


def test_erase_me(shop, person):
    before = about(shop, person.mark)
    assert len(before) > 5
    sessions = shop.rows("SELECT id FROM shop.session WHERE user_id = %s", person.user_id)
    answer = made(person.post("/api/v1/users/me/erase", json={"password": "password"}))
    assert answer == {"erased": True, "user_id": person.user_id}
    # named, for an edge whose clock is ahead
    assert sessions and all(shop.value("SELECT count(*) FROM shop.revocation WHERE kind = 'session' AND id = %s", s["id"]) for s in sessions)
    gone(shop, person)
    assert person.get("/api/v1/users/profile").status_code == 401
    assert shop.edge().post("/api/v1/auth/login", json={"email": person.email, "password": "password"}).status_code == 401
    assert person.post("/api/v1/users/me/erase", json={"password": "password"}).status_code == 401
    gone(shop, person)


def test_a_cart_on_its_way_comes_too_late(shop, person):
    """The write-behind holds the cart for a moment: what it brings afterwards is dropped, others' carts are not."""
    made(person.post("/api/v1/users/me/erase", json={"password": "password"}))
    cart = {"cart_id": str(uuid.uuid4()), "version": 99, "currency": "USD", "items": []}
    other = str(uuid.uuid4())
    with shop.db() as db, db.transaction():
        db.execute("SELECT api.begin_command(1, NULL, '', 'test', NULL, 'cart_backup', NULL, NULL, NULL)")
        db.execute("SELECT api.cart_backup(1, %s::jsonb)", [json.dumps([
            {"key": "cart:{1:u:%s}" % user, "actions": [], "document": cart} for user in (person.user_id, other)])])
    owners = {r["owner"] for r in shop.rows("SELECT owner FROM shop.cart_backup")}
    assert f"u:{other}" in owners and f"u:{person.user_id}" not in owners


def test_a_cart_written_at_the_same_time(shop, person):
    """Neither sees the other's rows before its end: the erasure waits for the write-behind, and what follows waits for the erasure."""
    def document(version):
        return json.dumps([{"key": "cart:{1:u:%s}" % person.user_id, "actions": [], "document":
                            {"cart_id": str(uuid.uuid4()), "version": version, "currency": "USD", "items": []}}])

    def write(db, version):
        db.execute("SELECT api.begin_command(1, NULL, '', 'test', NULL, 'cart_backup', NULL, NULL, NULL)")
        db.execute("SELECT api.cart_backup(1, %s::jsonb)", [document(version)])

    def waits(db):
        return shop.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = %s", db.info.backend_pid)

    with shop.db() as before, shop.db() as erasure, shop.db() as after, ThreadPoolExecutor(2) as pool:
        for db in (before, erasure, after):
            db.autocommit = False
        write(before, 1 << 40)
        erasure.execute("SELECT api.begin_command(1, NULL, '', 'test', NULL, 'erase', NULL, NULL, NULL)")
        erased = pool.submit(erasure.execute, "SELECT domain.user_erase(%s)", [person.user_id])
        wait_for(lambda: waits(erasure), 30, "the erasure waits for the cart")
        late = pool.submit(write, after, 1 << 41)
        wait_for(lambda: waits(after), 30, "the next cart waits for the erasure")
        before.commit()
        assert erased.result().fetchone()["user_erase"] is True
        erasure.commit()
        late.result()
        after.commit()
    assert shop.value("SELECT count(*) FROM shop.cart_backup WHERE owner = %s", "u:" + person.user_id) == 0
    # the edge's part, which SQL alone does not do: a picture would wait for this cart to be saved
    shop.redis().delete("cart:{1:u:%s}" % person.user_id)


def test_mails_to_an_address_that_is_not_the_account_s(shop, person):
    """The one before, and one that was asked for in vain."""
    def change(email):
        assert person.post("/api/v1/auth/email/change", json={"email": email, "password": "password"}).status_code == 202
        return mail(shop, email, "email-change")

    made(person.post("/api/v1/auth/email/confirm", json={"token": change(f"moved.{person.email}")["token"]}))
    assert mail(shop, person.email, "email-changed")
    change(f"never.{person.email}")
    made(person.post("/api/v1/users/me/erase", json={"password": "password"}))
    gone(shop, person)


# What writes a mail for the account with an address: (how the account has to be, the call, the mail that a new one gets instead)
ENDPOINT = """jsonb_populate_record(NULL::shop.webhook_endpoint, '{"tenant_id": 1, "id": "00000000-0000-7000-8000-000000000001"}')"""
TOLD = {
    "registered again": ("", "api.register(%(email)s, %(hash)s, %(token)s, 'v1:k:AAAA', gen_random_uuid(), gen_random_uuid())", ["verify-email"]),
    "confirmation": ("email_verified_at = NULL", "api.verification_resend(%(email)s, %(token)s, 'v1:k:AAAA', gen_random_uuid())", []),
    "forgotten password": ("", "api.password_forgot(%(email)s, %(token)s, 'v1:k:AAAA', gen_random_uuid())", []),
    "a message": ("", """domain.notification_request(gen_random_uuid(), 'email', 'message', NULL, %(user)s, NULL, '{"subject": "S", "text": "T"}')""", []),
    "a failing webhook": ("roles = '{staff}', permissions = '{settings.write}'",
                          f"domain.webhook_tell({ENDPOINT}, 'webhook-failing', %(token)s, 'e', 1)", []),
}


@pytest.mark.parametrize("first", ["mail", "erasure"])
@pytest.mark.parametrize("name", TOLD)
def test_a_mail_written_at_the_same_time(shop, person, password_hash, name, first):
    """Whichever of the two is first, the other waits for it: no mail for the account stays, nor the token that is told in it."""
    account, teller, instead = TOLD[name]
    if account:
        shop.rows(f"UPDATE shop.app_user SET {account} WHERE id = %s RETURNING 1", person.user_id)
    values = {"email": person.email, "user": person.user_id, "token": uuid.uuid4().hex * 2, "hash": password_hash}
    asked = {"mail": f"SELECT {teller} AS done", "erasure": "SELECT domain.user_erase(%(user)s) AS done"}

    def ask(db, what):
        db.execute("SELECT api.begin_command(1, NULL, '', 'test', NULL, 'test', NULL, NULL, NULL)")
        return db.execute(asked[what], values).fetchone()["done"]

    with shop.db() as one, shop.db() as other, ThreadPoolExecutor(1) as pool:
        for db in (one, other):
            db.autocommit = False
        done = ask(one, first)
        later = pool.submit(ask, other, "mail" if first == "erasure" else "erasure")
        wait_for(lambda: later.done() or shop.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s", other.info.backend_pid),
                 30, "the other waits, or is through")
        one.commit()
        if (name, first) == ("a message", "erasure"):
            with pytest.raises(psycopg.Error, match="There is no such customer"):
                later.result()
            other.rollback()
        else:
            assert first == "mail" or done is True
            assert first == "erasure" or later.result() is True
            later.result()
            other.commit()
    # the edge's part, as above
    shop.redis().delete("cart:{1:u:%s}" % person.user_id)
    # what is sealed in the new mail is nothing that opens
    kept = [r["template"] for r in shop.rows("DELETE FROM shop.notification WHERE recipient = %s OR user_id = %s RETURNING template",
                                             person.email, person.user_id)]
    assert kept == (instead if first == "erasure" else [])
    assert shop.value("SELECT count(*) FROM shop.user_token WHERE user_id = %s", person.user_id) == 0


def test_the_email_is_free_again(shop, person, password_hash):
    made(person.post("/api/v1/users/me/erase", json={"password": "password"}))
    again = shop.value("SELECT domain.user_put(1, %s, %s, 'New')", person.email, password_hash)
    assert str(again) != person.user_id
    assert made(shop.edge(email=person.email).get("/api/v1/orders"))["data"] == []


def test_staff_erases_twice_is_once(shop, person):
    staff = shop.staff()
    path = f"/api/v1/admin/customers/{person.user_id}/erase"
    assert person.post(path).status_code == 403
    assert shop.staff("acme").post(path).status_code == 404
    assert made(staff.post(path)) == made(staff.post(path)) == {"erased": True, "user_id": person.user_id}
    gone(shop, person)
    rows = shop.rows("SELECT * FROM shop.audit_log WHERE action = 'CustomerErased' AND entity_id = %s", person.user_id)
    assert len(rows) == 2 and rows[0]["actor"] == f"user:{staff.user_id}"
    assert staff.post(f"/api/v1/admin/customers/{staff.user_id}/erase").status_code == 409
    assert person.get("/api/v1/users/profile").status_code == 401


def test_the_last_owner_stays(shop, password_hash):
    user = shop.value("SELECT domain.user_put(3, 'boss@example.com', %s, 'Boss', '{owner}')", password_hash)
    boss = shop.edge(tenant="globex", token=shop.token(user, roles=["owner"], tenant_id=3))
    with shop.db() as db:
        db.execute("UPDATE shop.app_user SET roles = '{staff}' WHERE tenant_id = 3 AND id <> %s AND roles && '{owner}'", [user])
    answer = boss.post("/api/v1/users/me/erase", json={"password": "password"})
    assert (answer.status_code, answer.json()["code"]) == (409, "last-owner")


def test_a_restore_is_erased_again(shop, person, tmp_path):
    """The list of tombstones lives outside of the backups: replayed, it erases who came back."""
    tables = ("app_user", "address", "orders")
    with shop.db() as db:
        for table in tables:
            db.execute(f"CREATE TABLE public.kept_{table} AS SELECT * FROM shop.{table} WHERE tenant_id = 1")
    try:
        made(person.post("/api/v1/users/me/erase", json={"password": "password"}))
        url = shop.pg_url.rsplit("/", 1)[0] + "/" + shop.database
        saved = shop.run("--url", url, "save", script="scripts/erasures").stdout
        assert person.user_id in saved
        with shop.db() as db:           # the backup is older than the erasure, and than its tombstone
            db.execute("DELETE FROM shop.erasure WHERE user_id = %s", [person.user_id])
            db.execute("DELETE FROM event.outbox WHERE type = 'UserErased'")
            for table, column in (("app_user", "id"), ("orders", "user_id")):
                db.execute(f"DELETE FROM shop.{table} WHERE {column} = %s", [person.user_id])
            for table, column in (("app_user", "id"), ("orders", "user_id"), ("address", "user_id")):
                names = ", ".join(f'"{r["n"]}"' for r in shop.rows(
                    "SELECT attname AS n FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
                    "AND attgenerated = ''", f"shop.{table}"))
                db.execute(f"INSERT INTO shop.{table} ({names}) SELECT {names} FROM public.kept_{table} WHERE {column} = %s", [person.user_id])
        assert about(shop, person.mark)
        path = tmp_path / "list"
        path.write_text(saved)
        for expected in ("erased again: 1", "erased again: 0"):
            done = subprocess.run([str(ROOT / "scripts" / "erasures"), "--url", url, "replay"], stdin=path.open(),
                                  capture_output=True, text=True, check=True)
            assert expected in done.stdout
    finally:
        with shop.db() as db:
            for table in tables:
                db.execute(f"DROP TABLE public.kept_{table}")
    gone(shop, person)

