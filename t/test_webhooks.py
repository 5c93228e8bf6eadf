"""Merchants' webhooks: signed, once per event, tried again, given up, redelivered; nobody else's, and no private addresses."""

import contextlib
import json
import pathlib
import re
import uuid

import pytest

import peer as peers
from stack import ROOT, free_ports, wait_for

JOBS = ("notifications", "webhooks")
HOOKS = "/api/v1/admin/webhooks"
PATIENCE = 60


class Hook(peers.Handler):
    """A merchant's program: answers what the test says."""

    def on_hook(self, _):
        peer = self.server.peer
        with peer.lock:
            status = peer.first.pop(0) if peer.first else peer.status
        self.answer(status)

    def on_other(self, _):
        self.answer(200)


@pytest.fixture(scope="module")
def there(shop):
    port, = free_ports(1, with_next=True)           # nobody listens behind it
    with peers.Peer(port) as peer, shop.configured(http="commerce_fetch_allow 127.0.0.1/32;"):
        peer.server.RequestHandlerClass = Hook
        peer.status, peer.first = 200, []               # first: statuses of the next answers, before those
        yield peer


@pytest.fixture
def hook(shop, staff, there):
    there.status, there.first = 200, []
    there.seen.clear()
    made = create(staff, f"{there.url}/hook?{uuid.uuid4().hex}")
    yield made
    staff.delete(f"{HOOKS}/{made['webhook']['id']}")


def create(staff, url, types=("shop.order.*",)):
    answer = staff.post(HOOKS, json={"url": url, "types": list(types)})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{HOOKS}/{answer.json()['webhook']['id']}"
    return answer.json()


@pytest.fixture(scope="module")
def verify():
    """As docs/webhooks.md has it."""
    code = re.search(r"```python\n(.*?)```", pathlib.Path(ROOT, "docs/webhooks.md").read_text(), re.S)[1]
    names = {}
    exec(compile(code, "docs/webhooks.md", "exec"), names)      # pylint: disable=exec-used
    return names["verify"]


def buy(shop):
    product = shop.value("SELECT min(p.id) FROM shop.product p WHERE p.tenant_id = 1 AND p.status = 'active' AND p.deleted_at IS NULL AND "
                         "(SELECT count(*) FROM shop.variant v WHERE v.tenant_id = 1 AND v.product_id = p.id) = 1")
    answer = shop.user().post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex},
                              json={"items": [{"product_id": product, "quantity": 1}]})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def got(there, hook):
    """What came for this webhook: (headers, body)."""
    path = hook["webhook"]["url"].removeprefix(there.url)
    with there.lock:
        return [({k.lower(): v for k, v in headers.items()}, body) for _, p, headers, body in there.seen if p == path]


def comes(there, hook, count=1):
    return wait_for(lambda: len(found := got(there, hook)) >= count and found, PATIENCE, f"{count} events come")


def ping(staff, hook):
    answer = staff.post(f"{HOOKS}/{hook['webhook']['id']}/test")
    assert answer.status_code == 202, answer.text
    return answer.json()["delivery_id"]


def delivery(staff, hook, id_):
    return staff.get(f"{HOOKS}/{hook['webhook']['id']}/deliveries/{id_}").json()


def ends(staff, hook, id_, status):
    return wait_for(lambda: (d := delivery(staff, hook, id_))["status"] == status and d, PATIENCE, f"it is {status}")


def tried(staff, hook, id_, attempts):
    """The second try comes after 4 s by itself: who looks late sees more."""
    return wait_for(lambda: len((d := delivery(staff, hook, id_))["tries"]) >= attempts and d, PATIENCE, f"{attempts} tries")


def due_now(shop, id_, tries):
    """After so many tries, unless the next one has begun by itself."""
    shop.rows("UPDATE shop.webhook_delivery SET next_at = now() WHERE id = %s AND status = 'queued' AND lease IS NULL "
              "AND jsonb_array_length(tries) = %s RETURNING 1", id_, tries)


def test_events_come_signed_and_once(shop, staff, there, hook, verify):
    order = buy(shop)
    found = comes(there, hook, 3)       # created, confirmed, completed
    types = {json.loads(body)["type"]: json.loads(body)["data"] for _, body in found}
    assert set(types) >= {"shop.order.created.v1", "shop.order.confirmed.v1"}
    assert all(d["order_id"] == order and d["aggregate_id"] == order and d["aggregate_version"] for d in types.values())
    secret = hook["signing_secret"]
    for headers, body in found:
        assert verify(secret, headers, body)
        assert not verify(secret, headers, body + b" ") and not verify(secret, {**headers, "webhook-id": "x"}, body)
        assert not verify(secret, {**headers, "webhook-timestamp": "1"}, body)
    assert len({h["webhook-id"] for h, _ in found}) == len(found)
    stored = shop.value("SELECT secret FROM shop.webhook_endpoint WHERE id = %s", hook["webhook"]["id"])
    assert stored.startswith("v1:") and secret not in stored
    log = staff.get(f"{HOOKS}/{hook['webhook']['id']}/deliveries").json()["data"]
    assert {d["event_id"] for d in log} == {h["webhook-id"] for h, _ in found}
    # an event that is replayed is the same delivery
    staff.post("/api/v1/admin/events/replay", json={"from": log[-1]["created_at"][:10] + "T00:00:00Z", "consumer": "consumer.webhooks"})
    wait_for(lambda: not shop.value("SELECT EXISTS (SELECT FROM event.unsent)"), PATIENCE, "events are consumed")
    assert len([d for d in staff.get(f"{HOOKS}/{hook['webhook']['id']}/deliveries").json()["data"] if order in delivery(
        staff, hook, d["id"])["body"]]) == len(found)


def test_only_what_was_asked_for_and_of_the_own_shop(shop, staff, there, hook):
    other = create(shop.staff("acme"), f"{there.url}/other?acme", ["*"])
    some = create(staff, f"{there.url}/other?some", ["shop.order.confirmed.v1"])
    try:
        buy(shop)
        comes(there, hook, 3)
        headers, body = comes(there, some)[0]
        assert json.loads(body)["type"] == "shop.order.confirmed.v1" and headers["content-type"] == "application/json"
        wait_for(lambda: not shop.value("SELECT EXISTS (SELECT FROM shop.webhook_delivery WHERE status = 'queued')"), PATIENCE, "all are sent")
        assert len(got(there, some)) == 1 and got(there, other) == []
    finally:
        staff.delete(f"{HOOKS}/{some['webhook']['id']}")
        shop.staff("acme").delete(f"{HOOKS}/{other['webhook']['id']}")
    answer = staff.post(HOOKS, json={"url": "https://hooks.example/", "types": ["shop.nothing.*"]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/types")


def test_a_failure_is_tried_again_with_the_same_id(shop, staff, there, hook):
    there.first, there.status = [503, 302], 204
    id_ = ping(staff, hook)
    first = tried(staff, hook, id_, 1)
    assert (first["status"], first["tries"][0]["status"]) == ("queued", 503)
    due_now(shop, id_, 1)
    assert tried(staff, hook, id_, 2)["tries"][1]["status"] == 302, "redirects are no success and not followed"
    pause = shop.value("SELECT extract(epoch FROM next_at - now()) FROM shop.webhook_delivery WHERE id = %s", id_)
    assert pause > 100, "the pauses grow"
    due_now(shop, id_, 2)
    ends(staff, hook, id_, "delivered")
    found = got(there, hook)
    assert len(found) == 3 and len({h["webhook-id"] for h, _ in found}) == 1 and len({b for _, b in found}) == 1


def test_who_is_gone_is_not_asked_again(shop, staff, there, hook):
    there.status = 410
    id_ = ping(staff, hook)
    ends(staff, hook, id_, "failed")
    now = staff.get(f"{HOOKS}/{hook['webhook']['id']}").json()
    assert (now["status"], now["reason"]) == ("disabled", "gone")
    answer = staff.post(f"{HOOKS}/{hook['webhook']['id']}/test")
    assert (answer.status_code, answer.json()["code"]) == (409, "webhook-disabled")
    assert shop.value("SELECT count(*) > 0 FROM shop.notification WHERE tenant_id = 1 AND template = 'webhook-disabled' "
                      "AND data ->> 'url' = %s", hook["webhook"]["url"]), "the owner is told"
    there.status = 200
    assert staff.patch(f"{HOOKS}/{hook['webhook']['id']}", json={"status": "active"}).json()["reason"] is None
    answer = staff.post(f"{HOOKS}/{hook['webhook']['id']}/redeliver", json={"from": "2020-01-01T00:00:00Z"})
    assert answer.status_code == 202 and answer.json()["deliveries"] == 1, answer.text
    ends(staff, hook, id_, "delivered")


def test_the_last_try_flags_and_disables(shop, staff, there, hook):
    there.status = 500
    id_ = ping(staff, hook)
    tried(staff, hook, id_, 1)
    # as if the other tries had been made; one that is under way is not heard
    shop.rows("UPDATE shop.webhook_delivery SET attempts = 9, next_at = now(), lease = NULL WHERE id = %s RETURNING 1", id_)
    ends(staff, hook, id_, "failed")
    now = staff.get(f"{HOOKS}/{hook['webhook']['id']}").json()
    assert (now["status"], now["reason"]) == ("disabled", "failing") and now["failing_since"]
    assert shop.value("SELECT count(*) > 0 FROM shop.notification WHERE tenant_id = 1 AND template = 'webhook-failing' "
                      "AND data ->> 'url' = %s", hook["webhook"]["url"]), "the owner is told"


def test_redelivered_by_hand(staff, there, hook):
    id_ = ping(staff, hook)
    ends(staff, hook, id_, "delivered")
    assert staff.post(f"{HOOKS}/{hook['webhook']['id']}/deliveries/{id_}/redeliver").status_code == 202
    found = comes(there, hook, 2)
    assert found[0][0]["webhook-id"] == found[1][0]["webhook-id"]


def test_two_secrets_sign_while_one_is_replaced(staff, there, hook, verify):
    answer = staff.post(f"{HOOKS}/{hook['webhook']['id']}/rotate-secret")
    assert answer.status_code == 200, answer.text
    fresh = answer.json()["signing_secret"]
    assert fresh != hook["signing_secret"]
    ping(staff, hook)
    headers, body = comes(there, hook)[0]
    assert verify(fresh, headers, body) and verify(hook["signing_secret"], headers, body)
    assert headers["webhook-signature"].count("v1,") == 2


def test_a_result_counts_for_its_own_try_only(shop, staff, there, hook):
    """A worker that died is no loss: its lease ends. What it may still say is not heard."""
    there.status = 503
    id_ = ping(staff, hook)
    tried(staff, hook, id_, 1)
    with shop.db() as db:
        answer = db.execute("SELECT body FROM api.webhook_result(1::bigint, %s::uuid, gen_random_uuid(), 200, '', NULL, 1)", (id_,)).fetchone()
    assert json.loads(answer["body"]) == {"taken": False} and delivery(staff, hook, id_)["status"] == "queued"


def test_large_events_tell_their_ids_only(shop, hook):
    with shop.db() as db:
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        db.execute("SELECT domain.emit('order-events', 'OrderCreated', 'order', 'large', jsonb_build_object('x', repeat('y', 30000)), 7)")
    body = wait_for(lambda: shop.rows("SELECT body FROM shop.webhook_delivery WHERE endpoint_id = %s AND body LIKE '%%large%%'",
                                      hook["webhook"]["id"]), PATIENCE, "it is queued")[0]["body"]
    assert len(body) < 1000 and json.loads(body)["data"] == {"aggregate": "order", "aggregate_id": "large", "aggregate_version": 7,
                                                               "truncated": True}


@pytest.mark.parametrize("url", ["ftp://x.example/", "http://user:pass@x.example/", "https://x.example/{secret:jwt}", "https://x.example/a b"])
def test_addresses_that_are_none(staff, url):
    assert staff.post(HOOKS, json={"url": url, "types": ["*"]}).status_code == 422


def test_private_addresses_are_not_asked(shop, staff, there):
    """What the operator did not allow: other loopback addresses, a cloud's metadata, names and spellings of them."""
    hooks = [create(staff, url) for url in (
        f"http://127.0.0.2:{there.port}/hook", f"http://localhost:{there.port + 1}/", "http://169.254.169.254/latest/", "http://10.0.0.1/",
        "http://[::1]/", f"http://[::ffff:127.0.0.2]:{there.port}/hook", "http://0x7f000002/")]
    try:
        for one in hooks:
            error = tried(staff, one, ping(staff, one), 1)["tries"][0]
            assert error["status"] is None and error["error"] in ("refused", "resolve", "connect"), (one["webhook"]["url"], error)
            if "localhost" not in one["webhook"]["url"]:
                assert error["error"] in ("refused", "resolve"), (one["webhook"]["url"], error)
    finally:
        for one in hooks:
            staff.delete(f"{HOOKS}/{one['webhook']['id']}")
    assert not [p for p in there.paths() if p == "/hook"]


def test_one_endpoint_does_not_make_the_others_wait(shop, staff, hook):
    other = create(shop.staff("acme"), "https://hooks.example/", ["*"])
    with shop.db() as db, contextlib.suppress(ZeroDivisionError), db.transaction():
        db.execute("INSERT INTO shop.webhook_delivery (tenant_id, id, endpoint_id, event_id, type, body) SELECT 1, gen_random_uuid(), %s, "
                   "gen_random_uuid(), 't', '{}' FROM generate_series(1, 100)", (hook["webhook"]["id"],))
        db.execute("INSERT INTO shop.webhook_delivery (tenant_id, id, endpoint_id, event_id, type, body) VALUES (2, gen_random_uuid(), %s, "
                   "gen_random_uuid(), 't', '{}')", (other["webhook"]["id"],))
        due = [r["tenant_id"] for r in db.execute("SELECT tenant_id FROM platform.webhooks_due(50)").fetchall()]
        assert due.count(1) <= 8 and due.count(2) == 1 and due.index(2) < 2
        raise ZeroDivisionError         # nothing of this is to be sent
    shop.staff("acme").delete(f"{HOOKS}/{other['webhook']['id']}")
