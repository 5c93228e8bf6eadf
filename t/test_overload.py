"""Far more orders than the machine can make: some are made, the rest is refused early, nothing breaks (CHECKOUT §3, 16)."""

import json
import pathlib
import subprocess
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 5


@pytest.fixture(scope="module")
def openloop(tmp_path_factory):
    """The load generator of the benchmark: requests leave on a timetable, answered or not."""
    program = tmp_path_factory.mktemp("openloop") / "openloop"
    subprocess.run(["cc", "-O2", "-o", program, ROOT / "t/bench/openloop.c"], check=True)
    return program


def offer(openloop, shop, requests, rate, file):
    with file.open("wb") as out:
        for request in requests:
            out.write(b"%d\n" % len(request) + request)
    done = subprocess.run([openloop, "127.0.0.1", str(shop.port), file, str(rate), str(SECONDS), "400"],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def order(token, lines):
    body = json.dumps({"items": [{"product_id": p, "quantity": 1} for p in lines]}).encode()
    head = (f"POST /api/v1/orders HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            f"Idempotency-Key: {uuid.uuid4()}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


@pytest.mark.slow
def test_orders_at_many_times_what_is_possible(shop, openloop, tmp_path):
    tokens = [token for _, token in shop.customers(50)]
    products = [row["product_id"] for row in shop.rows(
        "SELECT s.product_id FROM shop.product_stock s WHERE tenant_id = 1 AND stock > 20 ORDER BY product_id LIMIT 6")]
    assert len(products) == 6
    deadlocks = shop.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")

    # the same few products in every order of lines: they meet at the stock rows
    requests = [order(tokens[i % len(tokens)], [products[(i + k * (1 + i % 5)) % 6] for k in range(3)])
                for i in range(20000)]
    told = offer(openloop, shop, requests, 4000, tmp_path / "requests")

    statuses = {int(status): count for status, count in told["statuses"].items()}
    assert set(statuses) <= {201, 409, 503}, statuses
    assert told["failed"] == 0, told
    assert told["answered"] == told["sent"] > 1000, told

    # what was answered is what was done
    made = shop.value("SELECT count(*) FROM shop.orders WHERE tenant_id = 1 AND created_at > now() - interval '2 minutes'")
    assert made == statuses[201]
    assert shop.value("SELECT count(*) FROM event.outbox WHERE type = 'OrderCreated'") == made
    assert not shop.rows("SELECT variant_id FROM shop.stock WHERE on_hand < 0 AND NOT allow_backorder")
    assert shop.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == deadlocks

    # and it is over when it is over
    assert shop.edge().get("/health/ready").status_code == 200
    assert shop.user().get("/api/v1/orders").status_code == 200
