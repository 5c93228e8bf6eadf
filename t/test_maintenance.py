"""Housekeeping: what is over is cleared, carts that were left are told of once, in every shop."""

import json

import pytest

from stack import wait_for


@pytest.fixture
def alone(shop):
    """Nobody keeps house but the test."""
    shop.stop("nginx")
    yield
    shop.start("nginx")


def maintain(db, **args):
    """A whole round from its beginning: (answers of its parts, the last one's status)."""
    db.execute("DELETE FROM domain.progress WHERE job = 'maintain'")
    named = ", ".join(f"{name} => %s" for name in args)
    answers = []
    while True:
        row = db.execute(f"SELECT r.status, r.body FROM api.maintain({named}) r", tuple(args.values())).fetchone()
        if row["body"] is None:
            # nginx has its turn
            answers.clear()
            db.execute("DELETE FROM domain.progress WHERE job = 'maintain'")
            continue
        answers.append(json.loads(row["body"]))
        if "more" not in answers[-1]:
            return answers, row["status"]


def test_a_round_for_every_shop(shop):
    with shop.db() as db:
        for tenant in (1, 2):
            db.execute("INSERT INTO shop.idempotency (tenant_id, scope, key, operation, fingerprint, status, expires_at) "
                       "VALUES (%s, 's', 'old', 'op', '\\x00', 200, now() - interval '1 second'), "
                       "       (%s, 's', 'new', 'op', '\\x00', 200, now() + interval '1 hour')", (tenant, tenant))

    customer = shop.user(tenant="demo")
    added = customer.post("/api/v1/cart/items", json={"product_id": 1})
    assert added.status_code == 201, added.text
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.cart_backup"), 10, "the cart is backed up")
    with shop.db() as db:
        db.execute("UPDATE shop.cart_backup SET updated_at = now() - interval '2 days'")

    with shop.configured(http="commerce_maintenance 200ms;"):
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.idempotency WHERE key = 'old'") == 0, 15,
                 "expired records are gone")
        wait_for(lambda: shop.value("SELECT count(*) FROM event.outbox WHERE topic = 'cart.abandoned'"), 15,
                 "the abandoned cart is told of")
        first = shop.value("SELECT max(created_at) FROM shop.idempotency")
        # several rounds later it is still one event
        with shop.db() as db:
            db.execute("INSERT INTO shop.idempotency (tenant_id, scope, key, operation, fingerprint, expires_at) "
                       "VALUES (2, 's', 'old', 'op', '\\x00', now() - interval '1 second')")
        wait_for(lambda: shop.value("SELECT count(*) FROM shop.idempotency WHERE key = 'old'") == 0, 15, "another round")
        assert first is not None

    assert shop.value("SELECT count(*) FROM event.outbox WHERE topic = 'cart.abandoned'") == 1
    assert shop.value("SELECT count(*) FROM shop.idempotency WHERE key = 'new'") == 2
    # tomorrow has its partition already
    assert shop.value("SELECT to_regclass('event.outbox_' || to_char(current_date + 1, 'YYYYMMDD')) IS NOT NULL")


EVENTS = "SELECT tenant_id, event_id, created_at, payload, shard FROM {} ORDER BY id"


def days(shop, *offsets):
    """Days of UTC beside today: asked for once, for the day may end between two statements."""
    return [r["day"] for r in shop.rows("SELECT (now() AT TIME ZONE 'UTC')::date + i AS day FROM unnest(%s::int[]) i", list(offsets))]


def table(day):
    return f"event.outbox_{day:%Y%m%d}"


def partitions(shop):
    return {r["name"] for r in shop.rows("SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'event.outbox'::regclass "
                                         "AND inhrelid <> 'event.outbox_default'::regclass")}


def keep_house(shop, db, early=()):
    """A round makes the partitions that lack, of the days from today on and of the early events, and no other."""
    there, ahead = partitions(shop), days(shop, *range(7))
    answers, status = maintain(db)
    new = partitions(shop) - there
    assert (status, answers[-1]["partitions"]) == (200, len(new))
    assert new in [set(map(table, [*early, *known])) - there for known in (ahead, days(shop, *range(7)))], "before midnight or after it"


def emit(db, tenant, number, day):
    """Events that came on this day, at noon."""
    db.execute("SELECT set_config('commerce.tenant_id', %s, false)", (str(tenant),))
    db.execute("SELECT domain.emit('t', 'early', 'thing', i::text, json_build_object('i', i)::jsonb) FROM generate_series(1, %s) i",
               (number,))
    db.execute("UPDATE event.outbox SET created_at = (%s::date + time '12:00') AT TIME ZONE 'UTC', type = 'set' WHERE type = 'early'", (day,))
    db.execute("UPDATE event.unsent u SET created_at = o.created_at FROM event.outbox o WHERE o.id = u.id AND o.type = 'set'")
    db.execute("SELECT set_config('commerce.tenant_id', '', false)")


def as_owner(shop):
    """A session with what the shop's functions may do: nothing is visible without a tenant."""
    db = shop.db()
    db.execute("SET SESSION AUTHORIZATION commerce_owner")
    return db


def test_events_from_before_their_day_had_a_partition(shop, alone):
    """They are moved to it, whosever they are; nothing is lost, and later ones go where they belong."""
    four = days(shop, -3, -1, 0, 1)
    with shop.db() as db, as_owner(shop) as owner:
        for day in four:
            db.execute(f"DROP TABLE IF EXISTS {table(day)}")
        for tenant in (1, 2):
            for day in four:
                emit(owner, tenant, 20, day)
        before = shop.rows(EVENTS.format("event.outbox"))
        assert len(before) >= 160 and before == shop.rows(EVENTS.format("event.outbox_default"))
        assert not owner.execute("SELECT FROM event.outbox_default").fetchall(), "the owner is subject to the policies"

        keep_house(shop, db, four)
        assert shop.rows(EVENTS.format("event.outbox")) == before
        assert not shop.rows("SELECT FROM event.outbox_default")
        for day in four:
            assert shop.value(f"SELECT count(*) FROM {table(day)}") >= 40
        emit(owner, 1, 1, four[-1])
        assert not shop.rows("SELECT FROM event.outbox_default")
        keep_house(shop, db)


def test_a_day_that_is_busy_is_left_to_the_next_round(shop, alone):
    """Who reads the default partition for long does not stop the round, and the round does not wait for him."""
    today, = days(shop, 0)
    with shop.db() as db, as_owner(shop) as owner, shop.db() as reader:
        db.execute(f"DROP TABLE {table(today)}")
        emit(owner, 1, 3, today)
        with reader.transaction():
            assert reader.execute("SELECT count(*) AS n FROM event.outbox_default").fetchone()["n"] == 3
            assert maintain(db)[1] == 200
            assert shop.value("SELECT count(*) FROM event.outbox_default") == 3
            emit(owner, 1, 1, today)    # nor does the round hold up who writes
        keep_house(shop, db, [today])
        assert table(today) in partitions(shop) and shop.value("SELECT count(*) FROM event.outbox_default") == 0


def test_a_job_that_fails_stops_no_other(shop):
    """It is undone, named in the log, and everything else has its turn, in every shop and every round."""
    shop.expect_log(r"api\.maintain\(\) answered 500: .*no such luck")
    # before the job is a bad one: the round that comes soon after the start of nginx may be the one that tells
    mark = shop.log_size()
    with shop.db() as db:
        was = db.execute("SELECT pg_get_functiondef('domain.login_attempt_sweep(int)'::regprocedure) AS text").fetchone()["text"]
        db.execute("CREATE OR REPLACE FUNCTION domain.login_attempt_sweep(batch int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
                   "DELETE FROM shop.tenant_host WHERE tenant_id = domain.tenant_id(); "
                   "IF domain.tenant_id() > 1 THEN RAISE 'no such luck'; END IF; RETURN 0; END $$")
        db.execute("DELETE FROM shop.housekeeping")
        hosts = shop.value("SELECT count(*) FROM shop.tenant_host WHERE tenant_id > 1")
        db.execute("INSERT INTO shop.idempotency (tenant_id, scope, key, operation, fingerprint, expires_at) "
                   "SELECT id, 's', 'old', 'op', '\\x00', now() - interval '1 second' FROM shop.tenant")
    try:
        with shop.configured(http="commerce_maintenance 200ms;"):
            wait_for(lambda: shop.value("SELECT count(*) FROM shop.idempotency WHERE key = 'old'") == 0
                     and shop.value("SELECT count(*) FROM shop.housekeeping") == shop.value("SELECT count(*) FROM shop.tenant"), 30,
                     "the jobs before it and behind it")
            with shop.db() as db:
                db.execute("INSERT INTO shop.idempotency (tenant_id, scope, key, operation, fingerprint, expires_at) "
                           "VALUES (2, 's', 'old', 'op', '\\x00', now() - interval '1 second')")
            wait_for(lambda: shop.value("SELECT count(*) FROM shop.idempotency WHERE key = 'old'") == 0, 30, "another round")
    finally:
        with shop.db() as db:
            db.execute(was)
    log = shop.log_file().read_bytes()[mark:].decode()
    assert '"job": "login_attempts"' in log and '"sqlstate": "P0001"' in log
    assert shop.value("SELECT count(*) FROM shop.tenant_host WHERE tenant_id > 1") == hosts > 0


def shops(db, count):
    """So many more shops, empty ones."""
    db.execute("INSERT INTO shop.tenant (slug, name, currency) SELECT 'many-' || i, 'Many', 'EUR' FROM generate_series(1, %s) i", (count,))
    return [r["id"] for r in db.execute("SELECT id FROM shop.tenant WHERE slug LIKE 'many-%%' ORDER BY id").fetchall()]


OLD = ("INSERT INTO shop.idempotency (tenant_id, scope, key, operation, fingerprint, expires_at) "
       "SELECT unnest(%s::bigint[]), 's', 'old', 'op', '\\x00', now() - interval '1 second'")
LEFT = "SELECT count(*) FROM shop.idempotency WHERE key = 'old'"


def test_a_round_is_many_short_transactions(shop, alone):
    """None holds locks in two shops, none is long, and one goes on where another ended: after a page of deleted shops, too."""
    with shop.db() as db:
        many = shops(db, 230)
        db.execute("UPDATE shop.tenant SET status = 'deleted', deleted_at = now(), erase_after = now() + interval '30 days' "
                   "WHERE id = ANY(%s)", (many[5:115],))
        maintain(db)
        dirty = many[:3] + many[120:125] + many[-2:]
        db.execute(OLD, (dirty,))

        gone = []
        db.execute("DELETE FROM domain.progress WHERE job = 'maintain'")
        while True:
            left = {r["tenant_id"] for r in db.execute("SELECT tenant_id FROM shop.idempotency WHERE key = 'old'")}
            body = json.loads(db.execute("SELECT body FROM api.maintain(most => '1 hour')").fetchone()["body"])
            gone.append(left - {r["tenant_id"] for r in db.execute("SELECT tenant_id FROM shop.idempotency WHERE key = 'old'")})
            if "more" not in body:
                break
        assert body["idempotency_keys"] == len(dirty)
        assert all(len(shops_) <= 1 for shops_ in gone), gone
        assert [s for shops_ in gone for s in shops_] == dirty
        assert db.execute("SELECT state FROM domain.progress WHERE job = 'maintain'").fetchone()["state"] is None

        # one job at a time when there is no time at all: the same is done
        db.execute(OLD, (dirty,))
        answers, status = maintain(db, most="0 s")
        assert status == 200 and answers[-1]["idempotency_keys"] == len(dirty) and shop.value(LEFT) == 0
        assert len(answers) > 120

        # a part that is undone is done again
        db.execute(OLD, (dirty,))
        db.execute("DELETE FROM domain.progress WHERE job = 'maintain'")
        with db.transaction(force_rollback=True):
            db.execute("SELECT api.maintain(most => '1 hour')")
        while "more" in json.loads(db.execute("SELECT body FROM api.maintain()").fetchone()["body"]):
            pass
        assert shop.value(LEFT) == 0
    with shop.db() as db:
        db.execute(OLD, (dirty,))
    # and the edge asks until it is through
    with shop.configured(http="commerce_maintenance 200ms;"):
        wait_for(lambda: shop.value(LEFT) == 0, 60, "all shops had their turn")


def test_one_worker_keeps_house(shop):
    """Each round says which connection asked for it: all of them are one worker's; after that one died, another one's."""
    with shop.db() as db:
        was = db.execute("SELECT pg_get_functiondef('domain.login_attempt_sweep(int)'::regprocedure) AS text").fetchone()["text"]
        db.execute("CREATE TABLE public.housekeeper (id int GENERATED ALWAYS AS IDENTITY, port int); GRANT ALL ON public.housekeeper TO PUBLIC")
        db.execute("CREATE OR REPLACE FUNCTION domain.login_attempt_sweep(batch int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
                   "INSERT INTO public.housekeeper (port) SELECT inet_client_port() WHERE domain.tenant_id() = 1; RETURN 0; END $$")
    seen = "SELECT coalesce(max(id), 0) FROM public.housekeeper"

    def keepers():
        first = shop.value(seen)
        wait_for(lambda: shop.value(seen) >= first + 6, 60, "six rounds")
        ports = {r["port"] for r in shop.rows("SELECT port FROM public.housekeeper WHERE id > %s", first)}
        owners = {s[1]: s[0] for s in shop.sockets()}
        # None: the last word of a worker that is dead
        return {owners.get(port) for port in ports} - {None}

    try:
        with shop.configured(http="commerce_maintenance 200ms;"):
            (keeper,) = keepers()
            shop.kill_worker(shop.workers().index(keeper))
            shop.ready()
            (other,) = keepers()
            assert other != keeper and other in shop.workers()
    finally:
        with shop.db() as db:
            db.execute(was)
            db.execute("DROP TABLE public.housekeeper")


def test_a_shop_that_takes_too_long_is_left(shop, alone):
    """statement_timeout ends its job; the round goes on behind it."""
    with shop.db() as db:
        was = db.execute("SELECT pg_get_functiondef('domain.login_attempt_sweep(int)'::regprocedure) AS text").fetchone()["text"]
        db.execute("CREATE OR REPLACE FUNCTION domain.login_attempt_sweep(batch int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
                   "IF domain.tenant_id() = 1 THEN PERFORM pg_sleep(600); END IF; RETURN 0; END $$")
        try:
            db.execute(OLD, ([1, 2],))
            db.execute("SET statement_timeout = '3s'")
            answers, status = maintain(db)
            db.execute("RESET statement_timeout")
        finally:
            db.execute(was)
        assert status == 500 and shop.value(LEFT) == 0
        assert [(f["job"], f["tenant_id"], f["sqlstate"], f["times"]) for f in answers[-1]["failed"]] == [("login_attempts", 1, "57014", 1)]
