"""Staff accounts, invitations, one-time passwords; the brakes on guessing; housekeeping."""

import base64
import hashlib
import hmac
import struct
import time

import pytest

from stack import wait_for
import test_identity
from test_identity import (AUTH, PASSWORD, STAFF, account, at_once, call, dead, digest, logged_in, login, mail, mails, nowhere, patient,
                           unseal, user)

cheap = test_identity.cheap         # a fixture of both files

# ---- staff ----


@pytest.fixture
def boss(shop):
    """An owner, logged in."""
    account(shop, "boss@example.com", ["owner"])
    return logged_in(shop, "boss@example.com")[0]


def invite(edge, email, **more):
    return edge.post(STAFF, json={"email": email, **more})


def test_invitation(shop, anyone, boss):
    answer = invite(boss, "hired@example.com", name="Hired", permissions=["orders.read", "catalog.read"])
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["status"], body["roles"], body["permissions"]) == ("invited", ["staff"], ["catalog.read", "orders.read"])
    assert answer.headers["location"] == f"{STAFF}/{body['id']}"
    message = mail(shop, "hired@example.com", "staff-invitation")
    assert message["data"]["invited_by"] == "Somebody" and message["data"]["shop"]
    nowhere(shop, message["token"])
    assert shop.value("SELECT extract(day FROM expires_at - created_at)::int FROM shop.user_token WHERE hash = %s",
                      digest(message["token"])) == 7

    # neither a registration nor a forgotten password opens what waits for its invitation
    for path, more in (("register", {"password": "attackers password"}), ("password/forgot", {}), ("resend-verification", {})):
        assert anyone.post(f"{AUTH}/{path}", json={"email": "hired@example.com", **more}).status_code == 202
    assert [m["template"] for m in mails(shop, "hired@example.com")] == ["account-exists", "staff-invitation"]
    assert login(anyone, "hired@example.com", "attackers password").status_code == 401

    accept = {"token": message["token"], "password": PASSWORD}
    assert anyone.post(f"{AUTH}/accept-invitation", json=accept).json() == {"email": "hired@example.com", "email_verified": True}
    assert anyone.post(f"{AUTH}/accept-invitation", json=accept).status_code == 422
    hired, _ = logged_in(shop, "hired@example.com", PASSWORD)
    assert hired.get(f"{STAFF}/{body['id']}").status_code == 403
    assert boss.get(f"{STAFF}/{body['id']}").json()["status"] == "active"
    audit = shop.rows("SELECT action, entity_id FROM shop.audit_log WHERE tenant_id = 1 AND entity_id = %s", body["id"])
    assert [a["action"] for a in audit] == ["user.invite"]


def test_invitation_is_sent_again(shop, anyone, boss):
    body = invite(boss, "again@example.com").json()
    old = mail(shop, "again@example.com", "staff-invitation")["token"]
    assert boss.post(f"{STAFF}/{body['id']}/invite").status_code == 202
    new = mail(shop, "again@example.com", "staff-invitation")["token"]
    assert anyone.post(f"{AUTH}/accept-invitation", json={"token": old, "password": PASSWORD}).status_code == 422
    shop.rows("UPDATE shop.user_token SET expires_at = now() WHERE hash = %s RETURNING 1", digest(new))
    assert anyone.post(f"{AUTH}/accept-invitation", json={"token": new, "password": PASSWORD}).status_code == 422
    boss.post(f"{STAFF}/{body['id']}/invite")
    token = mail(shop, "again@example.com", "staff-invitation")["token"]
    assert anyone.post(f"{AUTH}/accept-invitation", json={"token": token, "password": PASSWORD, "name": "Ann"}).status_code == 200
    assert boss.post(f"{STAFF}/{body['id']}/invite").json()["code"] == "not-invited"
    assert user(shop, "again@example.com")["name"] == "Ann"


def test_one_address_is_one_account(shop, boss):
    account(shop, "customer-too@example.com")
    assert invite(boss, "Customer-Too@example.com").json()["code"] == "email-taken"
    answers = at_once(10, lambda _: invite(shop.edge(token=boss.headers["Authorization"][7:]), "rush@example.com"))
    assert sorted(a.status_code for a in answers) == [201] + [409] * 9
    key = {"Idempotency-Key": "invite-1"}
    first, second = (boss.post(STAFF, json={"email": "keyed@example.com"}, headers=key) for _ in range(2))
    assert first.json() == second.json() and second.headers["Idempotent-Replayed"] == "true"
    assert len(mails(shop, "keyed@example.com")) == 1


def test_nobody_gives_what_they_do_not_have(shop, boss):
    account(shop, "manager@example.com", ["staff"], ["users.read", "users.write", "orders.read"])
    manager, _ = logged_in(shop, "manager@example.com")
    for more in ({"permissions": ["orders.write"]}, {"roles": ["owner"]}, {"roles": ["staff", "owner"]}):
        answer = invite(manager, "too-much@example.com", **more)
        assert (answer.status_code, answer.json()["code"]) == (403, "not-yours-to-give"), more
        assert answer.json()["missing"] == [*more.get("permissions", []), *(["owner"] if "roles" in more else [])]
    assert not shop.rows("SELECT FROM shop.app_user WHERE email = 'too-much@example.com'")
    assert invite(manager, "enough@example.com", permissions=["orders.read"]).status_code == 201
    small = user(shop, "enough@example.com")["id"]
    me = user(shop, "manager@example.com")["id"]
    for who, patch in ((small, {"permissions": ["orders.read", "orders.write"]}), (small, {"roles": ["owner"]}),
                       (me, {"permissions": ["users.read", "users.write", "orders.read", "catalog.write"]}), (me, {"roles": ["owner"]})):
        assert manager.patch(f"{STAFF}/{who}", json=patch).json()["code"] == "not-yours-to-give", patch
    # whom they could not have made they do not change, disable or remove either
    for email in ("boss@example.com", "admin@example.com"):
        above = user(shop, email)["id"]
        assert manager.patch(f"{STAFF}/{above}", json={"status": "disabled"}).status_code == 403
        assert manager.delete(f"{STAFF}/{above}").status_code == 403
        assert manager.post(f"{STAFF}/{above}/reset-totp").status_code == 403
    assert manager.patch(f"{STAFF}/{small}", json={"permissions": []}).json()["permissions"] == []

    # a token that is older than the account's change counts for nothing
    shop.rows("UPDATE shop.app_user SET permissions = '{users.read,users.write}' WHERE id = %s RETURNING 1", me)
    assert invite(manager, "stale@example.com", permissions=["orders.read"]).status_code == 403


def test_customers_are_no_staff(shop, boss):
    customer = account(shop, "plain@example.com")
    for answer in (boss.get(f"{STAFF}/{customer}"), boss.patch(f"{STAFF}/{customer}", json={"roles": ["staff"]}),
                   boss.delete(f"{STAFF}/{customer}")):
        assert answer.status_code == 404
    assert logged_in(shop, "plain@example.com")[0].get(STAFF).status_code == 403


def test_taking_away_is_at_once(shop, anyone, boss):
    subject = account(shop, "reduced@example.com", ["staff"], ["orders.read", "orders.write"])
    edge, tokens = logged_in(shop, "reduced@example.com")
    answer = boss.patch(f"{STAFF}/{subject}", json={"permissions": ["orders.read", "orders.write", "catalog.read"]})
    assert answer.status_code == 200
    assert edge.post(f"{AUTH}/validate").status_code == 200
    version = answer.headers["etag"]
    assert boss.patch(f"{STAFF}/{subject}", json={"name": "R"}, headers={"If-Match": '"1"'}).status_code == 412
    assert boss.patch(f"{STAFF}/{subject}", json={"permissions": ["orders.read"]}, headers={"If-Match": version}).status_code == 200
    dead(anyone, tokens)

    edge, tokens = logged_in(shop, "reduced@example.com")
    assert boss.patch(f"{STAFF}/{subject}", json={"status": "disabled"}).json()["status"] == "disabled"
    dead(anyone, tokens)
    assert login(anyone, "reduced@example.com").status_code == 401
    assert boss.patch(f"{STAFF}/{subject}", json={"status": "active"}).status_code == 200
    assert login(anyone, "reduced@example.com").status_code == 200
    changes = shop.rows("SELECT before, after FROM shop.audit_log WHERE entity_id = %s AND action = 'user.change' ORDER BY created_at, id",
                        subject)
    assert changes[1]["before"]["permissions"] == ["catalog.read", "orders.read", "orders.write"]
    assert changes[1]["after"]["permissions"] == ["orders.read"]


def test_who_leaves_leaves_no_door_open(shop, anyone, boss):
    subject = account(shop, "leaver@example.com", ["staff"], ["users.read", "users.write"])
    edge, tokens = logged_in(shop, "leaver@example.com")
    invite(edge, "friend@example.com")
    anyone.post(f"{AUTH}/password/forgot", json={"email": "leaver@example.com"})
    assert boss.delete(f"{STAFF}/{subject}").status_code == 204
    dead(anyone, tokens)
    token = mail(shop, "friend@example.com", "staff-invitation")["token"]
    assert anyone.post(f"{AUTH}/accept-invitation", json={"token": token, "password": PASSWORD}).status_code == 422
    token = mail(shop, "leaver@example.com", "password-reset")["token"]
    assert anyone.post(f"{AUTH}/password/reset", json={"token": token, "password": PASSWORD}).status_code == 422
    assert boss.get(f"{STAFF}/{subject}").status_code == 404
    # the address is free again
    assert invite(boss, "leaver@example.com").status_code == 201


def test_last_owner_stays(shop):
    """Also when the last two remove each other at one time."""
    ids = {email: account(shop, email, ["owner"], tenant=3) for email in ("one@example.com", "two@example.com")}
    clients = {email: logged_in(shop, email, tenant="globex")[0] for email in ids}

    def removed(i):
        mine, other = list(ids)[i], list(ids)[1 - i]
        return clients[mine].patch(f"{STAFF}/{ids[other]}", json={"roles": ["staff"]})

    for _ in range(5):
        answers = at_once(2, removed)
        assert sorted(a.status_code for a in answers)[0] == 200
        left = shop.rows("SELECT email FROM shop.app_user WHERE tenant_id = 3 AND 'owner' = ANY (roles) AND deleted_at IS NULL")
        assert len(left) == 1
        last, _ = logged_in(shop, left[0]["email"], tenant="globex")
        for answer in (last.patch(f"{STAFF}/{ids[left[0]['email']]}", json={"roles": ["staff"]}),
                       last.patch(f"{STAFF}/{ids[left[0]['email']]}", json={"status": "disabled"}),
                       last.delete(f"{STAFF}/{ids[left[0]['email']]}")):
            assert (answer.status_code, answer.json()["code"]) == (409, "last-owner")
        for email in ids:
            account(shop, email, ["owner"], tenant=3)
        clients = {email: logged_in(shop, email, tenant="globex")[0] for email in ids}


def test_list_of_staff(shop, boss):
    for i in range(5):
        account(shop, f"listed{i}@example.com", ["staff"])
    invite(boss, "listed-invited@example.com")
    found, cursor = [], None
    while True:
        page = boss.get(STAFF, params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        found += page["data"]
        cursor = page["page"]["next"]
        assert bool(cursor) == page["page"]["has_more"]
        if not cursor:
            break
    emails = [u["email"] for u in found]
    assert len(emails) == len(set(emails)) and "test@example.com" not in emails and "admin@example.com" in emails
    assert {f"listed{i}@example.com" for i in range(5)} < set(emails)
    assert all("password_hash" not in u and "phone" not in u for u in found)
    assert "listed-invited@example.com" in [u["email"] for u in boss.get(STAFF, params={"status": "invited", "limit": 100}).json()["data"]]
    assert {"owner"} == {r for u in boss.get(STAFF, params={"role": "owner", "limit": 100}).json()["data"] for r in u["roles"]}


# ---- second factor ----


def code(secret, step):
    """RFC 6238, written from the RFC."""
    mac = hmac.new(base64.b32decode(secret), struct.pack(">Q", step), hashlib.sha1).digest()
    at = mac[-1] & 15
    return f"{(struct.unpack('>I', mac[at:at + 4])[0] & 0x7fffffff) % 1000000:06d}"


def now():
    return int(time.time()) // 30


def enrol(shop, edge, email):
    """A second factor; the secret, the recovery codes and the step that was used up."""
    answer = edge.post(f"{AUTH}/totp", json={"password": "password"})
    assert answer.status_code == 200, answer.text
    secret = answer.json()["totp_secret"]
    # still good when the next step begins on the way, which the one before would not be
    step = now()
    answer = edge.post(f"{AUTH}/totp/confirm", json={"totp": code(secret, step)})
    assert answer.status_code == 200, answer.text
    return secret, answer.json()["recovery_codes"], step


def test_rfc_6238(shop):
    secret = base64.b32encode(b"12345678901234567890").decode()
    assert [code(secret, t // 30) for t in (59, 1111111109, 20000000000)] == ["287082", "081804", "353130"]


def test_second_factor(shop, anyone):
    email = "totp@example.com"
    subject = account(shop, email, ["staff"])
    edge, _ = logged_in(shop, email)
    _, elsewhere = logged_in(shop, email)
    assert edge.post(f"{AUTH}/totp", json={"password": "wrong"}).status_code == 401
    assert edge.post(f"{AUTH}/totp/confirm", json={"totp": "000000"}).json()["code"] == "totp-not-begun"
    begun = edge.post(f"{AUTH}/totp", json={"password": "password"}).json()
    assert begun["otpauth_uri"] == (f"otpauth://totp/Demo%20Shop:totp%40example.com?secret={begun['totp_secret']}&issuer=Demo%20Shop"
                                    "&algorithm=SHA1&digits=6&period=30")
    # not before it is confirmed; a second beginning replaces the first
    assert login(anyone, email).status_code == 200
    secret, codes, step = enrol(shop, edge, email)
    assert len(base64.b32decode(secret)) == 20 and secret != begun["totp_secret"]
    assert len(set(codes)) == 10 and all(len(c) == 19 for c in codes)
    dead(anyone, elsewhere)
    sealed = shop.value("SELECT secret FROM shop.totp WHERE user_id = %s", subject)
    assert unseal(shop, sealed, f"shop.totp 1 {subject} secret") == secret
    nowhere(shop, secret)
    nowhere(shop, codes[0])

    required = login(anyone, email)
    assert (required.status_code, required.json()["code"]) == (401, "totp-required")
    assert login(anyone, email, "wrong", totp=code(secret, now())).json()["code"] == "invalid-credentials"
    assert login(anyone, email, totp="000000").json()["code"] == "totp-invalid"
    # the step of the confirmation is used up, and so is every one before
    for old in (step, step - 1, now() - 5, now() + 5):
        assert login(anyone, email, totp=code(secret, old)).json()["code"] == "totp-invalid"
    used = code(secret, now() + 1)
    answer = login(anyone, email, totp=used)
    assert answer.status_code == 200, answer.text
    assert login(anyone, email, totp=used).json()["code"] == "totp-invalid"
    sessions = shop.edge(token=answer.json()["token"]).get(f"{AUTH}/sessions").json()["data"]
    assert [s["second_factor"] for s in sessions if s["current"]] == [True]

    # a recovery code, once, as people type it
    typed = codes[0].lower().replace("-", " ")
    assert login(anyone, email, recovery_code=typed).status_code == 200
    assert login(anyone, email, recovery_code=codes[0]).json()["code"] == "totp-invalid"
    assert shop.value("SELECT count(*) FROM shop.recovery_code WHERE user_id = %s", subject) == 9
    assert edge.post(f"{AUTH}/totp", json={"password": "password"}).json()["code"] == "totp-enrolled"

    # taken away again: with the password and the factor
    assert edge.post(f"{AUTH}/totp/disable", json={"password": "password"}).json()["code"] == "totp-required"
    assert edge.post(f"{AUTH}/totp/disable", json={"password": "password", "recovery_code": codes[1]}).status_code == 204
    assert login(anyone, email).status_code == 200
    assert not shop.rows("SELECT FROM shop.recovery_code WHERE user_id = %s", subject)
    assert [m["template"] for m in mails(shop, email)][:2] == ["totp-removed", "totp-enrolled"]


def test_one_code_twenty_times(shop, anyone):
    account(shop, "codes@example.com", ["staff"])
    edge, _ = logged_in(shop, "codes@example.com")
    secret, codes, _ = enrol(shop, edge, "codes@example.com")
    shop.rows("UPDATE shop.tenant SET settings = settings || '{\"identity\": {\"login_attempts\": 1000}}' WHERE id = 1 RETURNING 1")
    try:
        # a step ahead: it is good for half a minute at least, whenever the crowd arrives
        for shown in ({"totp": code(secret, now() + 1)}, {"recovery_code": codes[3]}):
            answers = at_once(20, lambda _, shown=shown: patient(lambda: login(shop.edge(timeout=600), "codes@example.com", **shown)))
            assert sorted(a.status_code for a in answers) == [200] + [401] * 19, [a.text for a in answers]
    finally:
        shop.rows("UPDATE shop.tenant SET settings = settings - 'identity' WHERE id = 1 RETURNING 1")


def test_new_recovery_codes(shop, anyone):
    account(shop, "renews@example.com", ["staff"])
    edge, _ = logged_in(shop, "renews@example.com")
    secret, old, _ = enrol(shop, edge, "renews@example.com")
    answer = edge.post(f"{AUTH}/totp/recovery-codes", json={"password": "password", "totp": code(secret, now() + 1)})
    new = answer.json()["recovery_codes"]
    assert len(new) == 10 and not set(new) & set(old)
    assert login(anyone, "renews@example.com", recovery_code=old[0]).status_code == 401
    assert login(anyone, "renews@example.com", recovery_code=new[0]).status_code == 200


def test_lost_authenticator(shop, anyone, boss):
    subject = account(shop, "loses@example.com", ["staff"])
    edge, tokens = logged_in(shop, "loses@example.com")
    enrol(shop, edge, "loses@example.com")
    assert boss.get(f"{STAFF}/{subject}").json()["totp"] is True
    assert boss.post(f"{STAFF}/{subject}/reset-totp").json()["totp"] is False
    dead(anyone, tokens)
    assert login(anyone, "loses@example.com").status_code == 200


def test_sealed_secret_is_of_its_row(shop, anyone):
    """Whoever can write the table cannot give somebody the second factor of their own."""
    for email in ("alice@example.com", "mallory@example.com"):
        account(shop, email, ["staff"])
        edge, _ = logged_in(shop, email)
        enrol(shop, edge, email)
    secret = shop.value("SELECT secret FROM shop.totp t JOIN shop.app_user u ON u.id = t.user_id WHERE u.email = 'mallory@example.com'")
    shop.rows("UPDATE shop.totp SET secret = %s WHERE user_id = %s RETURNING 1", secret, user(shop, "alice@example.com")["id"])
    assert login(anyone, "alice@example.com", totp="123456").status_code == 500


def test_customers_have_none(shop):
    account(shop, "buyer@example.com")
    edge, _ = logged_in(shop, "buyer@example.com")
    assert edge.post(f"{AUTH}/totp", json={"password": "password"}).status_code == 403


# ---- brakes ----


def test_ten_failures_from_one_place(shop, anyone):
    account(shop, "guessed@example.com")
    for email in ("guessed@example.com", "not-there@example.com"):
        answers = [login(anyone, email, "wrong") for _ in range(10)]
        assert [a.status_code for a in answers] == [401] * 10
        answer = login(anyone, email)
        assert (answer.status_code, answer.json()["code"]) == (429, "too-many-attempts")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
    # nobody else notices: another address is asked for the password
    assert call(shop, "login_begin", email="guessed@example.com", address="203.0.113.9")["status"] == 200
    # and after the pause one attempt is good: a right password ends it
    shop.rows("UPDATE shop.throttle SET blocked_until = now() WHERE blocked_until > now() RETURNING 1")
    assert login(anyone, "guessed@example.com").status_code == 200
    assert login(anyone, "guessed@example.com", "wrong").status_code == 401


def test_pauses_double(shop):
    pauses = []
    for _ in range(16):
        reply = call(shop, "login_begin", email="doubles@example.com", address="203.0.113.10")
        if reply["status"] == 429:
            pauses.append(reply["body"]["retry_after"])
            shop.rows("UPDATE shop.throttle SET blocked_until = now() WHERE blocked_until > now() RETURNING 1")
            call(shop, "login_begin", email="doubles@example.com", address="203.0.113.10")
    assert pauses == [30, 60, 120, 240, 480, 900]


def test_a_network_is_one_place(shop):
    def statuses(addresses):
        return [call(shop, "login_begin", email="network@example.com", address=a)["status"] for a in addresses]

    assert statuses([f"2001:db8:1:2::{i:x}" for i in range(10)]) == [200] * 10
    assert statuses(["2001:db8:1:2:ffff::1", "2001:db8:1:3::1"]) == [429, 200]
    assert statuses(["::ffff:203.0.113.20"] * 10) == [200] * 10
    assert statuses(["203.0.113.20", "::ffff:203.0.113.21", "unix:"]) == [429, 200, 200]


def test_an_attack_does_not_lock_out(shop, anyone):
    """From everywhere at once: strangers get one attempt in half a minute, who was there before gets in."""
    subject = account(shop, "besieged@example.com")
    shop.rows("INSERT INTO shop.user_network (tenant_id, user_id, network) VALUES (1, %s, '198.51.100.7/32') RETURNING 1", subject)
    statuses = [call(shop, "login_begin", email="besieged@example.com", address=f"203.0.{i // 250}.{i % 250}")["status"]
                for i in range(110)]
    assert statuses[:100] == [200] * 100 and statuses[100:] == [429] * 10
    assert call(shop, "login_begin", email="besieged@example.com", address="198.51.100.7")["status"] == 200
    shop.rows("UPDATE shop.login_attempt SET admitted_at = now() - interval '31 s' WHERE account = domain.login_account(%s) RETURNING 1",
              "besieged@example.com")
    assert [call(shop, "login_begin", email="besieged@example.com", address=f"192.0.2.{i}")["status"] for i in (1, 2)] == [200, 429]

    # a new password by mail makes the place known and lifts the siege
    anyone.post(f"{AUTH}/password/forgot", json={"email": "besieged@example.com"})
    token = mail(shop, "besieged@example.com", "password-reset")["token"]
    assert anyone.post(f"{AUTH}/password/reset", json={"token": token, "password": PASSWORD}).status_code == 204
    assert login(anyone, "besieged@example.com", PASSWORD).status_code == 200
    assert shop.value("SELECT count(*) FROM shop.user_network WHERE user_id = %s", subject) == 2


def test_parallel_guesses_are_all_counted(shop):
    answers = at_once(30, lambda _: patient(lambda: login(shop.edge(timeout=600), "parallel@example.com", "wrong")))
    assert sorted(a.status_code for a in answers) == [401] * 10 + [429] * 20


# ---- housekeeping ----


def test_what_is_over_goes(shop, anyone):
    account(shop, "tidy@example.com")
    account(shop, "untidy@example.com")
    _, kept = logged_in(shop, "tidy@example.com")

    def token(change):
        _, tokens = logged_in(shop, "tidy@example.com")
        shop.rows(f"UPDATE shop.refresh_token SET {change} WHERE hash = %s RETURNING 1", digest(tokens["refresh_token"]))
        shop.rows("UPDATE shop.session SET last_used_at = now() - interval '25 hours' WHERE id = (SELECT session_id FROM "
                  "shop.refresh_token WHERE hash = %s) RETURNING 1", digest(tokens["refresh_token"]))
        return digest(tokens["refresh_token"])

    gone = [token("expires_at = now() - interval '25 hours'"), token("revoked_at = now() - interval '31 days'")]
    left = [token("expires_at = now() - interval '23 hours'"), token("revoked_at = now() - interval '29 days'"),
            digest(kept["refresh_token"])]
    for email in ("tidy@example.com", "untidy@example.com"):
        assert anyone.post(f"{AUTH}/password/forgot", json={"email": email}).status_code == 202
    over, sealed = (mail(shop, email, "password-reset")["id"] for email in ("tidy@example.com", "untidy@example.com"))
    with shop.db() as db:
        db.execute("UPDATE shop.notification SET sent_at = now(), created_at = now() - interval '31 days' WHERE id = %s", [over])
        db.execute("UPDATE shop.user_token SET expires_at = now() - interval '1 second'")
        db.execute("UPDATE shop.notification SET expires_at = now() - interval '1 second' WHERE id = %s", [sealed])
        db.execute("DELETE FROM shop.housekeeping")

    with shop.configured(http="commerce_maintenance 200ms;\ncommerce_password_cost 10;", limits=None):
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.housekeeping WHERE job = 'identity'")
                 == shop.value("SELECT count(*) FROM shop.tenant"), 20, "a round in every shop")
        rows = {bytes(r["hash"]) for r in shop.rows("SELECT hash FROM shop.refresh_token")}
        assert not rows & set(gone) and rows > set(left)
        assert not shop.rows("SELECT FROM shop.user_token") and not shop.rows("SELECT FROM shop.notification WHERE id = %s", over)
        assert shop.value("SELECT secret FROM shop.notification WHERE id = %s", sealed) is None
        assert not shop.rows("SELECT FROM shop.session s WHERE NOT EXISTS (SELECT FROM shop.refresh_token r WHERE r.session_id = s.id)")

        # once an hour: another round comes soon, this job does not
        ran = shop.value("SELECT max(ran_at) FROM shop.housekeeping")
        hash_ = token("expires_at = now() - interval '25 hours'")
        with shop.db() as db:
            db.execute("INSERT INTO shop.idempotency (tenant_id, scope, key, operation, fingerprint, expires_at) "
                       "VALUES (1, 's', 'old', 'op', '\\x00', now() - interval '1 second')")
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.idempotency WHERE key = 'old'") == 0, 20, "another round")
        assert shop.rows("SELECT FROM shop.refresh_token WHERE hash = %s", hash_)
        # the interval is the shop's
        shop.rows("UPDATE shop.tenant SET settings = settings || '{\"identity\": {\"cleanup_interval\": 0}}' WHERE id = 1 RETURNING 1")
        wait_for(lambda: not shop.rows("SELECT FROM shop.refresh_token WHERE hash = %s", hash_), 20, "the token is gone")
        assert shop.value("SELECT ran_at FROM shop.housekeeping WHERE tenant_id = 2 AND job = 'identity'") <= ran
        shop.rows("UPDATE shop.tenant SET settings = settings - 'identity' WHERE id = 1 RETURNING 1")


def test_one_of_many_workers_tidies(shop):
    """Whoever comes second while it runs goes home."""
    with shop.db() as one, shop.db() as two:
        with one.transaction():
            # a worker may be at it
            wait_for(lambda: one.execute("SELECT body FROM api.maintain()").fetchone()["body"] is not None, 20, "its turn")
            assert two.execute("SELECT body FROM api.maintain()").fetchone()["body"] is None
