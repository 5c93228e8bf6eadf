"""The audit log: every command of staff leaves a row, nobody changes one, each shop reads its own."""

import uuid

import psycopg
import pytest

from operations import Unknown, operations
from stack import TENANTS
from world import World, made


@pytest.fixture(scope="module")
def world(shop):
    return World(shop)


def rows(shop, operation=None):
    return shop.rows("SELECT * FROM shop.audit_log WHERE tenant_id = 1 AND (operation = %s OR %s::text IS NULL) ORDER BY id",
                     operation, operation)


def commands(contract):
    """What staff can change: an operation that calls nothing but C, such as reading a text's mood, changes nothing."""
    return [op for op in operations(contract)
            if op.method != "GET" and op.has_tenant and op.auth.split(":")[0] in ("staff", "platform", "service")
            and any("call" in step for step in op.edge.get("steps") or [op.edge])]


# ---- the mechanism that nobody can forget ----

def test_every_command_of_staff_is_wrapped(shop):
    """What PostgreSQL has prepared: a call of a staff command without api.audited would be a hole."""
    functions = set()
    for op in commands(shop.contract):
        steps = op.edge.get("steps") or [op.edge]
        functions |= {s["call"] for s in steps if "call" in s and (s.get("lane") or op.edge.get("lane")) in ("write", "slow")}
    assert len(functions) > 10
    shop.run("stop", "nginx")
    with shop.db("postgres") as db:
        db.execute("ALTER SYSTEM SET log_statement = 'all'")
        db.execute("SELECT pg_reload_conf()")
    try:
        log = shop.folder / "logs" / "postgres.log"
        mark = log.stat().st_size
        shop.start("nginx")
        # a statement is parsed when a connection prepares it: ask for something on the write lane
        shop.staff().put("/api/v1/orders/00000000-0000-7000-8000-000000000001/status", json={"status": "shipped"})
        text = log.read_bytes()[mark:].decode()
    finally:
        with shop.db("postgres") as db:
            db.execute("ALTER SYSTEM RESET log_statement")
            db.execute("SELECT pg_reload_conf()")
    assert "api.order_status_put(" in text
    for line in text.splitlines():
        for function in functions:
            if f"FROM {function}(" in line:
                assert "api.audited(" in line, line


def test_every_command_of_staff_leaves_a_row(shop, world):
    """Each is done for real, on things of its own; one that this test cannot do must be added to it."""
    staff = shop.staff()
    money = {"amount": 1000, "currency": "USD"}
    n = uuid.uuid4().hex[:8]
    done = {}

    def do(operation, method, path, **options):
        before = len(rows(shop, operation))
        answer = staff.request(method, path, **options)
        assert answer.status_code < 300, f"{operation}: {answer.text}"
        found = rows(shop, operation)
        assert len(found) == before + 1, operation
        row = done[operation] = found[-1]
        assert row["actor"] == f"user:{staff.user_id}"
        assert row["correlation_id"] == answer.headers["X-Correlation-ID"]
        assert str(row["address"]).startswith("127.")
        return answer.json() if answer.content else None

    product = do("product_create", "POST", "/api/v1/products", json={
        "name": f"Audited {n}", "slug": f"audited-{n}", "sku": f"A-{n}", "price": money, "stock": 5})
    path = f"/api/v1/products/{product['id']}"
    do("product_patch", "PATCH", path, json={"name": "Another name"}, headers={"If-Match": '"1"'})
    version = staff.get(f"/api/v1/admin/products/{product['id']}").headers["ETag"]
    do("product_replace", "PUT", path, headers={"If-Match": version}, json={
        "name": f"Audited {n}", "slug": f"audited-{n}", "sku": f"A-{n}", "price": {"amount": 900, "currency": "USD"}})
    do("inventory_put", "PUT", f"/api/v1/inventory/{product['id']}", json={"on_hand": 7})
    do("inventory_patch", "PATCH", f"/api/v1/inventory/{product['id']}", json={"delta": 1, "note": "found one"})
    version = staff.get(f"/api/v1/admin/products/{product['id']}").headers["ETag"]
    do("product_delete", "DELETE", path, headers={"If-Match": version})
    for kind, path in (("category", "/api/v1/categories"), ("brand", "/api/v1/brands")):
        made_now = do(f"{kind}_create", "POST", path, json={"name": f"Audited {n}", "slug": f"audited-{n}"})
        do(f"{kind}_replace", "PUT", f"{path}/{made_now['id']}", json={"name": "Renamed", "slug": f"audited-{n}"},
           headers={"If-Match": '"1"'})
        do(f"{kind}_delete", "DELETE", f"{path}/{made_now['id']}", headers={"If-Match": '"2"'})
    do("product_import", "POST", "/api/v1/admin/import", json={"products": [
        {"id": 900001, "title": f"Imported {n}", "price": 9.99, "stock": 3, "category": "beauty"}]})
    do("product_import_csv", "POST", "/api/v1/admin/import/csv", headers={"Content-Type": "text/csv"},
       content=f"id,sku,title,price\n900002,C-{n},Imported {n},3.50\n")
    do("order_status_put", "PUT", f"/api/v1/orders/{world.order['id']}/status", json={"status": "processing"})

    person = shop.value("SELECT domain.user_put(1, 'erased@example.com', '', 'Somebody')")
    do("customer_export", "POST", f"/api/v1/admin/customers/{person}/export")
    do("customer_erase", "POST", f"/api/v1/admin/customers/{person}/erase")

    left = {op.id for op in commands(shop.contract)} - set(done)
    if left:
        raise_unless_generic(shop, world, left)

    assert done["product_create"]["before"] is None and done["product_create"]["after"]["name"] == f"Audited {n}"
    assert done["product_patch"]["before"] == {"name": f"Audited {n}"}
    assert done["product_patch"]["after"] == {"name": "Another name"}
    assert done["product_delete"]["after"] is None
    assert done["category_replace"]["after"] == {"name": "Renamed"}
    assert done["inventory_patch"]["after"]["on_hand"] == 8
    assert done["order_status_put"]["entity_id"] == world.order["id"]
    assert done["order_status_put"]["before"] == {"status": "confirmed"}


def raise_unless_generic(shop, world, left):
    """Commands that came later: their requests are made from the schemas; what succeeds must have left a row."""
    boss = shop.edge(token=shop.token(shop.staff().user_id, roles=["staff", "owner"]))
    for op in operations(shop.contract):
        if op.id not in left:
            continue
        try:
            for request, _ in world.requests(op):
                request["headers"].pop("Idempotency-Key", None)
                before = len(rows(shop, op.id))
                answer = boss.request(**request)
                if answer.status_code < 300:
                    assert len(rows(shop, op.id)) > before, op
                    break
        except Unknown:
            continue


def test_a_refused_command_leaves_nothing(shop):
    before = len(rows(shop))
    staff = shop.staff()
    assert staff.post("/api/v1/brands", json={"name": ""}).status_code == 422
    assert staff.delete("/api/v1/brands/999999999", headers={"If-Match": '"1"'}).status_code == 404
    assert shop.user().post("/api/v1/brands", json={"name": "x"}).status_code == 403
    assert len(rows(shop)) == before


def test_staff_who_cancels_a_customers_order_is_noted_the_customer_is_not(shop, world):
    product = world.product["id"]
    orders = []
    for _ in range(2):
        orders.append(made(world.victim.post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex}, json={
            "items": [{"product_id": product, "quantity": 1}]}))["id"])
    before = len(rows(shop))
    made(world.victim.post(f"/api/v1/orders/{orders[0]}/cancel"))
    assert len(rows(shop)) == before
    made(shop.staff().post(f"/api/v1/orders/{orders[1]}/cancel"))
    row = rows(shop)[-1]
    assert (row["entity"], row["entity_id"], row["after"]["status"]) == ("order", orders[1], "cancelled")


# ---- nothing changes it ----

def test_nobody_changes_a_row(shop, world):
    """The owner of functions and tables lacks the privilege; who has all privileges meets the trigger."""
    partition = shop.value("SELECT tableoid::regclass::text FROM audit.log LIMIT 1")
    assert partition.startswith("audit.log_2")
    with shop.db() as db:
        for table in ("audit.log", partition):
            for statement in (f"UPDATE {table} SET action = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="never changed"):
                    db.execute(statement)
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
                    with db.transaction():
                        db.execute("SET LOCAL ROLE commerce_owner")
                        db.execute(statement)
        for statement in ("UPDATE shop.audit_log SET action = 'x'", "DELETE FROM shop.audit_log",
                          "ALTER TABLE audit.log DISABLE TRIGGER ALL", "DROP TABLE audit.log", f"DROP TABLE {partition}",
                          "DROP TRIGGER changed ON audit.log", "DROP SCHEMA audit CASCADE"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                with db.transaction():
                    db.execute("SET LOCAL ROLE commerce_owner")
                    db.execute(statement)


def test_months_are_made_ahead(shop):
    *made, last = [r["name"] for r in shop.rows("SELECT relname AS name FROM pg_class WHERE relnamespace = 'audit'::regnamespace "
                                                "AND relkind = 'r' ORDER BY 1")]
    months = shop.value("SELECT array_agg('log_' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i), 'YYYYMM') "
                        "ORDER BY i) FROM generate_series(-1, 2) i")
    # of this month or, when it has begun since the shop was made, of the last one: with or without a round of housekeeping since
    assert last == "log_default" and made in (months[1:], months[:3], months)
    assert shop.value("SELECT count(*) FROM audit.log_default") == 0


def test_every_partition_is_sealed(shop):
    assert not shop.rows("SELECT c.relname FROM pg_class c WHERE relnamespace = 'audit'::regnamespace AND relkind = 'r' AND "
                         "(NOT c.relforcerowsecurity OR (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid "
                         "AND t.tgname IN ('changed', 'emptied')) <> 2)")


def test_secrets_and_personal_data_are_hidden(shop):
    hidden = shop.value("SELECT domain.audit_redact(%s::jsonb)", psycopg.types.json.Jsonb(
        {"name": "x", "email": "a@example.com", "password_hash": "h", "phone": None, "list": [{"api_secret": "s", "n": 1}],
         "shipping_address": {"line1": "1 Road"}}))
    assert hidden == {"name": "x", "email": "(hidden)", "password_hash": "(hidden)", "phone": None,
                      "list": [{"api_secret": "(hidden)", "n": 1}], "shipping_address": "(hidden)"}


# ---- reading ----

def test_who_may_read(shop):
    assert shop.edge().get("/api/v1/admin/audit").status_code == 401
    assert shop.user().get("/api/v1/admin/audit").status_code == 403
    staff = shop.staff().user_id
    assert shop.staff().get("/api/v1/admin/audit").status_code == 200
    for roles, status in ((["staff"], 403), (["staff", "audit.read"], 200), (["owner"], 200)):
        assert shop.edge(token=shop.token(staff, roles=roles)).get("/api/v1/admin/audit").status_code == status


def test_pages_and_filters(shop, world):
    owner = shop.edge(token=shop.token(shop.staff().user_id, roles=["owner"]))
    every, cursor = [], None
    while True:
        page = made(owner.get("/api/v1/admin/audit", params={"limit": 3, **({"cursor": cursor} if cursor else {})}))
        every += page["data"]
        cursor = page["page"]["next"]
        if not cursor:
            break
    assert [r["id"] for r in every] == [r["id"] for r in reversed(rows(shop))]

    def find(**filters):
        return [r["id"] for r in made(owner.get("/api/v1/admin/audit", params={"limit": 100, **filters}))["data"]]

    product = str(world.product["id"])
    for filters, keep in (
            ({"entity": "product"}, lambda r: r["entity"] == "product"),
            ({"entity": "product", "entity_id": product}, lambda r: r["entity_id"] == product and r["entity"] == "product"),
            ({"action": "BrandCreated"}, lambda r: r["action"] == "BrandCreated"),
            ({"actor": "user:nobody"}, lambda r: False),
            ({"created_before": "2001-01-01T00:00:00Z"}, lambda r: False),
            ({"created_after": "2001-01-01T00:00:00Z"}, lambda r: True)):
        assert find(**filters) == [r["id"] for r in every if keep(r)][:100]


def test_each_shop_reads_its_own(shop, world):
    owner = shop.edge(tenant="acme", token=shop.token(uuid.uuid4(), roles=["owner"], tenant_id=TENANTS["acme"]))
    before = len(made(owner.get("/api/v1/admin/audit"))["data"])
    made(owner.post("/api/v1/brands", json={"name": "Of acme"}))
    found = made(owner.get("/api/v1/admin/audit"))["data"]
    assert len(found) == before + 1 and found[0]["after"]["name"] == "Of acme"
