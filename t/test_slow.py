"""Slow clients: a thousand connections that send or read a byte now and then, and everybody else is served as before."""

import re
import shutil
import subprocess

import pytest

from stack import wait_for
from world import made

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not shutil.which("slowhttptest"), reason="needs Debian's package slowhttptest")]

CONNECTIONS = 1000
SECONDS = 18


def attack(shop, kind):
    """slowhttptest's own words: -H headers, -B body, -X read."""
    options = {
        "headers": ["-H", "-i", "3", "-x", "24"],
        "body": ["-B", "-i", "3", "-x", "10", "-s", "4000", "-t", "POST", "-f", "application/json"],
        "read": ["-X", "-w", "10", "-y", "20", "-n", "3", "-z", "10", "-k", "3"],
    }[kind]
    path = "/api/v1/interactions" if kind == "body" else "/api/v1/products?limit=100"
    return subprocess.Popen(
        ["slowhttptest", "-c", str(CONNECTIONS), "-r", "400", "-l", str(SECONDS), "-p", "5", "-u", f"http://127.0.0.1:{shop.port}{path}",
         *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=shop.folder)


def held(shop):
    established = "01"
    return sum(1 for s in shop.sockets() if s[1] == shop.port and s[3] == established)


@pytest.mark.parametrize("kind", ["headers", "body", "read"])
def test_others_are_served(shop, kind):
    customer, anyone = shop.user(), shop.edge()
    one = made(anyone.get("/api/v1/products", params={"limit": 1}))["data"][0]["id"]

    def round_trip():
        made(anyone.get("/api/v1/products", params={"limit": 20, "sort_by": "price"}))
        with shop.edge() as fresh:              # a connection of its own: there is room for it
            made(fresh.get(f"/api/v1/products/{one}"))
        made(customer.put("/api/v1/users/profile", json={"name": "Slow"}))

    process = attack(shop, kind)
    try:
        # every request succeeds while the slow ones are there; a thread or a process for each of these would not have a turn
        beside = 0
        while process.poll() is None:
            before = held(shop)
            round_trip()
            beside += min(before, held(shop)) > CONNECTIONS * 0.5
    finally:
        process.kill()
        said = process.communicate()[0]
    assert beside, f"nobody was served beside so many connections: {said[-1000:]}"
    assert not re.search(r"worker_connections are not enough", "\n".join(shop.log_lines()))
    # what is left are connections of this test's own clients
    wait_for(lambda: held(shop) <= CONNECTIONS * 0.02, 60, "the slow ones are let go")


def test_time_is_up_for_headers_and_bodies(shop):
    """client_header_timeout and client_body_timeout of conf/nginx.conf end what no byte comes for."""
    for data in (b"GET / HTTP/1.1\r\nHost: demo.localhost\r\n",
                 b"POST /api/v1/interactions HTTP/1.1\r\nHost: demo.localhost\r\nContent-Type: application/json\r\n"
                 b"Content-Length: 100\r\n\r\n{"):
        with shop.connect(600) as s:
            s.sendall(data)
            try:
                answer = s.recv(65536)
            except ConnectionResetError:        # what had not been read is thrown away with the connection
                answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
