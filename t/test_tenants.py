"""Tenants: how a request finds its own, API keys, settings and flags, life and death, from the edge's own memory."""

import json
import secrets
import time

import httpx
import jwt
import pytest

from operations import Picture, changes, tenant_tables
from stack import TENANTS, free_ports, wait_for
from world import World, made

BAD_KEYS = {
    "empty": "", "no key": "key", "a prefix alone": "sk_", "unknown": "sk_" + "A" * 43, "publishable unknown": "pk_" + "A" * 43,
    "another kind": "rk_" + "A" * 43, "too long": "sk_" + "A" * 5000, "not ASCII": b"sk_" + b"\xff" * 43,
    "a token": "Bearer abc", "two in one": "sk_" + "A" * 43 + ", sk_" + "B" * 43,
}


@pytest.fixture(scope="module")
def platform(shop):
    return shop.user("platform@example.com", "platform")


@pytest.fixture(scope="module")
def owner(shop):
    """Staff of demo who may everything."""
    (user, _), = shop.customers(1)
    return shop.edge(tenant="demo", token=shop.token(user, ["staff", "owner"]))


def key_of(edge, kind="secret", scopes=(), **more):
    answer = edge.post("/api/v1/admin/api-keys", json={"kind": kind, "name": f"Test {kind}", **({"scopes": list(scopes)} if scopes else {}),
                                                       **more})
    made(answer, 201)
    return answer.json()["key"], answer.json()["api_key"]


def problem(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return answer.json()


def until(edge, status, path="/api/v1/categories", **kw):
    """Both workers say so: new connections, several in a row."""
    def all_say():
        for _ in range(6):
            with httpx.Client(base_url=edge.base_url, headers=edge.headers, verify=False) as one:
                if one.get(path, **kw).status_code != status:
                    return False
        return True
    wait_for(all_say, 30, f"{path} is {status} at both workers")


def take_away(db, slugs):
    """Shops that have nothing but what housekeeping notes for each: no new round knows them, those under way come to their end first."""
    db.execute("UPDATE shop.tenant SET deleted_at = now() WHERE slug LIKE %s", [slugs])
    # a round's next part may have begun while that was written, and have seen them
    now = db.execute("SELECT clock_timestamp() AS deleted").fetchone()
    wait_for(lambda: not db.execute("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
                                    "AND xact_start <= %(deleted)s", now).fetchall(), 120, "older transactions end")
    with db.transaction():
        for table in tenant_tables(db):
            there = f"FROM {table} x JOIN shop.tenant t ON t.id = x.tenant_id WHERE t.slug LIKE %s"
            if db.execute(f"SELECT 1 {there} LIMIT 1", [slugs]).fetchall():
                db.execute(f"DELETE FROM {table} d USING (SELECT t.id {there}) x WHERE d.tenant_id = x.id", [slugs])
        db.execute("DELETE FROM shop.tenant WHERE slug LIKE %s", [slugs])


# ---- resolution ----


@pytest.fixture(scope="module")
def seen(shop):
    """Answers tell in a header which tenant the request was of; one server without a tenant of its own."""
    port, = free_ports(1)
    lines = f"""
    map $commerce_flag_beta $beta {{ "" off; default on; }}
    server {{
        listen 127.0.0.1:{port};
        include {shop.conf}/server.conf;
        commerce_security_header X-Shop "$commerce_tenant/$commerce_tenant_setting_locale/$beta";
        location / {{ commerce_api; }}
        location /plain {{ return 200 "$commerce_tenant $commerce_tenant_id $commerce_api_key\\n"; }}
    }}"""
    shop.configure(http=lines)
    shop.reload()
    yield f"http://127.0.0.1:{port}"


def test_host_key_token(shop, seen, owner):
    key, _ = key_of(owner, "publishable")
    secret, _ = key_of(owner)
    token = shop.user("test@example.com", "globex").headers["Authorization"]
    with httpx.Client(base_url=seen, verify=False) as c:
        def ask(path="/api/v1/categories", **headers):
            return c.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})

        for host, name in (("demo.localhost", "demo"), ("ACME.localhost", "acme"), ("globex.localhost:8080", "globex"),
                           ("platform.localhost", "platform")):
            assert ask(Host=host).headers["x-shop"].split("/")[0] == name
        problem(ask(Host="nobody.example"), 404, "tenant-unknown")
        problem(ask(Host="x.demo.localhost"), 404, "tenant-unknown")
        wait_for(lambda: ask(Host="nobody.example", X_API_Key=key).status_code == 200, 5, "the key is known")
        assert ask(Host="nobody.example", X_API_Key=key).headers["x-shop"].startswith("demo/")
        assert ask(Host="nobody.example", X_API_Key=secret).headers["x-shop"].startswith("demo/")
        problem(ask(Host="acme.localhost", X_API_Key=key), 403, "tenant-mismatch")
        problem(ask(Host="acme.localhost", X_API_Key=secret), 403, "tenant-mismatch")
        assert ask("/api/v1/orders", Host="nobody.example", Authorization=token).headers["x-shop"].startswith("globex/")
        # where nothing else tells, a public operation hears the token too
        assert ask(Host="nobody.example", Authorization=token).headers["x-shop"].startswith("globex/")
        problem(ask("/api/v1/orders", Host="acme.localhost", Authorization=token), 403, "tenant-mismatch")
        problem(ask("/api/v1/orders", Host="nobody.example", Authorization=token, X_API_Key=key), 403, "tenant-mismatch")
        for name in ("X-Tenant", "X-Tenant-Id", "X-Commerce-Tenant", "X-Forwarded-Host", "Forwarded"):
            problem(c.get("/api/v1/categories", headers={"Host": "nobody.example", name: "demo"}), 404, "tenant-unknown")
        assert ask("/plain", Host="acme.localhost").text == "acme 2 \n"


def test_a_shared_cache_is_told_what_chose_the_tenant(shop, seen, owner):
    """RFC 9111, 4.1: one address, two shops' answers."""
    key, _ = key_of(owner, "publishable")
    with httpx.Client(base_url=seen, verify=False) as alone, shop.edge() as edge:
        def varies(client, path="/api/v1/categories", **headers):
            answer = client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            assert answer.status_code == 200 and answer.headers["Cache-Control"].startswith("public"), answer.text
            return set(", ".join(answer.headers.get_list("Vary")).split(", ")) - {"Origin", "Accept-Encoding"}

        wait_for(lambda: alone.get("/api/v1/categories", headers={"X-API-Key": key}).status_code == 200, 5, "the key is known")
        for client in alone, edge:
            assert varies(client, Host="acme.localhost") == varies(client, Host="demo.localhost", X_API_Key=key) == set()
        token = shop.user("test@example.com", "globex").headers["Authorization"]
        # made for one, then from the edge's own cache
        for _ in range(2):
            assert varies(alone, Host="nobody.example", X_API_Key=key) == {"X-API-Key", "Authorization"}
            assert varies(alone, Host="nobody.example", Authorization=token) == {"X-API-Key", "Authorization"}
            assert varies(edge, Host="nobody.example", X_API_Key=key) == {"X-API-Key"}
            assert varies(edge, Host="nobody.example") == {"X-API-Key"}


def test_the_fixed_tenant_is_for_those_whom_nothing_names(shop, owner):
    key, _ = key_of(shop.staff("acme"), "publishable")
    with shop.edge() as edge:
        assert edge.get("/api/v1/categories").status_code == 200
        edge.headers["Host"] = "nobody.example"
        edge.headers["X-API-Key"] = key
        wait_for(lambda: edge.get("/api/v1/categories").status_code == 200, 5)
        mine = {c["name"] for c in edge.get("/api/v1/categories").json()["data"]}
    with shop.edge(tenant="acme") as edge:
        assert mine == {c["name"] for c in edge.get("/api/v1/categories").json()["data"]}
    with shop.user("test@example.com", "globex") as edge:
        edge.headers["Host"] = "nobody.example"
        assert edge.get("/api/v1/users/profile").status_code == 200


# ---- API keys ----


def test_a_bad_key_is_401_with_one_body(shop, owner):
    over, row = key_of(owner, expires_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600)))
    revoked, gone = key_of(owner)
    # soon: that it is over nothing announces
    shop.rows("UPDATE shop.api_key SET expires_at = clock_timestamp() + interval '1 second' WHERE id = %s RETURNING id", row["id"])
    made(owner.delete(f"/api/v1/admin/api-keys/{gone['id']}"))
    bodies = set()
    with shop.edge() as edge:
        for name, key in {**BAD_KEYS, "over": over, "revoked": revoked}.items():
            wait_for(lambda key=key: edge.get("/api/v1/products", headers={"X-API-Key": key}).status_code == 401, 5, name)
            for path in ("/api/v1/products", "/api/v1/cart", "/api/v1/admin/api-keys", "/api/v1/orders"):
                answer = edge.get(path, headers={"X-API-Key": key})
                body = problem(answer, 401, "unauthorized")
                del body["correlation_id"], body["instance"]
                bodies.add(json.dumps(body, sort_keys=True))
        two = edge.get("/api/v1/products", headers=[("X-API-Key", "pk_" + "A" * 43), ("X-API-Key", "pk_" + "A" * 43)])
        problem(two, 401, "unauthorized")
    assert len(bodies) == 1


def test_a_secret_key_may_what_its_scopes_say(shop, owner):
    reader, row = key_of(owner, scopes=["orders.read", "catalog.write", "catalog.read"])
    assert row["prefix"] == reader[:8] and row["scopes"] == ["catalog.read", "catalog.write", "orders.read"]
    with shop.edge(headers={"X-API-Key": reader}) as edge:
        until(edge, 200, "/api/v1/admin/export")
        some = made(edge.post("/api/v1/categories", json={"name": "By a key"}))
        problem(edge.get("/api/v1/admin/settings"), 403, "forbidden")
        problem(edge.post("/api/v1/admin/api-keys", json={"kind": "secret", "name": "x"}), 403, "forbidden")
        problem(edge.get("/api/v1/users/profile"), 403, "forbidden")
        problem(edge.get("/api/v1/platform/tenants"), 403, "forbidden")
        assert edge.get("/api/v1/cart").status_code == 200          # a guest's: a key has no cart of its own
        problem(edge.get("/api/v1/admin/export", headers={"Authorization": owner.headers["Authorization"]}), 401, "unauthorized")
    log = shop.rows("SELECT actor FROM shop.audit_log WHERE tenant_id = 1 AND entity = 'category' AND entity_id = %s", str(some["id"]))
    assert [r["actor"] for r in log] == [f"key:{row['id']}"]


def test_a_publishable_key_may_nothing(shop, owner):
    key, _ = key_of(owner, "publishable")
    with shop.edge(headers={"X-API-Key": key}) as edge:
        until(edge, 200)
        problem(edge.get("/api/v1/orders"), 401, "unauthorized")
        problem(edge.get("/api/v1/admin/settings"), 401, "unauthorized")
        with shop.user("test@example.com") as customer:
            customer.headers["X-API-Key"] = key
            assert customer.get("/api/v1/orders").status_code == 200
    problem(owner.post("/api/v1/admin/api-keys", json={"kind": "publishable", "name": "x", "scopes": ["orders.read"]}), 422,
            "invalid-value")


def test_keys_are_shown_once_and_stored_as_hashes(shop, owner):
    key, row = key_of(owner)
    everything = owner.get("/api/v1/admin/api-keys").text + owner.get(f"/api/v1/admin/api-keys/{row['id']}").text
    assert row["id"] in everything and key not in everything and key[10:] not in everything
    with shop.db() as db:
        for table in tenant_tables(db):
            assert not db.execute(f"SELECT 1 FROM {table} x WHERE strpos(x::text, %s) > 0", [key[10:]]).fetchall(), table
    assert key[10:] not in "\n".join(shop.log_lines())
    assert made(owner.patch(f"/api/v1/admin/api-keys/{row['id']}", json={"name": "Other"}))["name"] == "Other"


def test_nobody_gives_away_what_they_do_not_have(shop):
    user = shop.value("SELECT id::text FROM shop.app_user WHERE tenant_id = 1 AND email = 'admin@example.com'")
    with shop.edge(token=shop.token(user, ["staff", "settings.write", "catalog.read"])) as edge:
        problem(edge.post("/api/v1/admin/api-keys", json={"kind": "secret", "name": "x", "scopes": ["orders.write"]}), 403,
                "forbidden")
        made(edge.post("/api/v1/admin/api-keys", json={"kind": "secret", "name": "x", "scopes": ["catalog.read"]}))


def test_revoking_acts_at_once_at_both_workers(shop, owner):
    key, row = key_of(owner, scopes=["settings.read"])
    with shop.edge(headers={"X-API-Key": key}) as edge:
        until(edge, 200, "/api/v1/admin/settings")
        made(owner.delete(f"/api/v1/admin/api-keys/{row['id']}"))
        until(edge, 401, "/api/v1/admin/settings")


def test_last_use_is_told_without_a_write_for_each(shop, owner):
    key, row = key_of(owner, scopes=["settings.read"])
    with shop.edge(headers={"X-API-Key": key}) as edge:
        until(edge, 200, "/api/v1/admin/settings")
        for _ in range(50):
            edge.get("/api/v1/admin/settings")
    used = "SELECT last_used_at, xmin::text AS x FROM shop.api_key_use WHERE key_id = %s"
    wait_for(lambda: shop.rows(used, row["id"]), 10, "the key's use is in PostgreSQL")
    assert made(owner.get(f"/api/v1/admin/api-keys/{row['id']}"))["last_used_at"]


# ---- settings and flags ----


def settings_of(edge, path="/api/v1/admin/settings"):
    answer = edge.get(path)
    made(answer)
    return answer.json(), answer.headers["ETag"]


def change(edge, patch, path="/api/v1/admin/settings"):
    return edge.patch(path, json=patch, headers={"If-Match": settings_of(edge, path)[1]})


def test_settings_are_typed(shop, owner):
    before, etag = settings_of(owner)
    assert before["reservation_ttl"] == 900 and before["currency"] == "USD"
    for bad in ({"reservation_ttl": 5}, {"reservation_ttl": "900"}, {"time_zone": "Mars/Olympus"}, {"locale": "english"},
                {"currency": "US"}, {"flags": {"Bad-Name": True}}, {"flags": {"x": "yes"}}, {"cors_origins": ["*"]},
                {"cors_origins": ["https://a.example/"]}, {"cors_origins": ["null"]}, {"mail_sender": {"email": "nobody"}},
                {"limits": {"orders": {"rate": "fast"}}}, {"unknown": 1}, {}):
        answer = owner.patch("/api/v1/admin/settings", json=bad, headers={"If-Match": etag})
        assert answer.status_code == 422, (bad, answer.text)
    problem(owner.patch("/api/v1/admin/settings", json={"currency": "EUR"}, headers={"If-Match": etag}), 409, "currency-in-use")
    problem(owner.patch("/api/v1/admin/settings", json={"locale": "de"}), 428, "if-match-required")
    assert owner.patch("/api/v1/admin/settings", json={"locale": "de"}, headers={"If-Match": '"999"'}).status_code == 412
    assert settings_of(owner)[0] == before

    after = made(change(owner, {"locale": "de-AT", "time_zone": "Europe/Vienna", "mail_sender": {"email": "shop@example.com", "name": "Shop"},
                                "flags": {"beta": True, "old": False}, "cors_origins": ["https://Shop.example"]}))
    assert (after["locale"], after["flags"], after["cors_origins"]) == ("de-AT", {"beta": True, "old": False}, ["https://shop.example"])
    after = made(change(owner, {"flags": {"old": None}, "mail_sender": None, "cors_origins": None}))
    assert (after["flags"], after["mail_sender"], after["cors_origins"]) == ({"beta": True}, None, [])
    made(change(owner, {"locale": "en", "time_zone": None, "flags": None}))


def test_settings_and_flags_are_variables(shop, seen, owner):
    with httpx.Client(base_url=seen, headers={"Host": "demo.localhost"}, verify=False) as c:
        wait_for(lambda: c.get("/api/v1/categories").headers["x-shop"] == "demo/en/off", 5, "the edge has heard of the test before")
        made(change(owner, {"locale": "fr", "flags": {"beta": True}}))
        wait_for(lambda: c.get("/api/v1/categories").headers["x-shop"] == "demo/fr/on", 5, "the edge has heard")
        acme = c.get("/api/v1/categories", headers={"Host": "acme.localhost"})
        assert acme.headers["x-shop"] == "acme/en/off"
        shop.expect_log("")
        shop.stop("postgres")
        try:        # nobody is asked
            assert c.get("/plain").text.startswith("demo 1")
            answer = c.get("/api/v1/orders")
            assert (answer.status_code, answer.headers["x-shop"]) == (401, "demo/fr/on")
        finally:
            shop.start("postgres")
        shop.ready()
        made(change(owner, {"locale": "en", "flags": None}))


def test_a_route_behind_a_flag(shop, owner):
    contract = shop.folder / "flags.json"
    done = {"openapi": "3.1.0", "info": {"title": "flags", "version": "1"}, "paths": {"/beta": {"get": {
        "operationId": "beta", "summary": "s", "tags": ["x"], "responses": {"200": {"description": "d"}},
        "x-commerce": {"auth": "public", "flag": "beta", "native": "health_live"}}}}}
    contract.write_text(json.dumps(done))
    for default, now in (("", 404), ("commerce_flag beta on;", 200)):
        shop.configure(http=f"commerce_contract {contract}; {default}")
        shop.reload()
        with shop.edge() as edge:
            until(edge, now, "/beta")
            made(change(owner, {"flags": {"beta": now == 404}}))
            until(edge, 200 if now == 404 else 404, "/beta")
            made(change(owner, {"flags": None}))
            until(edge, now, "/beta")
    done["paths"]["/beta"]["get"]["x-commerce"]["flag"] = "No Name"
    contract.write_text(json.dumps(done))
    shop.configure(http=f"commerce_contract {contract};")
    assert "must name a feature flag" in (refused := shop.check_conf()).stdout + refused.stderr
    shop.configure()
    shop.reload()


# ---- life ----


def test_life_of_a_tenant(shop, platform):
    slug = "life-" + secrets.token_hex(4)
    new = made(platform.post("/api/v1/platform/tenants", json={
        "slug": slug, "name": "Life", "currency": "CHF", "owner": {"email": "owner@example.com", "name": "Ow Ner"},
        "password": "correct horse", "settings": {"locale": "de-CH", "flags": {"beta": True}}}), 201)
    here = f"/api/v1/platform/tenants/{new['id']}"
    edge = shop.edge(headers={"Host": f"{slug}.localhost"})
    until(edge, 200)
    edge.login("owner@example.com", "correct horse")
    assert made(edge.get("/api/v1/admin/settings"))["currency"] == "CHF"
    made(edge.post("/api/v1/products", json={"name": "Thing", "slug": "thing", "sku": "t1", "stock": 3,
                                             "price": {"amount": 100, "currency": "CHF"}}))
    problem(platform.post("/api/v1/platform/tenants", json={"slug": slug, "name": "x", "currency": "CHF",
                                                            "owner": {"email": "a@example.com"}}), 409, "slug-taken")
    problem(platform.post("/api/v1/platform/tenants", json={"slug": "platform", "name": "x", "currency": "CHF",
                                                            "owner": {"email": "a@example.com"}}), 422, "slug-reserved")

    made(platform.post(here + "/suspend", json={"reason": "unpaid"}))
    for path in ("/api/v1/categories", "/api/v1/admin/settings", "/api/v1/cart", "/api/v1/products"):
        until(edge, 403, path)
        problem(edge.get(path), 403, "tenant-suspended")
    problem(edge.post("/api/v1/auth/login", json={"email": "owner@example.com", "password": "correct horse"}), 403, "tenant-suspended")
    made(platform.post(here + "/resume"))
    until(edge, 200, "/api/v1/admin/settings")

    listed = made(platform.get("/api/v1/platform/tenants", params={"search": slug}))["data"]
    assert [t["id"] for t in listed] == [new["id"]]
    first = made(platform.get("/api/v1/platform/tenants", params={"limit": 2}))
    rest = made(platform.get("/api/v1/platform/tenants", params={"limit": 100, "cursor": first["page"]["next"]}))
    assert [t["slug"] for t in first["data"]][:2] == ["demo", "acme"] and slug in [t["slug"] for t in rest["data"]]

    changed = made(change(platform, {"reservation_ttl": 60}, here + "/settings"))
    assert changed["reservation_ttl"] == 60 and changed["locale"] == "de-CH"
    log = [r["actor"] for r in shop.rows("SELECT actor FROM shop.audit_log WHERE tenant_id = %s AND actor LIKE 'platform:%%'", new["id"])]
    assert len(log) >= 4


def test_the_platform_is_for_its_own_staff(shop, owner):
    user = shop.value("SELECT id::text FROM shop.app_user WHERE tenant_id = 1 AND email = 'admin@example.com'")
    forged = shop.edge(tenant="demo", token=shop.token(user, ["staff", "owner", "platform"]))
    at_platform = shop.edge(tenant="platform", token=shop.token(user, ["staff", "owner", "platform"]))
    weak = shop.edge(tenant="platform", token=shop.token(user, ["staff", "owner"], TENANTS["platform"]))
    for edge, code in ((owner, "forbidden"), (forged, "forbidden"), (at_platform, "tenant-mismatch"), (weak, "forbidden")):
        problem(edge.get("/api/v1/platform/tenants"), 403, code)
        problem(edge.post("/api/v1/platform/tenants/1/suspend"), 403, code)
    with shop.db() as db:
        db.execute("SET SESSION AUTHORIZATION commerce_edge")
        with pytest.raises(Exception, match="staff of the platform"):
            with db.transaction():
                db.execute("SELECT api.begin_request(1, NULL, 'platform owner', '', '')")
                db.execute("SELECT api.tenant_suspend(1)")


def test_acting_for_a_tenant(shop, platform):
    problem(platform.post("/api/v1/platform/tenants/999999/token", json={"reason": "help"}), 404, "not-found")
    answer = made(platform.post("/api/v1/platform/tenants/2/token", json={"reason": "ticket 7"}))
    assert answer["expires_in"] <= 300
    claims = jwt.decode(answer["token"], options={"verify_signature": False})
    assert claims["act"] == {"sub": platform.user_id} and claims["tid"] == "2"
    with shop.edge(tenant="acme", token=answer["token"]) as edge:
        made(edge.post("/api/v1/categories", json={"name": "By the platform"}))
        problem(edge.get("/api/v1/platform/tenants"), 403, "forbidden")
    with shop.edge(tenant="demo", token=answer["token"]) as edge:
        problem(edge.get("/api/v1/admin/settings"), 403, "tenant-mismatch")
    actors = {(r["action"], r["actor"]) for r in shop.rows("SELECT action, actor FROM shop.audit_log WHERE tenant_id = 2")}
    assert ("tenant.act", f"platform:{platform.user_id}") in actors
    assert any(actor == f"platform:{platform.user_id}" and action != "tenant.act" for action, actor in actors)
    assert shop.rows("SELECT 1 FROM shop.audit_log WHERE tenant_id = 4 AND action = 'tenant.act' AND entity_id = '2'")


def test_host_names(shop, platform):
    demo, acme = shop.staff(), shop.staff("acme")
    host = f"www.shop-{secrets.token_hex(4)}.example"
    with shop.edge(headers={"Host": host}) as edge:
        claim = made(demo.post("/api/v1/admin/domains", json={"host": host.upper()}), 201)
        assert claim["host"] == host and claim["challenge"]["name"] == f"_commerce-challenge.{host}" and not claim["verified_at"]
        made(demo.post("/api/v1/admin/domains", json={"host": host}), 200)
        made(acme.post("/api/v1/admin/domains", json={"host": host}), 201)      # a claim takes nothing away
        waiting = made(platform.get("/api/v1/platform/domains"))["data"]
        assert {d["tenant_id"] for d in waiting if d["host"] == host} == {1, 2}
        assert {d["challenge"]["value"] for d in waiting if d["host"] == host and d["tenant_id"] == 1} == {claim["challenge"]["value"]}
        made(platform.post(f"/api/v1/platform/tenants/2/domains/{host}/verify"))
        problem(platform.post(f"/api/v1/platform/tenants/1/domains/{host}/verify"), 409, "domain-taken")
        problem(platform.post("/api/v1/platform/tenants/1/domains/other.example/verify"), 404, "not-found")
        token = acme.headers["Authorization"]
        wait_for(lambda: edge.get("/api/v1/admin/settings", headers={"Authorization": token}).status_code == 200, 5)
        problem(edge.get("/api/v1/admin/settings", headers={"Authorization": demo.headers["Authorization"]}), 403, "tenant-mismatch")
        made(acme.delete(f"/api/v1/admin/domains/{host}"))
        problem(acme.delete(f"/api/v1/admin/domains/{host}"), 404, "not-found")
        made(platform.post(f"/api/v1/platform/tenants/1/domains/{host}/verify"))
        wait_for(lambda: edge.get("/api/v1/admin/settings", headers={"Authorization": demo.headers["Authorization"]}).status_code == 200, 5)
        made(demo.delete(f"/api/v1/admin/domains/{host}"))


def walk(platform, path, limit, direction="next", cursor=None, **filters):
    """Pages in the order read; a platform's list is of all shops, so of those that other tests made, too."""
    pages = []
    while cursor or not pages:
        pages.append(made(platform.get(path, params={"limit": limit, **filters, **({"cursor": cursor} if cursor else {})})))
        cursor = pages[-1]["page"][direction]
    return pages


def export(platform, tenant):
    pages = walk(platform, f"/api/v1/platform/tenants/{tenant}/export", 7)
    return [row for page in pages for row in page["data"]], len(pages)


def test_lists_of_the_platform_go_back(shop, platform):
    word = secrets.token_hex(4)
    for n in range(5):
        slug = f"back-{word}-{n}"
        made(platform.post("/api/v1/platform/tenants", json={
            "slug": slug, "name": slug, "currency": "EUR", "owner": {"email": f"{slug}@example.com"}}), 201)
        made(shop.staff().post("/api/v1/admin/domains", json={"host": f"{slug}.example"}), 201)
    shop.rows("UPDATE shop.tenant SET status = 'suspended' WHERE slug = %s RETURNING id", f"back-{word}-2")
    new = shop.value("SELECT id FROM shop.tenant WHERE slug = %s", f"back-{word}-0")
    for path, limit, filters in (("/api/v1/platform/tenants", 2, {"search": word}), ("/api/v1/platform/tenants", 1, {"search": word, "status": "active"}),
                                 ("/api/v1/platform/domains", 2, {}), (f"/api/v1/platform/tenants/{new}/export", 1, {})):
        there = walk(platform, path, limit, **filters)
        assert len(there) > 2 and there[0]["page"]["prev"] is None and all(len(page["data"]) == limit for page in there[:-1])
        back = walk(platform, path, limit, "prev", there[-1]["page"]["prev"], **filters)
        assert [page["data"] for page in reversed(back)] == [page["data"] for page in there[:-1]], path
        assert all(page["page"]["next"] and page["page"]["has_more"] for page in back)
    listed = walk(platform, "/api/v1/platform/tenants", 2, search=word, status="active")
    assert [t["slug"] for page in listed for t in page["data"]] == [f"back-{word}-{n}" for n in (0, 1, 3, 4)]
    for n in range(5):
        made(shop.staff().delete(f"/api/v1/admin/domains/back-{word}-{n}.example"))


def test_an_export_is_complete(shop, platform):
    World(shop)         # something in most tables
    with shop.db() as db:
        tables = tenant_tables(db)
        assert len(tables) > 25

        def counts():
            return {t: db.execute(f"SELECT count(*) AS n FROM {t} WHERE tenant_id = 1").fetchone()["n"] for t in tables}

        def complete():
            """All of it, when nothing came meanwhile: consumers of events and housekeeping are at work."""
            before = counts()
            rows, pages = export(platform, 1)
            assert pages > 20
            assert {r["row"].get("tenant_id", 1) for r in rows} == {1}
            if counts() != before:
                return None
            for table in tables:
                mine = [r["row"] for r in rows if r["table"] == table]
                assert len({json.dumps(r, sort_keys=True) for r in mine}) == len(mine), table
                # asking writes: the platform's log, and nothing of demo's
                assert len(mine) == before[table], table
            return rows

        rows = wait_for(complete, 120)
        assert [r["row"]["slug"] for r in rows if r["table"] == "shop.tenant"] == ["demo"]


def test_the_end_of_a_tenant_takes_all_of_it_and_nothing_else(shop, platform):
    pictures = {t: Picture(shop, TENANTS[t]) for t in ("demo", "acme")}
    victim = 3
    here = f"/api/v1/platform/tenants/{victim}"
    edge = shop.edge(tenant="globex")
    staff = shop.staff("globex")
    made(staff.post("/api/v1/products", json={"name": "Doomed", "slug": "doomed", "sku": "d", "stock": 3,
                                              "price": {"amount": 100, "currency": "EUR"}}))
    key, _ = key_of(staff)
    made(staff.put("/api/v1/admin/payments/stripe/key", json={"secret": "sk_test_of_globex"}))
    problem(platform.delete(here, params={"confirm": "demo"}), 422, "not-confirmed")
    until(edge, 200)
    before = {name: p.sums() for name, p in pictures.items()}

    gone = made(platform.delete(here, params={"confirm": "globex"}), 202)
    assert gone["status"] == "deleted" and gone["erase_after"]
    until(edge, 403)
    made(platform.post(here + "/resume"))
    until(edge, 200)
    made(platform.delete(here, params={"confirm": "globex", "grace_days": 0}), 202)
    until(edge, 403)

    with shop.db() as db:
        tables = tenant_tables(db)
        assert sum(db.execute(f"SELECT count(*) AS n FROM {t} WHERE tenant_id = {victim}").fetchone()["n"] for t in tables) > 10

        def erased():
            db.execute("SELECT api.maintain(5)")       # in small pieces
            return not db.execute(f"SELECT 1 FROM shop.tenant WHERE id = {victim}").fetchall()

        # an event that nobody has had, and that the shop's own feed does not take meanwhile
        db.execute("SELECT api.relay_lease('a', '{}', 60000), set_config('commerce.tenant_id', %s, false)", (str(victim),))
        db.execute("SELECT domain.emit('product-events', 'ProductUpdated', 'product', 'late', '{}')")
        wait_for(erased, 30, "the tenant is erased")
        for table in tables:
            assert not db.execute(f"SELECT 1 FROM {table} WHERE tenant_id = {victim} LIMIT 1").fetchall(), table
        assert not db.execute("SELECT FROM event.unsent WHERE id NOT IN (SELECT id FROM event.outbox)").fetchall()
        db.execute("SELECT api.relay_leave('a')")
    for name, picture in pictures.items():
        assert not changes(before[name], picture.sums()), name
        picture.close()
    problem(platform.get(here), 404, "not-found")
    with shop.edge(headers={"X-API-Key": key}) as late:
        until(late, 401)


def test_every_table_can_be_erased_in_order(shop):
    """No table refers to one of a lower level, and none is in a circle."""
    levels = {r["name"]: r["level"] for r in shop.rows("SELECT * FROM domain.tenant_tables()")}
    with shop.db() as db:
        assert set(levels) == set(tenant_tables(db))
    assert max(levels.values()) < 20, "a circle of references"
    for f in shop.rows("SELECT conrelid::regclass::text AS a, confrelid::regclass::text AS b FROM pg_constraint WHERE contype = 'f' "
                       "AND conparentid = 0 AND conrelid <> confrelid"):
        if f["a"] in levels and f["b"] in levels:
            assert levels[f["a"]] < levels[f["b"]], f


def test_the_log_is_erased_with_its_tenant_only(shop):
    with shop.db() as db:
        db.execute("SET SESSION AUTHORIZATION commerce_owner")
        db.execute("SELECT set_config('commerce.tenant_id', '1', false), set_config('commerce.erasing', '1', false)")
        for statement in ("SELECT audit.erase(10)", "DELETE FROM audit.log", "DELETE FROM shop.audit_log"):
            with pytest.raises(Exception, match="erased only with|permission denied"):
                db.execute(statement)


# ---- what the edges know ----


def test_a_name_from_before_the_reload(shop):
    with shop.edge(tenant="acme") as edge:
        assert edge.get("/api/v1/categories").status_code == 200
        shop.stop("postgres")
        shop.expect_log("")
        try:
            shop.reload()
            # the directory outlives the worker that read it: who is asked for is known without PostgreSQL
            problem(edge.get("/api/v1/orders"), 401, "unauthorized")
            problem(edge.get("/api/v1/orders", headers={"X-API-Key": "sk_" + "A" * 43}), 401, "unauthorized")
        finally:
            shop.start("postgres")
        shop.ready()
        assert edge.get("/api/v1/products").status_code == 200


def test_without_postgresql_at_the_start_nothing_is_claimed(shop):
    shop.expect_log("")
    shop.stop("nginx", "postgres")
    shop.run("start", "nginx")
    try:
        with shop.edge(timeout=600) as edge:
            answer = edge.get("/api/v1/products")
            problem(answer, 503, "starting")
            assert answer.headers["Retry-After"]
    finally:
        shop.start("postgres")
    shop.ready()
    with shop.edge() as edge:
        assert edge.get("/api/v1/products").status_code == 200


def test_a_publisher_that_is_killed(shop, platform):
    """Workers are killed while the directory is written again and again: readers see one version or the next."""
    with shop.db() as db:
        db.execute("INSERT INTO shop.tenant (slug, name, settings) SELECT 'many-' || i, 'Many', jsonb_build_object('flags', "
                   "jsonb_build_object('f' || i, true)) FROM generate_series(1, 1500) i")
        with shop.edge(headers={"Host": "many-1500.localhost"}) as edge:
            until(edge, 200)
        for round_ in range(6):
            for i in range(20):
                db.execute("UPDATE shop.tenant SET locale = %s WHERE slug = %s", ["de" if round_ % 2 else "en", f"many-{i + 1}"])
            shop.kill_worker(round_ % 2)
            for host in ("many-1", "many-700", "many-1500", "demo"):
                with shop.edge(headers={"Host": f"{host}.localhost"}) as edge:
                    assert edge.get("/api/v1/categories").status_code == 200
        db.execute("UPDATE shop.tenant SET status = 'suspended' WHERE slug = 'many-700'")
        with shop.edge(headers={"Host": "many-700.localhost"}) as edge:
            until(edge, 403)
        with shop.edge(headers={"Host": "many-1.localhost"}) as edge:
            assert not edge.get("/api/v1/categories").json()["data"]
            take_away(db, "many-%")
            # the host is nobody's again, hence the default's
            wait_for(lambda: edge.get("/api/v1/categories").json()["data"], 30)


def test_a_zone_that_is_too_small_says_so(shop):
    with shop.configured(http="commerce_tenant_zone 1m;"):
        with shop.db() as db:
            db.execute("INSERT INTO shop.tenant (slug, name, settings) SELECT 'big-' || i, 'Big', jsonb_build_object('mail_sender', "
                       "repeat('x', 1000)) FROM generate_series(1, 1000) i")
            shop.expect_log("raise commerce_tenant_zone")
            wait_for(lambda: "does not fit: raise commerce_tenant_zone" in "\n".join(shop.log_lines()), 30)
            with shop.edge(tenant="demo") as edge:
                assert edge.get("/api/v1/categories").status_code == 200
            take_away(db, "big-%")
