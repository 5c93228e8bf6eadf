"""Information and health (B9, B10, B11, B13): what they say is true."""

import re

import pytest

from stack import frozen_postgres, wait_for


def get(shop, path):
    with shop.edge() as edge:
        return edge.get(path)


def told(shop, path, *names):
    """{(status, member)} as all workers tell them."""
    found = set()
    with shop.each_worker() as edges:
        for edge in edges.values():
            answer = edge.get(path)
            body = answer.json()
            for name in names:
                body = body[name]
            found.add((answer.status_code, body))
    return found


def test_information(shop):
    answer = get(shop, "/")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["name"], body["environment"]) == ("nginx-commerce", "development")
    for path in body["links"].values():
        assert get(shop, path).status_code == 200, path
    assert body["operations"] == sum(
        method in ("get", "post", "put", "patch", "delete")
        for operations in shop.contract["paths"].values() for method in operations)
    build = get(shop, "/info").json()
    assert build["version"] == body["version"]
    assert re.fullmatch(r"1\.\d+\.\d+", build["nginx"])


def test_health_of_a_whole_shop(shop):
    # a worker is ready before Redis serves it
    wait_for(lambda: told(shop, "/health", "status") == {(200, "healthy")}, 20, "nothing is missing")
    body = get(shop, "/health").json()
    assert body["status"] == "healthy"
    assert body["checks"] == {"database": "healthy", "cache": "healthy", "ml_engine": "not_trained"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    ready = get(shop, "/health/ready")
    services = ready.json()["services"]
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert services.pop("kafka_consumer") is False and ready.json()["disabled"] == ["kafka_consumer"]
    assert set(services.values()) == {True}, services
    assert get(shop, "/health/live").json() == {"status": "alive"}


@pytest.mark.parametrize("path", ["/", "/info", "/health", "/health/ready", "/health/live"])
def test_no_tenant_no_account_no_store(shop, path):
    with shop.edge() as edge:
        answer = edge.get(path, headers={"Host": "nobody.example"})
    assert answer.status_code == 200
    assert "no-store" in answer.headers["cache-control"]
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.slow
def test_a_database_that_hangs_is_noticed(shop):
    shop.expect_log(r"PostgreSQL .* connection lost")
    with shop.configured(deadlines=True):
        with frozen_postgres(shop):
            # each worker learns it by itself
            wait_for(lambda: told(shop, "/health/ready", "services", "postgres") == {(503, False)}, 10, "readiness says no")
            wait_for(lambda: told(shop, "/health", "checks", "database") == {(503, "unhealthy")}, 20, "both lanes are given up")
            assert get(shop, "/health/live").status_code == 200
        wait_for(lambda: told(shop, "/health", "status") == {(200, "healthy")}, 20)
        wait_for(lambda: told(shop, "/health/ready", "status") == {(200, "ready")}, 20)


@pytest.mark.slow
def test_without_redis_the_shop_is_degraded_and_ready(shop):
    shop.kill("redis")
    try:
        wait_for(lambda: told(shop, "/health/ready", "services", "redis") == {(200, False)}, 10)
        wait_for(lambda: told(shop, "/health/ready", "status") == {(200, "degraded")}, 10)
        wait_for(lambda: told(shop, "/health", "status") == {(200, "degraded")}, 10)
        wait_for(lambda: told(shop, "/health", "checks", "cache") == {(200, "degraded")}, 10)
    finally:
        shop.start("redis")
    wait_for(lambda: told(shop, "/health/ready", "status") == {(200, "ready")}, 20)
