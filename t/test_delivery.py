"""What the shop tells people leaves it: mails over SMTP into the catcher, text messages to a peer, whatever happens on the way."""

import base64
import contextlib
import hashlib
import hmac
import json
import re
import uuid

import httpx
import pytest

import peer as peers
from stack import free_ports, wait_for

JOBS = ("notifications",)
PATIENCE = 60


@pytest.fixture(scope="module")
def catcher(shop):
    with httpx.Client(base_url=f"http://127.0.0.1:{shop.mail_page_port}", timeout=30) as web:
        yield web


@pytest.fixture(autouse=True)
def healthy(catcher):
    catcher.put("/api/faults", json={})
    yield
    catcher.put("/api/faults", json={})


@contextlib.contextmanager
def faults(catcher, **what):
    catcher.put("/api/faults", json=what)
    yield
    catcher.put("/api/faults", json={})


def mails(catcher, to):
    return [m for m in catcher.get("/api/mails").json() if to in m["to"]]


def arrived(catcher, to, count=1):
    return wait_for(lambda: len(found := mails(catcher, to)) >= count and found, PATIENCE, f"{count} mails to {to}")


def address():
    return f"m{uuid.uuid4().hex[:12]}@example.org"


def queue(staff, to, **body):
    answer = staff.post("/api/v1/send", json={"channel": "email", "to": to, "subject": "S", "text": "T", **body})
    assert answer.status_code == 202, answer.text
    return answer.json()["notification_id"]


def row(shop, notification):
    return shop.rows("SELECT status, attempts, error, last_status, lease, next_at > now() AS later FROM shop.notification WHERE id = %s",
                     notification)[0]


def due_now(shop, notification):
    """What waits for its next try, or for the end of a lease, is due."""
    shop.rows("UPDATE shop.notification SET next_at = now() WHERE id = %s AND status = 'queued' RETURNING 1", notification)


def put_off(shop, notification):
    """Not due again until due_now(): its pause may be over while a busy machine does something else."""
    shop.rows("UPDATE shop.notification SET next_at = now() + interval '1 hour' WHERE id = %s AND status = 'queued' RETURNING 1", notification)


def ends(shop, notification, status="sent"):
    return wait_for(lambda: (r := row(shop, notification))["status"] == status and r, PATIENCE, f"it is {status}")


def link(mail):
    return re.search(r"token=([A-Za-z0-9_-]+)", mail["text"])[1]


def test_a_registration_is_confirmed_by_the_mail(shop, catcher):
    to = address()
    answer = shop.edge().post("/api/v1/auth/register", json={"email": to, "password": "correct horse battery", "name": "Ada"})
    assert answer.status_code in (201, 202), answer.text
    mail, = arrived(catcher, to)
    answer = shop.edge().post("/api/v1/auth/verify-email", json={"token": link(mail)})
    assert answer.status_code in (200, 204), answer.text
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.notification WHERE recipient = %s AND secret IS NOT NULL", to) == 0, PATIENCE,
             "the link is kept no longer")


def test_a_new_password_is_set_by_the_mail(shop, catcher):
    to = address()
    shop.value("SELECT domain.user_put(1, %s, '', 'Ada')::text", to)
    assert shop.edge().post("/api/v1/auth/password/forgot", json={"email": to}).status_code == 202
    mail, = arrived(catcher, to)
    answer = shop.edge().post("/api/v1/auth/password/reset", json={"token": link(mail), "password": "correct horse battery"})
    assert answer.status_code in (200, 204), answer.text
    assert link(mail) in mail["html"] and "{" not in mail["text"]


def test_each_step_of_an_order_is_one_mail(shop, staff, catcher):
    to = address()
    product = shop.value("SELECT min(p.id) FROM shop.product p WHERE p.tenant_id = 1 AND p.status = 'active' AND p.deleted_at IS NULL AND "
                         "(SELECT count(*) FROM shop.variant v WHERE v.tenant_id = 1 AND v.product_id = p.id) = 1")
    answer = shop.edge().post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex},
                              json={"items": [{"product_id": product, "quantity": 2}], "email": to})
    assert answer.status_code == 201, answer.text
    order = answer.json()
    for status in ("processing", "shipped"):
        assert staff.put(f"/api/v1/orders/{order['id']}/status", json={"status": status}).status_code == 200
    found = arrived(catcher, to, 2)
    # events that come again are the same notifications
    answer = staff.post("/api/v1/admin/events/replay", json={"from": order["created_at"], "consumer": "consumer.notify_order"})
    assert answer.status_code == 202, answer.text
    wait_for(lambda: not shop.value("SELECT EXISTS (SELECT FROM event.unsent)"), PATIENCE, "events are consumed")
    wait_for(lambda: not shop.value("SELECT EXISTS (SELECT FROM shop.notification WHERE recipient = %s AND status = 'queued')", to), PATIENCE,
             "nothing is left to send")
    found = mails(catcher, to)
    assert len(found) == 2 == len({m["message_id"] for m in found}) and all(order["number"] in m["subject"] for m in found)
    # those of one round arrive in any order
    confirmation, = (m for m in found if m["subject"] == f"Your order {order['number']}")
    assert order["items"][0]["name"] in confirmation["text"]


def test_a_server_that_is_down_is_asked_again(shop, staff, catcher):
    to = address()
    shop.stop("mail")
    try:
        notification = queue(staff, to)
        wait_for(lambda: row(shop, notification)["last_status"] == 0, PATIENCE, "a try has failed")
        first = row(shop, notification)
        assert (first["status"], first["attempts"], first["later"], first["lease"]) == ("queued", 1, True, None) and first["error"]
        due_now(shop, notification)
        wait_for(lambda: row(shop, notification)["attempts"] == 2 and not row(shop, notification)["lease"], PATIENCE, "a second one")
        pause = shop.value("SELECT extract(epoch FROM next_at - now()) FROM shop.notification WHERE id = %s", notification)
        assert pause > 40, "the pauses grow"
    finally:
        shop.start("mail")
    due_now(shop, notification)
    ends(shop, notification)
    assert len(arrived(catcher, to)) == 1


def test_later_and_never(shop, staff, catcher):
    with faults(catcher, **{"refuse": "RCPT", "with": "451 greylisted"}):
        later = queue(staff, address())
        wait_for(lambda: row(shop, later)["last_status"] == 451, PATIENCE, "it was told to come later")
        assert row(shop, later)["status"] == "queued"
        put_off(shop, later)
    with faults(catcher, **{"refuse": "RCPT", "with": "550 nobody"}):
        never = queue(staff, address())
        assert ends(shop, never, "failed")["last_status"] == 550
    due_now(shop, later)
    ends(shop, later)
    assert staff.post(f"/api/v1/admin/notifications/{never}/retry").status_code == 202
    ends(shop, never)


def test_a_mail_that_was_taken_and_not_heard_of_is_the_same_mail(shop, staff, catcher):
    """SMTP cannot say more: whoever sent does not know, and a second copy has the first one's Message-ID, byte for byte."""
    to = address()
    with faults(catcher, drop=True):
        notification = queue(staff, to)
        wait_for(lambda: row(shop, notification)["last_status"] is not None, PATIENCE, "the answer was lost")
    due_now(shop, notification)
    ends(shop, notification)
    one, two = (catcher.get(f"/mails/{m['id']}/raw").content for m in mails(catcher, to))
    assert one == two and f"Message-ID: <{notification}@".encode() in one


def test_a_worker_that_dies_between_sending_and_marking(shop, staff, catcher):
    to = address()
    with faults(catcher, hold=120):
        notification = queue(staff, to)
        arrived(catcher, to)
        assert row(shop, notification)["lease"], "nobody has written down that it is sent"
        for _ in range(2):
            shop.kill_worker(0)
    # its lease holds the others off, then it is anybody's
    assert row(shop, notification)["status"] == "queued" and len(mails(catcher, to)) == 1
    due_now(shop, notification)
    ends(shop, notification)
    found = mails(catcher, to)
    assert len(found) == 2 and len({m["message_id"] for m in found}) == 1
    assert shop.value("SELECT count(*) FROM event.outbox WHERE aggregate_id = %s AND type = 'NotificationSent'", notification) == 1


def test_a_reload_loses_and_doubles_nothing(shop, staff, catcher):
    to = address()
    ids = [queue(staff, to) for _ in range(20)]
    shop.reload()
    ids += [queue(staff, to) for _ in range(5)]
    for notification in ids:
        ends(shop, notification)
    found = mails(catcher, to)
    assert len(found) == len({m["message_id"] for m in found}) == len(ids)


def test_text_messages_reach_the_program_signed(shop, staff):
    port, = free_ports(1)
    with peers.Peer(port) as here, shop.configured(http="commerce_fetch_allow 127.0.0.1/32;"):
        made = staff.post("/api/v1/admin/notification-adapters", json={"channel": "sms", "url": f"{here.url}/echo"}).json()
        try:
            answer = staff.post("/api/v1/send", json={"channel": "sms", "to": "+4930123456", "text": "Hello"})
            notification = answer.json()["notification_id"]
            ends(shop, notification)
        finally:
            staff.delete(f"/api/v1/admin/notification-adapters/{made['adapter']['id']}")
        (method, _, headers, body), = here.seen
        headers = {name.lower(): value for name, value in headers.items()}
        key = base64.b64decode(made["signing_secret"].removeprefix("whsec_"))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        right = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert method == "POST" and headers["webhook-id"] == notification and headers["webhook-signature"] == right
        data = json.loads(body)
        assert (data["type"], data["data"]["to"], data["data"]["text"]) == ("notification.sms", "+4930123456", "Hello")


def test_a_program_on_a_private_address_is_not_asked(shop, staff):
    """The guard stands whatever the shop's owner says: 127.0.0.1 is the operator's."""
    port, = free_ports(1)
    with peers.Peer(port) as here:
        made = staff.post("/api/v1/admin/notification-adapters", json={"channel": "push", "url": f"{here.url}/echo"}).json()
        answer = staff.post("/api/v1/send", json={"channel": "push", "to": "device", "subject": "Hello", "text": "Hello"})
        assert answer.status_code == 202, answer.text
        notification = answer.json()["notification_id"]
        wait_for(lambda: row(shop, notification)["last_status"] is not None, PATIENCE, "a try has failed")
        assert "refused" in row(shop, notification)["error"] and here.seen == []
        staff.delete(f"/api/v1/admin/notification-adapters/{made['adapter']['id']}")
