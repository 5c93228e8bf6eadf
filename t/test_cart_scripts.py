"""The scripts of carts, against a Redis of their own."""

import json
import pathlib
import re
import subprocess
import threading
import uuid

import pytest
import redis

from stack import free_ports, wait_for

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent / "ngx_commerce_module" / "redis" / "scripts"
EMPTY = '{"cart_id":null,"version":0,"currency":null,"items":[]}'
WEEK = 7 * 86400


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    port, = free_ports(1)
    folder = tmp_path_factory.mktemp("redis")
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder),
         "--logfile", str(folder / "log")])
    client = redis.Redis(port=port, decode_responses=True)
    wait_for(lambda: answers(client), 10, "Redis answers")
    yield client
    client.close()
    process.terminate()
    process.wait()


def answers(client):
    try:
        return client.ping()
    except redis.exceptions.ConnectionError:
        return False


def text(name):
    """A script as the module loads it."""
    body = (SCRIPTS / f"{name}.lua").read_text()
    include = re.match(r"-- include: (.*)\n", body)
    return "".join((SCRIPTS / part).read_text() for part in include[1].split()) + body


class Cart:
    """An owner's cart, and what PostgreSQL would know of it."""

    def __init__(self, server, owner=None):
        self.server = server
        self.owner = owner or f"u:{uuid.uuid4()}"
        self.key = f"cart:{{1:{self.owner}}}"
        self.stored = EMPTY
        self.actions = []

    def call(self, script, args=None, idempotency="", fingerprint="", document=""):
        keys = [self.key, f"idem:{{1:{self.owner}}}:op:{idempotency}" if idempotency else ""]
        reply = self.server.eval(text(script), 2, *keys, json.dumps(args or {}), document, idempotency, fingerprint)
        if reply == ["miss"]:
            assert not document, "a script asks once"
            return self.call(script, args, idempotency, fingerprint, self.stored)
        if reply[0] == "ok" and reply[3]:
            action, self.stored = reply[3].split("\n")
            self.actions.append(json.loads(action))
        return reply

    def ok(self, *args, **more):
        reply = self.call(*args, **more)
        assert reply[0] == "ok", reply
        return json.loads(reply[2])

    def put(self, variant, quantity=1, **more):
        return self.ok("cart_put", offer(variant, quantity=quantity, **more))

    def document(self):
        return self.ok("cart_read")

    def lines(self):
        return {item["variant_id"]: item["quantity"] for item in self.document()["items"]}


def offer(variant, **more):
    return {"variant_id": variant, "product_id": variant + 1000, "name": f'Thing "{variant}" ✓', "sku": f"S-{variant}",
            "slug": f"thing-{variant}", "image": None, "unit_price": 1999, "currency": "EUR", "available": None,
            "quantity": 1, "new_cart_id": str(uuid.uuid4()), **more}


@pytest.fixture
def cart(server):
    return Cart(server)


def test_put_answers_item_and_cart(cart):
    cart.put(7, 2)
    body = cart.put(8, 1, unit_price=1)
    assert body["item"] == {
        "id": 8, "item_id": 8, "variant_id": 8, "product_id": 1008, "name": 'Thing "8" ✓', "sku": "S-8",
        "slug": "thing-8", "image": None, "quantity": 1, "unit_price": {"amount": 1, "currency": "EUR"},
        "line_total": {"amount": 1, "currency": "EUR"}}
    document = cart.document()
    assert body["cart"] == {"id": document["cart_id"], "version": 2, "item_count": 2, "quantity": 3,
                            "subtotal": {"amount": 2 * 1999 + 1, "currency": "EUR"}}


def test_the_document_is_what_the_backup_gets(cart):
    cart.put(7, 2)
    cart.put(9)
    assert json.loads(cart.stored) == cart.document()
    assert cart.actions == [{"action": "add", "product_id": 1007, "quantity": 2},
                            {"action": "add", "product_id": 1009, "quantity": 1}]


def test_lines_keep_their_order(cart):
    for variant in (5, 3, 9, 1):
        cart.put(variant)
    cart.put(3)
    assert list(cart.lines()) == [5, 3, 9, 1]


def test_big_numbers_survive(cart):
    big = 2**53 - 1
    body = cart.put(big, unit_price=big)
    assert body["item"]["variant_id"] == big
    assert cart.document()["items"][0]["unit_price"] == big


def test_sums_are_capped_at_what_is_available(cart):
    cart.put(7, 2, available=3)
    reply = cart.call("cart_put", offer(7, quantity=2, available=3))
    assert reply[:3] == ["problem", 409, "out-of-stock"]
    assert json.loads(reply[4]) == {"available": 3, "in_cart": 2, "variant_id": 7}
    assert cart.lines() == {7: 2}
    cart.put(7, 1, available=3)
    assert cart.lines() == {7: 3}


@pytest.mark.parametrize("quantity", [0, -1, 10000])
def test_quantities_out_of_range(cart, quantity):
    assert cart.call("cart_put", offer(7, quantity=quantity))[1:3] == [422, "quantity-out-of-range"]
    assert cart.document()["items"] == []


def test_a_cart_has_200_lines(cart):
    for variant in range(200):
        cart.put(variant + 1)
    assert cart.call("cart_put", offer(999))[1:3] == [409, "cart-full"]
    cart.put(200)


def test_one_currency(cart):
    cart.put(7)
    assert cart.call("cart_put", offer(8, currency="USD"))[1:3] == [409, "currency-mismatch"]


def test_set_and_remove(cart):
    cart.put(7, 5)
    assert cart.ok("cart_set", offer(7, quantity=2, unit_price=500))["item"]["line_total"]["amount"] == 1000
    assert cart.call("cart_set", offer(7, quantity=9, available=8))[1:3] == [409, "out-of-stock"]
    assert cart.call("cart_set", offer(8, quantity=1))[1:3] == [404, "not-found"]
    assert cart.call("cart_remove", {"item_id": 8})[1:3] == [404, "not-found"]
    body = cart.ok("cart_remove", {"item_id": 7})
    assert body["item"]["quantity"] == 2 and body["cart"]["quantity"] == 0
    assert cart.actions[-1] == {"action": "remove", "product_id": 1007, "quantity": 2}
    assert cart.lines() == {}


def test_every_write_raises_the_version_and_the_ttl(cart):
    cart.put(7)
    for n, (script, args) in enumerate([("cart_put", offer(8)), ("cart_set", offer(7, quantity=3)),
                                        ("cart_remove", {"item_id": 8}), ("cart_clear", {})]):
        cart.server.expire(cart.key, 100)
        cart.call(script, args)
        assert cart.server.ttl(cart.key) > WEEK - 10
        assert cart.document()["version"] == n + 2
    cart.server.expire(cart.key, 100)
    cart.document()
    assert cart.server.ttl(cart.key) <= 100


def test_clearing_begins_a_new_cart_and_nothing_old_comes_back(cart):
    first = cart.put(7)["cart"]["id"]
    old = cart.stored
    assert cart.ok("cart_clear")["cart"] == {"id": None, "version": 2, "item_count": 0, "quantity": 0,
                                             "subtotal": {"amount": 0, "currency": None}}
    cart.stored = old
    assert cart.lines() == {}
    body = cart.put(8)
    assert body["cart"]["id"] not in (None, first) and body["cart"]["version"] == 3


def test_after_a_checkout_only_the_ordered_cart_is_cleared(cart):
    ordered = cart.put(7)["cart"]["id"]
    cart.ok("cart_clear", {"cart_id": ordered})
    assert cart.actions[-1]["action"] == "checkout"
    cart.put(8)
    cart.ok("cart_clear", {"cart_id": ordered})
    assert cart.lines() == {8: 1}


def test_a_lost_cart_comes_back_from_the_backup(cart):
    cart.put(7, 2)
    cart.put(8, 3, unit_price=5)
    before = cart.document()
    cart.server.flushall()
    assert cart.document() == before
    assert cart.server.ttl(cart.key) > WEEK - 10
    cart.server.flushall()
    assert cart.put(7, 1)["cart"] == {"id": before["cart_id"], "version": 3, "item_count": 2, "quantity": 6,
                                      "subtotal": {"amount": 3 * 1999 + 3 * 5, "currency": "EUR"}}


def test_reading_an_unknown_cart_stores_nothing(cart):
    assert cart.document() == {**json.loads(EMPTY), "coupons": []}
    assert not cart.server.exists(cart.key)


def test_idempotency(cart):
    first = cart.call("cart_put", offer(7), idempotency="k", fingerprint="f1")
    again = cart.call("cart_put", offer(7), idempotency="k", fingerprint="f1")
    assert again == ["replay", 201, first[2]]
    assert cart.lines() == {7: 1}
    assert cart.call("cart_put", offer(8), idempotency="k", fingerprint="f2")[1:3] == [422, "idempotency-key-reused"]
    assert 86400 - 10 < cart.server.ttl(f"idem:{{1:{cart.owner}}}:op:k") <= 86400


def test_a_problem_is_not_kept_under_the_key(cart):
    assert cart.call("cart_put", offer(7, available=0), idempotency="k", fingerprint="f")[1:3] == [409, "out-of-stock"]
    assert cart.call("cart_put", offer(7, available=1), idempotency="k", fingerprint="f")[0] == "ok"


def test_parallel_adds_never_exceed_what_is_available(server):
    cart = Cart(server)
    results = []

    def add():
        mine = Cart(server, cart.owner)
        results.append(mine.call("cart_put", offer(7, available=10))[0])

    threads = [threading.Thread(target=add) for _ in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results.count("ok") == 10 and results.count("problem") == 30
    assert cart.lines() == {7: 10}


# ---- merging a guest's cart ----

@pytest.fixture
def guest(server):
    return Cart(server, "g:" + uuid.uuid4().hex * 2)


def take(guest):
    return guest.ok("cart_take", {"guest_cart": guest.owner})


def merge(cart, taken, **limits):
    items = [{**item, "currency": "EUR", "available": limits.get(f"v{item['variant_id']}")}
             for item in taken["guest_items"]]
    return cart.ok("cart_merge", {"guest_id": taken["guest_id"], "guest_items": items,
                                  "new_cart_id": str(uuid.uuid4())})


def test_merge_sums_and_caps(cart, guest):
    cart.put(7, 2)
    cart.put(9, 4)
    guest.put(7, 3)
    guest.put(8, 5)
    guest.put(9, 1)
    body = merge(cart, take(guest), v7=4, v8=2, v9=3)
    assert body["merged"] is True
    assert cart.lines() == {7: 4, 9: 4, 8: 2}               # 9: more than there is, but it was so before
    guest.ok("cart_taken", body)
    assert not guest.server.exists(guest.key + ":taken")
    assert guest.lines() == {}


def test_merge_into_no_cart(cart, guest):
    guest.put(7, 3)
    merge(cart, take(guest))
    document = cart.document()
    assert document["cart_id"] and document["currency"] == "EUR" and cart.lines() == {7: 3}


def test_merge_twice_is_once(cart, guest):
    guest.put(7, 3)
    taken = take(guest)
    merge(cart, taken)
    assert take(guest) == taken                             # it was not dropped: a worker died
    body = merge(cart, taken)
    assert body["merged"] is False and cart.lines() == {7: 3}
    guest.ok("cart_taken", body)
    assert take(guest) == {}


def test_merge_is_remembered_over_clearing_and_loss(cart, guest):
    guest.put(7, 3)
    taken = take(guest)
    merge(cart, taken)
    cart.ok("cart_clear")
    cart.server.delete(cart.key)
    assert merge(cart, taken)["merged"] is False
    assert cart.lines() == {}


def test_the_guest_may_go_on_between_the_halves(cart, guest):
    guest.put(7, 3)
    first = take(guest)
    guest.put(8, 1)                                         # in a new cart
    assert guest.lines() == {8: 1}
    guest.ok("cart_taken", merge(cart, first))
    guest.ok("cart_taken", merge(cart, take(guest)))
    assert cart.lines() == {7: 3, 8: 1}


def test_the_backup_of_a_taken_cart_does_not_come_back(cart, guest):
    guest.put(7, 3)
    old = guest.stored
    take(guest)
    assert json.loads(guest.stored)["items"] == [] and guest.stored != old


def test_nothing_to_take(guest):
    assert take(guest) == {}
    assert guest.ok("cart_take", {}) == {}


# ---- Redis was away ----

def resync(cart, document):
    cart.server.eval(text("cart_resync"), 1, cart.key, "{}", json.dumps(document))


def test_resync_replaces_an_older_copy_only(cart):
    cart.put(7)
    document = cart.document()
    newer = {**document, "version": 1000001, "items": [{**document["items"][0], "quantity": 9}]}
    resync(cart, newer)
    assert cart.document() == newer
    resync(cart, {**document, "version": 1000000})
    assert cart.lines() == {7: 9}


def test_resync_leaves_missing_keys_alone(cart):
    resync(cart, {"cart_id": None, "version": 5, "currency": None, "items": []})
    assert not cart.server.exists(cart.key)
