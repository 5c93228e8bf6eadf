"""commerce_limit on nodes without a shop: one quota over two of them, without Redis, under kill -9, with a million keys."""

import collections
import concurrent.futures
import contextlib
import http.client
import itertools
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest

from stack import ROOT, free_ports, wait_for

NGINX = """
{user}
worker_processes  2;
pid        {folder}/nginx.pid;
error_log  {folder}/error.log  notice;
load_module  {objs}/ngx_http_commerce_module.so;
events {{ worker_connections  512; }}
http {{
    access_log  off;
    keepalive_requests  10000000;
    client_body_temp_path  {folder}/body;
    proxy_temp_path  {folder}/proxy;
    fastcgi_temp_path  {folder}/fastcgi;
    uwsgi_temp_path  {folder}/uwsgi;
    scgi_temp_path  {folder}/scgi;
    {http}
    server {{
        listen  127.0.0.1:{port};
        location = /up {{ empty_gif; }}
        {server}
    }}
}}
"""


class Node:
    """An nginx with two workers and no database: the module for its limits alone."""

    def __init__(self, shop, folder, http, server):
        self.shop, self.folder, self.http, self.server = shop, folder, http, server
        (self.port,) = free_ports(1)
        folder.mkdir(parents=True)
        if os.getuid() == 0:
            os.chmod(folder, 0o777)
        self.write()
        self.run()
        wait_for(self.up, 60, "the node answers")

    def write(self):
        (self.folder / "nginx.conf").write_text(NGINX.format(
            user="user www-data;" if os.getuid() == 0 else "", folder=self.folder, objs=self.shop.objs, port=self.port,
            http=self.http, server=self.server))

    def run(self, *arguments):
        subprocess.run(["/usr/sbin/nginx", "-c", self.folder / "nginx.conf", "-e", self.folder / "error.log", *arguments],
                       check=True, capture_output=True)

    def up(self):
        with contextlib.suppress(OSError):
            return self.get("/up") == 200

    def has_redis(self):
        """Each worker has its connection; the master may not have made both of them yet."""
        workers = self.workers()
        return len(workers) == 2 and set(workers) <= {int(pid) for pid in re.findall(r" (\d+)#\d+: redis \S+ ready", self.log())}

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def master(self):
        return int((self.folder / "nginx.pid").read_text())

    def workers(self):
        found = []
        for pid in pathlib.Path(f"/proc/{self.master()}/task/{self.master()}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"shutting" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        return found

    def log(self):
        return (self.folder / "error.log").read_text()

    def stop(self):
        pid = self.master()
        self.run("-s", "quit")
        wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists(), 60, "the node has left")
        bad = [line for line in self.log().splitlines() if re.search(r"\[(alert|emerg|crit)\]|Sanitizer|runtime error:", line)
               and "exited on signal 9" not in line]
        assert not bad, bad


def many(requests, threads=8):
    """Statuses of (node, path), asked by so many at a time."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return collections.Counter(pool.map(lambda r: r[0].get(r[1]), requests))


def policies(shop, *lines, patience="60s"):
    """patience: how long Redis may take to answer.  Only who asks for a short one counts on without it when the machine is slow."""
    return (f"commerce_redis 127.0.0.1:{shop.redis_port} password_file={shop.folder}/secrets/redis timeout={patience};\n"
            f"commerce_redis_scripts {ROOT}/ngx_commerce_module/redis/scripts;\n"
            f"commerce_limit_zone 1m;\ncommerce_limit_redis_timeout {patience};\n"
            + "".join(f"commerce_limit_policy {line};\n" for line in lines))


SERVER = "".join(f"location /{name}/ {{ commerce_limit {name}; empty_gif; }}\n" for name in ("small", "big", "alone"))
# nothing of a quota comes back while a test runs, however long it takes
LINES = ("small key=$arg_k burst=60 window=300d cluster", "big key=$arg_k burst=6400 window=300d cluster",
         "alone key=$arg_k burst=10 window=50d")


@contextlib.contextmanager
def two_nodes(shop, tmp_path_factory, **options):
    folder = tmp_path_factory.mktemp("nodes")
    if os.getuid() == 0:
        for path in (folder, *folder.parents[:2]):
            os.chmod(path, 0o755)
    shop.redis().flushall()
    pair = []
    try:
        for name in ("one", "two"):
            pair.append(Node(shop, folder / name, policies(shop, *LINES, **options), SERVER))
        wait_for(lambda: all(node.has_redis() for node in pair), 60, "both nodes' workers have Redis")
        yield pair
    finally:
        for node in pair:
            node.stop()


@pytest.fixture
def nodes(shop, tmp_path_factory):
    with two_nodes(shop, tmp_path_factory) as pair:
        yield pair


@pytest.fixture
def impatient_nodes(shop, tmp_path_factory):
    with two_nodes(shop, tmp_path_factory, patience="300ms") as pair:
        yield pair


def both(nodes, path, count):
    return [(node, path) for _, node in zip(range(count), itertools.cycle(nodes))]


def test_one_quota_over_two_nodes(shop, nodes):
    for key in range(5):
        assert many(both(nodes, f"/small/?k=a{key}", 140)) == {200: 60, 429: 80}

    # one after the other: the second node gets what the first has left
    assert many([(nodes[0], "/small/?k=b")] * 40) == {200: 40}
    assert many([(nodes[1], "/small/?k=b")] * 40) == {200: 20, 429: 20}
    assert many([(nodes[0], "/small/?k=b")] * 10) == {429: 10}

    # who is known to have used up the quota is refused without asking
    before = shop.redis().info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    assert many(both(nodes, "/small/?k=b", 50)) == {429: 50}
    assert shop.redis().info("commandstats")["cmdstat_evalsha"]["calls"] == before

    # and what Redis knows, a node that starts anew knows
    nodes[0].stop()
    nodes[0].run()
    wait_for(nodes[0].up, 60, "the node answers")
    wait_for(nodes[0].has_redis, 60, "it has Redis")
    assert many([(nodes[0], "/small/?k=b")] * 5) == {429: 5}


def test_leases_never_grant_more_and_seldom_ask(shop, nodes):
    def calls():
        return shop.redis().info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)

    def passed(key):
        before = calls()
        assert many(both(nodes, f"/big/?k={key}", 3000), 16) == {200: 3000}
        asked = calls() - before
        total = 3000 + many(both(nodes, f"/big/?k={key}", 4400), 16)[200]
        assert total <= 6400, "never more than the quota"
        return asked < 1500 and total >= 5600

    # Most requests wait for nobody, and little is lost.  A lease ends after a second in which nobody came: of a machine that stands still
    # for as long the node pays with what lay in its lease, which says nothing of how leases are granted.  So one run of five has to be good.
    assert any(passed(f"c{attempt}") for attempt in range(5))


def test_redis_stops_halfway(shop, nodes):
    """Each node goes on from the last that Redis told it: in all at most as many times what was left as there are nodes."""
    assert many(both(nodes, "/small/?k=d", 38)) == {200: 38}
    # Of requests under way at the same time a node may have heard the earlier ones last, and then grants as many more.
    # These two are alone, so what each has heard last is known: 39 of 60 taken, and 40.
    assert [node.get("/small/?k=d") for node in nodes] == [200, 200]
    shop.stop("redis")
    try:
        for node, left in zip(nodes, (21, 20)):
            assert many([(node, "/small/?k=d")] * 60) == {200: left, 429: 60 - left}
            assert many([(node, "/alone/?k=d")] * 12) == {200: 10, 429: 2}
            assert many([(node, "/small/?k=e")] * 70) == {200: 60, 429: 10}
        wait_for(lambda: all("connection lost" in node.log() for node in nodes), 60, "Redis is missed")
    finally:
        shop.start("redis")
    keys = itertools.count()
    wait_for(lambda: many(both(nodes, f"/small/?k=f{next(keys)}", 70)) == {200: 60, 429: 10}, 60, "the nodes count together again")


def test_redis_hangs(shop, impatient_nodes):
    pid = int(shop.redis().info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        for node in impatient_nodes:
            assert many([(node, "/small/?k=g")] * 70) == {200: 60, 429: 10}
    finally:
        os.kill(pid, signal.SIGCONT)


def test_kill_at_any_time(nodes):
    """Twenty workers die under load; after each the zone counts exactly."""
    node = nodes[0]
    over = False

    def load():
        n = 0
        while not over:
            n += 1
            with contextlib.suppress(OSError, http.client.HTTPException):
                node.get(f"/alone/?k=load{n % 700}")
                node.get(f"/big/?k=load{n % 7}")

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for n in range(20):
                victim = node.workers()[n % 2]
                os.kill(victim, signal.SIGKILL)
                wait_for(lambda v=victim: len(now := node.workers()) == 2 and v not in now, 60, "a new worker")
                wait_for(node.up, 60, "the node answers")
        finally:
            over = True
    for done in loads:
        done.result()
    for n in range(20):
        assert many([(node, f"/alone/?k=after{n}")] * 15) == {200: 10, 429: 5}


def test_reload_with_other_rates(nodes):
    """What was taken counts on under the new rate; a refused configuration changes nothing."""
    node = nodes[0]
    assert many([(node, "/alone/?k=h")] * 6) == {200: 6}

    def reload(line):
        before = node.workers()
        node.http = policies(node.shop, *LINES[:2], line)
        node.write()
        node.run("-s", "reload")
        return before

    before = reload("alone key=$arg_k burst=20 window=100d")
    wait_for(lambda: len(now := node.workers()) == 2 and not set(before) & set(now), 60, "new workers")
    assert many([(node, "/alone/?k=h")] * 20) == {200: 14, 429: 6}

    before = reload("alone key=$arg_k burst=4 window=20d")
    wait_for(lambda: len(now := node.workers()) == 2 and not set(before) & set(now), 60, "new workers")
    assert many([(node, "/alone/?k=h")] * 5) == {429: 5}
    assert many([(node, "/alone/?k=i")] * 8) == {200: 4, 429: 4}

    node.http = policies(node.shop, "alone key=$arg_k rate=nonsense")
    node.write()
    with pytest.raises(subprocess.CalledProcessError):
        node.run("-t")
    assert many([(node, "/alone/?k=i")] * 3) == {429: 3}
    node.http = policies(node.shop, *LINES)
    node.write()
    (node.folder / "error.log").write_text(re.sub(r".*\[emerg\].*nonsense.*\n", "", node.log()))


@pytest.mark.slow
def test_a_million_keys_stay_inside_the_zone(nodes):
    """The zone holds 64,000 clients; a million others come by, pipelined, and the newest are still counted exactly."""
    node = nodes[0]

    def resident():
        return sum(int(re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])
                   for pid in node.workers())

    assert node.up()
    before = resident()
    batch = 1000
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as s:
        for start in range(0, 1000000, batch):
            s.sendall(b"".join(b"GET /alone/?k=m%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(start, start + batch)))
            answers, tail = 0, b""
            while answers < batch:
                chunk = s.recv(1 << 20)
                assert chunk
                data = tail + chunk
                answers += data.count(b"HTTP/1.1 200 ") - tail.count(b"HTTP/1.1 200 ")
                assert b"HTTP/1.1 4" not in data and b"HTTP/1.1 5" not in data
                tail = data[-12:]
    assert resident() - before < 16384, "kB"
    for n in range(20):
        assert many([(node, f"/alone/?k=late{n}")] * 15) == {200: 10, 429: 5}
