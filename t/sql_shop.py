"""A shop that is SQL alone, with crowds of clients of the edge's role; and what holds after every test that uses it.

A cluster of its own and no nginx: what must hold holds in the database, whoever calls.
"""

import json
import tempfile
import threading
import uuid

import psycopg
import pytest

import stack as stack_module

CROWD = 40                      # connections of a crowd; more buyers than that queue behind them
TENANTS = {1: "USD", 2: "JPY", 3: "KWD"}


class Problem(Exception):
    def __init__(self, error):
        super().__init__(error.diag.message_primary)
        self.status = error.sqlstate[2:] if error.sqlstate.startswith("SH") else error.sqlstate
        self.body = json.loads(error.diag.message_detail) if error.sqlstate.startswith("SH") else {}
        self.code = self.body.get("code")
        self.message = error.diag.message_primary


class Client:
    """What the edge does: begin_command and the call in one transaction, as commerce_edge."""

    def __init__(self, url, tenant=1, principal=None, roles="customer"):
        self.connection = psycopg.connect(url)
        self.connection.execute("SET SESSION AUTHORIZATION commerce_edge")
        self.connection.execute("SET lock_timeout = '5min'")     # crowds queue for as long as the machine is slow
        self.connection.commit()
        self.tenant, self.principal, self.roles = tenant, principal, roles

    def call(self, function, key=None, fingerprint=b"f", **arguments):
        names = ", ".join(f'"{name}" => %({name})s{cast(name, value)}' for name, value in arguments.items())
        call = f"api.{function}({names})"
        if key:
            call = f"(SELECT s.* FROM {call} r, LATERAL api.keep_reply(r.status, r.body, r.headers, r.edge) s)"
        values = {n: json.dumps(v) if isinstance(v, (dict, list)) else v for n, v in arguments.items()}
        try:
            with self.connection.transaction():
                self.connection.execute(
                    "SELECT api.begin_command(%s::bigint, %s::uuid, %s, 'test', NULL, %s, %s, %s::bytea, %s)",
                    (self.tenant, self.principal, self.roles, function, key, fingerprint,
                     f"{self.principal} {function}"))
                status, body, headers, edge = self.connection.execute(f"SELECT * FROM {call} x", values).fetchone()
        except psycopg.Error as error:
            if error.sqlstate == "SHRPL":
                return json.loads(error.diag.message_detail)["status"], json.loads(error.diag.datatype_name), "replayed"
            raise Problem(error) from None
        return status, json.loads(body) if body else None, edge

    def checkout(self, lines, cart=None, order=None, key=None, fingerprint=b"f", **more):
        arguments = dict(guest=None, expected_total=None, email=None, shipping_address=None, billing_address=None,
                         shipping_address_id=None, billing_address_id=None)
        arguments.update(more)
        return self.call("checkout", key, fingerprint, order_id=order or uuid.uuid4(), cart_id=cart or uuid.uuid4(),
                         cart_version=1, lines=[{"variant_id": v, "quantity": q} for v, q in lines], **arguments)

    def fetch(self, edge, **answer):
        """What the edge does after the commit: the call that the reply asks for, then the function that is told. answer: of the provider."""
        call = edge["fetch"]
        result = self.told(call, **answer)
        return result if not (result[2] or {}).get("fetch") else self.fetch(result[2])

    def told(self, call, fetch_status=200, fetch_body=None, fetch_error=None):
        home, self.tenant = self.tenant, call["tenant_id"]
        try:
            arguments = {n: uuid.UUID(v) if n.endswith("_id") else v for n, v in call["args"].items()}
            return self.call(call["then"].removeprefix("api."), **arguments, fetch_status=fetch_status, fetch_body=fetch_body,
                             fetch_error=fetch_error)
        finally:
            self.tenant = home

    def order(self, items, key, **more):
        arguments = dict(guest=None, expected_total=None, email=None, shipping_address=None, billing_address=None,
                         shipping_address_id=None, billing_address_id=None)
        arguments.update(more)
        return self.call("order_create", key, order_id=uuid.uuid4(), items=items, **arguments)


def cast(name, value):
    if isinstance(value, (dict, list)) or name in ("lines", "items", "shipping_address", "billing_address", "cursor", "metadata"):
        return "::jsonb"
    if isinstance(value, uuid.UUID) or name.endswith("_id") and isinstance(value, str):
        return "::uuid"
    if isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return "::int" if name in ("on_hand", "delta", "limit", "attempt", "fetch_status", "ttl", "batch") else "::bigint"
    if value is None:
        return {"expected_total": "::bigint"}.get(name, "::uuid" if name.endswith("_id") else "::text")
    return "::text"


class Shop:
    """One cluster, the eyes of its superuser, and clients of the edge's role."""

    def __init__(self, url):
        self.url = url
        self.eyes = psycopg.connect(url, autocommit=True)
        self.next = 0

    def rows(self, query, *parameters):
        return self.eyes.execute(query, parameters or None).fetchall()

    def value(self, query, *parameters):
        return self.rows(query, *parameters)[0][0]

    def client(self, tenant=1, principal="new", roles="customer"):
        if principal == "new":
            principal = uuid.uuid4()
            self.eyes.execute("INSERT INTO shop.app_user (tenant_id, id, email) VALUES (%s, %s, %s)",
                              (tenant, principal, f"{principal}@example.com"))
        return Client(self.url, tenant, principal, roles)

    def staff(self, tenant=1):
        return self.client(tenant, roles="staff orders.read orders.write inventory.write")

    def product(self, stock, price=1000, tenant=1, variants=1, threshold=0, locations=1, backorder=False):
        """A product for sale; answers the ids of its variants."""
        self.next += 1
        product = self.next * 1000
        self.eyes.execute(
            "INSERT INTO shop.product (tenant_id, id, slug, name, low_stock_threshold, default_variant_id) "
            "VALUES (%s, %s, %s, %s, %s, %s)", (tenant, product, f"p-{product}", f"Product {product}", threshold, product + 1))
        self.eyes.execute("INSERT INTO shop.product_stock (tenant_id, product_id) VALUES (%s, %s)", (tenant, product))
        ids = [product + 1 + i for i in range(variants)]
        for variant in ids:
            self.eyes.execute("INSERT INTO shop.variant (tenant_id, id, product_id, sku, price_amount) VALUES (%s, %s, %s, %s, %s)",
                              (tenant, variant, product, f"S-{variant}", price))
            for location in range(locations):
                self.eyes.execute(
                    "INSERT INTO shop.stock (tenant_id, variant_id, location_id, product_id, allow_backorder) "
                    "VALUES (%s, %s, %s, %s, %s)", (tenant, variant, tenant * 10 + location, product, backorder))
        for variant in ids:
            for location in range(locations):
                if stock:
                    self.keeper(tenant).call("inventory_set", product_id=product, variant_id=variant,
                                             location_id=tenant * 10 + location, on_hand=stock)
        return ids[0] if variants == 1 else ids

    def keeper(self, tenant):
        if not hasattr(self, "keepers"):
            self.keepers = {}
        if tenant not in self.keepers:
            self.keepers[tenant] = self.staff(tenant)
        return self.keepers[tenant]

    def sweep(self, answer=None):
        """P5 until nothing is due: the job and, as the edge does, the calls that it asks for. answer: of the provider, to a call."""
        sweeper, calls = self.sweeper(), []
        while True:
            status, body, edge = sweeper.call("saga_sweep")
            for call in (edge or {}).get("fetch", []):
                calls.append(call)
                sweeper.told(call, **(answer(call) if answer else {}))
            if not body["more"]:
                return calls

    def sweeper(self):
        if not hasattr(self, "_sweeper"):
            self._sweeper = Client(self.url, None, None, "")
        return self._sweeper

    def stock(self, variant):
        return self.value("SELECT sum(on_hand)::int FROM shop.stock WHERE variant_id = %s", variant)


@pytest.fixture(scope="module")
def shop():
    folder = tempfile.mkdtemp(prefix="nginx-commerce-sql.")
    stack = stack_module.Stack(folder)
    stack.run("init", f"PORT={stack.port}", f"PG_PORT={stack.pg_port}", f"REDIS_PORT={stack.redis_port}", "PROFILE=test")
    try:
        stack.run("start", "postgres")
        stack.run("database")
        url = stack.environment("COMMERCE_PGURL")
        stack.run("--url", url, script="scripts/migrate")
        shop = Shop(url)
        for tenant, currency in TENANTS.items():
            shop.eyes.execute("INSERT INTO shop.tenant (id, slug, name, currency) VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO NOTHING",
                              (tenant, f"shop-{tenant}", f"Shop {tenant}", currency))
            for location in range(3):
                shop.eyes.execute("INSERT INTO shop.location (tenant_id, id, code, name) VALUES (%s, %s, %s, 'Shelf')",
                                  (tenant, tenant * 10 + location, f"shelf-{location}"))
        yield shop
        shop.eyes.close()
    finally:
        stack.wipe()


@pytest.fixture(autouse=True)
def sound(shop):
    """After every test: stock is the fold of its movements, totals are sums, orders have their events and nothing else has."""
    yield
    shop.rows("SELECT api.stock_publish()")
    assert shop.rows(
        "SELECT s.tenant_id, s.variant_id, s.on_hand, s.reserved, m.total, m.held, r.held FROM shop.stock s LEFT JOIN LATERAL "
        "(SELECT coalesce(sum(delta), 0) AS total, coalesce(sum(reserved_delta), 0) AS held FROM shop.stock_movement m WHERE "
        "(m.tenant_id, m.variant_id, m.location_id) = (s.tenant_id, s.variant_id, s.location_id)) m ON true LEFT JOIN LATERAL "
        "(SELECT coalesce(sum(quantity), 0) AS held FROM shop.reservation r WHERE (r.tenant_id, r.variant_id, r.location_id) "
        "= (s.tenant_id, s.variant_id, s.location_id) AND r.state = 'open') r ON true "
        "WHERE s.on_hand <> m.total OR s.reserved <> m.held OR s.reserved <> r.held") == []
    # an order's stock is promised for as long as it waits, and money is never given back twice
    assert shop.rows(
        "SELECT r.id FROM shop.reservation r JOIN shop.orders o ON (o.tenant_id, o.id) = (r.tenant_id, r.order_id) "
        "WHERE (r.state = 'open') <> (o.status IN ('pending', 'payment_review'))") == []
    assert shop.rows(
        "SELECT y.order_id FROM shop.payment y WHERE y.refunded_amount > y.captured_amount OR y.refunded_amount <> "
        "(SELECT coalesce(sum(r.amount), 0) FROM shop.refund r WHERE (r.tenant_id, r.order_id, r.attempt) = "
        "(y.tenant_id, y.order_id, y.attempt) AND r.status <> 'FAILED')") == []
    assert shop.rows(
        "SELECT o.id FROM shop.orders o WHERE o.status <> 'payment_review' AND o.total_amount < (SELECT sum(y.captured_amount - "
        "y.refunded_amount) FROM shop.payment y WHERE (y.tenant_id, y.order_id) = (o.tenant_id, o.id))") == []
    assert shop.rows(
        "SELECT o.id, s.state FROM shop.orders o JOIN shop.saga s ON (s.tenant_id, s.order_id) = (o.tenant_id, o.id) WHERE "
        "s.state NOT IN ('review') AND (s.state = 'compensated') <> (o.status = 'cancelled') "
        "OR s.next_at IS NOT NULL AND o.status <> 'pending'") == []
    assert shop.rows(
        "SELECT p.product_id FROM shop.product_stock p WHERE p.stock <> (SELECT coalesce(sum(greatest(s.on_hand - s.reserved, 0)), 0) "
        "FROM shop.stock s WHERE (s.tenant_id, s.product_id) = (p.tenant_id, p.product_id))") == []
    assert shop.rows(
        "SELECT o.id FROM shop.orders o LEFT JOIN LATERAL (SELECT coalesce(sum(total_amount), 0) AS total, "
        "coalesce(sum(tax_amount), 0) AS tax, coalesce(sum(discount_amount), 0) AS discount FROM shop.order_item i "
        "WHERE (i.tenant_id, i.order_id) = (o.tenant_id, o.id)) i ON true "
        "WHERE o.subtotal_amount <> i.total OR o.tax_amount <> i.tax OR o.discount_amount <> i.discount") == []
    assert shop.rows(
        "SELECT k.id FROM shop.coupon k CROSS JOIN LATERAL (SELECT count(*) AS uses FROM shop.coupon_redemption r WHERE "
        "(r.tenant_id, r.coupon_id) = (k.tenant_id, k.id) AND r.released_at IS NULL) r "
        "WHERE k.usage_limit IS NOT NULL AND (k.used <> r.uses OR k.used > k.usage_limit)") == []
    assert shop.rows(
        "SELECT r.coupon_id, r.customer FROM shop.coupon_redemption r JOIN shop.coupon k ON (k.tenant_id, k.id) = (r.tenant_id, r.coupon_id) "
        "WHERE r.released_at IS NULL GROUP BY 1, 2 HAVING count(*) > min(k.customer_limit)") == []
    # what an order sold and did not get back is what its items say
    assert shop.rows(
        "SELECT o.id FROM shop.orders o WHERE (SELECT coalesce(-sum(m.delta), 0) FROM shop.stock_movement m "
        "WHERE m.tenant_id = o.tenant_id AND m.order_id = o.id) <> CASE WHEN o.status IN ('cancelled', 'pending', 'payment_review') THEN 0 ELSE "
        "(SELECT sum(i.quantity) FROM shop.order_item i WHERE i.tenant_id = o.tenant_id AND i.order_id = o.id) END") == []
    for kind, which in (("OrderCreated", "true"),
                        *((k, "o.timeline @> '[{\"status\":\"confirmed\"}]'")
                          for k in ("OrderConfirmed", "shop.order.completed.v1", "InventoryDeducted"))):
        orders = f"SELECT o.tenant_id, o.id::text FROM shop.orders o WHERE {which}"
        events = (f"SELECT e.tenant_id, e.aggregate_id FROM event.outbox e WHERE e.type = '{kind}' "
                  "AND e.topic <> 'checkout.checkout-events'")
        assert shop.rows(f"({orders} EXCEPT ALL {events}) UNION ALL ({events} EXCEPT ALL {orders})") == []
    # the events of an order are numbered without a gap
    assert shop.rows(
        "SELECT e.tenant_id, e.aggregate_id FROM event.outbox e WHERE e.aggregate = 'order' GROUP BY 1, 2 "
        "HAVING count(*) <> max(e.aggregate_version) OR count(DISTINCT e.aggregate_version) <> count(*)") == []


def crowd(clients, jobs):
    """Runs all jobs at once, as many at a time as there are clients; answers what each returned or raised."""
    barrier = threading.Barrier(min(len(clients), len(jobs)))
    answers = [None] * len(jobs)
    todo = list(range(len(jobs)))
    lock = threading.Lock()

    def work(client):
        barrier.wait()
        while True:
            with lock:
                if not todo:
                    return
                i = todo.pop(0)
            try:
                answers[i] = jobs[i](client)
            except Problem as problem:
                answers[i] = problem

    threads = [threading.Thread(target=work, args=(client,)) for client in clients[:len(jobs)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.fixture(scope="module")
def clients(shop):
    return [shop.client() for _ in range(CROWD)]


def won(answers):
    return [a for a in answers if not isinstance(a, Problem)]


def lost(answers):
    return [a for a in answers if isinstance(a, Problem)]


def codes(answers):
    return {(p.status, p.code) for p in lost(answers)}


def half_up(numerator, denominator):
    return (2 * numerator + denominator) // (2 * denominator)
