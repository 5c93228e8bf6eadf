"""The circuit breakers that all workers share: told by /health, logged once, and never stuck."""

import pytest

from stack import frozen_postgres, wait_for


def breakers(shop):
    with shop.edge() as edge:
        return edge.get("/health").json()["breakers"]


def changes(shop, backend):
    return [("open" if "is open" in line else "closed") for line in shop.log_lines()
            if "circuit breaker" in line and backend in line]


CLOSED = {"read": "closed", "write": "closed", "slow": "closed", "redis": "closed"}


@pytest.mark.slow
def test_postgres_is_stopped_and_comes_back(shop):
    assert breakers(shop) == CLOSED
    before = {name: len(changes(shop, f'"{name}"')) for name in ("read", "write", "slow")}
    shop.kill("postgres")
    try:
        wait_for(lambda: "closed" not in (breakers(shop)[n] for n in ("read", "write", "slow")), 20, "they open")
        assert breakers(shop)["redis"] == "closed"
        # told at once by either worker, new ones too
        shop.kill_worker()
        for _ in range(8):
            with shop.edge() as edge:
                answer = edge.get("/api/v1/products?limit=7")
                assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    finally:
        shop.start("postgres")
    wait_for(lambda: breakers(shop) == CLOSED, 20, "they close")
    shop.ready()
    for name, count in before.items():
        wait_for(lambda n=name, c=count: len(changes(shop, f'"{n}"')) >= c + 2, 10, "both changes are logged")
        assert changes(shop, f'"{name}"')[count:] == ["open", "closed"], "each change is logged by one worker"


@pytest.mark.slow
def test_a_worker_dies_while_it_tries(shop):
    """PostgreSQL takes connections and says nothing: the try lasts, and who tries is killed. Both workers, several times."""
    with shop.configured(deadlines=True):
        with frozen_postgres(shop):
            wait_for(lambda: breakers(shop)["read"] != "closed", 60, "it opens")
            for n in range(4):
                wait_for(lambda: breakers(shop)["read"] == "half-open", 60, "somebody tries")
                shop.kill_worker(n % 2)
                shop.kill_worker(0)
        wait_for(lambda: breakers(shop) == CLOSED, 60, "it closes")
        shop.ready()
        with shop.edge() as edge:
            assert edge.get("/api/v1/products?limit=7").status_code == 200


@pytest.mark.slow
def test_redis_is_stopped_and_comes_back(shop):
    count = len(changes(shop, "redis"))
    shop.kill("redis")
    try:
        wait_for(lambda: breakers(shop)["redis"] != "closed", 20, "it opens")
        assert {**breakers(shop), "redis": "closed"} == CLOSED
        customer = shop.user()
        assert customer.get("/api/v1/cart").status_code == 200, "carts live in PostgreSQL meanwhile"
    finally:
        shop.start("redis")
    wait_for(lambda: breakers(shop)["redis"] == "closed", 20, "it closes")
    wait_for(lambda: len(changes(shop, "redis")) >= count + 2, 10, "both changes are logged")
    assert changes(shop, "redis")[count:] == ["open", "closed"]


@pytest.mark.slow
def test_one_worker_without_connections_opens_nothing(shop):
    """Connections that the server ends are made anew; the breaker is for a server that is gone."""
    before = len(changes(shop, "lane"))
    for _ in range(5):
        shop.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'commerce_edge' AND random() < 0.5")
        shop.expect_log(r"PostgreSQL .* connection lost")
        wait_for(lambda: breakers(shop) == CLOSED, 10)
    shop.ready()
    assert len(changes(shop, "lane")) == before
