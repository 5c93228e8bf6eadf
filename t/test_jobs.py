"""Jobs: SQL functions that a worker calls again and again, and the calls that they ask for."""

import json
import pathlib

import pytest

import peer as peers
from stack import NO_MAIL, free_ports, wait_for

HERE = pathlib.Path(__file__).parent
PATIENCE = 60


@pytest.fixture(scope="module")
def there(shop):
    with shop.db() as db:
        db.execute((HERE / "contracts" / "fetch.sql").read_text())
    plain, mail = free_ports(2)
    with peers.Peer(plain) as here, peers.Mailbox(mail) as box:
        here.box = box
        here.conf = f"commerce_mail_server smtp://127.0.0.1:{mail};"
        yield here


def put(shop, count, tenant=1, mail=False, **call):
    """So many pieces of work, each told as work-<id>."""
    call = {"guard": "none", "then": "api.probe_job_told", **call}
    # at once: the job takes what it sees
    with shop.db() as db, db.transaction():
        rows = db.execute(
            "INSERT INTO shop.probe_work (tenant, edge, mail) SELECT %s, %s, %s FROM generate_series(1, %s) RETURNING id",
            (tenant, json.dumps(call), mail, count)).fetchall()
        db.execute("UPDATE shop.probe_work SET edge = edge || jsonb_build_object('args', jsonb_build_object('work', id)) "
                   "WHERE id = ANY (%s)", [[row["id"] for row in rows]])
    return [row["id"] for row in rows]


def told(shop, ids):
    return shop.rows("SELECT tag, tenant, status, error, called FROM shop.probe_call WHERE tag = ANY(%s)",
                     [f"work-{i}" for i in ids])


def rounds(shop):
    return shop.value("SELECT count(*) FROM shop.probe_round")


def test_each_piece_of_work_is_done_once(shop, there):
    ids = put(shop, 30, url=f"{there.url}/echo") + put(shop, 30, tenant=2, url=f"{there.url}/echo")
    with shop.configured(http="commerce_job probe call=api.probe_job interval=100ms batch=7;"):
        wait_for(lambda: len(told(shop, ids)) == 60, PATIENCE, "all are told")
        assert sorted(r["tenant"] for r in told(shop, ids)) == ["1"] * 30 + ["2"] * 30
        assert all(r["status"] == 200 and r["called"] == r["tag"].replace("work", "job") for r in told(shop, ids))
        # a worker's death moves the job to its successor
        shop.kill_worker(0)
        shop.kill_worker(0)
        more = put(shop, 5, url=f"{there.url}/echo")
        wait_for(lambda: len(told(shop, more)) == 5, PATIENCE, "the successor goes on")
    assert len(told(shop, ids)) == 60
    assert shop.value("SELECT max(taken) FROM shop.probe_work") == 1


def test_more_and_a_knock_come_before_the_interval(shop, there):
    before = rounds(shop)
    began = shop.value("SELECT clock_timestamp()")
    with shop.configured(http="commerce_job probe call=api.probe_job interval=1h batch=2;"):
        # the first round comes soon whatever the interval is
        wait_for(lambda: rounds(shop) > before, PATIENCE, "a first round")
        # idle: LISTEN has been committed; not the connection of a worker that has just ended
        wait_for(lambda: shop.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%commerce_job%%' AND state = 'idle' "
                                    "AND backend_start > %s", began), PATIENCE, "a worker listens")
        ids = put(shop, 9, url=f"{there.url}/echo")
        with shop.db() as db:
            db.execute("NOTIFY commerce_job, 'someone_else'")
            db.execute("NOTIFY commerce_job, 'probe'")
        # nine pieces in rounds of two, an hour apart but for "more"
        wait_for(lambda: len(told(shop, ids)) == 9, PATIENCE, "all are told")


def test_slow_calls_do_not_hold_up_the_next_round(shop, there):
    there.gate.clear()
    with shop.configured(http="commerce_job probe call=api.probe_job interval=100ms batch=4 parallel=8;"):
        held = put(shop, 4, url=f"{there.url}/gate", timeout_ms=50000)
        wait_for(lambda: there.gated == 4, PATIENCE, "four wait at the gate")
        quick = put(shop, 3, url=f"{there.url}/echo")
        wait_for(lambda: len(told(shop, quick)) == 3, PATIENCE, "others pass by")
        held += put(shop, 12, url=f"{there.url}/gate", timeout_ms=50000)
        wait_for(lambda: there.gated >= 8, PATIENCE, "as many as there may be")
        assert there.most < 12, "rounds stop when eight calls are under way"
        there.gate.set()
        # one whose round or end got lost on a machine that stands still is claimed again
        wait_for(lambda: {r["tag"] for r in told(shop, held)} == {f"work-{i}" for i in held}, PATIENCE, "all are told")


def test_mail_of_a_job(shop, there):
    with shop.configured(http=there.conf + "commerce_job probe call=api.probe_job interval=100ms batch=10;", replace=NO_MAIL):
        ids = put(shop, 3, mail=True, **{"from": "a@example.com", "to": ["b@example.com"], "data": "Subject: x\r\n\r\nx\r\n"})
        wait_for(lambda: len(told(shop, ids)) == 3, PATIENCE, "all are told")
        assert len(there.box.mails) == 3 and {r["status"] for r in told(shop, ids)} == {250}


def test_what_a_job_began_ends_with_its_worker(shop, there):
    there.gate.clear()
    with shop.configured(http="commerce_job probe call=api.probe_job interval=100ms batch=10;"):
        wait_for(lambda: there.gated == 0, PATIENCE, "nobody waits at the gate")
        ids = put(shop, 3, url=f"{there.url}/gate", timeout_ms=50000)
        wait_for(lambda: there.gated == 3, PATIENCE, "they wait at the gate")
        old = shop.reload(wait=False)
        wait_for(lambda: len(set(shop.workers()) - old) == 2, PATIENCE, "new workers serve")
        there.gate.set()
        wait_for(lambda: len(told(shop, ids)) == 3, PATIENCE, "all are told")
        wait_for(lambda: not old & set(shop.workers(leaving=True)), PATIENCE, "the old workers leave")


def test_postgres_comes_back(shop, there):
    with shop.configured(http="commerce_job probe call=api.probe_job interval=100ms batch=10;"):
        before = rounds(shop)
        wait_for(lambda: rounds(shop) > before, PATIENCE, "rounds go by")
        shop.expect_log(r"job .* failed|terminating|the database|server closed")
        shop.stop("postgres")
        shop.start("postgres")
        ids = put(shop, 2, url=f"{there.url}/echo")
        wait_for(lambda: len(told(shop, ids)) == 2, PATIENCE, "it goes on")


def test_a_round_that_postgres_did_not_take_comes_soon(shop, there):
    """An hour passes between two rounds of a job, and PostgreSQL is away when the first one is due."""
    shop.expect_log("")
    shop.stop("nginx")
    before = rounds(shop)
    shop.stop("postgres")
    shop.configure(http="commerce_job probe call=api.probe_job interval=1h batch=10;")
    try:
        shop.run("start", "nginx")
        try:
            with shop.edge(timeout=600) as edge:
                # the first round is due a second after the start, this answer comes when PostgreSQL has been waited for
                assert edge.get("/api/v1/products").json()["code"] == "starting"
        finally:
            shop.start("postgres")
        wait_for(lambda: rounds(shop) > before, PATIENCE, "the round comes")
    finally:
        shop.configure()
        shop.reload()


@pytest.mark.parametrize("line, says", [
    ("commerce_job a call=api.b;", "needs call=api.function and interval="),
    ("commerce_job a interval=1s;", "needs call=api.function and interval="),
    ("commerce_job a call=pg_sleep interval=1s;", "schema api"),
    ("commerce_job a call=api.b() interval=1s;", "schema api"),
    ("commerce_job a call=api.b interval=0;", "needs an interval"),
    ("commerce_job a call=api.b interval=1s batch=0;", "needs a batch"),
    ("commerce_job a call=api.b interval=1s lane=read;", "lane=slow or lane=write"),
    ("commerce_job a call=api.b interval=1s; commerce_job a call=api.b interval=1s;", "is duplicate"),
])
def test_directives_that_are_wrong(shop, there, line, says):
    try:
        shop.configure(http=line)
        done = shop.check_conf()
        assert done.returncode and says in done.stdout + done.stderr
        shop.expect_log(r"\[emerg\]")
    finally:
        shop.configure()
