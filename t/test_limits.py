"""Rate limits through the edge."""

import re

import pytest

from stack import ROOT

LOGIN = "/api/v1/auth/login"
PROFILE = "/api/v1/users/profile"


def limit(answer, policy):
    """(r, t) of the policy in the answer's RateLimit, and (q, w) in its RateLimit-Policy."""
    left = re.search(rf'"{policy}";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
    quota = re.search(rf'"{policy}";q=(\d+);w=(\d+)', answer.headers["ratelimit-policy"])
    assert left and quota, answer.headers
    return int(left[1]), int(left[2]), int(quota[1]), int(quota[2])


@pytest.fixture
def strict(shop):
    with shop.configured(limits=True):
        yield shop


def test_login_per_address_and_account(shop):
    """Five a minute, as conf/limits.conf has it, without the burst that it forgives."""
    text = (ROOT / "conf" / "limits.conf").read_text()
    rate = re.search(r"commerce_limit_policy\s+login\s+key=ip_user\s+rate=(\S+)", text)[1]
    assert rate == "5r/m"
    with shop.configured(limits=True):
        (shop.conf / "limits.conf").write_text(re.sub(r"(login\s+key=ip_user\s+rate=5r/m\s+)burst=\d+", r"\1burst=5", text))
        shop.run("stop", "nginx")
        shop.start("nginx")
        login_per_address_and_account(shop)


def login_per_address_and_account(strict):
    with strict.edge() as edge:
        for n in range(5):
            answer = edge.post(LOGIN, json={"email": "victim@example.com", "password": "guess"})
            assert answer.status_code == 401
            assert limit(answer, "login") == (4 - n, pytest.approx(12 * (n + 1), abs=5), 5, 60)

        for _ in range(3):
            answer = edge.post(LOGIN, json={"email": "Victim@Example.com", "password": "guess"})
            assert answer.status_code == 429
            body = answer.json()
            assert body["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
            assert body["violated-policies"] == ["login"]
            r, t, _, _ = limit(answer, "login")
            assert r == 0 and 1 <= t <= 12
            assert int(answer.headers["retry-after"]) >= t

        # another account, and another shop's account of the same name
        answer = edge.post(LOGIN, json={"email": "other@example.com", "password": "guess"})
        assert answer.status_code == 401
        assert limit(answer, "login")[0] == 4
        with strict.edge(tenant="acme") as acme:
            assert acme.post(LOGIN, json={"email": "victim@example.com", "password": "guess"}).status_code == 401

        # a reload and a dead worker change nothing
        strict.reload()
        assert edge.post(LOGIN, json={"email": "victim@example.com", "password": "guess"}).status_code == 429
        strict.kill_worker()
        for _ in range(4):
            with strict.edge() as fresh:
                assert fresh.post(LOGIN, json={"email": "victim@example.com", "password": "guess"}).status_code == 429


def test_quota_is_exact_over_all_workers(shop):
    """Thirty connections over two workers: what passes is the quota, not one more."""
    (_, token), (_, other) = shop.customers(2)
    with shop.configured(limits=True, replace=[(r"include\s+\S+/limits\.conf;",
                                                "commerce_limit_zone 1m;\n    commerce_limit_policy user key=user rate=60r/h;")]):
        answers = []
        for _ in range(30):
            with shop.edge(token=token) as edge:
                answers += [edge.get(PROFILE) for _ in range(3)]

        passed = [a for a in answers if a.status_code == 200]
        assert len(passed) == 60
        assert {a.status_code for a in answers[60:]} == {429}
        assert [limit(a, "user")[0] for a in passed] == list(range(59, -1, -1))
        assert limit(answers[0], "user") == (59, 60, 60, 3600)

        # whose quota it is, is told by the token, not by the connection
        with shop.edge(token=other) as edge:
            assert edge.get(PROFILE).status_code == 200


def test_dry_run_refuses_nobody(shop):
    (_, token), = shop.customers(1)
    with shop.configured(limits=True, replace=[
            (r"include\s+\S+/limits\.conf;",
             "commerce_limit_zone 1m;\n    commerce_limit_policy user key=user rate=2r/h dry_run;"),
            (r"(error_log\s+\S+\s+)warn;", r"\1notice;")]), shop.edge(token=token) as edge:
        answers = [edge.get(PROFILE) for _ in range(5)]
        assert [a.status_code for a in answers] == [200] * 5
        assert limit(answers[4], "user")[0] == 0
        lines = [line for line in shop.log_lines() if 'limit "user" would have refused' in line]
        assert len(lines) == 3
