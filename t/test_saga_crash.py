"""Death between any two phases of a payment: what was begun is ended, charged once (invariant 11).

The module is built with the places where a worker dies as by SIGKILL (ngx_commerce_module/rt/ngx_commerce_crash.h).
"""

import json
import pathlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import provider as providers
from stack import free_ports, wait_for

HERE = pathlib.Path(__file__).parent
ORDERS = "/api/v1/orders"
PATIENCE = 90
PRODUCT = 1

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(shop, crash_build):
    with shop.db() as db:
        db.execute((HERE / "contracts" / "payments.sql").read_text())
        db.execute("UPDATE shop.tenant SET settings = settings || %s::jsonb WHERE id = 1",
                   [json.dumps({"payments": {"methods": ["double"], "double": {"timeout_ms": 20000}}})])
    shop.staff().put(f"/api/v1/inventory/{PRODUCT}", json={"on_hand": 1000}).raise_for_status()
    shop.expect_log(r"an outbound call for api\.payment_result ended with")
    [port] = free_ports(1)
    with providers.Provider(port) as double:
        shop.configure(http=f"commerce_fetch_url double {double.url};")
        yield double
        shop.stop("nginx")
        shop.configure()


@pytest.fixture
def double(world):
    world.reset()
    yield world
    world.gate.set()


@pytest.fixture
def person(shop):
    user = shop.value("SELECT domain.user_put(1, %s, '', 'Crash')", f"{uuid.uuid4()}@example.com")
    client = shop.edge(token=shop.token(user), timeout=PATIENCE)
    client.user_id = str(user)
    return client


def buy(client, key=None):
    return client.post(ORDERS, json={"items": [{"product_id": PRODUCT, "quantity": 2}], "payment_method": "double"},
                       headers={"Idempotency-Key": key or str(uuid.uuid4())})


def placed(shop, person):
    rows = shop.rows("SELECT id::text FROM shop.orders WHERE user_id = %s", person.user_id)
    assert len(rows) == 1
    return rows[0]["id"]


def hurry(shop, order):
    """The leases of who was asking have run out."""
    with shop.db() as db:
        db.execute("UPDATE shop.payment SET next_at = now() WHERE order_id = %s AND next_at IS NOT NULL", [order])


def hold(shop, order):
    """They have not, for as long as the machine takes to begin a worker."""
    with shop.db() as db:
        db.execute("UPDATE shop.payment SET next_at = now() + interval '1 hour' WHERE order_id = %s AND next_at IS NOT NULL", [order])


def end(shop, order):
    return wait_for(lambda: shop.rows("SELECT status::text FROM shop.orders o WHERE id = %s AND EXISTS (SELECT FROM shop.saga s "
                                      "WHERE s.order_id = o.id AND s.next_at IS NULL)", order), PATIENCE, "the saga ends")[0]["status"]


def whole(shop, double, order):
    """Charged once, sold once, told once."""
    [o] = shop.rows("SELECT * FROM shop.orders WHERE id = %s", order)
    assert double.charged(order) == (o["total_amount"], 1)
    assert set(double.keys(order)) == {f"{order}:1"}
    assert shop.rows("SELECT reason::text, delta, reserved_delta FROM shop.stock_movement WHERE order_id = %s ORDER BY id", order) == [
        {"reason": "reserved", "delta": 0, "reserved_delta": 2}, {"reason": "sale", "delta": -2, "reserved_delta": -2}]
    for kind in ("OrderCreated", "PaymentProcessed", "OrderConfirmed", "InventoryDeducted"):
        assert shop.value("SELECT count(*) FROM event.outbox WHERE aggregate_id = %s AND type = %s", order, kind) == 1, kind


@pytest.mark.parametrize("point, asked, status", [("before-fetch", 0, "pending"), ("after-fetch", 1, "pending"), ("after-then", 1, "confirmed")])
def test_the_worker_of_the_request_dies(shop, double, person, dies, point, asked, status):
    order_to_die, key = dies(point), str(uuid.uuid4())
    order_to_die.touch()
    with pytest.raises(httpx.TransportError):
        buy(person, key)
    assert not order_to_die.exists()
    order = placed(shop, person)
    hold(shop, order)
    assert len(double.keys(order)) == asked
    assert shop.value("SELECT status::text FROM shop.orders WHERE id = %s", order) == status
    wait_for(lambda: len(shop.workers()) == 2, PATIENCE, "a new worker")
    shop.ready()
    again = buy(person, key)                    # the customer asks again, before and after
    assert (again.status_code, again.json()["id"]) == (201 if status == "confirmed" else 202, order)
    hurry(shop, order)
    assert end(shop, order) == "confirmed"
    whole(shop, double, order)
    assert buy(person, key).status_code == 201


@pytest.mark.parametrize("point", ["before-fetch", "after-fetch", "after-then"])
def test_the_worker_that_sweeps_dies(shop, double, person, dies, point):
    order_to_die, ordered = dies(point), threading.Event()
    # it is asked again after 2 s: nothing comes of that before somebody has to die of it
    double.fault = lambda action, payment, nth: None if ordered.is_set() else "late-500"
    order = buy(person).json()["id"]
    order_to_die.touch()
    ordered.set()
    hurry(shop, order)
    wait_for(lambda: not order_to_die.exists(), PATIENCE, "the worker dies")
    wait_for(lambda: len(shop.workers()) == 2, PATIENCE, "a new worker")
    hurry(shop, order)
    assert end(shop, order) == "confirmed"
    whole(shop, double, order)


def test_postgres_dies_while_the_provider_thinks(shop, double, person, dies):
    for line in (r"PostgreSQL", r"postgres", r"api\.\w+\(\)", r"SQLSTATE", r"server closed the connection"):
        shop.expect_log(line)
    dies("nowhere")
    double.fault = lambda action, payment, nth: "gate" if action == "pay" and nth == 0 else None
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(buy, person)
        wait_for(lambda: double.gated, PATIENCE, "the provider is asked")
        order = placed(shop, person)
        with shop.db() as db:
            db.execute("CHECKPOINT")            # the tests' PostgreSQL commits without waiting for the disk (PROFILE=test)
        shop.kill("postgres")
        double.gate.set()
        assert answer.result().status_code in (202, 503)
        shop.start("postgres")
    shop.ready(60)
    hurry(shop, order)
    assert end(shop, order) == "confirmed"
    whole(shop, double, order)
