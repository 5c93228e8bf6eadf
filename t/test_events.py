"""Events without Kafka: consumers, retries, dead letters, replay, and what keeps each aggregate's events in order."""

import concurrent.futures
import json
import uuid

import psycopg
import pytest

from stack import wait_for

BOOM = """CREATE OR REPLACE FUNCTION consumer.recommend_signal(m event.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    {}
    INSERT INTO shop.interaction (tenant_id, user_id, product_id, action, metadata)
    VALUES (m.tenant_id, NULL, 1, 'view', jsonb_build_object('event', m.id, 'n', m.payload -> 'metadata' -> 'n', 'seen', m.type));
END $$"""


@pytest.fixture(scope="module", autouse=True)
def by_hand(shop):
    """The shop's own job would feed what these tests feed; a pause after a failure is over when they say so."""
    with shop.db() as db:
        db.execute(f"ALTER DATABASE \"{shop.database}\" SET commerce.event_backoff = '1 minute'")
    with shop.configured(jobs=False, http="commerce_maintenance 0;"):
        yield


def feed(shop, times=1, batch=100):
    """Rounds of the job, as the edge's role."""
    url = shop.pg_url.rsplit("/", 1)[0] + "/" + shop.database
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET ROLE commerce_edge")
        return [json.loads(db.execute("SELECT body FROM api.events_feed(%s)", (batch,)).fetchone()[0]) for _ in range(times)][-1]


def drain(shop):
    wait_for(lambda: not feed(shop)["more"], 30, "nothing is left to be fed")


def emit(db, n, aggregate="a", tenant=1, topic="user.interaction", type_="shop.user.interaction.v1", text=""):
    db.execute("SELECT set_config('commerce.tenant_id', %s, false)", (str(tenant),))
    metadata = {"n": n, "text": text} if text else {"n": n}
    db.execute("SELECT domain.emit(%s, %s, 'test', %s, jsonb_build_object('user_id', NULL, 'metadata', %s::jsonb))",
               (topic, type_, aggregate, json.dumps(metadata)))


def as_owner(shop):
    db = shop.db()
    db.execute("SET ROLE commerce_owner")
    return db


@pytest.fixture
def consumer(shop):
    """Replaces the consumer by one that keeps what it gets; text goes before, to fail."""
    with shop.db() as db:
        whole = db.execute("SELECT pg_get_functiondef('consumer.recommend_signal'::regproc) AS f").fetchone()["f"]
    drain(shop)
    shop.rows("DELETE FROM event.retry RETURNING 1")

    def use(before=""):
        with as_owner(shop) as db:
            db.execute(BOOM.format(before))
    use()
    yield use
    with as_owner(shop) as db:
        db.execute(whole)
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        db.execute("DELETE FROM shop.interaction WHERE metadata ? 'event'")


def got(shop, tenant=1):
    return [r["n"] for r in shop.rows("SELECT (metadata ->> 'n')::int AS n FROM shop.interaction WHERE metadata ? 'event' "
                                      "AND tenant_id = %s ORDER BY id", tenant)]


def test_events_reach_consumers_once_and_in_order(shop, consumer):
    with as_owner(shop) as db:
        for n in range(30):
            emit(db, n, aggregate="one")
        emit(db, 99, aggregate="one", tenant=2)
    drain(shop)
    assert got(shop) == list(range(30)) and got(shop, 2) == [99]
    assert shop.value("SELECT count(*) FROM event.unsent") == 0
    feed(shop, 3)
    assert got(shop) == list(range(30))


def test_the_event_of_an_order_of_commits_is_kept(shop, consumer):
    """A transaction that began earlier and ends later is not passed over."""
    with as_owner(shop) as slow, as_owner(shop) as fast:
        slow.autocommit = False
        emit(slow, 1, aggregate="slow")
        emit(fast, 2, aggregate="fast")
        drain(shop)
        assert got(shop) == [2]
        slow.commit()
    drain(shop)
    assert got(shop) == [2, 1]


def test_a_failure_is_retried_and_holds_up_its_aggregate_only(shop, consumer):
    consumer("IF (m.payload -> 'metadata' ->> 'n')::int = 1 THEN PERFORM domain.fail(500, 'boom', 'It fails.'); END IF;")
    with as_owner(shop) as db:
        for n in range(3):
            emit(db, n, aggregate="bad")
        emit(db, 10, aggregate="good")
    feed(shop, 2)
    assert sorted(got(shop)) == [0, 10]
    retry = shop.rows("SELECT * FROM event.retry")
    assert len(retry) == 1 and retry[0]["attempts"] == 1 and "It fails." in retry[0]["error"]

    consumer()
    shop.rows("UPDATE event.retry SET next_at = now() RETURNING 1")
    drain(shop)
    assert got(shop) == [0, 10, 1, 2] or got(shop) == [10, 0, 1, 2]
    assert not shop.rows("SELECT * FROM event.retry")


def test_what_fails_for_ever_is_buried_and_redriven(shop, consumer, staff):
    consumer("IF (m.payload -> 'metadata' ->> 'n')::int = 1 THEN RAISE 'never'; END IF;")
    with as_owner(shop) as db:
        for n in range(3):
            emit(db, n, aggregate="dead")

    def buried():
        shop.rows("UPDATE event.retry SET next_at = now() RETURNING 1")
        feed(shop)
        return shop.rows("SELECT * FROM event.dead_letter WHERE tenant_id = 1 AND redriven_at IS NULL")
    row = wait_for(buried, 30, "the event is buried")[0]
    drain(shop)
    assert got(shop) == [0, 2] and row["attempts"] == 8 and row["reason"] == "failed"
    told = shop.rows("SELECT payload FROM event.outbox WHERE topic = 'dead-letters' AND aggregate_id = %s", row["key"])
    assert json.loads(told[0]["payload"])["reason"] == "failed"

    listed = staff.get("/api/v1/admin/events/dead-letters?reason=failed&redriven=false")
    assert listed.status_code == 200, listed.text
    letter = listed.json()["data"][0]
    assert letter["error"].endswith("never") and json.loads(letter["payload"])["metadata"] == {"n": 1}
    assert shop.staff("acme").get("/api/v1/admin/events/dead-letters").json()["data"] == []

    path = f"/api/v1/admin/events/dead-letters/{letter['id']}/redrive"
    again = staff.post(path)
    assert again.status_code == 409 and again.json()["code"] == "still-failing", again.text
    assert shop.staff("acme").post(path).status_code == 404
    consumer()
    done = staff.post(path)
    assert done.status_code == 200 and done.json()["redriven_at"], done.text
    assert got(shop) == [0, 2, 1]
    assert staff.post(path).json()["redriven_at"] == done.json()["redriven_at"]
    assert got(shop) == [0, 2, 1]
    assert staff.post("/api/v1/admin/events/dead-letters/redrive", json={}).json() == {"redriven": 0, "failed": 0}
    assert shop.user("test@example.com").get("/api/v1/admin/events/dead-letters").status_code == 403


def test_events_are_replayed_by_time_and_type(shop, consumer, staff):
    with as_owner(shop) as db:
        for n in range(5):
            emit(db, n, aggregate="again")
        start = db.execute("SELECT min(created_at)::text AS at FROM event.outbox WHERE aggregate_id = 'again'").fetchone()["at"]
    start = start.replace(" ", "T").replace("+00", "Z")
    drain(shop)
    assert got(shop) == list(range(5))

    def replay(**body):
        answer = staff.post("/api/v1/admin/events/replay", json={"from": start, **body})
        assert answer.status_code == 202, answer.text
        drain(shop)
        return answer.json()

    dry = staff.post("/api/v1/admin/events/replay", json={"from": start, "topics": ["user.interaction"], "limit": 1, "dry_run": True})
    assert (dry.status_code, dry.json()) == (200, {"events": 5, "types": [{"type": "shop.user.interaction.v1", "events": 5}]})
    assert not feed(shop)["events"]
    # consumers know what they had
    assert replay(types=["shop.user.interaction.v1"])["events"] == 5
    assert got(shop) == list(range(5))
    assert replay(types=["OrderCreated"])["events"] == 0
    assert replay(topics=["user.interaction"], to=start)["events"] == 0
    # except the one that is named, page by page
    page = replay(types=["shop.user.interaction.v1"], consumer="consumer.recommend_signal", limit=3)
    assert page["events"] == 3 and page["more"]
    assert got(shop) == [0, 1, 2, 3, 4, 0, 1, 2]
    answer = staff.post("/api/v1/admin/events/replay", json={
        "from": page["next"], "consumer": "consumer.recommend_signal", "types": ["shop.user.interaction.v1"]})
    assert answer.json()["events"] == 2 and answer.json()["next"] is None
    drain(shop)
    assert got(shop) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    # RFC 3339 knows zones that PostgreSQL does not
    far = staff.post("/api/v1/admin/events/replay", json={"from": "2026-01-31T12:00:00-21:19"})
    assert (far.status_code, far.json()["code"]) == (422, "invalid-value")
    unknown = staff.post("/api/v1/admin/events/replay", json={"from": start, "consumer": "consumer.none"})
    assert unknown.status_code == 422 and "consumer.recommend_signal" in unknown.json()["consumers"]


def test_the_script_replays_by_pages(shop, consumer):
    with as_owner(shop) as db:
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        db.execute("SELECT domain.emit('user.interaction', 'shop.user.interaction.v1', 'test', 'p' || n % 20, jsonb_build_object("
                   "'user_id', NULL, 'metadata', jsonb_build_object('n', n))) FROM generate_series(1, 10005) n")
        db.execute("DELETE FROM event.unsent USING event.outbox o WHERE o.id = unsent.id AND o.aggregate_id LIKE 'p%'")
        db.execute("UPDATE event.outbox SET created_at = created_at + (payload::json #>> '{metadata,n}')::int * interval '1 us'"
                   " WHERE aggregate_id LIKE 'p%'")
        start = db.execute("SELECT min(created_at)::text AS at FROM event.outbox WHERE aggregate_id LIKE 'p%'").fetchone()["at"]
        emit(db, 0, aggregate="later")
    chosen = ("--from", start, "--type", "shop.user.interaction.v1", "--topic", "user.interaction")

    def script(*arguments, check=True):
        return shop.run(*arguments, script="scripts/replay", check=check)

    assert "10005" in script(*chosen, "--dry-run").stdout
    assert not shop.value("SELECT count(*) FROM event.unsent JOIN event.outbox USING (id, created_at) WHERE aggregate_id LIKE 'p%'")
    assert "10005 events are sent" in script(*chosen).stdout
    assert shop.value("SELECT count(*) FROM event.unsent JOIN event.outbox USING (id, created_at) WHERE aggregate_id LIKE 'p%'") == 10005
    shop.rows("DELETE FROM event.outbox WHERE aggregate_id LIKE 'p%' RETURNING 1")
    assert not shop.value("SELECT count(*) FROM event.unsent LEFT JOIN event.outbox USING (id) WHERE outbox.id IS NULL")
    assert script("--from", "never", check=False).returncode and script("--dry-run", check=False).returncode
    unknown = script(*chosen, "--consumer", "consumer.none", check=False)
    assert unknown.returncode and "no such consumer" in unknown.stderr


def consume(shop, records, attempt=1):
    with shop.db() as db:
        db.execute("SET ROLE commerce_edge")
        return json.loads(db.execute("SELECT body FROM api.event_consume(%s::jsonb, %s)", (json.dumps(records), attempt)).fetchone()["body"])


def record(n, offset=0, **headers):
    return {"topic": "user.interaction", "partition": 0, "offset": offset, "payload": {"metadata": {"n": n}}, "headers": {
        "ce_id": str(uuid.uuid4()), "ce_tenantid": "1", "ce_type": "shop.user.interaction.v1", "ce_subject": "x",
        "ce_source": "/tenants/1/test", "ce_time": "2026-11-21T12:00:00.000Z", **headers}}


def test_a_record_is_used_once_and_a_bad_one_never_stops_others(shop, consumer):
    good, last = record(1), record(2)
    bad = [record(7, 1, ce_id="not a uuid"), record(7, 2, ce_type="shop.nothing.v9"), record(7, 3, ce_tenantid="4711"),
           {"topic": "user.interaction", "partition": 0, "offset": 4, "fault": "malformed", "error": "no JSON", "raw": "AP8="},
           {"topic": "user.interaction", "partition": 0, "offset": 5, "fault": "oversized", "error": "2 MB", "raw": "e30="}]
    assert consume(shop, [good, *bad, good, last]) == {"done": 8, "dead": 5}
    assert got(shop) == [1, 2]
    assert {(r["key"], r["reason"], r["tenant_id"]) for r in shop.rows("SELECT * FROM event.dead_letter WHERE key LIKE 'user.%%'")} == {
        ("user.interaction/0/1", "malformed", 1), ("user.interaction/0/2", "unknown-type", 1),
        ("user.interaction/0/3", "unknown-tenant", 0), ("user.interaction/0/4", "malformed", 0), ("user.interaction/0/5", "oversized", 0)}
    # the same again, after a crash before the offset was stored
    consume(shop, [good, *bad, good, last])
    assert got(shop) == [1, 2]
    assert shop.value("SELECT count(*) FROM event.dead_letter WHERE key LIKE 'user.%%'") == 5


def test_a_batch_is_used_as_a_whole(shop, consumer):
    """One statement for the inbox of a shop, in order, whoever else is in the batch; what is in it twice, under whatever type, is used
    once by a consumer."""
    records = [record(n, ce_subject=f"batch-{n % 3}", ce_tenantid=str(1 + n % 2 * 2)) for n in range(20)]
    other = {**record(99, ce_id=records[0]["headers"]["ce_id"], ce_type="shop.cart.updated.v1"), "topic": "cart.updated"}
    with shop.db() as db:
        db.execute("CREATE TABLE public.statement (n bigserial)")
        db.execute("CREATE FUNCTION public.counted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN "
                   "INSERT INTO public.statement DEFAULT VALUES; RETURN NULL; END $$")
        db.execute("CREATE TRIGGER counted AFTER INSERT ON event.inbox FOR EACH STATEMENT EXECUTE FUNCTION public.counted()")
        assert consume(shop, [*records, records[0], records[5], other]) == {"done": 23, "dead": 0}
        assert got(shop) == list(range(0, 20, 2)) and got(shop, 3) == list(range(1, 20, 2))
        assert db.execute("SELECT count(*) AS n FROM public.statement").fetchone()["n"] == 2
        assert consume(shop, records) == {"done": 20, "dead": 0}
        assert len(got(shop)) == 10
        db.execute("DROP TABLE public.statement; DROP FUNCTION public.counted CASCADE")


def test_one_that_takes_too_long_holds_up_itself_only(shop, consumer):
    """The module sends them one at a time after such an answer."""
    consumer("IF (m.payload -> 'metadata' ->> 'n')::int = 1 THEN PERFORM pg_sleep(60); END IF;")
    records = [record(n) for n in range(3)]
    with shop.db() as db:
        db.execute(f"ALTER DATABASE \"{shop.database}\" SET statement_timeout = '3s'")
    try:
        whole = consume(shop, records)
        assert (whole["done"], whole["transient"]) == (0, True) and whole["retry_ms"] > 0 and whole["error"].startswith("57014")
        assert consume(shop, records[:1]) == {"done": 1, "dead": 0}
        assert consume(shop, records[1:2])["done"] == 0
    finally:
        with shop.db() as db:
            db.execute(f"ALTER DATABASE \"{shop.database}\" RESET statement_timeout")
    consumer()
    assert consume(shop, records[1:]) == {"done": 2, "dead": 0}
    assert got(shop) == [0, 1, 2]


@pytest.fixture
def endpoint(shop, staff):
    """Makes a webhook of the shop; its deliveries stay where they are."""
    made = []

    def make(*types):
        answer = staff.post("/api/v1/admin/webhooks", json={"url": f"https://example.com/{uuid.uuid4()}", "types": types})
        assert answer.status_code == 201, answer.text
        made.append(answer.json()["webhook"]["id"])
        return made[-1]
    yield make
    for one in made:
        assert staff.delete(f"/api/v1/admin/webhooks/{one}").status_code == 204


def told_of(shop, endpoint):
    return [r["body"]["data"]["n"] for r in shop.rows("SELECT body::json FROM shop.webhook_delivery WHERE endpoint_id = %s ORDER BY id", endpoint)]


def product(db, n, tenant=1):
    db.execute("SELECT set_config('commerce.tenant_id', %s, false)", (str(tenant),))
    return db.execute("SELECT domain.emit('product-events', 'ProductUpdated', 'product', 'hooked', jsonb_build_object('n', %s::int))", (n,))


@pytest.mark.parametrize("way", ["feed", "consume"])
def test_what_nobody_wants_costs_no_row_and_comes_to_nobody_later(shop, staff, endpoint, way):
    def use():
        if way == "feed":
            drain(shop)
            return
        rows = shop.rows("SELECT o.*, domain.ts(o.created_at) AS at FROM event.outbox o WHERE id IN (SELECT id FROM event.unsent) ORDER BY id")
        answer = consume(shop, [{"topic": r["topic"], "partition": 0, "offset": r["id"], "payload": json.loads(r["payload"]), "headers": {
            "ce_id": str(r["event_id"]), "ce_tenantid": str(r["tenant_id"]), "ce_type": "shop.product.updated.v1",
            "ce_subject": r["aggregate_id"], "ce_source": "/tenants/1/product", "ce_time": r["at"]}} for r in rows])
        assert answer == {"done": len(rows), "dead": 0}
        shop.rows("DELETE FROM event.unsent RETURNING 1")

    def known():
        return shop.value("SELECT count(*) FROM event.inbox i JOIN event.outbox o USING (tenant_id, event_id) WHERE o.aggregate_id = 'hooked' "
                          "AND o.created_at >= %s", begin)

    drain(shop)
    begin = shop.value("SELECT now()")
    other = endpoint("shop.order.*")
    with as_owner(shop) as db:
        product(db, 0)
        use()
        assert known() == 0
        late = endpoint("shop.product.updated.v1")
        product(db, 1)
        product(db, 1, tenant=2)
        use()
        assert known() == 1 and told_of(shop, late) == [1]
        # turned off it wants nothing, turned on what happens from then on
        assert staff.patch(f"/api/v1/admin/webhooks/{late}", json={"status": "disabled"}).status_code == 200
        product(db, 2)
        use()
        assert known() == 1
        assert staff.patch(f"/api/v1/admin/webhooks/{late}", json={"status": "active"}).status_code == 200
        product(db, 3)
        use()
        assert known() == 2 and told_of(shop, late) == [1, 3]
    # what was before it was made is not its own, even of a replay; what it slept through is, if somebody asks for it
    answer = staff.post("/api/v1/admin/events/replay", json={"from": str(begin).replace(" ", "T"), "topics": ["product-events"],
                                                             "consumer": "consumer.webhooks"})
    assert (answer.status_code, answer.json()["events"]) == (202, 4), answer.text
    use()
    assert sorted(told_of(shop, late)) == [1, 2, 3] and told_of(shop, other) == []
    assert shop.value("SELECT count(*) FROM shop.webhook_delivery WHERE tenant_id = 2") == 0


def test_a_consumer_that_fails_stops_its_partition_until_it_is_given_up(shop, consumer):
    consumer("IF (m.payload -> 'metadata' ->> 'n')::int = 1 THEN RAISE 'no'; END IF;")
    records = [record(0), record(1), record(2)]
    first = consume(shop, records)
    assert first["done"] == 1 and first["retry_ms"] > 0 and "no" in first["error"]
    assert consume(shop, records[1:], 2)["done"] == 0
    assert consume(shop, records[1:], 8) == {"done": 2, "dead": 1}
    assert got(shop) == [0, 2]


def test_shards_are_shared_out_and_taken_over(shop):
    def lease(holder, keep=(), ms=60000):
        row = shop.rows("SELECT * FROM api.relay_lease(%s, %s::smallint[], %s)", holder, list(keep), ms)[0]
        return row["shards"] or [], row["share"]

    try:
        a, share = lease("a")
        assert a == list(range(16)) and share == 16
        b, share = lease("b")
        assert b == [] and share == 8
        a, _ = lease("a", a[:8])
        b, _ = lease("b")
        assert (a, b) == (list(range(8)), list(range(8, 16)))
        # nobody else's shards are handed out, and the feed leaves them alone
        assert not shop.rows("SELECT * FROM api.relay_turn('b', %s::smallint[], 10, NULL, NULL, NULL)", a)
        with as_owner(shop) as db:
            emit(db, 5, aggregate="leased")
        feed(shop)
        assert shop.value("SELECT count(*) FROM event.unsent JOIN event.outbox USING (id) WHERE aggregate_id = 'leased'") == 1
        rows = shop.rows("SELECT t.* FROM unnest(ARRAY['a', 'b']) h, api.relay_turn(h, %s::smallint[], 100, NULL, NULL, NULL) t", a + b)
        row = next(r for r in rows if r["subject"] == "leased")
        assert row["key"] == "1:leased" and row["source"] == "/tenants/1/test" and row["type"] == "shop.user.interaction.v1"
        shop.rows("SELECT * FROM api.relay_turn('a', '{}', 1, %s::smallint[], %s::bigint[], %s::uuid[])",
                  [row["shard"]], [row["id"]], [row["event_id"]])
        assert not shop.value("SELECT count(*) FROM event.unsent WHERE id = %s", row["id"])
        # one that is not heard of loses its shards
        shop.rows("UPDATE event.relay_shard SET until = now() - interval '1 second' WHERE holder = 'a' RETURNING 1")
        shop.rows("UPDATE event.relay_node SET until = now() - interval '1 second' WHERE holder = 'a' RETURNING 1")
        b, share = lease("b", b)
        assert b == list(range(16)) and share == 16
    finally:
        # the feed of the tests after this one would leave their shards alone
        shop.rows("SELECT api.relay_leave(h) FROM unnest(ARRAY['a', 'b']) h")
    assert shop.value("SELECT count(*) FROM event.relay_shard WHERE holder IS NOT NULL") == 0
    drain(shop)


def test_a_turn_reads_what_it_hands_on(shop):
    """However many events wait: PostgreSQL knew the table as empty when it planned, which is what it mostly is."""
    def read(db):
        """Rows of the table that were looked at until now, by its index or without."""
        db.execute("SELECT pg_stat_force_next_flush()")
        return shop.value("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relid = 'event.unsent'::regclass")

    drain(shop)
    with shop.db() as db:
        db.execute("VACUUM (ANALYZE) event.unsent")
        # the shop's own feed leaves them alone from here on
        assert db.execute("SELECT shards FROM api.relay_lease('a', '{}', 60000)").fetchone()["shards"] == list(range(16))
        try:
            db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
            db.execute("SELECT domain.emit('user.interaction', 'shop.user.interaction.v1', 'test', n::text, '{}') FROM generate_series(1, 20000) n")
            marks, begin = (None, None, None), read(db)
            for many in (50, 50, 1):
                rows = db.execute("SELECT * FROM api.relay_turn('a', %s::smallint[], %s, %s::smallint[], %s::bigint[], %s::uuid[])",
                                  (list(range(16)), many, *marks)).fetchall()
                assert len(rows) == 16 * many
                marks = tuple([row[name] for row in rows] for name in ("shard", "id", "event_id"))
            # each is looked at when it is claimed and when it is marked
            assert 2 * 1600 <= read(db) - begin < 3 * 1600
            assert db.execute("SELECT events FROM api.relay_lag()").fetchone()["events"] == 16 * 1000
            assert db.execute("SELECT count(*) FROM event.unsent").fetchone()["count"] == 20000 - 1600
        finally:
            db.execute("SELECT api.relay_leave('a')")
            db.execute("DELETE FROM event.unsent")


@pytest.mark.parametrize("ago", [2, 3], ids=["planned before", "planned then"])
def test_a_claim_beside_a_move_keeps_the_order(shop, ago):
    """Events of a day that has no partition yet are moved while somebody claims: they do not go behind later ones of their aggregate."""
    drain(shop)
    with shop.db() as db, as_owner(shop) as mover, concurrent.futures.ThreadPoolExecutor() as threads:
        def claim():
            rows = db.execute("SELECT * FROM api.relay_turn('a', %s::smallint[], 100, NULL, NULL, NULL)", (list(range(16)),))
            return [json.loads(row["payload"])["metadata"]["n"] for row in rows if row["subject"] == "moved"]

        db.execute("SELECT api.relay_lease('a', '{}', 60000)")
        try:
            db.execute("INSERT INTO event.outbox (tenant_id, event_id, topic, type, aggregate, aggregate_id, payload, shard, created_at) VALUES "
                       "(1, gen_random_uuid(), 'user.interaction', 'shop.user.interaction.v1', 'test', 'moved', '{\"metadata\": {\"n\": 1}}', "
                       "domain.shard('moved'), now() - make_interval(days => %s))", (ago,))
            with as_owner(shop) as owner:
                emit(owner, 2, aggregate="moved")
            if ago == 2:
                for _ in range(3):
                    assert claim() == [1, 2]
            with mover.transaction():
                assert mover.execute("SELECT domain.outbox_partitions() AS made").fetchone()["made"] == 1
                claimed = threads.submit(claim)
                wait_for(lambda: shop.value("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", db.info.backend_pid), 10,
                         "the claim waits")
            assert claimed.result() == [1, 2]
        finally:
            db.execute("SELECT api.relay_leave('a')")
            db.execute("DELETE FROM event.outbox WHERE aggregate_id = 'moved'")


def test_a_number_that_is_handed_out_again_is_another_event(shop):
    """A server that lost its last second (an asynchronous commit, a failover) gives the numbers of that second to what comes then.  The
    relay, which had sent the first event of such a number, marks that one and not the other."""
    sent, kept = uuid.uuid4(), uuid.uuid4()
    row = shop.rows("INSERT INTO event.outbox (tenant_id, event_id, topic, type, aggregate, aggregate_id, payload, shard) "
                    "VALUES (1, %s, 'user.interaction', 'shop.user.interaction.v1', 'test', 'lost', '{}', domain.shard('lost')) "
                    "RETURNING id, shard", sent)[0]
    shop.rows("DELETE FROM event.outbox WHERE id = %s RETURNING 1", row["id"])
    shop.rows("INSERT INTO event.outbox (id, tenant_id, event_id, topic, type, aggregate, aggregate_id, payload, shard) OVERRIDING SYSTEM VALUE "
              "VALUES (%s, 1, %s, 'user.interaction', 'shop.user.interaction.v1', 'test', 'lost', '{}', domain.shard('lost')) RETURNING 1",
              row["id"], kept)

    def mark(event_id):
        shop.rows("SELECT * FROM api.relay_turn('a', '{}', 1, %s::smallint[], %s::bigint[], %s::uuid[])",
                  [row["shard"]], [row["id"]], [event_id])
        return shop.value("SELECT count(*) FROM event.unsent WHERE id = %s", row["id"])

    assert mark(sent) == 1
    assert mark(kept) == 0
    drain(shop)


def test_old_days_go_when_all_of_them_was_sent(shop):
    # of one transaction: the day may end between two statements
    with shop.db() as db, db.transaction():
        for days in (20, 21):
            db.execute(f"""DO $$ BEGIN
                EXECUTE format('CREATE TABLE event.outbox_%s PARTITION OF event.outbox FOR VALUES FROM (%L) TO (%L)',
                               to_char(current_date - {days}, 'YYYYMMDD'), current_date - {days}, current_date - {days} + 1);
                EXECUTE format('ALTER TABLE event.outbox_%s OWNER TO commerce_owner', to_char(current_date - {days}, 'YYYYMMDD'));
                EXECUTE format('CALL domain.isolate(%L)', 'event.outbox_' || to_char(current_date - {days}, 'YYYYMMDD'));
            END $$""")
            db.execute("INSERT INTO event.outbox (tenant_id, event_id, topic, type, aggregate, aggregate_id, payload, shard, created_at) "
                       "VALUES (1, gen_random_uuid(), 't', 't', 'a', 'b', '{}', 3, current_date - %s + interval '1 hour')", (days,))
        db.execute("DELETE FROM event.unsent WHERE created_at < current_date - 20")
    with as_owner(shop) as db:
        assert db.execute("SELECT domain.outbox_drop()").fetchone()["outbox_drop"] == 1
        drain(shop)
        assert db.execute("SELECT domain.outbox_drop()").fetchone()["outbox_drop"] == 1
        assert db.execute("SELECT domain.outbox_drop()").fetchone()["outbox_drop"] == 0


def test_what_was_put_into_a_cart_counts(shop):
    """L18: the event is an interaction, for the trainer and for the next recommendation on every node."""
    customer = shop.user()
    assert customer.post("/api/v1/cart/items", json={"product_id": 2}).status_code == 201
    wait_for(lambda: shop.value("SELECT count(*) FROM event.outbox WHERE topic = 'cart.updated'"), 10, "the cart's event")
    with shop.db() as listener:
        listener.execute("LISTEN commerce_recent")
        drain(shop)
        told = next(listener.notifies())
    assert told.payload.startswith(f"1:u:{customer.user_id} 2 ")
    assert shop.value("SELECT count(*) FROM shop.interaction WHERE user_id = %s AND action = 'add_to_cart' AND product_id = 2",
                      customer.user_id) == 1


def test_an_event_that_comes_after_the_erasure_leaves_nothing(shop):
    (person, _), = shop.customers(1)
    drain(shop)
    with as_owner(shop) as db:
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        db.execute("SELECT domain.emit('cart.updated', 'shop.cart.updated.v1', 'cart', 'u:' || %s, jsonb_build_object("
                   "'user_id', %s::text, 'action', 'add', 'affected_product_id', 2))", (person, person))
        assert db.execute("SELECT domain.user_erase(%s::uuid) AS done", (person,)).fetchone()["done"]
    drain(shop)
    assert shop.value("SELECT count(*) FROM event.unsent") == 0
    assert shop.value("SELECT count(*) FROM shop.interaction WHERE user_id = %s", person) == 0
