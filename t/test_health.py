"""Information and health (B9, B10, B11, B13): what they say is true."""

import os
import pathlib
import re
import signal

import pytest

from stack import wait_for


def get(shop, path):
    with shop.edge() as edge:
        return edge.get(path)


def tree(pid):
    children = [int(c) for c in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *children]


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
    body = get(shop, "/health").json()
    assert body["status"] == "healthy"
    assert body["checks"] == {"database": "healthy", "cache": "healthy", "ml_engine": "disabled"}
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
    postmaster = int((shop.folder / "postgres" / "postmaster.pid").read_text().split()[0])
    pids = tree(postmaster)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: get(shop, "/health/ready").status_code == 503, 6, "readiness says no")
        assert get(shop, "/health/ready").json()["services"]["postgres"] is False
        wait_for(lambda: get(shop, "/health").status_code == 503, 20, "both lanes are given up")
        assert get(shop, "/health").json()["checks"]["database"] == "unhealthy"
        assert get(shop, "/health/live").status_code == 200
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: get(shop, "/health").json()["status"] == "healthy", 20)
    assert get(shop, "/health/ready").json()["status"] == "ready"


@pytest.mark.slow
def test_without_redis_the_shop_is_degraded_and_ready(shop):
    shop.kill("redis")
    try:
        wait_for(lambda: get(shop, "/health/ready").json()["services"]["redis"] is False, 10)
        ready = get(shop, "/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        health = get(shop, "/health")
        assert (health.status_code, health.json()["status"], health.json()["checks"]["cache"]) == \
            (200, "degraded", "degraded")
    finally:
        shop.start("redis")
    wait_for(lambda: get(shop, "/health/ready").json()["status"] == "ready", 20)
