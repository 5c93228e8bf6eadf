"""Rate limits through the edge: the shipped ones, exact counts, what they survive."""

import re
import time
import uuid

import pytest

from stack import TENANTS, source_address, wait_for

LOGIN = "/api/v1/auth/login"
PROFILE = "/api/v1/users/profile"
PRODUCT = "/api/v1/products/1"
TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"
INCLUDE = r"include\s+\S+/limits\.conf;"


def limit(answer, policy):
    """(r, t) of the policy in the answer's RateLimit, and (q, w) in its RateLimit-Policy."""
    left = re.search(rf'"{policy}";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
    quota = re.search(rf'"{policy}";q=(\d+);w=(\d+)', answer.headers["ratelimit-policy"])
    assert left and quota, answer.headers
    return int(left[1]), int(left[2]), int(quota[1]), int(quota[2])


def refused(answer, policy):
    assert answer.status_code == 429, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == TYPE and body["status"] == 429
    assert body["violated-policies"] == [policy]
    r, t, _, _ = limit(answer, policy)
    assert r == 0 and t >= 1
    assert int(answer.headers["retry-after"]) == t == body["retry_after"]
    assert len(answer.headers.get_list("retry-after")) == 1
    return t


def ask(shop, address, method="GET", path=PRODUCT, **options):
    """One request on a connection of its own, from this address."""
    with shop.edge(address=address) as edge:
        return edge.request(method, path, **options)


def login(shop, address, email="victim@example.com", tenant="demo"):
    return ask(shop, address, "POST", LOGIN, json={"email": email, "password": "guess"},
               headers={"Host": f"{tenant}.localhost"})


@pytest.fixture(scope="module")
def strict(shop):
    """The limits as conf/limits.conf ships them."""
    with shop.configured(limits=True):
        yield shop


def test_seventy_quick_requests_of_one_address(strict):
    """Over two workers, on new connections, over several public routes: exactly 60 pass."""
    address = source_address()
    paths = [PRODUCT, "/api/v1/categories", "/info", "/api/products/1"]
    begun = time.monotonic()
    answers = [ask(strict, address, path=paths[i % len(paths)]) for i in range(70)]
    took = time.monotonic() - begun

    # one comes back each second, should the machine be that slow
    passed = [a for a in answers if a.status_code != 429]
    assert {a.status_code for a in passed} == {200}
    assert min(70, 60 + int(took + 0.5)) >= len(passed) >= 60
    assert limit(answers[0], "ip")[0] == 59 and limit(answers[0], "ip")[2:] == (60, 60)
    refused(wait_for(lambda: (a := ask(strict, address)).status_code == 429 and a, 20, "a refusal"), "ip")

    # the neighbour's quota is whole, and health has none
    assert ask(strict, source_address()).status_code == 200
    health = ask(strict, address, path="/health/live")
    assert health.status_code == 200 and "ratelimit" not in health.headers


def test_login_per_address_and_account(strict):
    address = source_address()
    begun = time.monotonic()
    answers = [login(strict, address) for _ in range(5)]
    assert [a.status_code for a in answers] == [401] * 5
    r, t, q, w = limit(answers[0], "login")
    assert (r, q, w) == (4, 5, 60) and 0 < t <= 12
    assert limit(answers[0], "ip")[2:] == (60, 60)

    # one comes back every twelve seconds, should the machine be that slow
    passed = [a.status_code for a in (login(strict, address, "Victim@Example.com") for _ in range(6))].count(401)
    assert passed <= int(time.monotonic() - begun) // 12
    assert refused(wait_for(lambda: (a := login(strict, address)).status_code == 429 and a, 20, "a refusal"), "login") <= 12

    # another account, another shop's account of the same name, another address
    assert limit(login(strict, address, "other@example.com"), "login")[0] == 4
    assert login(strict, address, tenant="acme").status_code == 401
    assert login(strict, source_address()).status_code == 401


def test_orders_per_customer(strict):
    (_, token), (_, other) = strict.customers(2)
    begun = time.monotonic()
    bodies = [strict.edge(token=token).post("/api/v1/orders", json={"items": []}) for _ in range(11)]
    assert [a.status_code for a in bodies[:10]].count(429) == 0
    # one comes back every six seconds, should the machine be that slow
    if time.monotonic() - begun < 6:
        refused(bodies[10], "orders")
    wait_for(lambda: (a := strict.edge(token=token).post("/api/v1/orders", json={"items": []})).status_code == 429
             and refused(a, "orders"), 20, "a refusal")
    assert strict.edge(token=other).post("/api/v1/orders", json={"items": []}).status_code != 429


def test_neither_reload_nor_a_dead_worker_nor_a_restart_forgives(shop):
    """What counts in Redis survives nginx; the rest survives everything but its end."""
    # nothing of a quota comes back meanwhile, however slow the machine is
    with shop.configured(replace=[(INCLUDE, "commerce_limit_zone 1m;\n"
                                            "commerce_limit_policy login key=ip_user burst=5 window=5d cluster;\n"
                                            "commerce_limit_policy ip key=ip burst=20 window=20d;")]):
        one, two = source_address(), source_address()
        for _ in range(5):
            assert login(shop, one).status_code == 401
        for _ in range(20):
            assert ask(shop, two).status_code == 200

        shop.reload()
        refused(login(shop, one), "login")
        shop.kill_worker()
        for _ in range(4):
            refused(login(shop, one), "login")
            refused(ask(shop, two), "ip")

        shop.stop("nginx")
        shop.start("nginx")
        refused(login(shop, one), "login")
        assert ask(shop, two).status_code == 200


def test_quota_is_exact_over_all_workers(shop):
    """Thirty connections over two workers: what passes is the quota, not one more."""
    (_, token), (_, other) = shop.customers(2)
    with shop.configured(replace=[(INCLUDE, "commerce_limit_zone 1m;\n    commerce_limit_policy user key=user burst=60 window=60d;")]):
        answers = []
        for _ in range(30):
            with shop.edge(token=token) as edge:
                answers += [edge.get(PROFILE) for _ in range(3)]

        passed = [a for a in answers if a.status_code == 200]
        assert len(passed) == 60
        assert {a.status_code for a in answers[60:]} == {429}
        assert [limit(a, "user")[0] for a in passed] == list(range(59, -1, -1))
        assert limit(answers[0], "user") == (59, 86400, 60, 60 * 86400)

        # whose quota it is, is told by the token, not by the connection
        with shop.edge(token=other) as edge:
            assert edge.get(PROFILE).status_code == 200


def test_dry_run_refuses_nobody(shop):
    (_, token), = shop.customers(1)
    with shop.configured(replace=[
            (INCLUDE, "commerce_limit_zone 1m;\n    commerce_limit_policy user key=user rate=2r/h dry_run;"),
            (r"(error_log\s+\S+\s+)warn;", r"\1notice;")]), shop.edge(token=token) as edge:
        answers = [edge.get(PROFILE) for _ in range(5)]
        assert [a.status_code for a in answers] == [200] * 5
        assert limit(answers[4], "user")[0] == 0
        lines = [line for line in shop.log_lines() if 'limit "user" would have refused' in line]
        assert len(lines) == 3


def test_a_shop_sets_its_own_rate(shop):
    """limits.<policy> of the tenant's settings, for policies with "override" and for that shop only; others do not listen."""
    admin = shop.value("SELECT u.id::text FROM shop.app_user u JOIN shop.tenant t ON t.id = u.tenant_id "
                       "WHERE t.slug = 'acme' AND u.email = 'admin@example.com'")
    with shop.configured(replace=[(INCLUDE, "commerce_limit_zone 1m;\n"
                                            "commerce_limit_policy user key=user rate=5r/h override;\n"
                                            "commerce_limit_policy ip key=ip rate=1000r/h;")]):
        def orders(tenant, count):
            with shop.edge(tenant=tenant, token=shop.token(uuid.uuid4(), ["customer"], TENANTS[tenant])) as edge:
                return [edge.get("/api/v1/orders") for _ in range(count)]

        def settings(limits):
            with shop.edge(tenant="acme", token=shop.token(admin, ["staff", "owner"], 2)) as owner:
                etag = owner.get("/api/v1/admin/settings").headers["etag"]
                answer = owner.patch("/api/v1/admin/settings", json={"limits": limits}, headers={"If-Match": etag})
                assert answer.status_code == 200, answer.text

        def told(tenant):
            return orders(tenant, 1)[0].headers["ratelimit-policy"]

        assert told("acme") == '"user";q=5;w=3600'
        settings({"user": {"rate": "2r/m", "burst": 3}, "ip": {"rate": "1r/m"}})
        wait_for(lambda: told("acme") == '"user";q=3;w=90', 10, "the edge has heard")
        answers = orders("acme", 5)
        assert [a.status_code for a in answers] == [200] * 3 + [429] * 2
        refused(answers[4], "user")
        assert [a.status_code for a in orders("demo", 7)] == [200] * 5 + [429] * 2
        assert limit(ask(shop, source_address(), headers={"Host": "acme.localhost"}), "ip")[2] == 1000
        settings({"user": None, "ip": None})
        wait_for(lambda: told("acme") == '"user";q=5;w=3600', 10, "the edge has heard")
