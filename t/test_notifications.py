"""Notifications up to what the edge is to send: templates, mails, preferences, adapters, the log; and the mail catcher."""

import concurrent.futures
import email
import email.policy
import json
import smtplib
import uuid

import httpx
import pytest

from stack import wait_for

TEMPLATES = "/api/v1/admin/notification-templates"


def due(shop, tenant=1):
    """What api.notifications_send() hands to the edge now, as the edge asks for it."""
    with shop.db() as db:
        row = db.execute("SELECT edge FROM api.notifications_send(100)").fetchone()
    edge = row["edge"] or {}
    return [e for e in [*(edge.get("mail") or []), *(edge.get("fetch") or [])] if e["args"]["tenant_id"] == tenant]


def tell(shop, entry, status=250, error=None, body=""):
    a = entry["args"]
    return shop.value("SELECT body FROM api.notification_result(%s::bigint, %s::uuid, %s::uuid, %s::int, %s, %s, 5)",
                      a["tenant_id"], a["notification_id"], a["lease"], status, body, error)


def queue(staff, **body):
    answer = staff.post("/api/v1/send", json={"channel": "email", "to": "ada@example.org", "subject": "S", "text": "T", **body})
    assert answer.status_code == 202, answer.text
    return answer.json()["notification_id"]


def status(staff, notification):
    return staff.get(f"/api/v1/admin/notifications/{notification}").json()


def entry_of(shop, notification):
    return next(e for e in due(shop) if e["args"]["notification_id"] == notification)


def parsed(entry):
    return email.message_from_bytes(entry["data"].encode(), policy=email.policy.default)


@pytest.mark.parametrize("text, line, said", [
    ("a\n{{#x}}\n{{/y}}", 3, "opened in line 2"), ("a\n{{#x}}", 2, "never closed"), ("\n\n{{x y}}", 3, "not a name"),
    ("{{x", 1, "not closed"), ("\n{{> other}}", 2, "no {{>"), ("{{/x}}", 1, "closes nothing"), ("{{=<% %>=}}", 1, "no {{="),
])
def test_a_fault_names_its_line(staff, text, line, said):
    answer = staff.put(f"{TEMPLATES}/message.email.en", json={"subject": "S", "text": text})
    assert (answer.status_code, answer.json()["code"]) == (422, "template-fault")
    error = answer.json()["errors"][0]
    assert (error["pointer"], error["line"]) == ("/text", line) and said in error["message"]


def test_values_are_escaped_and_raw_is_not_for_everybody(staff):
    data = {"name": "<script>alert(1)</script>", "items": [{"n": 1}, {"n": 2}]}
    page = staff.post(f"{TEMPLATES}/shipping-update.email.en/preview", json={
        "subject": "x {{name}}", "text": "{{#items}}{{n}},{{/items}}{{^none}}-{{/none}}", "html": "<p>{{name}}</p>", "data": data}).json()
    assert page["text"] == "1,2,-" and "<script>" not in page["html"] and "&lt;script&gt;" in page["html"]
    answer = staff.put(f"{TEMPLATES}/shipping-update.email.en", json={"subject": "S", "text": "T", "html": "{{{name}}}"})
    assert (answer.status_code, answer.json()["code"]) == (422, "template-fault")


def test_sections_cannot_multiply_without_end(staff):
    deep = "{{#a}}{{#a}}{{#a}}{{.}}{{/a}}{{/a}}{{/a}}"
    answer = staff.post(f"{TEMPLATES}/message.sms.en/preview", json={"text": deep, "data": {"a": list(range(100))}})
    assert (answer.status_code, answer.json()["code"]) == (422, "template-too-long"), answer.text


def test_no_value_becomes_a_header(shop, staff):
    evil = "A\r\nBcc: evil@example.org\r\n\r\nbody"
    mail = parsed(entry_of(shop, queue(staff, subject=evil, text="Grüße {secret:jwt} {sealed:a 1|b}")))
    assert mail["Bcc"] is None and "Bcc: evil" in mail["Subject"]
    assert "{secret:jwt}" in mail.get_body(("plain",)).get_content()        # as text ...
    answer = staff.post("/api/v1/send", json={"channel": "email", "to": "a@example.org>\r\nRCPT TO:<b@example.org", "text": "T"})
    assert answer.status_code == 422


def test_braces_never_leave_as_they_are(shop, staff):
    """The edge replaces {sealed:…} and {secret:…} in what it is told to: nobody but SQL may write them."""
    entry = entry_of(shop, queue(staff, subject="{secret:x}", text="{secret:x}", html="<b>{sealed:y 1|z}</b>"))
    assert "{" not in entry["data"] and entry["expand"] is False
    assert parsed(entry)["Subject"] == "{secret:x}"


def test_a_mail_is_what_rfc_5322_says(shop, staff):
    notification = queue(staff, subject="Bestätigung " * 12, text="Zeile " * 100 + "\nFrom here\n.\nü", language="de")
    entry = entry_of(shop, notification)
    lines = entry["data"].split("\r\n")
    assert max(map(len, lines)) <= 78 and "\n" not in entry["data"].replace("\r\n", "") and entry["data"].isascii()
    mail = parsed(entry)
    assert mail["Message-ID"].startswith(f"<{notification}@") and mail["Subject"].startswith("Bestätigung Bestätigung")
    assert mail.get_body(("plain",)).get_content().splitlines()[1:4] == ["From here", ".", "ü"]
    assert mail.get_body(("html",)) is not None and mail["Auto-Submitted"] == "auto-generated"


def test_tries_leases_and_the_end(shop, staff):
    notification = queue(staff)
    first = entry_of(shop, notification)
    assert not [e for e in due(shop) if e["args"]["notification_id"] == notification], "it has a lease"
    shop.rows("UPDATE shop.notification SET next_at = now() WHERE id = %s RETURNING 1", notification)       # whoever sent it has died
    again = entry_of(shop, notification)
    assert parsed(again)["Message-ID"] == parsed(first)["Message-ID"]
    assert json.loads(tell(shop, first))["taken"] is False, "the lease is another's"
    tell(shop, again, 451, None, "later")
    row = status(staff, notification)
    assert (row["status"], row["attempts"]) == ("queued", 2) and "451" in row["error"]
    shop.rows("UPDATE shop.notification SET next_at = now() WHERE id = %s RETURNING 1", notification)
    last = entry_of(shop, notification)
    tell(shop, last)
    assert json.loads(tell(shop, last))["taken"] is False
    assert status(staff, notification)["status"] == "sent"
    assert shop.value("SELECT count(*) FROM event.outbox WHERE aggregate_id = %s AND type = 'NotificationSent'", notification) == 1
    assert staff.post(f"/api/v1/admin/notifications/{notification}/retry").status_code == 409


def test_nobody_there_is_final_and_can_be_asked_again(shop, staff):
    notification = queue(staff)
    tell(shop, entry_of(shop, notification), 550, None, "no such user")
    assert status(staff, notification)["status"] == "failed"
    assert staff.post(f"/api/v1/admin/notifications/{notification}/retry").status_code == 202
    assert entry_of(shop, notification)


def test_a_link_is_for_the_recipient_only(shop):
    with shop.edge(tenant="demo") as edge:
        assert edge.post("/api/v1/auth/password/forgot", json={"email": "test@example.com"}).status_code == 202
    entry = next(e for e in due(shop) if "A new password" in e["data"])
    row = shop.rows("SELECT id, secret FROM shop.notification WHERE id = %s", entry["args"]["notification_id"])[0]
    place = f"{{sealed:shop.notification 1 {row['id']} secret|{row['secret']}}}"
    assert entry["expand"] is True and place in entry["data"] and entry["data"].count("{") == entry["data"].count(place)
    tell(shop, entry)
    assert shop.value("SELECT secret IS NULL FROM shop.notification WHERE id = %s", row["id"])


def test_wishes_count_but_not_for_what_is_transactional(shop, staff, customer):
    path = "/api/v1/users/notification-preferences"
    assert customer.put(path, json={"preferences": [{"kind": "message", "channel": "email", "enabled": False}]}).status_code == 200
    answer = customer.put(path, json={"preferences": [{"kind": "order-confirmation", "channel": "email", "enabled": False}]})
    assert (answer.status_code, answer.json()["code"]) == (422, "transactional")
    notification = staff.post("/api/v1/send", json={"channel": "email", "user_id": customer.user_id, "subject": "S", "text": "T"}) \
        .json()["notification_id"]
    assert not [e for e in due(shop) if e["args"]["notification_id"] == notification]
    assert status(staff, notification)["status"] == "suppressed"


def test_text_messages_leave_signed(shop, staff):
    answer = staff.post("/api/v1/admin/notification-adapters", json={"channel": "sms", "url": "https://sms.example/send"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/api/v1/admin/notification-adapters/{made['adapter']['id']}"
    assert made["signing_secret"].startswith("whsec_") and "secret" not in made["adapter"]
    stored = shop.value("SELECT secret FROM shop.notification_adapter WHERE id = %s", made["adapter"]["id"])
    assert stored.startswith("v1:") and made["signing_secret"] not in stored
    answer = staff.post("/api/v1/send", json={"channel": "sms", "to": "+4930123456", "text": "Hello"})
    entry = entry_of(shop, answer.json()["notification_id"])
    assert (entry["url"], entry["guard"], entry["sign"]["kind"]) == ("https://sms.example/send", "public", "standard-webhooks")
    assert entry["sign"]["secret"] == f"{{sealed:shop.notification_adapter 1 {made['adapter']['id']} secret|{stored}}}"
    assert json.loads(entry["body"])["data"]["to"] == "+4930123456"
    for url in ("ftp://x.example/", "http://user@x.example/", "https://x.example/{secret:jwt}"):
        assert staff.post("/api/v1/admin/notification-adapters", json={"channel": "push", "url": url}).status_code == 422, url


def test_own_kinds_and_languages(shop, staff):
    kind = f"sale-{uuid.uuid4().hex[:6]}"
    body = {"kind": kind, "channel": "email", "language": "de", "subject": "Für {{name}}", "text": "Hallo {{name}}"}
    answer = staff.post(TEMPLATES, json=body)
    assert answer.status_code == 201, answer.text
    assert staff.post(TEMPLATES, json=body).status_code == 409
    notification = staff.post("/api/v1/send", json={"channel": "email", "to": "a@example.org", "template": kind, "language": "de-AT",
                                                    "data": {"name": "Ümit"}}).json()["notification_id"]
    assert parsed(entry_of(shop, notification))["Subject"] == "Für Ümit"
    answer = staff.put(f"{TEMPLATES}/{kind}.email.de", headers={"If-Match": '"1"'}, json={"subject": "S2", "text": "T"})
    assert answer.status_code == 200 and answer.json()["version"] == 2, answer.text
    answer = staff.put(f"{TEMPLATES}/{kind}.email.de", headers={"If-Match": '"1"'}, json={"subject": "S3", "text": "T"})
    assert answer.status_code == 412
    assert staff.delete(f"{TEMPLATES}/{kind}.email.de").status_code == 204
    shipped = f"{TEMPLATES}/order-delivered.email.en"
    assert staff.put(shipped, json={"subject": "Mine", "text": "T"}).json()["source"] == "shop"
    assert staff.delete(shipped).status_code == 204 and staff.get(shipped).json()["source"] == "shipped"
    assert staff.post("/api/v1/send", json={"channel": "email", "to": "a@example.org", "template": "password-reset"}).status_code == 422


# ---- what events set off ----

def feed(shop):
    """Events reach their consumers; the shop's own job may have their shards at the moment."""
    with shop.db() as db:
        wait_for(lambda: db.execute("SELECT api.events_feed(100)") and not db.execute(
            "SELECT EXISTS (SELECT FROM event.unsent JOIN event.outbox o USING (id) WHERE NOT EXISTS (SELECT FROM event.retry r WHERE "
            "r.tenant_id = o.tenant_id AND r.aggregate_id = o.aggregate_id)) AS unsent").fetchone()["unsent"], 60, "events are consumed")


def emit(shop, payload, tenant=1):
    with shop.db() as db:
        db.execute("SELECT set_config('commerce.tenant_id', %s, false)", (str(tenant),))
        return db.execute("SELECT domain.emit('notifications', 'NotificationRequested', 'program', gen_random_uuid()::text, %s::jsonb)",
                          (json.dumps(payload),))


def told(shop, order):
    return {r["template"]: r["n"] for r in shop.rows("SELECT template, count(*) AS n FROM shop.notification WHERE tenant_id = 1 "
                                                     "AND data ->> 'order_id' = %s GROUP BY 1", order["id"])}


def buy(shop, buyer, **more):
    product = shop.value("SELECT min(p.id) FROM shop.product p WHERE p.tenant_id = 1 AND p.status = 'active' AND p.deleted_at IS NULL AND "
                         "(SELECT count(*) FROM shop.variant v WHERE v.tenant_id = 1 AND v.product_id = p.id) = 1")
    answer = buyer.post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex},
                        json={"items": [{"product_id": product, "quantity": 1}], **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def move(staff, order, status):
    answer = staff.put(f"/api/v1/orders/{order['id']}/status", json={"status": status})
    assert answer.status_code == 200, answer.text


def test_who_ordered_is_told_once_of_each_step(shop, staff, customer):
    order, cancelled = buy(shop, customer), buy(shop, customer)
    for status_ in ("processing", "shipped", "delivered"):
        move(staff, order, status_)
    move(staff, cancelled, "cancelled")
    feed(shop)
    assert told(shop, order) == {"order-confirmation": 1, "shipping-update": 1, "order-delivered": 1}
    assert told(shop, cancelled) == {"order-confirmation": 1, "order-cancelled": 1}
    mails = {parsed(e)["Subject"]: parsed(e) for e in due(shop) if order["number"] in e["data"].replace("=\r\n", "")}
    assert len(mails) == 3 and all(order["number"] in subject for subject in mails)
    assert all(m["To"] == "test@example.com" for m in mails.values())
    # events that come again, by a replay too, are the same notifications
    answer = staff.post("/api/v1/admin/events/replay", json={"from": order["created_at"], "consumer": "consumer.notify_order"})
    assert answer.status_code == 202 and answer.json()["events"] >= 6, answer.text
    feed(shop)
    assert told(shop, order) == {"order-confirmation": 1, "shipping-update": 1, "order-delivered": 1}


def test_guests_are_told_and_who_was_erased_is_not(shop, staff):
    guest = buy(shop, shop.edge(), email="guest@example.org")
    feed(shop)
    assert shop.value("SELECT recipient FROM shop.notification WHERE data ->> 'order_id' = %s", guest["id"]) == "guest@example.org"
    (user, token), = shop.customers(1)
    order = buy(shop, shop.edge(token=token))
    assert staff.post(f"/api/v1/admin/customers/{user}/erase").status_code < 300
    feed(shop)
    assert told(shop, order) == {}


def test_who_is_erased_while_an_order_is_told_of_is_not_told(shop):
    """The erasure waits for the consumer, whose notification goes with everything else."""
    (user, token), = shop.customers(1)
    order = buy(shop, shop.edge(token=token))
    feed(shop)
    with shop.db() as consumer, shop.db() as erasure, concurrent.futures.ThreadPoolExecutor(1) as pool:
        for db in (consumer, erasure):
            db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        consumer.execute("DELETE FROM shop.notification WHERE data ->> 'order_id' = %s", [order["id"]])
        with consumer.transaction():
            asked = consumer.execute(
                "SELECT consumer.notify_order((x.event_id, x.tenant_id, x.topic, x.type, x.aggregate, x.aggregate_id, x.aggregate_version, "
                "x.payload::jsonb, x.correlation_id, x.traceparent, x.created_at)::event.message) FROM event.outbox x "
                "WHERE x.aggregate_id = %s AND x.type = 'OrderConfirmed'", [order["id"]]).fetchall()
            assert len(asked) == 1
            erased = pool.submit(erasure.execute, "SELECT domain.user_erase(%s)", [user])
            wait_for(lambda: erased.done() or shop.rows("SELECT pid FROM pg_stat_activity WHERE query LIKE '%user_erase%' "
                                                        "AND wait_event_type = 'Lock'"), 20, "the erasure waits, or is through")
        erased.result()
    assert told(shop, order) == {}


def test_programs_may_ask_by_topic(shop, staff):
    emit(shop, {"channel": "email", "to": "topic@example.org", "subject": "From a program", "text": "T"})
    emit(shop, {"channel": "email", "to": "topic@example.org\r\nBcc: x", "text": "T"})
    feed(shop)
    row, = shop.rows("SELECT n.id, o.event_id FROM shop.notification n JOIN event.outbox o ON o.event_id = n.id "
                     "WHERE n.recipient LIKE 'topic@%%'")
    assert row["id"] == row["event_id"] and parsed(entry_of(shop, str(row["id"])))["Subject"] == "From a program"
    # the other one fails until it is buried
    assert "not an address" in shop.value("SELECT error FROM event.retry WHERE consumer = 'consumer.notification_request'")


def test_one_shop_does_not_make_the_others_wait(shop):
    with shop.db() as db:
        db.execute("UPDATE shop.notification SET status = 'failed' WHERE status = 'queued'")
        db.execute("INSERT INTO shop.notification (tenant_id, id, channel, recipient, template, expires_at, next_at) "
                   "SELECT 1, gen_random_uuid(), 'email', 'a@example.org', 'message', now() + interval '1 day', now() - interval '1 hour' "
                   "FROM generate_series(1, 500)")
        db.execute("INSERT INTO shop.notification (tenant_id, id, channel, recipient, template, expires_at) "
                   "VALUES (2, gen_random_uuid(), 'email', 'a@example.org', 'message', now() + interval '1 day')")
        due_now = db.execute("SELECT tenant_id FROM platform.notifications_due(10)").fetchall()
        db.execute("DELETE FROM shop.notification WHERE recipient = 'a@example.org'")
    assert [r["tenant_id"] for r in due_now].count(2) == 1 and len(due_now) == 10


def test_the_catcher_shows_mails_harmlessly(shop):
    page = f"http://127.0.0.1:{shop.mail_page_port}"
    with httpx.Client(base_url=page) as web, smtplib.SMTP("127.0.0.1", shop.mail_port) as smtp:
        web.delete("/api/mails")
        smtp.sendmail("a@example.org", ["b@example.org"], "Subject: <b>x</b>\r\nMessage-ID: <1@x>\r\nContent-Type: text/html\r\n\r\n"
                                                          "<script>alert(1)</script>")
        mail, = web.get("/api/mails").json()
        assert (mail["message_id"], mail["to"]) == ("<1@x>", ["b@example.org"])
        assert "<b>x" not in web.get("/").text and "<script>" not in web.get(f"/mails/{mail['id']}").text
        part = web.get(f"/mails/{mail['id']}/html")
        assert part.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
        assert web.get("/", headers={"Host": "evil.example"}).status_code == 403
        web.put("/api/faults", json={"refuse": "RCPT", "with": "550 nobody"})
        try:
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                smtp.sendmail("a@example.org", ["b@example.org"], "Subject: x\r\n\r\nx")
        finally:
            web.put("/api/faults", json={})         # the files after this one have the same catcher
