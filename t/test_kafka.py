"""Events through a real broker: relayed once and in order, consumed once, whatever goes away in the meantime."""

import contextlib
import json
import os
import pathlib
import re
import signal
import threading
import time
import uuid

import pytest

import broker
import test_payment_examples
from stack import wait_for
from test_events import as_owner, consumer, emit, feed, got  # noqa: F401

pytestmark = pytest.mark.slow
# what these tests wait for most is that a group misses a member that was killed, and tells the others
CONSUMER = "commerce_kafka_consumer nginx-commerce max_record=256k session.timeout.ms=3000 heartbeat.interval.ms=300;"


@pytest.fixture(scope="module")
def kafka(shop):
    """The shop with a broker of its own beside it."""
    if os.environ.get("COMMERCE_TEST_KAFKA") == "off":
        pytest.skip("COMMERCE_TEST_KAFKA=off: nothing of Kafka is tested")
    jars = shop.run("jars", script="scripts/kafka", check=False)
    if jars.returncode:
        pytest.fail(f"Apache Kafka cannot be had: {jars.stderr}  COMMERCE_TEST_KAFKA=off leaves these tests out.", pytrace=False)
    made = broker.Broker.beside(shop, http=CONSUMER)
    yield made
    made.end()


def sent(shop):
    wait_for(lambda: not shop.value("SELECT count(*) FROM event.unsent"), 90, "the outbox is empty")


def ready(edge):
    answer = edge.get("/health/ready")
    return answer.status_code, answer.json()["status"], answer.json()["services"]["kafka_consumer"]


def connected(shop, whether=True):
    """Both workers are in the group, or both know that the broker is away. They serve all the same."""
    def told():
        with shop.each_worker() as edges:
            return all(ready(edge) == (200, "ready" if whether else "degraded", whether) for edge in edges.values())
    wait_for(told, 90, f"consumers are {'in their group' if whether else 'without a broker'}")


def effects_of(shop):
    """Numbers of emit()'s events, in the order in which they were consumed."""
    return [n for n in got(shop) if n is not None]


def consumed(shop, count):
    wait_for(lambda: len(effects_of(shop)) >= count, 90, f"{count} events are consumed")


def numbers(records):
    """What emit() numbered, by key, as the topic has it; the same event may stand there again behind itself."""
    found = {}
    for record in records:
        found.setdefault(record["key"], []).append(json.loads(record["payload"])["metadata"]["n"])
    return found


def first_times(found):
    return {key: list(dict.fromkeys(ns)) for key, ns in found.items()}


class Emitter:
    """Events from beside, in transactions of their own, from the beginning of a block to its end."""

    def __init__(self, shop, aggregate, every=0.005):
        self.shop, self.aggregate, self.every, self.count = shop, aggregate, every, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        with as_owner(self.shop) as db:
            while not self.ended.wait(self.every):
                emit(db, self.count, aggregate=f"{self.aggregate}-{self.count % 5}")
                self.count += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def goes_on(self, events=30):
        """So many more are there."""
        until = self.count + events
        wait_for(lambda: self.count >= until, 60, "events are emitted")


def whole(shop, kafka, aggregate, count):
    """All have been relayed and consumed: in order per key, and each had one effect."""
    sent(shop)
    consumed(shop, count)
    records = [r for r in kafka.everything("user.interaction") if r["key"].startswith(f"1:{aggregate}-")]
    ids = {str(r["event_id"]) for r in shop.rows("SELECT event_id FROM event.outbox WHERE tenant_id = 1 AND aggregate_id LIKE %s",
                                                 f"{aggregate}-%")}
    assert {r["headers"]["ce_id"] for r in records} == ids and len(ids) == count
    want = {f"1:{aggregate}-{i}": list(range(i, count, 5)) for i in range(5)}
    assert first_times(numbers(records)) == want
    effects = effects_of(shop)
    assert sorted(effects) == list(range(count))
    assert [[n for n in effects if n % 5 == i] for i in range(5)] == list(want.values())


def caught_up(shop):
    """Consumers have come to the end of their topics; who has not is told with what its worker says, and what has been consumed."""
    def told():
        with shop.each_worker() as edges:
            return {pid: edge.get("/health").json()["events"] for pid, edge in edges.items()}
    try:
        wait_for(lambda: not any(events["lag"] for events in told().values()), 60)
    except AssertionError:
        seen = shop.rows("SELECT consumer, count(*) AS events, max(created_at)::text AS last FROM event.inbox GROUP BY 1")
        pytest.fail(f"a consumer is behind: {told()}, {seen}, unsent: {shop.value('SELECT count(*) FROM event.unsent')}")


def test_the_four_topics_of_recommendations(shop, kafka):
    """M1: headers of CloudEvents, and these fields exactly."""
    connected(shop)
    staff, customer = shop.staff(), shop.user()
    assert staff.put("/api/v1/inventory/1", json={"on_hand": 100}).status_code == 200
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    told = {"X-Correlation-ID": "kafka-1", "traceparent": trace}
    answers = [
        customer.post("/api/v1/interactions", json={"product_id": 3, "action": "view", "metadata": {"from": "list"}}, headers=told),
        customer.post("/api/v1/cart/items", json={"product_id": 2}, headers=told),
        customer.post("/api/v1/products/1/reviews", json={"rating": 5, "comment": "Good, and \u00fc"}, headers=told),
        customer.post("/api/v1/orders", json={"items": [{"product_id": 1, "quantity": 2}]},
                      headers={**told, "Idempotency-Key": str(uuid.uuid4())})]
    assert all(a.status_code in (200, 201, 202) for a in answers), [a.text for a in answers]
    order = answers[3].json()
    want = {
        "user.interaction": ({"product_id": 3, "action": "view", "metadata": {"from": "list"}}, "user_id"),
        "cart.updated": ({"action": "add", "affected_product_id": 2}, "user_id items"),
        "review.created": ({"product_id": 1, "rating": 5, "comment": "Good, and \u00fc"}, "review_id user_id"),
        "order.completed": ({"order_id": order["id"], "order_number": order["number"]}, "user_id items total")}
    for topic, (values, others) in want.items():
        record = wait_for(lambda: kafka.records(topic), 60, f"{topic} has a record")[0]
        row = shop.rows("SELECT *, domain.ts(created_at) AS at FROM event.outbox WHERE topic = %s", topic)[0]
        payload = json.loads(record["payload"])
        assert set(payload) == {*values, *others.split(), "timestamp"}, topic
        assert {name: payload[name] for name in values} == values and payload["user_id"] == customer.user_id
        key = f"1:{row['aggregate_id']}"
        assert record["key"] == key
        # a cart is written behind the request, by the edge itself
        if topic != "cart.updated":
            assert row["traceparent"].split("-")[1] == trace.split("-")[1] and row["correlation_id"] == "kafka-1"
        optional = {"ce_aggregateversion": row["aggregate_version"], "ce_correlationid": row["correlation_id"],
                    "ce_traceparent": row["traceparent"]}
        assert record["headers"] == {
            "ce_specversion": "1.0", "ce_id": str(row["event_id"]), "ce_source": f"/tenants/1/{row['aggregate']}",
            "ce_type": f"shop.{topic}.v1", "ce_time": row["at"], "ce_partitionkey": key, "ce_tenantid": "1",
            "ce_subject": row["aggregate_id"], "content-type": "application/json",
            **{name: str(value) for name, value in optional.items() if value is not None}}
    # and back: what was put into the cart counts for recommendations
    wait_for(lambda: shop.value("SELECT count(*) FROM shop.interaction WHERE action = 'add_to_cart' AND product_id = 2"), 60, "the effect")
    sent(shop)


def test_events_are_relayed_once_and_in_order(shop, kafka, consumer):
    with as_owner(shop) as db:
        for n in range(400):
            emit(db, n, aggregate=f"calm-{n % 5}")
        emit(db, 1, aggregate="calm-1", tenant=2)
    whole(shop, kafka, "calm", 400)
    records = [r for r in kafka.records("user.interaction") if ":calm-" in r["key"]]
    assert len(records) == 401 and [r["key"] for r in records].count("2:calm-1") == 1
    # "<tenant>:<aggregate>" is in one partition
    assert all(len({r["partition"] for r in records if r["key"] == key}) == 1 for key in numbers(records))
    assert len({r["partition"] for r in records}) > 1
    # the relay has the outbox: the feed of a shop without Kafka finds nothing in it
    assert feed(shop) == {"events": 0, "failed": 0, "dead": 0, "more": False}


def test_a_backlog_has_lanes_and_what_is_little_goes_together(shop, kafka, consumer):
    """Shards that come back full go to lanes of their own and back, and nothing is sent twice at either step."""
    with shop.db() as db:
        db.execute(f"ALTER DATABASE \"{shop.database}\" SET track_functions = 'pl'")
    shop.reload()
    connected(shop)
    with as_owner(shop) as db:
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        for first in (0, 2000):
            db.execute("SELECT domain.emit('user.interaction', 'shop.user.interaction.v1', 'test', 'burst-' || n %% 5, "
                       "jsonb_build_object('user_id', NULL, 'metadata', jsonb_build_object('n', n))) "
                       "FROM generate_series(%s::int, %s::int) n", (first, first + 1999))
            sent(shop)
    whole(shop, kafka, "burst", 4000)
    assert sum(r["key"].startswith("1:burst-") for r in kafka.everything("user.interaction")) == 4000

    def turns():
        return shop.value("SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = 'relay_turn'")

    # commits one after the other, for three seconds: lanes that claimed each for itself had four turns in each 40 ms
    wait_for(turns, 60, "turns are counted")
    customer, before, begin, posts = shop.user(), turns(), time.monotonic(), 0
    while time.monotonic() < begin + 3:
        assert customer.post("/api/v1/interactions", json={"product_id": 3, "action": "view"}).status_code in (200, 201, 202)
        posts += 1
    passed = turns() - before
    assert 2 < passed < 40 * (time.monotonic() - begin) + 10, posts
    sent(shop)


def test_what_nobody_can_use_is_buried_and_stops_nothing(shop, kafka, consumer):
    good = {"ce_id": str(uuid.uuid4()), "ce_tenantid": "1", "ce_type": "shop.user.interaction.v1", "ce_subject": "x",
            "ce_source": "/tenants/1/test", "ce_time": "2026-11-21T12:00:00.000Z"}
    value = b'{"user_id": null, "metadata": {"n": 1}}'
    bad = [(b"no JSON", good), (b"[1]", good), (b"\xff\xfe{}", good), (b'{"a": "\\u0000"}', good), (b"", good), (value, {}),
           (value, {**good, "ce_id": "no uuid"}), (value, {**good, "ce_tenantid": "4711"}), (value, {**good, "ce_type": "shop.nothing.v9"}),
           (b'{"user_id": null, "text": "' + b"x" * 300000 + b'"}', good), (b'{"metadata": {"n": 1e999999}}', good)]
    before = shop.value("SELECT coalesce(max(id), 0) FROM event.dead_letter")
    for n, (text, headers) in enumerate(bad):
        if headers.get("ce_id") == good["ce_id"]:
            headers = {**headers, "ce_id": str(uuid.uuid4())}
        kafka.produce("user.interaction", text, key="1:bad", **headers)
    kafka.produce("user.interaction", value, key="1:bad", **good)
    kafka.produce("user.interaction", value, key="1:bad", **good)           # the same once more: it is known
    kafka.produce("user.interaction", value.replace(b"1", b"2"), key="1:bad", **{**good, "ce_id": str(uuid.uuid4())})
    consumed(shop, 2)
    assert effects_of(shop) == [1, 2]
    letters = shop.rows("SELECT * FROM event.dead_letter WHERE id > %s ORDER BY id", before)
    assert [r["reason"] for r in letters] == [
        "malformed", "malformed", "malformed", "malformed", "malformed", "malformed", "malformed", "unknown-tenant", "unknown-type",
        "oversized", "malformed"], [(r["reason"], r["error"]) for r in letters]
    assert {r["tenant_id"] for r in letters if r["reason"] in ("unknown-type", "oversized")} == {1}
    assert all(len(r["payload"]) <= 65536 for r in letters)
    # told of by a topic, too
    sent(shop)
    told = wait_for(lambda: [r for r in kafka.records("dead-letters") if len(kafka.records("dead-letters")) >= len(bad)], 60)
    assert {json.loads(r["payload"])["reason"] for r in told} == {"malformed", "unknown-tenant", "unknown-type", "oversized"}
    with shop.edge() as edge:
        assert edge.get("/health").json()["events"]["dead"] == len(bad)


def test_a_consumer_that_fails_is_asked_again_and_given_up(shop, kafka, consumer):
    consumer("IF (m.payload -> 'metadata' ->> 'n')::int = 1 THEN RAISE 'never'; END IF;")
    with shop.db() as db:
        db.execute(f"ALTER DATABASE \"{shop.database}\" SET commerce.event_backoff = '20 ms'")
    shop.reload()
    with as_owner(shop) as db:
        for n in range(4):
            emit(db, n, aggregate="dead")
    consumed(shop, 3)
    assert effects_of(shop) == [0, 2, 3]
    letter = shop.rows("SELECT * FROM event.dead_letter WHERE aggregate_id = 'dead'")
    assert [(r["reason"], r["attempts"], r["consumer"]) for r in letter] == [("failed", 8, "consumer.recommend_signal")]
    consumer()
    done = shop.staff().post(f"/api/v1/admin/events/dead-letters/{letter[0]['id']}/redrive")
    assert done.status_code == 200, done.text
    assert effects_of(shop) == [0, 2, 3, 1]


def test_a_replay_goes_through_the_topics(shop, kafka, consumer):
    with as_owner(shop) as db:
        for n in range(5):
            emit(db, n, aggregate="again")
        start = db.execute("SELECT domain.ts(min(created_at)) AS at FROM event.outbox WHERE aggregate_id = 'again'").fetchone()["at"]
    consumed(shop, 5)
    sent(shop)

    def replay(**more):
        answer = shop.staff().post("/api/v1/admin/events/replay", json={"from": start, "types": ["shop.user.interaction.v1"], **more})
        assert answer.status_code == 202 and answer.json()["events"] == 5, answer.text
        sent(shop)

    def topic():
        return numbers(r for r in kafka.records("user.interaction") if r["key"] == "1:again")["1:again"]
    replay()
    wait_for(lambda: topic() == [0, 1, 2, 3, 4] * 2, 60, "the events are in the topic again")
    replay(consumer="consumer.recommend_signal")
    consumed(shop, 10)
    # the first replay was not news to the consumer, the one for it was
    assert effects_of(shop) == [0, 1, 2, 3, 4] * 2


def test_records_wait_in_the_broker_while_a_consumer_is_slow(shop, kafka, consumer):
    """Back-pressure: a partition is paused, the worker's memory does not grow with what is behind it."""
    consumer("PERFORM pg_advisory_xact_lock(4711);")
    pad = "x" * 60000
    with shop.db() as lock:
        lock.execute("SELECT pg_advisory_lock(4711)")
        with as_owner(shop) as db:
            db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
            for n in range(1000):
                db.execute("SELECT domain.emit('user.interaction', 'shop.user.interaction.v1', 'test', 'slow', jsonb_build_object("
                           "'user_id', NULL, 'pad', %s::text, 'metadata', jsonb_build_object('n', %s::int)))", (pad, n))
        sent(shop)
        assert effects_of(shop) == []
        with shop.edge() as edge:
            assert edge.get("/api/v1/products?limit=1").status_code == 200
            assert edge.get("/health/ready").status_code == 200
        grown = max(resident(pid) for pid in shop.workers())
        assert grown < 400, f"a worker has {grown} MB while 60 MB wait for it"
    consumed(shop, 1000)
    assert effects_of(shop) == list(range(1000))


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) // 1024


def test_reloads_lose_nothing(shop, kafka, consumer):
    with Emitter(shop, "reload") as emitter:
        for _ in range(3):
            shop.reload()
            emitter.goes_on()
    whole(shop, kafka, "reload", emitter.count)


def test_workers_leave_before_they_have_an_assignment(shop, kafka, consumer):
    """Reloads on the heels of each other: the group has not been formed when its members go. That none of them was ended by a signal
    says the check after this file."""
    with Emitter(shop, "hasty") as emitter:
        for _ in range(8):
            shop.reload()
    wait_for(lambda: len(shop.workers(leaving=True)) == 2, 60, "the old workers have left")
    whole(shop, kafka, "hasty", emitter.count)
    assert not [line for line in shop.log_lines() if "exited on signal 6" in line]


def test_a_killed_relay_is_replaced(shop, kafka, consumer):
    """SIGKILL of the workers in turn: one relays, both consume."""
    with Emitter(shop, "kill") as emitter:
        for n in range(4):
            shop.kill_worker(n % 2)
            emitter.goes_on()
    whole(shop, kafka, "kill", emitter.count)
    # partitions went from one worker to another and back: each tells of its own
    caught_up(shop)


class Away:
    """Customers during a whole minute without a broker: they are served, and whoever asks is told the truth."""

    SECONDS = 60

    def __init__(self, shop):
        self.shop, self.customer = shop, shop.user()
        self.mark, self.looks, self.orders = str(uuid.uuid4()), 0, []

    @contextlib.contextmanager
    def broker(self):
        """It dies, and is back after the block."""
        self.shop.kill("kafka")
        try:
            yield
        finally:
            self.shop.start("kafka")

    def minute(self):
        with self.shop.each_worker() as edges:
            began = time.monotonic()
            while time.monotonic() - began < self.SECONDS:
                self.served()
                assert {ready(edge) for edge in edges.values()} == {(200, "degraded", False)}
                time.sleep(0.2)         # they think
        waiting, oldest = self.lag()
        assert waiting >= self.looks + len(self.orders) and oldest > (self.SECONDS - 5) * 1000
        assert self.looks > 5

    def served(self):
        looked = self.customer.post("/api/v1/interactions", json={"product_id": 3, "action": "click", "metadata": {
            "minute": self.mark, "look": self.looks}})
        ordered = self.customer.post("/api/v1/orders", json={"items": [{"product_id": 1, "quantity": 1}]},
                                     headers={"Idempotency-Key": str(uuid.uuid4())})
        with self.shop.edge() as edge:
            found = edge.get("/api/v1/products?limit=1")
        assert (looked.status_code, ordered.status_code, found.status_code) == (202, 201, 200), (looked.text, ordered.text, found.text)
        self.looks += 1
        self.orders.append(ordered.json()["id"])

    def lag(self):
        row, = self.shop.rows("SELECT * FROM api.relay_lag()")
        return row["events"], row["oldest_ms"]

    def made_up_for(self, kafka):
        """Nothing is left behind, and what happened in that minute is in the topics, in its order."""
        connected(self.shop)
        sent(self.shop)
        assert self.lag() == (0, 0)

        caught_up(self.shop)
        orders = [json.loads(r["payload"])["order_id"] for r in kafka.records("order.completed")]
        assert set(self.orders) <= set(orders)
        looks = [json.loads(r["payload"])["metadata"] or {} for r in kafka.records("user.interaction") if r["key"] == "1:3"]
        looks = [told["look"] for told in looks if told.get("minute") == self.mark]
        assert list(dict.fromkeys(looks)) == list(range(self.looks))
        assert self.shop.value("SELECT count(*) FROM event.inbox WHERE consumer = 'consumer.notify_order' AND event_id IN (SELECT event_id "
                               "FROM event.outbox WHERE type = 'OrderConfirmed' AND aggregate_id = ANY (%s))", self.orders) == len(self.orders)


def stocked(shop):
    assert shop.staff().put("/api/v1/inventory/1", json={"on_hand": 100000}).status_code == 200


def test_a_broker_that_is_down_for_a_minute_loses_nothing(shop, kafka, consumer):
    stocked(shop)
    away = Away(shop)
    with Emitter(shop, "broker", every=0.05) as emitter:
        emitter.goes_on()
        with away.broker():
            connected(shop, False)
            away.minute()
        emitter.goes_on()
    away.made_up_for(kafka)
    whole(shop, kafka, "broker", emitter.count)


def test_a_shop_that_starts_a_minute_before_its_broker(shop, kafka, consumer):
    stocked(shop)
    sent(shop)
    away = Away(shop)
    shop.stop("nginx")
    with away.broker():
        shop.start("nginx")
        connected(shop, False)
        away.minute()
    away.made_up_for(kafka)


def test_who_quits_gives_its_shards_back_and_begins_without_a_broker(shop, kafka, consumer):
    with Emitter(shop, "quit") as emitter:
        emitter.goes_on()
        shop.stop("nginx")
    assert shop.value("SELECT count(*) FROM event.relay_shard WHERE holder IS NOT NULL") == 0
    shop.kill("kafka")
    shop.start("nginx")
    connected(shop, False)
    customer = shop.user()
    assert customer.post("/api/v1/interactions", json={"product_id": 4, "action": "view"}).status_code in (200, 201, 202)
    # without a broker what is under way cannot end, and the shards are given back all the same
    shop.stop("nginx")
    assert shop.value("SELECT count(*) FROM event.relay_shard WHERE holder IS NOT NULL") == 0
    shop.start("nginx")
    shop.start("kafka")
    connected(shop)
    whole(shop, kafka, "quit", emitter.count)


def test_a_broker_that_hangs_stops_nobody(shop, kafka, consumer):
    pid = int((shop.folder / "kafka" / "kafka.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        with Emitter(shop, "hang") as emitter, shop.edge() as edge:
            for _ in range(20):
                assert edge.get("/api/v1/products?limit=1").status_code == 200
            emitter.goes_on(100)
        began = time.monotonic()
        shop.reload(wait=False)
        wait_for(lambda: len(shop.workers(leaving=True)) == 2, 60, "the old workers have left")
        assert time.monotonic() - began < 30
    finally:
        os.kill(pid, signal.SIGCONT)
    connected(shop)
    whole(shop, kafka, "hang", emitter.count)


@pytest.mark.parametrize("point", ["before-produce", "after-produce", "before-consume", "after-consume"])
def test_death_between_two_phases(shop, kafka, consumer, dies, point):
    order = dies(point)
    connected(shop)
    with Emitter(shop, point) as emitter:
        emitter.goes_on()
        order.touch()
        wait_for(lambda: not order.exists(), 60, "a worker has died there")
        emitter.goes_on()
    whole(shop, kafka, point, emitter.count)
    records = [r for r in kafka.records("user.interaction") if r["key"].startswith(f"1:{point}-")]
    # what had reached the broker and was not marked is there once more
    assert len(records) > emitter.count or point != "after-produce"


def test_a_fatal_error_is_the_end_of_the_producer_only(shop, kafka, consumer, dies):
    """librdkafka gives an idempotent producer up when it cannot promise the order any more; what is in flight then goes out by a new one."""
    order = dies("fatal-produce")
    connected(shop)
    workers, mark = set(shop.workers()), shop.log_size()

    def told():
        text = shop.log_file().read_bytes()[mark:].decode()
        return len(re.findall("begins with a new producer: .*a test wants it", text))

    with Emitter(shop, "fatal") as emitter:
        for n in range(3):
            emitter.goes_on()
            order.touch()
            wait_for(lambda: not order.exists(), 60, "a producer has come to its end")
            # a second order before the first is seen would find nothing to end
            wait_for(lambda: told() > n, 60, "a new producer begins")
        emitter.goes_on()
    whole(shop, kafka, "fatal", emitter.count)
    assert told() == 3
    assert set(shop.workers()) == workers


def test_a_topic_that_is_not_there_holds_up_its_own_shards_only(shop, kafka, consumer):
    """What is sent to it fails after ten seconds, again and again. Others go meanwhile, each when the one before is marked as sent,
    from the first of these seconds on."""
    connected(shop)
    mark = shop.log_size()
    shop.expect_log(r"a record for topic \"nowhere\" failed")

    def failures():
        return shop.log_file().read_bytes()[mark:].decode().count('topic "nowhere" failed')

    def unsent(topic):
        return shop.value("SELECT count(*) FROM event.unsent JOIN event.outbox USING (id) WHERE topic = %s", topic)

    other = shop.value("SELECT min('others-' || n) FROM generate_series(0, 99) n WHERE domain.shard('others-' || n) / 4 <> "
                       "domain.shard('lost') / 4")
    try:
        with as_owner(shop) as db:
            emit(db, 0, aggregate="lost", topic="nowhere")
            passed = [0, 0, 0]
            while (failed := failures()) < len(passed):
                emit(db, 0, aggregate=other)
                wait_for(lambda: not unsent("user.interaction"), 60, "it is sent")
                passed[failed] += 1
        assert unsent("nowhere") == 1
        assert min(passed) > 3, passed
    finally:
        with shop.db() as db:
            db.execute("DELETE FROM event.unsent USING event.outbox o WHERE o.id = unsent.id AND o.topic = 'nowhere'")


def test_no_batch_is_larger_than_a_topic_takes(shop, kafka, consumer):
    """A broker refuses one as a whole. The relay asks for the limit when it begins, and when it learns that one was lowered."""
    connected(shop)
    mark, letters = shop.log_size(), shop.value("SELECT coalesce(max(id), 0) FROM event.dead_letter")

    def narrowed():
        return re.findall(r"(\S+) \S+, its batch.size is (\d+)", shop.log_file().read_bytes()[mark:].decode())

    def relayed(name, large=None):
        with as_owner(shop) as db, db.transaction():
            for n in range(400):
                emit(db, n, aggregate=f"{name}-{n % 5}", text="x" * (60000 if n == large else 1000))
        sent(shop)
        return first_times(numbers(r for r in kafka.everything("user.interaction") if r["key"].startswith(f"1:{name}-")))

    kafka.set("user.interaction", "max.message.bytes=20000")
    try:
        found = relayed("lowered")
        assert {key: sorted(ns) for key, ns in found.items()} == {f"1:lowered-{i}": list(range(i, 400, 5)) for i in range(5)}
        assert narrowed() == [("a", "500000"), ("is", "20000")]         # refused, then asked

        shop.reload()
        mark = shop.log_size()
        wait_for(lambda: narrowed() == [("is", "20000")], 60, "the next relay has asked")
        assert relayed("known", large=42) == {f"1:known-{i}": [n for n in range(i, 400, 5) if n != 42] for i in range(5)}
        assert narrowed() == [("is", "20000")]
        assert shop.rows("SELECT reason, length(payload) > 50000 AS large FROM event.dead_letter WHERE id > %s", letters) == [
            {"reason": "oversized", "large": True}]
        consumed(shop, 799)
    finally:
        kafka.set("user.interaction", "max.message.bytes=1000000")


def test_a_topic_that_cannot_be_made_is_asked_for_again(shop, kafka):
    """A broker that is not up yet refuses as one does that never will: the relay does not stop at the first no."""
    def asked():
        return sum("of Kafka's topics cannot be made" in line for line in shop.log_lines())

    def serve(**changes):
        shop.configure(http=CONSUMER, **changes)
        shop.stop("nginx")
        shop.start("nginx")

    whole = shop.value("SELECT pg_get_functiondef('domain.event_topics()'::regprocedure)")
    try:
        with as_owner(shop) as db:
            db.execute("CREATE OR REPLACE FUNCTION domain.event_topics() RETURNS text[] LANGUAGE sql IMMUTABLE AS "
                       "$$ SELECT ARRAY['user.interaction', 'refused-at-first'] $$")
        serve(replace=[(r"(commerce_kafka_topics\s+partitions=4);", r"\1 replication=3;")])
        wait_for(lambda: asked() >= 2, 30, "the topic is asked for once more")
        serve()
        wait_for(lambda: len(kafka.partitions("refused-at-first")) == 4, 30, "the topic is made")
    finally:
        with as_owner(shop) as db:
            db.execute(whole)
        serve()


@pytest.mark.parametrize("line, said", [
    ("commerce_kafka localhost:9092 no.such.property=1;", "No such configuration property"),
    ("commerce_kafka localhost:9092 socket.timeout.ms=often;", "socket.timeout.ms"),
    ("commerce_kafka off linger.ms=5;", 'takes no properties after "off"'),
    ("commerce_kafka localhost:9092 linger;", "no property=value"),
    ("commerce_kafka localhost:9092; commerce_kafka_relay on batch=251;", "batch=1 to 250"),
])
def test_bad_directives_are_named(shop, kafka, line, said):
    shop.expect_log(r"\[emerg\].*" + re.escape(said))
    shop.configure(replace=[(r"commerce_kafka +@kafka@;", line)])
    done = shop.check_conf()
    assert done.returncode and said in done.stdout + done.stderr
    shop.configure(http=CONSUMER)
    assert shop.check_conf().returncode == 0


def test_the_command_of_the_docs(shop, kafka):
    """docs/payments.md: a program outside sends it with kcat, and the customer has an order."""
    order = test_payment_examples.one_order_by_command(shop, "order", "command", "kafka", "look")
    sent(shop)
    assert any(order["id"] in r["payload"] for r in kafka.records("checkout.checkout-events"))
