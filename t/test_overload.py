"""Far more orders than the machine can make: some are made, the rest is refused early, nothing breaks (CHECKOUT §3, 16)."""

import concurrent.futures
import json
import pathlib
import socket
import subprocess
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 5

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def openloop(tmp_path_factory):
    """The load generator of the benchmark: requests leave on a timetable, answered or not."""
    program = tmp_path_factory.mktemp("openloop") / "openloop"
    subprocess.run(["cc", "-O2", "-o", program, ROOT / "t/bench/openloop.c", "-lm"], check=True)
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
    before = shop.value("SELECT count(*) FROM shop.orders WHERE tenant_id = 1")
    with shop.configured(shed=True):
        told = offer(openloop, shop, requests, 4000, tmp_path / "requests")

    statuses = {int(status): count for status, count in told["statuses"].items()}
    assert set(statuses) <= {201, 409, 503} and 201 in statuses and 503 in statuses, statuses
    # on a slow machine not all of them leave
    assert told["failed"] == 0 and told["answered"] == told["sent"], told

    # what was answered is what was done
    made = shop.value("SELECT count(*) FROM shop.orders WHERE tenant_id = 1") - before
    assert made == statuses[201]
    assert shop.value("SELECT count(*) FROM event.outbox WHERE type = 'OrderCreated'") == made
    assert not shop.rows("SELECT variant_id FROM shop.stock WHERE on_hand < 0 AND NOT allow_backorder")
    assert shop.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == deadlocks

    # and it is over when it is over
    shop.ready()
    assert shop.user().get("/api/v1/orders").status_code == 200


# ---- who is refused first ----


class Asked:
    """A request that waits for its answer."""

    def __init__(self, shop, path):
        self.socket = shop.connect(60)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        # this one has been read when that one is answered
        assert shop.raw(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200 ")

    def answer(self):
        data = b""
        with self.socket:
            while chunk := self.socket.recv(65536):
                data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode(), json.loads(body)

    def waits(self):
        self.socket.settimeout(0.05)
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(60)


ONE_WORKER = (r"worker_processes\s+\S+;", "worker_processes  1;")
# and its deadlines are out of reach: a gate is closed for as long as a slow machine takes
NARROW = (r"connections=2 depth=2 queue=64 statement_timeout=25s timeout=30s", "connections=1 depth=1 queue=8 statement_timeout=9m timeout=10m")


@pytest.fixture
def undisturbed(probes):
    """Probes in a lane where nobody else asks: no jobs, which would wait there too."""
    return {"http": probes["http"] + "\ncommerce_maintenance 0;", "jobs": False}


def test_classes_are_refused_in_their_order(shop, undisturbed):
    """One lane, its gate closed: 1 runs, then a class may fill its part of the 8 places, and is served in its turn."""
    with shop.configured(**undisturbed, replace=[ONE_WORKER, NARROW]), shop.db() as gate:
        gate.execute("SELECT pg_advisory_lock(4711)")
        asked = []

        def ask(name, count):
            asked.extend((name, Asked(shop, f"/api/v1/probe/class/{name}")) for _ in range(count))
            return [a.waits() for _, a in asked[-count:]]

        try:
            assert ask("export", 1) == [True]           # under way
            assert ask("export", 4) == [True, True, False, False]
            assert ask("browse", 4) == [True, True, False, False]
            assert ask("cart", 4) == [True, True, False, False]
            assert ask("checkout", 4) == [True, True, False, False]
            assert ask("export", 1) == ask("browse", 1) == ask("cart", 1) == [False]
            assert ask("health", 2) == [True, True]
        finally:
            gate.execute("SELECT pg_advisory_unlock(4711)")

        turns = []
        for name, request in asked:
            status, head, body = request.answer()
            if status == 503:
                assert body["code"] == "overloaded" and "Retry-After: " in head, head
            else:
                assert status == 200
                turns.append((body["turn"], name))
        assert [name for _, name in sorted(turns)] == [
            "export", "health", "health", "checkout", "checkout", "cart", "cart", "browse", "browse", "export", "export"]


def test_who_would_wait_too_long_is_refused_at_once(shop, undisturbed):
    """One lane that needs 50 ms for each: of many that come while it stands still as many may wait as it does in 500 ms."""
    patient = (NARROW[0], NARROW[1].replace("queue=8", "queue=64"))
    with shop.configured(**undisturbed, shed=True, replace=[ONE_WORKER, patient, (r" wait=10s", " wait=500ms")]), shop.db() as gate:
        # the pace is measured while somebody waits: all of them do, whatever this program takes to read the answers
        learnt = [shop.connect() for _ in range(24)]
        for s in learnt:
            s.sendall(b"GET /api/v1/probe/slow?ms=50 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        for s in learnt:
            with s:
                while s.recv(65536):
                    pass

        gate.execute("SELECT pg_advisory_lock(4711)")
        asked = [Asked(shop, "/api/v1/probe/class/checkout") for _ in range(20)]
        waits = [request.waits() for request in asked]
        gate.execute("SELECT pg_advisory_unlock(4711)")

        taken = waits.count(True)
        assert waits == [True] * taken + [False] * (20 - taken) and 1 <= taken <= 12, waits
        for request, waited in zip(asked, waits):
            status, head, body = request.answer()
            assert status == (200 if waited else 503)
            assert waited or (body["code"] == "overloaded" and "Retry-After: " in head), head


@pytest.mark.slow
def test_checkouts_go_on_while_browsing_is_shed(shop, openloop, tmp_path):
    """Many times more pages than the machine can make, none of them cached, and some orders."""
    tokens = [token for _, token in shop.customers(20)]
    row = shop.rows("SELECT s.product_id FROM shop.product_stock s WHERE tenant_id = 1 AND stock > 20 ORDER BY product_id LIMIT 6")
    products = [r["product_id"] for r in row]
    pages = [f"GET /api/v1/products?limit=100&sort_by=price&min_price={i} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
             for i in range(4000)]
    orders = [order(tokens[i % len(tokens)], [products[i % 6]]) for i in range(200)]
    small = (r"connections=4 depth=32 queue=1024", "connections=1 depth=4 queue=64")
    with shop.configured(limits=None, replace=[small]), concurrent.futures.ThreadPoolExecutor(2) as pool:
        browsing = pool.submit(offer, openloop, shop, pages, 8000, tmp_path / "pages")
        buying = pool.submit(offer, openloop, shop, orders, 10, tmp_path / "orders")
        browsed, bought = browsing.result(), buying.result()
        health = shop.edge().get("/health").status_code

    assert set(browsed["statuses"]) == {"200", "503"}, browsed
    assert set(bought["statuses"]) <= {"201", "409"} and bought["failed"] == 0, bought
    assert bought["statuses"]["201"] > 30
    assert health == 200
