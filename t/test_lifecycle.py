"""What must hold while things break: reloads, dead workers, lost backends, clients that leave, too much at once."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import threading
import time

import httpx
import pytest

from stack import SLOW, complete, frozen, frozen_postgres, wait_for

pytestmark = pytest.mark.slow

@contextlib.contextmanager
def load(shop, request, threads=4):
    """Sends requests from so many threads while the block runs; yields the list of (status or exception)."""
    stop = threading.Event()
    seen = []

    def run():
        # a connection for each request: a server may close an idle one at any time, that is no failure
        with shop.edge(limits=httpx.Limits(max_keepalive_connections=0)) as edge:
            while not stop.is_set():
                try:
                    seen.append(request(edge))
                except httpx.HTTPError as e:
                    seen.append(e)

    pool = [threading.Thread(target=run) for _ in range(threads)]
    for thread in pool:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in pool:
            thread.join()


def get_product(edge):
    return edge.get("/api/v1/products/1").status_code


def backends(shop):
    return [row["pid"] for row in shop.rows(
        "SELECT pid FROM pg_stat_activity WHERE usename = 'commerce_edge' AND datname = current_database()")]


def redis_pid(shop):
    return shop.redis().info("server")["process_id"]


def is_ready(shop):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{shop.url}/health/ready")


# ---- reload, upgrade, crash ----


def test_reload_under_load_loses_no_request(shop):
    with load(shop, get_product) as seen:
        for _ in range(5):
            old = shop.reload()
            wait_for(lambda: len(seen) > 20, 10)
    assert seen and set(seen) == {200}, set(map(str, seen))
    wait_for(lambda: not old & set(shop.workers(leaving=True)), 35, "the old workers are gone")


def test_reload_finishes_what_is_under_way(shop, probes):
    with shop.configured(**probes):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            slow = pool.submit(shop.edge().get, "/api/v1/probe/sleep?ms=1500")
            wait_for(lambda: shop.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'commerce_edge' "
                                        "AND state = 'active'"), 5, "the statement runs")
            shop.reload()
            assert slow.result().json() == {"slept": 1500}


class Persistent:
    """A client that keeps its connection, and repeats what met a closed one (RFC 9112, 9.3.1)."""

    def __init__(self, shop, path):
        self.address = ("127.0.0.1", shop.port)
        self.request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.good, self.closed, self.broken = 0, 0, []

    def run(self, stop):
        s, used = None, False
        while not stop.is_set():
            if s is None:
                s, used = socket.create_connection(self.address, timeout=20 * SLOW), False
            answer = b""
            try:
                s.sendall(self.request)
                while not complete(answer):
                    chunk = s.recv(65536)
                    if not chunk:
                        break
                    answer += chunk
            except ConnectionError:
                pass
            if complete(answer) and answer.startswith(b"HTTP/1.1 200 "):
                self.good += 1
                used = True
                if b"\r\nConnection: close\r\n" not in answer:
                    continue
            elif answer == b"" and used:
                self.closed += 1
            else:
                self.broken.append(answer or "a new connection was closed without an answer")
            s.close()
            s = None
        if s:
            s.close()


def test_reload_and_clients_that_keep_their_connections(shop, capsys):
    """No answer is cut.  nginx closes connections that idle at QUIT, ours as those of a location without the module."""
    with shop.configured(server="location = /stock { return 200 ok; }", limits=None):
        clients = {path: [Persistent(shop, path) for _ in range(4)]
                   for path in ("/api/v1/products/1", "/api/v1/products?limit=3", "/stock")}
        everyone = [client for group in clients.values() for client in group]
        stop = threading.Event()
        threads = [threading.Thread(target=client.run, args=(stop,)) for client in everyone]
        for thread in threads:
            thread.start()
        try:
            for _ in range(4):
                goal = [client.good + 10 for client in everyone]
                wait_for(lambda: all(c.good >= g for c, g in zip(everyone, goal, strict=True)), 60, "all are served")
                shop.reload()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        with capsys.disabled():
            for path, group in clients.items():
                print(f"\n  4 reloads, {path}: {sum(c.good for c in group)} answers, "
                      f"{sum(c.closed for c in group)} closed between two requests", end="")
        for client in everyone:
            assert not client.broken, client.broken[:3]
            assert client.closed <= 4 * 2


def test_old_workers_leave_in_time_whatever_clients_do(shop, probes):
    """A statement that runs longer, a body that does not come, an idle connection: none keeps a worker."""
    # nothing else would end them while the test waits
    replace = [(r"worker_shutdown_timeout\s+\d+s", "worker_shutdown_timeout 2s"), (r"client_body_timeout\s+\w+", "client_body_timeout 20m"),
               (r"statement_timeout=25s timeout=30s", "statement_timeout=9m timeout=10m")]
    with shop.configured(**probes, replace=replace):
        clients = [shop.connect() for _ in range(4)]
        clients[0].sendall(request("GET", "/api/v1/probe/slow?ms=500000"))
        clients[1].sendall(request("GET", "/api/v1/probe/slow?ms=500000"))
        clients[2].sendall(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 100\r\n\r\n{")
        wait_for(lambda: shop.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'commerce_edge' "
                                    "AND state = 'active'") == 2, 10, "the statements run")
        old = shop.reload()
        assert shop.edge().get("/api/v1/products/1").status_code == 200
        wait_for(lambda: not old & set(shop.workers(leaving=True)), 25, "the old workers are gone")
        for client in clients:
            with contextlib.suppress(ConnectionError):
                answer = client.recv(100)
                assert answer == b"" or answer.startswith(b"HTTP/1.1 503 "), answer
            client.close()
        with shop.db() as db:
            db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'commerce_edge' "
                       "AND state = 'active' AND datname = current_database()")


def test_zones_change_their_size_at_a_reload(shop):
    with load(shop, get_product) as seen:
        for cache, limits in (("16m", "2m"), ("24m", "4m")):
            shop.configure(replace=[(r"commerce_cache_zone\s+\d+m", f"commerce_cache_zone {cache}")])
            (shop.conf / "limits.conf").write_text(re.sub(
                r"commerce_limit_zone\s+\d+m", f"commerce_limit_zone {limits}", (shop.conf / "limits.conf").read_text()))
            old = shop.reload()
            count = len(seen)
            wait_for(lambda: len(seen) > count + 20, 20)
            wait_for(lambda: not old & set(shop.workers(leaving=True)), 40, "the old workers are gone")
    shop.configure()
    shop.reload()
    assert seen and set(seen) == {200}, set(map(str, seen))


def test_a_bad_configuration_leaves_the_running_one_alone(shop):
    shop.expect_log(r"\[emerg\].*commerce_nonsense")
    workers = shop.workers()
    shop.configure(http="commerce_nonsense on;")
    refused = shop.run("reload", check=False)
    shop.configure()
    assert refused.returncode and "commerce_nonsense" in refused.stdout + refused.stderr
    assert shop.workers() == workers
    assert shop.edge().get("/api/v1/products/1").status_code == 200


def test_binary_upgrade_under_load(shop):
    old = shop.master()
    with load(shop, get_product) as seen:
        os.kill(old, signal.SIGUSR2)
        pid_file = shop.folder / "nginx" / "nginx.pid"
        wait_for(lambda: (shop.folder / "nginx" / "nginx.pid.oldbin").exists() and pid_file.exists()
                 and shop.master() != old and len(shop.workers()) == 2, 10, "a second master with workers")
        wait_for(lambda: is_ready(shop), 10)
        os.kill(old, signal.SIGQUIT)
        wait_for(lambda: not pathlib.Path(f"/proc/{old}").exists(), 35, "the old master is gone")
        count = len(seen)
        wait_for(lambda: len(seen) > count + 20, 10)
    assert set(seen) == {200}, set(map(str, seen))


def unread(shop, size):
    """PostgreSQL has not read so many bytes that a worker has sent: it holds that worker's request."""
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        field = line.split()
        if int(field[1].split(":")[1], 16) == shop.pg_port and int(field[4].split(":")[1], 16) > size:
            return True
    return False


def test_a_worker_dies_in_the_middle_of_a_checkout(shop):
    """Killed when the statement is on its way: it commits or not, and the repeated checkout is the same order."""
    crowd = shop.customers(6)
    for number, (user, token) in enumerate(crowd):
        key = {"Idempotency-Key": f"middle-{user}"}
        edge = shop.edge(token=token)
        assert edge.post("/api/v1/cart/items", json={"product_id": 12, "quantity": 1}).status_code == 201

        def checkout(token=token, key=key):
            with contextlib.suppress(httpx.HTTPError), shop.edge(token=token) as other:
                return other.post("/api/v1/checkout", json={}, headers=key).status_code
            return None

        # workers that have just come in the place of killed ones have a connection to send it on, and get no other meanwhile
        shop.ready()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with frozen_postgres(shop):
                first = pool.submit(checkout)
                wait_for(lambda: unread(shop, 400), 10, "the checkout is in PostgreSQL")
                for _ in range(2):
                    shop.kill_worker(0)
                    if number % 2:
                        break
            first.result()

        def again(edge=edge, key=key):
            with contextlib.suppress(httpx.HTTPError):
                answer = edge.post("/api/v1/checkout", json={}, headers=key)
                assert answer.status_code in (201, 409, 503), answer.text
                return answer if answer.status_code == 201 else None
            return None

        order = wait_for(again, 30, "the order is placed")
        rows = shop.rows("SELECT number FROM shop.orders WHERE user_id = %s", user)
        assert [row["number"] for row in rows] == [order.json()["number"]]
        # what was ordered is not in the cart
        wait_for(lambda: edge.get("/api/v1/cart").json()["items"] == [], 10)


def test_killed_workers_lose_and_duplicate_no_order(shop):
    """Orders with keys, a worker killed again and again, every request repeated until it is answered."""
    before = shop.value("SELECT count(*) FROM shop.orders")
    crowd = shop.customers(8)
    wanted, done = 10, {}

    def buy(number):
        user, token = crowd[number]
        for i in range(wanted):
            key = f"kill-{number}-{i}"
            for _ in range(2000):
                try:
                    with shop.edge(token=token, limits=httpx.Limits(max_keepalive_connections=0)) as edge:
                        answer = edge.post("/api/v1/orders", headers={"Idempotency-Key": key},
                                           json={"items": [{"product_id": 1, "quantity": 1}]})
                except httpx.HTTPError:
                    continue
                assert answer.status_code in (201, 409, 503), answer.text
                if answer.status_code == 201:
                    done[key] = answer.json()["number"]
                    break
                time.sleep(0.05)

    with concurrent.futures.ThreadPoolExecutor(len(crowd)) as pool:
        jobs = [pool.submit(buy, n) for n in range(len(crowd))]
        kills = 0
        while not all(job.done() for job in jobs):
            shop.kill_worker(kills % 2)
            kills += 1
            # until the new worker has taken part, or nothing is left to do
            count = len(done)
            wait_for(lambda: len(done) > count or all(job.done() for job in jobs), 20)
        for job in jobs:
            job.result()
    assert kills
    assert len(done) == wanted * len(crowd)
    assert len(set(done.values())) == len(done)
    assert shop.value("SELECT count(*) FROM shop.orders") == before + len(done)
    assert shop.edge().get("/api/v1/products/1").status_code == 200


# ---- backends ----


def test_postgres_down_at_start(shop):
    shop.stop("nginx", "postgres")
    shop.run("start", "nginx")
    try:
        edge = shop.edge()
        assert edge.get("/health/live").status_code == 200
        ready = edge.get("/health/ready")
        assert (ready.status_code, ready.json()["services"]["postgres"]) == (503, False)
        answer = edge.get("/api/v1/products")
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["content-type"] == "application/problem+json"
    finally:
        shop.start("postgres")
    shop.ready(30)
    # a worker finds out for itself, at most 5 s after the other
    wait_for(lambda: all(shop.edge().get("/api/v1/products").status_code == 200 for _ in range(8)), 15)


def test_redis_down_at_start(shop):
    shop.stop("nginx", "redis")
    shop.run("start", "nginx")
    try:
        shop.ready()
        assert is_ready(shop).json()["services"]["redis"] is False
        edge = shop.user()
        added = edge.post("/api/v1/cart/items", json={"product_id": 4, "quantity": 1})
        assert added.status_code == 201, added.text
        assert 4 in [i["product_id"] for i in edge.get("/api/v1/cart").json()["items"]]
    finally:
        shop.start("redis")
    wait_for(lambda: is_ready(shop).json()["services"]["redis"], 20, "Redis is found again")
    assert 4 in [i["product_id"] for i in shop.user().get("/api/v1/cart").json()["items"]]
    shop.user().delete("/api/v1/cart")


def test_postgres_lost_under_load(shop):
    """A crash of PostgreSQL: nothing but 200 and 503, and all well again soon after it is back."""
    def list_uncached(edge):
        answer = edge.get("/api/v1/products", params={"search": f"lamp{time.monotonic_ns()}"})
        if answer.status_code == 503:
            assert "retry-after" in answer.headers
        return answer.status_code

    with load(shop, list_uncached) as seen:
        wait_for(lambda: 200 in seen, 10)
        shop.kill("postgres")
        wait_for(lambda: 503 in seen, 10)
        # each worker learns it by itself
        wait_for(lambda: (ready := is_ready(shop)) and (ready.status_code, ready.json()["services"]["postgres"]) == (503, False), 10)
        shop.start("postgres")
        shop.ready(15)
        count = len(seen)
        wait_for(lambda: len(seen) > count + 50 and seen[-20:] == [200] * 20, 15, "twenty good answers in a row")
    assert set(seen) <= {200, 503}, set(map(str, seen))


def test_carts_outlive_redis(shop):
    edge = shop.user()
    edge.delete("/api/v1/cart")
    edge.post("/api/v1/cart/items", json={"product_id": 5, "quantity": 3})
    edge.post("/api/v1/cart/items", json={"product_id": 7, "quantity": 1})
    lines = [(i["product_id"], i["quantity"]) for i in edge.get("/api/v1/cart").json()["items"]]
    assert sorted(lines) == [(5, 3), (7, 1)]
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.cart_backup WHERE owner = %s "
                                "AND jsonb_array_length(document->'items') = 2", f"u:{edge.user_id}"), 10,
             "the cart is in PostgreSQL")
    shop.flush_redis()
    again = [(i["product_id"], i["quantity"]) for i in edge.get("/api/v1/cart").json()["items"]]
    assert again == lines
    edge.delete("/api/v1/cart")


def test_redis_lost_and_back_under_load(shop):
    crowd = shop.customers(4)
    tokens = iter([token for _, token in crowd] * 2)
    local = threading.local()

    def add(edge):
        if not hasattr(local, "token"):
            local.token = next(tokens)
        answer = edge.post("/api/v1/cart/items", json={"product_id": 1, "quantity": 1},
                           headers={"Authorization": f"Bearer {local.token}"})
        return answer.status_code

    with load(shop, add) as seen:
        wait_for(lambda: len(seen) > 20, 10)
        shop.kill("redis")
        wait_for(lambda: not is_ready(shop).json()["services"]["redis"], 10, "health says that Redis is gone")
        count = len(seen)
        wait_for(lambda: len(seen) > count + 20, 20, "carts go on without Redis")
        shop.start("redis")
        wait_for(lambda: is_ready(shop).json()["services"]["redis"], 20, "health says that Redis is back")
        count = len(seen)
        wait_for(lambda: len(seen) > count + 20, 10)
    # 409: the shelf or the line's ceiling; 503: the command was on its way when Redis died, its outcome is unknown
    assert set(seen) <= {201, 409, 422, 503}, set(map(str, seen))
    assert seen.count(201) > 40
    assert seen.count(503) <= 40


def test_checkout_while_redis_is_away(shop):
    """The cart of the backup is ordered once; Redis comes back with an older copy of nothing."""
    user, token = shop.customers(1)[0]
    edge = shop.edge(token=token)
    orders = "SELECT count(*) FROM shop.orders WHERE user_id = %s"
    before = shop.value(orders, user)
    edge.delete("/api/v1/cart")
    assert edge.post("/api/v1/cart/items", json={"product_id": 13, "quantity": 2}).status_code == 201
    version = edge.get("/api/v1/cart").json()["version"]
    wait_for(lambda: shop.value("SELECT coalesce(max(version), 0) FROM shop.cart_backup WHERE owner = %s", f"u:{user}") >= version,
             10, "the cart is saved")
    shop.kill("redis")
    key = {"Idempotency-Key": "without-redis"}
    first = wait_for(lambda: (a := edge.post("/api/v1/checkout", json={}, headers=key)).status_code != 503 and a, 20)
    assert first.status_code == 201, first.text
    assert [(item["product_id"], item["quantity"]) for item in first.json()["items"]] == [(13, 2)]
    again = edge.post("/api/v1/checkout", json={}, headers=key)
    assert again.status_code == 201 and again.json()["number"] == first.json()["number"]
    assert edge.get("/api/v1/cart").json()["items"] == []
    shop.start("redis")
    wait_for(lambda: is_ready(shop).json()["services"]["redis"], 20, "Redis is found again")
    assert edge.post("/api/v1/checkout", json={}, headers=key).json()["number"] == first.json()["number"]
    assert edge.get("/api/v1/cart").json()["items"] == []
    assert edge.post("/api/v1/checkout", json={}).status_code in (409, 422)
    assert shop.value(orders, user) == before + 1


def test_redis_flushed_and_lost_while_all_buy(shop):
    """CHECKOUT invariant 17: nothing is sold twice, no cart is ordered twice, and carts come back."""
    stock = 25
    with shop.db() as db:
        db.execute("UPDATE shop.stock SET on_hand = %s, reserved = 0, allow_backorder = false, track_stock = true "
                   "WHERE tenant_id = 1 AND product_id = 14", (stock,))
    variants = shop.value("SELECT count(*) FROM shop.stock WHERE tenant_id = 1 AND product_id = 14")
    shop.flush_redis()
    crowd = shop.customers(8)
    stop = threading.Event()
    seen = []

    def buy(number):
        user, token = crowd[number]
        with shop.edge(token=token, limits=httpx.Limits(max_keepalive_connections=0)) as edge:
            for i in range(1000):
                if stop.is_set():
                    return
                with contextlib.suppress(httpx.HTTPError):
                    seen.append(edge.post("/api/v1/cart/items", json={"product_id": 14, "quantity": 1}).status_code)
                    seen.append(edge.post("/api/v1/checkout", json={},
                                          headers={"Idempotency-Key": f"flush-{number}-{i}"}).status_code)

    sold = """SELECT coalesce(sum(i.quantity), 0) FROM shop.order_item i JOIN shop.orders o
              ON (o.tenant_id, o.id) = (i.tenant_id, i.order_id)
              WHERE i.tenant_id = 1 AND i.product_id = 14 AND o.status <> 'cancelled'"""
    before = shop.value(sold)
    with concurrent.futures.ThreadPoolExecutor(len(crowd)) as pool:
        jobs = [pool.submit(buy, n) for n in range(len(crowd))]
        try:
            for step in range(6):
                count = len(seen)
                if step == 3:
                    shop.kill("redis")
                    wait_for(lambda: len(seen) > count + 40, 30, "carts go on without Redis")
                    shop.start("redis")
                    wait_for(lambda: is_ready(shop).json()["services"]["redis"], 20, "Redis is found again")
                else:
                    shop.flush_redis()
                count = len(seen)
                wait_for(lambda: len(seen) > count + 40, 30)
        finally:
            stop.set()
        for job in jobs:
            job.result()
    assert set(seen) <= {201, 409, 422, 503}, set(seen)
    assert 201 in seen
    assert shop.value(sold) - before <= stock * variants
    left = shop.rows("SELECT on_hand, reserved FROM shop.stock WHERE tenant_id = 1 AND product_id = 14")
    assert all(0 <= row["reserved"] <= row["on_hand"] or row["on_hand"] >= 0 for row in left)
    assert sum(row["on_hand"] for row in left) + shop.value(sold) - before == stock * variants
    assert shop.value("SELECT count(*) FROM (SELECT cart_id FROM shop.orders WHERE cart_id IS NOT NULL "
                      "GROUP BY cart_id HAVING count(*) > 1) twice") == 0
    # and a cart of now outlives a flush
    user, token = crowd[0]
    edge = shop.edge(token=token)
    edge.delete("/api/v1/cart")
    assert edge.post("/api/v1/cart/items", json={"product_id": 5, "quantity": 1}).status_code == 201
    lines = edge.get("/api/v1/cart").json()
    wait_for(lambda: shop.value("SELECT coalesce(max(version), 0) FROM shop.cart_backup WHERE owner = %s", f"u:{user}")
             >= lines["version"], 15, "the cart is saved")
    shop.flush_redis()
    assert edge.get("/api/v1/cart").json()["items"] == lines["items"]


def test_postgres_stands_still(shop):
    """Nobody waits until it goes on: a lane's deadline answers, and all is well again when PostgreSQL goes on."""
    shop.expect_log(r"PostgreSQL .* connection lost")
    user, token = shop.customers(1)[0]
    # more than can be ordered before reads are good again
    assert shop.staff().put("/api/v1/inventory/15", json={"on_hand": 1000000}).status_code == 200

    def ask(edge):
        answer = edge.get("/api/v1/products", params={"max_price": time.monotonic_ns() % 1000000 + 1})
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
        return answer.status_code

    def write(edge):
        return edge.post("/api/v1/orders", json={"items": [{"product_id": 15, "quantity": 1}]}, headers={
            "Authorization": f"Bearer {token}", "Idempotency-Key": f"still-{time.monotonic_ns()}"}).status_code

    with shop.configured(deadlines=True), load(shop, ask) as reads, load(shop, write, threads=2) as writes:
        wait_for(lambda: len(reads) > 10 and writes, 20)
        with frozen_postgres(shop):
            wait_for(lambda: 503 in reads[-8:] and 503 in writes, 60, "503")
            assert shop.edge().get("/health/live").status_code == 200
            wait_for(lambda: is_ready(shop).status_code == 503, 20, "readiness says no")
        count = len(reads)
        wait_for(lambda: len(reads) > count + 20 and set(reads[-20:]) == {200}, 30, "good answers again")
        wait_for(lambda: writes[-1] == 201, 30, "orders again")
    assert set(reads + writes) <= {200, 201, 409, 503}, set(map(str, reads + writes))
    assert shop.value("SELECT count(*) FROM shop.orders WHERE user_id = %s", user) >= writes.count(201)


def test_redis_stands_still(shop):
    """Nobody waits until it goes on: after its deadline carts go on in PostgreSQL, and they return."""
    user, token = shop.customers(1)[0]

    def read(edge):
        return edge.get("/api/v1/cart", headers={"Authorization": f"Bearer {token}"}).status_code

    # Redis' deadline as in conf/; with PostgreSQL's own a statement that waits for a processor would be refused
    deadline = (r"(commerce_redis\s[^;]*)timeout=20s;", r"\1timeout=500ms;")
    with shop.configured(replace=[deadline]), load(shop, read) as seen:
        wait_for(lambda: len(seen) > 20, 20)
        with frozen([redis_pid(shop)]):
            wait_for(lambda: is_ready(shop).json()["services"]["redis"] is False, 20, "health says that Redis is gone")
            count = len(seen)
            wait_for(lambda: len(seen) > count + 20, 30, "carts go on")
        wait_for(lambda: is_ready(shop).json()["services"]["redis"], 30, "health says that Redis is back")
        count = len(seen)
        wait_for(lambda: len(seen) > count + 20, 20)
    assert set(seen) == {200}


# ---- clients that leave ----


def is_read(shop, s):
    """nginx has accepted the connection and has read all that was sent, or is rid of it."""
    port = s.getsockname()[1]
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        field = line.split()
        if (int(field[1].split(":")[1], 16), int(field[2].split(":")[1], 16)) == (shop.port, port):
            return field[9] != "0" and int(field[4].split(":")[1], 16) == 0
    return True


def leave(shop, data, wait=0.0):
    """Sends bytes and goes, by RST, which takes away what was not read: at once, or so many seconds after it was read."""
    s = shop.connect()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    s.sendall(data)
    if wait:
        wait_for(lambda: is_read(shop, s), 20, "the request is read")
        time.sleep(wait)
    s.close()


def request(method, path, body=None, token=None, **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + (body or "")).encode()


def test_clients_leave_at_any_byte(shop):
    token = shop.token(shop.user().user_id)
    whole = request("POST", "/api/v1/cart/items", '{"product_id":1,"quantity":1}', token)
    for cut in range(0, len(whole), 7):
        leave(shop, whole[:cut])
    assert shop.edge().get("/health/live").status_code == 200


@pytest.mark.parametrize("what", ["read", "list", "search", "login", "order"])
def test_clients_leave_while_postgres_thinks(shop, what):
    token = shop.token(shop.user().user_id)
    requests = {
        "read": request("GET", "/api/v1/orders", token=token),
        "list": request("GET", "/api/v1/products?min_price=1&max_price=987654"),
        "search": request("GET", "/api/v1/products?search=kettle"),
        "login": request("POST", "/api/v1/auth/login", '{"email":"test@example.com","password":"password"}'),
        "order": request("POST", "/api/v1/orders", '{"items":[{"product_id":1,"quantity":1}]}', token,
                         Idempotency_Key="left-alone"),
    }
    before = shop.value("SELECT count(*) FROM shop.orders")
    with frozen(backends(shop)):
        for _ in range(6):
            leave(shop, requests[what], 0.05)
    assert shop.edge().get("/api/v1/products/1").status_code == 200
    if what == "order":
        # a placed order is not lost with its client, and six requests under one key are one order
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.orders") == before + 1, 10, "one order")


def test_clients_leave_while_redis_thinks(shop):
    user = shop.user()
    token = shop.token(user.user_id)
    with frozen([redis_pid(shop)]):
        for _ in range(5):
            leave(shop, request("GET", "/api/v1/cart", token=token), 0.02)
            leave(shop, request("POST", "/api/v1/cart/items", '{"product_id":1,"quantity":1}', token), 0.02)
    wait_for(lambda: user.get("/api/v1/cart").status_code == 200, 10)


def test_clients_leave_while_a_password_is_hashed(shop):
    for _ in range(8):
        leave(shop, request("POST", "/api/v1/auth/login", '{"email":"test@example.com","password":"wrong-one"}'), 0.06)
    wait_for(lambda: shop.edge().post("/api/v1/auth/login", json={
        "email": "test@example.com", "password": "password"}).status_code == 200, 20)


def descriptors(shop):
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in shop.workers()}


def test_clients_leave_at_every_wait_and_nothing_remains(shop, probes):
    """In the body, in a queue, in flight, pipelined: afterwards each worker has the descriptors that it had."""
    one = (r"(commerce_postgres\s+read[^;]*?)connections=\d+ depth=\d+", r"\1connections=1 depth=1")
    with shop.configured(**probes, replace=[one]):
        for _ in range(20):
            shop.edge(limits=httpx.Limits(max_keepalive_connections=0)).get("/api/v1/products/1")
        wait_for(lambda: not shop.leftovers(), 20, "nothing is under way")
        before = descriptors(shop)
        sleep = request("GET", "/api/v1/probe/sleep?ms=300")
        write = request("POST", "/api/v1/probe/write", '{"ms":100}')
        body = request("POST", "/api/v1/probe/body", json.dumps({"text": "x" * 200000}))
        running = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'commerce_edge' AND state = 'active'"
        for _ in range(8):
            leave(shop, sleep)
            leave(shop, sleep * 3)
            leave(shop, sleep + write + sleep)
            leave(shop, write * 3)
            leave(shop, body[:150000])
            leave(shop, body)
            leave(shop, request("GET", "/api/v1/probe/sleep?ms=300", "x" * 10))
            leave(shop, request("GET", "/api/v1/probe/sleep?ms=300", "x" * 10)[:-5])
        # in the queue, behind two that run
        stay = [socket.create_connection(("127.0.0.1", shop.port)) for _ in range(4)]
        for s in stay:
            s.sendall(request("GET", "/api/v1/probe/sleep?ms=1200"))
        wait_for(lambda: shop.value(running), 10, "a statement runs")
        for _ in range(10):
            leave(shop, sleep)
        for s in stay:
            s.close()
        wait_for(lambda: shop.value(running) == 0 and not shop.leftovers(), 30, "PostgreSQL has nothing more to do")
        assert shop.edge().get("/api/v1/probe/sleep?ms=0").status_code == 200
        for edge in shop.edges:
            edge.close()
        shop.edges = []
        wait_for(lambda: descriptors(shop) == before, 20, f"descriptors as before: {before}, {descriptors(shop)}")


def test_clients_leave_during_a_large_answer(shop, probes):
    with shop.configured(**probes):
        for _ in range(10):
            leave(shop, request("GET", "/api/v1/probe/big?bytes=4000000"), 0.05)
        assert shop.edge().get("/api/v1/probe/big?bytes=10").json() == {"data": "x" * 10}


# ---- sizes and limits ----


def test_a_megabyte_each_way(shop, probes):
    with shop.configured(**probes):
        edge = shop.edge()
        for size in (8191, 65536, 1 << 20, 3 << 20):
            assert edge.get(f"/api/v1/probe/big?bytes={size}").json() == {"data": "x" * size}
            text = "é" * (size // 2)
            answer = edge.post("/api/v1/probe/body", content=json.dumps({"text": text}, ensure_ascii=False).encode(),
                               headers={"Content-Type": "application/json"})
            assert answer.json() == {"length": len(text), "md5": hashlib.md5(text.encode()).hexdigest()}
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            sizes = list(pool.map(lambda _: len(shop.edge().get("/api/v1/probe/big?bytes=1048576").content), range(48)))
        assert set(sizes) == {(1 << 20) + len('{"data" : ""}')} or set(sizes) == {(1 << 20) + len('{"data":""}')}


def test_states_of_postgres(shop, probes):
    """What PostgreSQL raises becomes the status of docs/contract.md, and never shows its detail."""
    with shop.configured(**probes):
        for state, status in (("22P02", 422), ("22003", 422), ("23505", 409), ("23503", 409), ("55P03", 409),
                              ("42501", 403), ("57014", 503), ("XX000", 500), ("P0001", 500)):
            answer = shop.edge().get(f"/api/v1/probe/fail?state={state}")
            assert answer.status_code == status, (state, answer.text)
            assert "secret detail" not in answer.text
            if status in (409, 503) and state in ("55P03", "57014"):
                assert "retry-after" in answer.headers, state


def test_a_full_pool_refuses_at_once(shop, probes):
    """One connection, four places to wait: fifty requests are answered with 200 or with 503 and Retry-After."""
    small = (r"(commerce_postgres\s+read[^;]*?)connections=\d+ depth=\d+ queue=\d+",
             r"\1connections=1 depth=1 queue=4")
    with shop.configured(**probes, replace=[small]):
        sockets = [shop.connect() for _ in range(50)]
        wanted = request("GET", "/api/v1/probe/sleep?ms=1000")

        def answer(s):
            text = b""
            while not complete(text):
                chunk = s.recv(65536)
                assert chunk, text
                text += chunk
            return text.decode()

        # as good as at once, however slow the machine is: what comes when another one has ended finds room
        for s in sockets:
            s.sendall(wanted)
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            jobs = [pool.submit(answer, s) for s in sockets]
            while not all(job.done() for job in jobs):
                # the event loop is free, and readiness knows no more of it than before
                assert shop.edge().get("/health/live").status_code == 200
            answers = [job.result() for job in jobs]
        for s in sockets:
            s.close()
        counts = {status: [a for a in answers if a.startswith(f"HTTP/1.1 {status} ")] for status in (200, 503)}
        assert sum(map(len, counts.values())) == 50, {a.splitlines()[0] for a in answers}
        # two workers with one statement under way and four that wait, and what came after the first was done
        assert 2 <= len(counts[200]) <= 20
        assert all(re.search(r"(?i)\r\nretry-after: [1-9]", a) for a in counts[503])
        assert all("\r\ncontent-type: application/problem+json\r\n" in a.lower() for a in counts[503])
        wait_for(lambda: shop.edge().get("/api/v1/probe/sleep?ms=0").status_code == 200, 10)


def test_a_deadline_holds(shop, probes):
    short = (r"(commerce_postgres\s+read[^;]*?)statement_timeout=\w+ timeout=\w+", r"\1statement_timeout=500ms timeout=1s")
    with shop.configured(**probes, replace=[short]):
        answer = shop.edge().get("/api/v1/probe/sleep?ms=600000")
        assert answer.status_code in (503, 504), answer.text
        wait_for(lambda: shop.edge().get("/api/v1/probe/sleep?ms=0").status_code == 200, 10)
