"""The purchase of the README, with curl and nothing else."""

import json
import os
import re
import shlex
import subprocess

import pytest

from stack import ROOT


def curl(shop, line):
    """Runs a line of shell with the shop's port in the place of 8080."""
    line = re.sub(r"(localhost|127\.0\.0\.1):8080", f"127.0.0.1:{shop.port}", line)
    return subprocess.run(["bash", "-euo", "pipefail", "-c", line], capture_output=True, text=True, timeout=60,
                          cwd=ROOT, env={**os.environ, "COMMERCE_RUN": str(shop.folder)})


def api(shop, method, path, token=None, body=None, headers=()):
    line = ["curl", "-s", "-X", method, f"localhost:8080{path}", "-w", "\n%{http_code}"]
    if token:
        line += ["-H", f"Authorization: Bearer {token}"]
    if body is not None:
        line += ["-H", "Content-Type: application/json", "-d", body]
    for header in headers:
        line += ["-H", header]
    done = curl(shop, shlex.join(line))
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


@pytest.fixture(scope="module")
def token(shop):
    done = curl(shop, """curl -s localhost:8080/api/login -d '{"email":"test@example.com","password":"password"}' \
        -H 'Content-Type: application/json'""")
    answer = json.loads(done.stdout)
    assert answer["user"]["email"] == "test@example.com"
    assert answer["token"].count(".") == 2
    assert answer["expires_in"] == 900
    return answer["token"]


@pytest.mark.parametrize("key", [(), ("Idempotency-Key: smoke-1",)], ids=["without a key", "with a key"])
def test_purchase(shop, token, key):
    before = shop.value("SELECT count(*) FROM shop.orders")

    status, _ = api(shop, "POST", "/api/interactions", token, '{"product_id":1,"action":"view"}')
    assert status == 202
    status, cart = api(shop, "POST", "/api/cart/items", token, '{"product_id":1,"quantity":2}')
    assert status == 201, cart
    status, order = api(shop, "POST", "/api/checkout", token, "{}", key)
    assert status == 201, order
    status, orders = api(shop, "GET", "/api/orders", token)
    assert status == 200
    assert order["number"] in [o["number"] for o in orders["data"]]

    assert shop.value("SELECT count(*) FROM shop.orders") == before + 1
    line = shop.rows("SELECT i.product_id, i.quantity FROM shop.order_item i JOIN shop.orders o "
                     "ON (i.tenant_id, i.order_id) = (o.tenant_id, o.id) WHERE o.number = %s",
                     order["number"])
    assert [(row["product_id"], row["quantity"]) for row in line] == [(1, 2)]

    if key:
        status, again = api(shop, "POST", "/api/checkout", token, "{}", key)
        assert (status, again) == (201, order)
        assert shop.value("SELECT count(*) FROM shop.orders") == before + 1

    status, cart = api(shop, "GET", "/api/cart", token)
    assert (status, cart["items"]) == (200, [])


def test_an_empty_cart_is_no_order(shop, token):
    status, problem = api(shop, "POST", "/api/checkout", token, "{}")
    assert (status, problem["code"]) == (422, "cart-empty")


def test_script_smoke(shop):
    done = shop.run(script="scripts/smoke")
    number = re.search(r"order (\S+), ", done.stdout)[1]
    assert shop.value("SELECT count(*) FROM shop.orders WHERE number = %s", number) == 1


def readme_lines():
    text = (ROOT / "README.md").read_text()
    tour = re.search(r"(?s)^## A tour with curl\n(.*?)^## ", text, re.M)[1]
    return re.findall(r"(?s)```sh\n(.*?)```", tour)


def test_readme_tour(shop):
    """Every block of the README's tour, one shell, one after the other: what it says must work.

    The payment may be declined, one in ten is, and the shop `demo` decides that by the order's id: both answers are the tour's."""
    blocks = readme_lines()
    assert blocks
    fails = "curl() { command curl --fail-with-body \"$@\" || { [ $? = 22 ] && [[ \"$*\" == *simulated* ]]; }; }"
    done = curl(shop, "\n".join([fails, *blocks]))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    paid = [json.loads(line) for line in done.stdout.splitlines() if '"payment":' in line]
    assert [(p["status"], p["code"]) for p in paid] in ([("confirmed", None)], [(402, "payment-declined")])
