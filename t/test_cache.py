"""The response cache (B16, C10) and the list of tenants: what is kept, what voids it, what survives."""

import concurrent.futures
import pathlib
import threading

import httpx
import pytest

from stack import wait_for

CONTRACTS = pathlib.Path(__file__).parent / "contracts"


@pytest.fixture(scope="module", autouse=True)
def cached(shop):
    """Loads t/contracts/cached.yaml beside the shop's contract."""
    with shop.db() as db:
        db.execute((CONTRACTS / "cached.sql").read_text())
    bundle = shop.folder / "cached.json"
    bundle.write_text(shop.run("bundle", CONTRACTS / "cached.yaml", script="scripts/contract").stdout)
    shop.stop("nginx")
    shop.configure(http=f"commerce_contract {bundle};")
    shop.start("nginx")


def made(shop, number, tenant=None, **params):
    """When the answer was made, over a connection of its own: any worker may serve it."""
    with shop.edge(tenant=tenant) as edge:
        answer = edge.get(f"/api/v1/cached/{number}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["made"]


def void(shop, payload):
    with shop.db() as db:
        db.execute("SELECT pg_notify('commerce_invalidate', %s)", [payload])


def test_an_answer_is_made_once_for_all_workers(shop):
    assert len({made(shop, 1) for _ in range(20)}) == 1
    assert made(shop, 1, bytes=5) != made(shop, 1), "other parameters are another answer"


def test_tenants_do_not_share(shop):
    with shop.edge(tenant="demo") as demo, shop.edge(tenant="acme") as acme:
        first, second = demo.get("/api/v1/cached/2").json(), acme.get("/api/v1/cached/2").json()
    assert (first["tenant"], second["tenant"]) == (1, 2)
    assert first["made"] != second["made"]
    void(shop, "1:cached:2")
    wait_for(lambda: made(shop, 2, "demo") != first["made"], 5, "tenant 1's is void")
    assert made(shop, 2, "acme") == second["made"]


def test_a_reply_voids_at_once(shop):
    for _ in range(10):
        before = made(shop, 3)
        with shop.edge() as edge:
            assert edge.post("/api/v1/cached/3/void").status_code == 200
        assert made(shop, 3) != before


def test_what_a_worker_keeps_for_itself_is_void_with_it(shop):
    for _ in range(3):
        # enough for every worker to keep it, over connections that stay with one and such that do not
        with shop.edge() as edge:
            before = {edge.get("/api/v1/cached/14").json()["made"] for _ in range(40)} | {made(shop, 14) for _ in range(40)}
            assert len(before) == 1
            assert edge.post("/api/v1/cached/14/void").status_code == 200
            after = {edge.get("/api/v1/cached/14").json()["made"] for _ in range(20)} | {made(shop, 14) for _ in range(20)}
        # two workers may each make it anew at the same moment
        assert not after & before


def test_a_notice_of_a_write_voids(shop):
    before, other = made(shop, 4), made(shop, 5)
    with shop.edge() as edge:
        assert edge.post("/api/v1/cached/4/notify").status_code == 200
    wait_for(lambda: made(shop, 4) != before, 5)
    assert made(shop, 5) == other


def test_a_notice_of_any_session_voids_by_any_tag(shop):
    before = made(shop, 6), made(shop, 7)
    void(shop, "1:cached:6")
    wait_for(lambda: made(shop, 6) != before[0], 5)
    assert made(shop, 7) == before[1]
    void(shop, "1:cached")
    wait_for(lambda: made(shop, 7) != before[1], 5)


def test_conditional_requests_are_answered_from_the_cache(shop):
    with shop.edge() as edge:
        first = edge.get("/api/v1/cached/8")
        again = edge.get("/api/v1/cached/8", headers={"If-None-Match": first.headers["etag"]})
        other = edge.get("/api/v1/cached/8", headers={"If-None-Match": '"other"'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (other.status_code, other.json()["made"]) == (200, first.json()["made"])


def test_time_is_over(shop):
    def short():
        with shop.edge() as edge:
            return edge.get("/api/v1/cached/9/short").json()["made"]
    # for a second, which a machine that stands still may spend between two requests
    first = wait_for(lambda: (made := short()) == short() and made, 10, "one answer twice")
    wait_for(lambda: short() != first, 5, "a new answer after a second")


def test_large_answers_are_served_and_not_kept(shop):
    assert made(shop, 10, bytes=200000) == made(shop, 10, bytes=200000)
    assert made(shop, 10, bytes=300000) != made(shop, 10, bytes=300000)


@pytest.mark.parametrize("zone, said", [("1k", "at least 1m"), ("64m far=1m", "near=4m"), ("64m near=much", "near=4m")])
def test_a_wrong_zone_names_the_cure(shop, zone, said):
    shop.expect_log(said)
    shop.configure(replace=[(r"commerce_cache_zone\s+\d+m", f"commerce_cache_zone {zone}")])
    done = shop.check_conf()
    shop.configure(http=f"commerce_contract {shop.folder / 'cached.json'};")
    assert done.returncode and said in done.stdout + done.stderr, done.stdout + done.stderr


def test_a_reload_keeps_what_is_cached(shop):
    before, kept = made(shop, 11), 0
    # workers that are half a second late, as on a machine with other things to do, begin with an empty cache
    for _ in range(40):
        shop.reload()
        after = made(shop, 11)
        kept += after == before
        before = after
        if kept == 2:
            break
    assert kept == 2
    void(shop, "1:cached:11")
    wait_for(lambda: made(shop, 11) != before, 5, "the new listener hears")


def test_a_lost_listener_voids_everything(shop):
    before = made(shop, 12)
    # one that a reload has replaced may still be there for a second
    listeners = "SELECT count({}) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
    wait_for(lambda: shop.value(listeners.format("pid")) == 1, 10, "one worker listens")
    assert shop.value(listeners.format("pg_terminate_backend(pid)")) == 1
    wait_for(lambda: made(shop, 12) != before, 10)


def test_a_new_host_and_a_suspended_tenant_are_noticed(shop):
    def status(host):
        with shop.edge() as edge:
            return edge.get("/api/v1/cached/13", headers={"Host": host}).status_code

    def tenant(host):
        with shop.edge() as edge:
            return edge.get("/api/v1/cached/13", headers={"Host": host}).json().get("tenant")

    with shop.db() as db:
        db.execute("INSERT INTO shop.tenant_host (host, tenant_id) VALUES ('shop.example', 2)")
        wait_for(lambda: tenant("shop.example") == 2, 5)
        assert tenant("SHOP.example:8080") == 2
        db.execute("UPDATE shop.tenant SET status = 'suspended' WHERE id = 2")
        wait_for(lambda: status("shop.example") == 403, 5)
        db.execute("UPDATE shop.tenant SET status = 'active' WHERE id = 2")
        wait_for(lambda: status("shop.example") == 200, 5)
        db.execute("DELETE FROM shop.tenant_host WHERE host = 'shop.example'")
        wait_for(lambda: tenant("shop.example") == 1, 5, "the server's default tenant again")


@pytest.mark.slow
def test_workers_killed_while_they_write_leave_whole_answers(shop):
    """Answers of all sizes are made and voided all the time; every one that arrives is what was written."""
    stop = threading.Event()
    counts, wrong = [], []

    def run(seed):
        n = seed
        while not stop.is_set():
            n += 1
            number, size = 100 + n % 60, (n * 7919) % 120000
            try:
                with shop.edge() as edge:
                    for _ in range(20):
                        body = edge.get(f"/api/v1/cached/{number}", params={"bytes": size}).json()
                        if body["id"] != number or body["pad"] != chr(97 + number % 26) * size:
                            wrong.append((number, size))
                        counts.append(1)
                        n += 1
                        number, size = 100 + n % 60, (n % 50) * 2400
            except httpx.HTTPError:
                continue

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(run, i * 1000) for i in range(4)]
        try:
            for i in range(8):
                seen = len(counts)
                wait_for(lambda seen=seen: len(counts) > seen + 50, 20)
                shop.kill_worker(i % 2)
        finally:
            stop.set()
        for job in jobs:
            job.result()
    assert not wrong, wrong[:5]
    wait_for(lambda: made(shop, 14) == made(shop, 14), 5, "the cache still keeps answers")
