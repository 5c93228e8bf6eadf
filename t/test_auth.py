"""Login, access tokens, profile."""

import base64
import concurrent.futures
import hashlib
import hmac
import json
import os
import pathlib
import socket
import subprocess
import time
import uuid

import jwt
import pytest

from stack import CHEAP, wait_for

LOGIN = "/api/v1/auth/login"
PROFILE = "/api/v1/users/profile"
EMAIL = "test@example.com"


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header, payload, key, digest=hashlib.sha256):
    """A token of any header and payload, given as objects or as bytes."""
    parts = [b64(p if isinstance(p, bytes) else json.dumps(p).encode()) for p in (header, payload)]
    return ".".join([*parts, b64(hmac.new(key, ".".join(parts).encode(), digest).digest())])


@pytest.fixture
def key(shop):
    return (shop.folder / "secrets" / "jwt").read_text().strip().encode()


@pytest.fixture
def claims(shop):
    """The claims of a good token for the demo's customer."""
    subject = shop.value("SELECT id::text FROM shop.app_user WHERE tenant_id = 1 AND email = %s", EMAIL)
    now = int(time.time())
    return {"iss": "nginx-commerce", "aud": "nginx-commerce", "sub": subject, "tid": "1", "iat": now, "nbf": now,
            "exp": now + 7200, "roles": ["customer"]}


HEADER = {"alg": "HS256", "typ": "at+jwt", "kid": "k1"}


def status_of(edge, token):
    return edge.get(PROFILE, headers={"Authorization": f"Bearer {token}"}).status_code


def keys(folder, name, *command):
    """A key pair in PEM, made by openssl."""
    private, public = folder / "secrets" / f"{name}.pem", folder / "secrets" / f"{name}.pub"
    subprocess.run(["openssl", *command, "-out", private], check=True, capture_output=True)
    private.chmod(0o400)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


# ---- login ----


@pytest.mark.parametrize("path", [LOGIN, "/api/auth/login", "/api/login"])
def test_login(shop, anyone, path):
    answer = anyone.post(path, json={"email": EMAIL, "password": "password"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"].find("no-store") >= 0
    body = answer.json()
    assert set(body) == {"token", "refresh_token", "expires_in", "user"}
    assert body["expires_in"] == 900
    assert body["user"]["email"] == EMAIL
    assert "$2b$" not in answer.text

    head = jwt.get_unverified_header(body["token"])
    assert head == {"alg": "HS256", "typ": "at+jwt", "kid": "k1"}
    token = jwt.decode(body["token"], (shop.folder / "secrets" / "jwt").read_text().strip(), algorithms=["HS256"],
                       audience="nginx-commerce", issuer="nginx-commerce")
    assert token["sub"] == body["user"]["id"]
    assert token["tid"] == "1"
    assert token["roles"] == ["customer"]
    assert token["exp"] - token["iat"] == 900

    # the refresh token is 256 random bits, and only its hash is kept
    assert len(base64.urlsafe_b64decode(body["refresh_token"] + "=")) == 32
    row, = shop.rows("SELECT t.session_id::text, t.family::text, s.user_id::text, t.used_at, t.revoked_at "
                     "FROM shop.refresh_token t JOIN shop.session s ON s.tenant_id = t.tenant_id AND s.id = t.session_id "
                     "WHERE t.hash = %s", hashlib.sha256(body["refresh_token"].encode()).digest())
    assert row["session_id"] == row["family"] == token["sid"]
    assert row["user_id"] == token["sub"]
    assert uuid.UUID(token["sid"]).version == 7

    me = anyone.get(PROFILE, headers={"Authorization": f"Bearer {body['token']}"})
    assert me.status_code == 200 and me.json()["id"] == token["sub"]


def test_staff_token_carries_permissions(anyone):
    token = anyone.post(LOGIN, json={"email": "admin@example.com", "password": "password"}).json()["token"]
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload["roles"] == ["staff"]
    assert "catalog.write" in payload["scope"].split()


def test_email_ignores_case(anyone):
    assert anyone.post(LOGIN, json={"email": "TEST@Example.com", "password": "password"}).status_code == 200


def test_spellings_of_an_address_are_one_account(shop, anyone):
    shop.rows("SELECT domain.user_put(1, 'user@xn--mnchen-3ya.example', %s, 'User')", CHEAP)
    subjects = set()
    for email in ("user@MÜNCHEN.example", "user@mu\u0308nchen.example", "User@XN--MNCHEN-3YA.Example",
                  "user@xn--mnchen-3ya.example"):
        answer = anyone.post(LOGIN, json={"email": email, "password": "password"})
        assert answer.status_code == 200, (email, answer.text)
        subjects.add(answer.json()["user"]["id"])
    assert len(subjects) == 1
    refused = anyone.post(LOGIN, json={"email": "user@xn--zzzzzzzz.example", "password": "password"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/email")


def test_spellings_of_a_password_are_one(shop, anyone):
    """As two keyboards type it: composed and not, with a space that is not U+0020 (RFC 8265)."""
    def crypted(password):
        return shop.value("SELECT replace(public.crypt(%s, public.gen_salt('bf', 4)), '$2a$', '$2b$')", password)

    shop.rows("SELECT domain.user_put(1, 'spelled@example.com', %s, 'User')", crypted("caf\u00e9 cr\u00e8me"))
    for password, status in (("caf\u00e9 cr\u00e8me", 200), ("cafe\u0301\u00a0cre\u0300me", 200),
                             ("cafe creme", 401), ("caf\u00e9\tcr\u00e8me", 422)):
        answer = anyone.post(LOGIN, json={"email": "spelled@example.com", "password": password})
        assert answer.status_code == status, (password, answer.text)


def test_unknown_user_and_wrong_password_look_alike(shop, anyone):
    shop.rows("SELECT domain.user_put(1, 'gone@example.com', (SELECT password_hash FROM shop.app_user "
              "WHERE tenant_id = 1 AND email = %s), 'Gone')", EMAIL)
    shop.rows("UPDATE shop.app_user SET status = 'disabled' WHERE email = 'gone@example.com' RETURNING 1")
    shop.rows("SELECT domain.user_put(1, 'nopassword@example.com', '', 'No Password')")

    answers = [anyone.post(LOGIN, json={"email": email, "password": password})
               for email, password in ((EMAIL, "Password"), ("nobody@example.com", "password"),
                                       ("gone@example.com", "password"), ("nopassword@example.com", "password"),
                                       (EMAIL, "password "))]
    assert [a.status_code for a in answers] == [401] * len(answers)
    bodies = [a.json() for a in answers]
    for body in bodies:
        assert body["code"] == "invalid-credentials"
        body.pop("correlation_id")
    assert all(body == bodies[0] for body in bodies)
    names = [sorted(a.headers.keys()) for a in answers]
    assert all(n == names[0] for n in names)


def test_same_email_in_two_tenants_is_two_accounts(shop):
    demo = shop.edge(tenant="demo").post(LOGIN, json={"email": EMAIL, "password": "password"}).json()
    acme = shop.edge(tenant="acme").post(LOGIN, json={"email": EMAIL, "password": "password"}).json()
    assert demo["user"]["id"] != acme["user"]["id"]

    answer = shop.edge(tenant="acme", token=demo["token"]).get(PROFILE)
    assert answer.status_code == 403 and answer.json()["code"] == "tenant-mismatch"


@pytest.mark.parametrize("body,status", [
    ({"email": EMAIL}, 422),
    ({"password": "password"}, 422),
    ({"email": EMAIL, "password": ""}, 422),
    ({"email": EMAIL, "password": None}, 422),
    ({"email": [EMAIL], "password": "password"}, 422),
    ({"email": EMAIL, "password": "x" * 73}, 422),
    ({"email": EMAIL, "password": "é" * 37}, 422),                  # 74 bytes
    ({"email": EMAIL, "password": "password", "admin": True}, 422),
    ({"email": EMAIL, "password": "pass\0word"}, 400),
    ({"email": EMAIL, "password": "é" * 36}, 401),                  # 72 bytes
])
def test_bad_logins(anyone, body, status):
    assert anyone.post(LOGIN, json=body).status_code == status


def test_attempts_are_counted_until_a_login(shop, anyone):
    def attempts(email):
        rows = shop.rows("SELECT attempts FROM shop.login_attempt WHERE tenant_id = 1 AND account = %s",
                         hashlib.sha256(email.encode()).digest())
        return rows[0]["attempts"] if rows else 0

    for email in ("count@example.com", "nosuch@example.com"):
        if email.startswith("count"):
            shop.rows("SELECT domain.user_put(1, %s, %s, 'Count')", email, CHEAP)
        for n in range(1, 4):
            assert anyone.post(LOGIN, json={"email": email, "password": "wrong"}).status_code == 401
            assert attempts(email) == n

    assert anyone.post(LOGIN, json={"email": "Count@example.com", "password": "password"}).status_code == 200
    assert attempts("count@example.com") == 0
    assert attempts("nosuch@example.com") == 3

    # what is older than a day goes with the next attempts, whoever's they are
    shop.rows("UPDATE shop.login_attempt SET last_at = now() - interval '2 days' "
              "WHERE account = domain.login_account('nosuch@example.com') RETURNING 1")
    anyone.post(LOGIN, json={"email": "another@example.com", "password": "wrong"})
    assert attempts("nosuch@example.com") == 0


def test_cheaper_hash_is_renewed(shop, anyone):
    shop.rows("SELECT domain.user_put(1, 'cheap@example.com', %s, 'Cheap')", CHEAP)
    stored = "SELECT password_hash FROM shop.app_user WHERE email = 'cheap@example.com'"

    assert anyone.post(LOGIN, json={"email": "cheap@example.com", "password": "wrong"}).status_code == 401
    assert shop.value(stored) == CHEAP
    assert anyone.post(LOGIN, json={"email": "cheap@example.com", "password": "password"}).status_code == 200
    renewed = shop.value(stored)
    assert renewed.startswith("$2b$12$")
    assert anyone.post(LOGIN, json={"email": "cheap@example.com", "password": "password"}).status_code == 200
    assert shop.value(stored) == renewed


def test_threads_that_hash_come_after_all_others(shop, anyone):
    anyone.post("/api/v1/auth/login", json={"email": "nobody@example.com", "password": "x"})
    found = {}
    for worker in shop.workers():
        own = os.getpriority(os.PRIO_PROCESS, worker)
        for thread in map(int, os.listdir(f"/proc/{worker}/task")):
            if os.sched_getscheduler(thread) == os.SCHED_BATCH:
                found[thread] = os.getpriority(os.PRIO_PROCESS, thread) - min(own, 14)
            else:
                # event loops, and threads that have not hashed yet
                assert os.getpriority(os.PRIO_PROCESS, thread) == own
    assert found and set(found.values()) == {5}


def test_client_that_leaves_is_not_hashed_for(shop):
    """A login whose client hangs up while it waits for its turn costs no bcrypt: counted in the workers' CPU time."""
    def begin(email):
        body = json.dumps({"email": email, "password": "password"}).encode()
        s = socket.create_connection(("127.0.0.1", shop.port))
        s.sendall(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: demo.localhost\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return s

    def sessions():
        return shop.value("SELECT count(*) FROM shop.session")

    with shop.edge() as edge:
        edge.post(LOGIN, json={"email": "stayer@example.com", "password": "wrong"})
        before = shop.cpu()
        for _ in range(3):
            edge.post(LOGIN, json={"email": "stayer@example.com", "password": "wrong"})
        one = (shop.cpu() - before) / 3

        held, began, before = sessions(), shop.value("SELECT count(*) FROM shop.login_attempt"), shop.cpu()
        crowd = [begin(f"leaver{i}@example.com") for i in range(18)]
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.login_attempt") >= began + 18, 30, "all are waiting for their turn or have it")
        for s in crowd:
            s.close()
        # answered when those that had begun have ended
        assert edge.post(LOGIN, json={"email": "stayer@example.com", "password": "wrong"}).status_code in (401, 503)
        wait_for(lambda: edge.post(LOGIN, json={"email": EMAIL, "password": "password"}).status_code == 200, 30, "the queue is empty")
        spent = (shop.cpu() - before) / one
    # some had begun while the connections were made; hashed to the end they would have been twenty
    assert spent < 16, f"{spent:.1f} hashes for eighteen that left"
    assert sessions() == held + 1


def test_reload_answers_logins_under_way(shop):
    shop.rows("SELECT domain.user_put(1, 'reload@example.com', %s, 'Reload')", CHEAP)

    def one(_):
        with shop.edge(timeout=600) as edge:
            answer = edge.post(LOGIN, json={"email": "reload@example.com", "password": "password"})
            return answer.status_code, answer.json().get("code")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        crowd = [pool.submit(one, i) for i in range(8)]
        # an attempt is forgotten with the first login that succeeds
        wait_for(lambda: any(f.done() for f in crowd) or
                 shop.rows("SELECT FROM shop.login_attempt WHERE account = domain.login_account('reload@example.com')"),
                 5, "a login began")
        shop.reload()
        assert [f.result() for f in crowd] == [(200, None)] * 8


# ---- access tokens ----


def test_good_token_and_its_cache(anyone, claims, key):
    token = sign(HEADER, claims, key)
    assert [status_of(anyone, token) for _ in range(6)] == [200] * 6
    # a byte more, a byte less: not the token that is in the cache
    assert status_of(anyone, token[:-1]) == 401
    assert status_of(anyone, token + "A") == 401
    assert status_of(anyone, token[:-1] + ("A" if token[-1] != "A" else "E")) == 401


@pytest.mark.parametrize("header", [
    {"alg": "none"}, {"alg": "None"}, {"alg": "NONE"}, {"alg": "hs256"}, {"alg": "HS384"}, {"alg": "HS512"},
    {"alg": "RS256"}, {"alg": "ES256"}, {"alg": ""}, {"alg": None}, {"alg": ["HS256"]},
    {"typ": "JWT"}, {"typ": None}, {"kid": None}, {"kid": ""}, {"kid": "k2"}, {"kid": "../jwt"}, {"kid": 1},
    {"crit": ["exp"]}, {"crit": []},
], ids=str)
def test_bad_headers(anyone, claims, key, header):
    merged = {k: v for k, v in {**HEADER, **header}.items() if v is not None or k not in ("typ", "kid")}
    assert status_of(anyone, sign(merged, claims, key)) == 401


def test_unsigned(anyone, claims):
    for alg in ("none", "None", "nOnE"):
        parts = f"{b64(json.dumps({**HEADER, 'alg': alg}).encode())}.{b64(json.dumps(claims).encode())}"
        assert status_of(anyone, parts + ".") == 401
        assert status_of(anyone, parts) == 401
        assert status_of(anyone, parts + ".AA") == 401


@pytest.mark.parametrize("claim", [
    {"exp": None}, {"exp": 1}, {"exp": "9999999999"}, {"exp": 9999999999.5}, {"exp": True}, {"exp": [9999999999]},
    {"iat": None}, {"iat": 9999999999}, {"iat": "1"}, {"nbf": 9999999999}, {"nbf": "1"},
    {"iss": None}, {"iss": "someone"}, {"iss": ["nginx-commerce"]},
    {"aud": None}, {"aud": "someone"}, {"aud": []}, {"aud": ["someone"]}, {"aud": {"nginx-commerce": 1}},
    {"sub": None}, {"sub": "admin"}, {"sub": 1}, {"sub": ""},
    {"tid": 1}, {"tid": "01"}, {"tid": "1 OR 1=1"}, {"tid": ""},
    {"roles": "customer"}, {"roles": ["customer staff"]}, {"roles": [1]}, {"scope": ["catalog.write"]},
    {"sid": "x"},
], ids=str)
def test_bad_claims(anyone, claims, key, claim):
    merged = {k: v for k, v in {**claims, **claim}.items() if v is not None}
    assert status_of(anyone, sign(HEADER, merged, key)) == 401


def test_duplicate_claims(anyone, claims, key):
    text = json.dumps(claims)
    assert status_of(anyone, sign(HEADER, text.encode(), key)) == 200
    for extra in ('"tid":"2"', '"roles":["owner"]', '"exp":9999999999', '"\\u0074id":"2"'):
        assert status_of(anyone, sign(HEADER, (text[:-1] + "," + extra + "}").encode(), key)) == 401
        assert status_of(anyone, sign(HEADER, ("{" + extra + "," + text[1:]).encode(), key)) == 401
    assert status_of(anyone, sign(b'{"alg":"none",' + json.dumps(HEADER)[1:].encode(), claims, key)) == 401


def test_expired_within_the_leeway_only(anyone, claims, key):
    # half a minute is left of the leeway: who needs longer to ask has another one
    wait_for(lambda: status_of(anyone, sign(HEADER, {**claims, "exp": int(time.time()) - 30}, key)) == 200, 5, "one in the leeway is good")
    assert status_of(anyone, sign(HEADER, {**claims, "exp": int(time.time()) - 61}, key)) == 401


def test_token_ends_while_it_is_cached(anyone, claims, key):
    """One that ends in the leeway is never taken from the cache, so its end is noticed."""
    def good():
        token = sign(HEADER, {**claims, "exp": int(time.time()) - 57}, key)
        return status_of(anyone, token) == 200 and token

    # it is good for two seconds, which a request may take on a busy machine
    token = wait_for(good, 10, "a token is asked with before its end")
    wait_for(lambda: status_of(anyone, token) == 401, 6, "the token is refused")


def test_oversize_and_nonsense(anyone, claims, key):
    for token in ("a", "a.b.c", "...", "a" * 8193, f"{'a' * 4000}.{'b' * 4000}.{'c' * 400}",
                  sign(HEADER, {**claims, "pad": "x" * 8000}, key)):
        assert status_of(anyone, token) in (400, 401)
    assert status_of(anyone, sign(HEADER, {**claims, "pad": "x" * 2000}, key)) == 200


def test_wrong_secret_and_wrong_hash(anyone, claims, key):
    assert status_of(anyone, sign(HEADER, claims, b"x" * 64)) == 401
    assert status_of(anyone, sign(HEADER, claims, b"")) == 401
    assert status_of(anyone, sign(HEADER, claims, key, hashlib.sha512)) == 401


def test_other_schemes_are_no_credentials(anyone):
    assert anyone.get(PROFILE).status_code == 401
    answer = anyone.get(PROFILE, headers={"Authorization": "Basic dGVzdDp0ZXN0"})
    assert answer.status_code == 401
    assert "bearer" in answer.headers["www-authenticate"].lower()


def test_keys_rotate_and_are_not_confused(shop, claims, key):
    rsa, rsa_public = keys(shop.folder, "rs", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    ec, _ = keys(shop.folder, "es", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    old = sign(HEADER, claims, key)
    conf = f"commerce_jwt_key rs1 RS256 {rsa_public};\ncommerce_jwt_key es1 ES256 {ec} sign;"
    other = {"typ": "at+jwt"}

    with shop.configured(http=conf, replace=[(r"(commerce_jwt_key\s+k1.*) sign;", r"\1;")]), shop.edge() as edge:
        # the old key still verifies, the new one signs
        assert status_of(edge, old) == 200
        token = edge.post(LOGIN, json={"email": EMAIL, "password": "password"}).json()["token"]
        assert jwt.get_unverified_header(token)["kid"] == "es1"
        jwt.decode(token, ec.with_suffix(".pub").read_text(), algorithms=["ES256"], audience="nginx-commerce")
        assert status_of(edge, token) == 200

        good = jwt.encode(claims, rsa.read_text(), algorithm="RS256", headers={**other, "kid": "rs1"})
        assert status_of(edge, good) == 200
        assert status_of(edge, jwt.encode(claims, rsa.read_text(), algorithm="RS512", headers={**other, "kid": "rs1"})) == 401
        assert status_of(edge, jwt.encode(claims, rsa.read_text(), algorithm="PS256", headers={**other, "kid": "rs1"})) == 401
        assert status_of(edge, jwt.encode(claims, rsa.read_text(), algorithm="RS256", headers={**other, "kid": "es1"})) == 401
        assert status_of(edge, jwt.encode(claims, rsa.read_text(), algorithm="RS256", headers={**other, "kid": "k1"})) == 401

        # HS256 with what everybody knows: the public keys, in each form
        for public in (rsa_public, ec.with_suffix(".pub")):
            for secret in (public.read_bytes(), public.read_bytes().strip()):
                for kid in ("rs1", "es1", "k1"):
                    assert status_of(edge, sign({**HEADER, "kid": kid}, claims, secret)) == 401

        # an ES256 signature of zeros (CVE-2022-21449), and one in the wrong encoding
        head, body, _ = token.split(".")
        assert status_of(edge, f"{head}.{body}.{b64(bytes(64))}") == 401
        assert status_of(edge, f"{head}.{body}.{b64(bytes.fromhex('3006020101020101'))}") == 401


@pytest.mark.parametrize("line,why", [
    ("commerce_jwt_key k1 HS256 {jwt};", 'duplicate key id "k1"'),
    ("commerce_jwt_key k2 none {jwt};", 'algorithm "none" is not one of'),
    ("commerce_jwt_key k2 HS512 {jwt};", 'algorithm "HS512" is not one of'),
    ("commerce_jwt_key k2 RS256 {jwt};", "holds no public or private key"),
    ("commerce_jwt_key k2 HS256 {jwt} sign;", 'key "k1" signs already'),
    ("commerce_jwt_key k2 HS256 {jwt} verify;", 'it can only be "sign"'),
    ("commerce_jwt_key k/2 HS256 {jwt};", "must be 1 to 64 of"),
    ("commerce_jwt_key k2 HS256 /nonexistent/key;", "cannot open key file"),
    ("commerce_jwt_key k2 HS256 {short};", "at least 32 are needed"),
    ("commerce_jwt_key k2 HS256 {open};", "chmod 0400"),
    ("commerce_password_cost 4;", "value must be"),
    ("commerce_field_key f1 {jwt};", 'duplicate key id "f1"'),
    ("commerce_field_key f2 {jwt} encrypt;", 'key "f1" encrypts already'),
    ("commerce_field_key f2 {jwt} seal;", 'it can only be "encrypt"'),
    ("commerce_field_key f/2 {jwt};", "must be 1 to 64 of"),
    ("commerce_field_key f2 {short};", "at least 32 are needed"),
    ("commerce_limit_policy x rate=1r/s;", "needs key= and rate="),
    ("commerce_limit_policy x key=ip rate=1;", "a rate is like"),
    ("commerce_limit_policy login key=ip rate=1r/s;", 'duplicate policy "login"'),
])
def test_configuration_faults_name_the_cure(shop, tmp_path, line, why):
    short, everybody = tmp_path / "short", tmp_path / "open"
    short.write_text("secret")
    short.chmod(0o400)
    everybody.write_text("s" * 40)
    everybody.chmod(0o644)
    jwt_file = pathlib.Path(shop.folder, "secrets", "jwt")
    shop.configure(http=line.format(jwt=jwt_file, short=short, open=everybody))
    try:
        done = shop.check_conf()
        assert done.returncode != 0
        assert why in done.stdout + done.stderr + "\n".join(shop.log_lines())
        shop.expect_log(r"\[emerg\]")
    finally:
        shop.configure()


# ---- profile ----


def test_profile(customer):
    answer = customer.get(PROFILE)
    assert answer.status_code == 200
    body = answer.json()
    assert body["email"] == EMAIL and "password_hash" not in body
    assert answer.headers["etag"] == f'"{body["version"]}"'
    assert customer.get(PROFILE, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304

    changed = customer.put(PROFILE, json={"name": "Zoë Ångström", "phone": "+49 30 901820", "date_of_birth": "2000-02-29",
                                          "avatar_url": "https://example.com/a.png", "preferences": {"news": True}})
    assert changed.status_code == 200, changed.text
    body = changed.json()
    assert (body["name"], body["phone"], body["date_of_birth"]) == ("Zoë Ångström", "+49 30 901820", "2000-02-29")
    assert body["preferences"] == {"news": True}
    assert customer.get(PROFILE, headers={"If-None-Match": answer.headers["etag"]}).status_code == 200

    # what is not sent stays, null empties
    body = customer.put("/api/v1/user/profile", json={"phone": None}).json()
    assert body["phone"] is None and body["name"] == "Zoë Ångström"
    assert customer.get("/api/user/profile").json() == body


@pytest.mark.parametrize("change", [
    {}, {"email": "other@example.com"}, {"roles": ["owner"]}, {"name": 1}, {"name": "x" * 201}, {"phone": "call me"},
    {"avatar_url": "javascript:alert(1)"}, {"date_of_birth": "2001-02-29"}, {"date_of_birth": "2999-01-01"},
    {"preferences": []}, {"preferences": {"x": "y" * 17000}},
], ids=lambda c: str(c)[:40])
def test_bad_profiles(shop, customer, change):
    before = customer.get(PROFILE).json()
    assert customer.put(PROFILE, json=change).status_code == 422
    assert customer.get(PROFILE).json() == before


def test_profile_is_ones_own(shop):
    (id_a, token_a), (id_b, token_b) = shop.customers(2)
    assert shop.edge(token=token_a).put(PROFILE, json={"name": "A"}).json()["id"] == id_a
    body = shop.edge(token=token_b).get(PROFILE).json()
    assert body["id"] == id_b and body["name"] != "A"


def test_token_outlives_its_user(shop):
    (subject, token), = shop.customers(1, tenant="globex")
    edge = shop.edge(tenant="globex", token=token)
    assert edge.get(PROFILE).status_code == 200
    shop.rows("UPDATE shop.app_user SET status = 'disabled' WHERE tenant_id = 3 AND id = %s RETURNING 1", subject)
    assert edge.get(PROFILE).status_code == 401
