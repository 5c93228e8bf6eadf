"""Recommendations (L1 to L3, L5, L11, L12, L15): the table in shared memory, what customers did, what is shown."""

import concurrent.futures
import os
import random
import re
import shutil
import subprocess
import threading
import time

import httpx
import pytest

from stack import ROOT, wait_for
from tables import GROUPS, Tables, group, ids, listed, newcomer, sold_by_acme, status

# ---- before anything is trained ----

def test_untrained_shops_say_so_and_show_what_is_popular(shop, tables):
    assert tables.generation == 0, "this test comes first"
    assert status(shop) == {"status": "not_trained", "refused": 0}
    with shop.edge() as edge:
        body = edge.get("/api/v1/recommendations").json()
        assert body["model"] is None and len(body["data"]) == 10
        assert {card["source"] for card in body["data"]} == {"popular"}
        assert all(card["name"] and card["price"]["amount"] and card["image"] and card["in_stock"] for card in body["data"])
        product = body["data"][0]
        alike = listed(edge, f"/api/v1/products/{product['id']}/similar")
        assert alike and product["id"] not in ids(alike)
        assert {card["category"]["id"] for card in alike} == {product["category"]["id"]}
        assert listed(edge, "/api/v1/products/trending", limit=3)
        slug = product["category"]["slug"]
        assert {c["category"]["slug"] for c in listed(edge, "/api/v1/products/trending", category=slug)} == {slug}
        assert edge.get("/api/v1/products/trending", params={"category": "no-such"}).status_code == 404
        assert edge.get("/api/v1/products/999999999/similar").status_code == 404
        health = edge.get("/health").json()
    assert health["checks"]["ml_engine"] == "not_trained"


# ---- what is recommended ----

def test_status_and_health_tell_version_and_age(shop, trained):
    told = status(shop)
    assert (told["status"], told["generation"]) == ("ready", trained.generation)
    assert 0 <= told["age_seconds"] < 600
    assert told["models"] == {"collaborative": "ridge", "content": "tfidf"}
    with shop.edge() as edge:
        # which is counted when the loader has looked at all files, after it has shown the table
        health = wait_for(lambda: (told := edge.get("/health").json())["recommendations"]["tables"] and told, 20, "the table is counted")
    assert health["checks"]["ml_engine"] == "healthy"
    assert health["recommendations"]["tables"] == 1
    assert health["recommendations"]["generation"] == trained.generation


def test_similar_products_are_those_bought_together(shop, trained, products):
    hits = total = 0
    with shop.edge() as edge:
        for product in products[:12]:
            cards = listed(edge, f"/api/v1/products/{product['id']}/similar")
            assert len(cards) == 5 and product["id"] not in ids(cards)
            assert [c["score"] for c in cards] == sorted((c["score"] for c in cards), reverse=True)
            hits += sum(card["id"] % GROUPS == group(product) for card in cards)
            total += len(cards)
    assert hits / total > 0.8


def test_a_category_that_the_table_does_not_list_shows_what_is_popular(shop, trained, staff, products):
    """One that only holds others, or is newer than the table."""
    parent = staff.post("/api/v1/categories", json={"name": "Above", "slug": "above"}).json()["id"]
    child = shop.rows("SELECT id, slug, name, version FROM shop.category WHERE tenant_id = 1 AND id = %s", products[0]["category_id"])[0]
    moved = staff.put(f"/api/v1/categories/{child['id']}", json={"name": child["name"], "slug": child["slug"], "parent_id": parent},
                      headers={"If-Match": f'"{child["version"]}"'})
    assert moved.status_code == 200, moved.text
    with shop.edge() as edge:
        cards = listed(edge, "/api/v1/products/trending", category="above", limit=40)
    assert cards and {c["category"]["slug"] for c in cards} == {child["slug"]}
    assert {(c["source"], c["score"]) for c in cards} == {("popular", None)}


# ---- lists are as long as they were asked to be ----

def filled(cards, limit, source="popular"):
    """As many as asked for, none twice, those without a score at the end.  Returns how many have one."""
    assert len(set(ids(cards))) == len(cards) == limit
    scored = [card["score"] is not None for card in cards]
    assert scored == sorted(scored, reverse=True)
    assert all(card["source"] == source and card["in_stock"] for card in cards if card["score"] is None)
    return sum(scored)


def test_who_dismissed_all_that_is_popular_has_a_list_too(shop):
    """All 250 products that are remembered, of a shop without a table: what fills up comes from behind them."""
    rows = [{"title": f"Cog {n}", "price": 1 + n, "stock": 5, "category": "cogs"} for n in range(300)]
    report = shop.staff("globex").post("/api/v1/admin/import", json={"products": rows})
    assert (report.status_code, report.json()["imported"]) == (200, 300), report.text
    customer = newcomer(shop, "globex")
    gone = {row["product_id"] for row in shop.rows(
        "INSERT INTO shop.recommendation_feedback (tenant_id, user_id, product_id, action) "
        "SELECT c.tenant_id, %s, c.product_id, 'dismiss' FROM shop.product_card c WHERE c.tenant_id = 3 "
        "ORDER BY c.popularity DESC, c.product_id DESC LIMIT 250 RETURNING product_id", customer.user_id)}
    for limit in (1, 40):
        cards = listed(customer, limit=limit)
        assert filled(cards, limit) == 0
        assert not gone & set(ids(cards))


def test_what_is_dismissed_again_and_again_takes_no_other_s_place(shop):
    """And among 20,000 looks what is not wanted is found by its index, as the edge's role plans it."""
    first, second = sold_by_acme(shop)
    customer = newcomer(shop, "acme")
    with shop.db() as db:
        for action, product, times in (("dismiss", first, 1), ("dismiss", second, 260), ("view", first, 20000)):
            db.execute("INSERT INTO shop.recommendation_feedback (tenant_id, user_id, product_id, action) "
                       "SELECT 2, %s, %s, %s FROM generate_series(1, %s::int)", [customer.user_id, product, action, times])
        db.execute("ANALYZE shop.recommendation_feedback")
        db.execute("SET plan_cache_mode = force_generic_plan")
        db.execute("PREPARE told (uuid) AS SELECT f.product_id FROM shop.recommendation_feedback f WHERE f.tenant_id = 2 "
                   "AND f.user_id = $1 AND f.action IN ('dismiss', 'purchase') ORDER BY f.id DESC LIMIT 2000")
        plan = "\n".join(next(iter(row.values())) for row in db.execute(f"EXPLAIN EXECUTE told ('{customer.user_id}')"))
    assert "recommendation_feedback_user_never" in plan, plan
    assert not {first, second} & set(ids(listed(customer)))


def test_a_small_table_is_filled_up_with_what_is_popular(shop, tables, products):
    """The table knows twelve products, the shop has more: nobody gets a shorter list for having been trained."""
    few = {p["id"] for p in products[:12]}
    tables.publish(leave_out={p["id"] for p in products} - few, texts=False)
    customer = newcomer(shop)
    customer.post("/api/v1/interactions", json={"product_id": products[0]["id"], "action": "view"})
    bought = next(p["id"] for p in products[12:] if p["id"] in ids(listed(customer, limit=40)))
    customer.post("/api/v1/recommendations/feedback", json={"product_id": bought, "action": "dismiss"})
    for _ in range(2):          # made, and kept
        cards = listed(customer, limit=40, explain=True)
        assert 0 < filled(cards, 40) <= 12
        assert bought not in ids(cards)
        assert cards[-1]["explanation"] == {"because_of": None, "event": None,
                                            "components": {"content": 0, "collaborative": 0, "popularity": 1}}
    with shop.edge() as edge:
        assert 0 < filled(listed(edge, limit=40), 40) <= 12
        assert 0 < filled(listed(edge, "/api/v1/products/trending", limit=40), 40) <= 12
        first = products[0]
        alike = listed(edge, f"/api/v1/products/{first['id']}/similar", limit=20)
        filled(alike, len(alike), "similar")
        assert first["id"] not in ids(alike)
        in_category = sum(p["category_id"] == first["category_id"] for p in products) - 1
        assert len(alike) >= min(20, in_category)
    tables.publish()


def test_a_table_of_what_is_not_sold_shows_what_is_popular(shop, tables, products):
    """Trained before all products were imported anew, say."""
    gone = Tables(shop, [{**p, "id": p["id"] + GROUPS * 1_000_000} for p in products])
    gone.generation = tables.generation
    gone.publish(texts=False)
    tables.generation = gone.generation
    customer = newcomer(shop)
    customer.post("/api/v1/interactions", json={"product_id": products[0]["id"], "action": "view"})
    with shop.edge() as edge:
        assert filled(listed(customer), 10) == 0
        assert filled(listed(edge), 10) == 0
        assert filled(listed(edge, "/api/v1/products/trending", limit=7), 7) == 0
        assert filled(listed(edge, f"/api/v1/products/{products[0]['id']}/similar"), 5, "similar") == 0
    tables.publish()


def test_what_is_sold_out_is_not_recommended(shop, trained, products, staff):
    customer = shop.user()
    customer.post("/api/v1/interactions", json={"product_id": products[9]["id"], "action": "view"})
    first = listed(customer)[0]
    with shop.db() as db:
        old = db.execute("SELECT on_hand FROM shop.stock WHERE tenant_id = 1 AND variant_id = %s",
                         [first["default_variant_id"]]).fetchone()["on_hand"]
    levels = f"/api/v1/inventory/{first['id']}"
    current = staff.get(levels)
    assert current.status_code == 200, current.text
    sold_out(shop, first, 0)
    try:
        wait_for(lambda: first["id"] not in ids(listed(customer)), 5, "it is left out")
        assert len(listed(customer)) == 10, "another one is in its place"
    finally:
        sold_out(shop, first, old)
    wait_for(lambda: first["id"] in ids(listed(customer)), 5, "it is back")


def test_nothing_is_like_a_product_that_is_gone(shop, trained, products, staff):
    """The table still has it; what is not for sale has no page that could show others."""
    path = f"/api/v1/products/{products[7]['id']}"
    with shop.edge() as edge:
        before = ids(listed(edge, path + "/similar"))
        for status_, code in ("draft", 404), ("active", 200):
            answer = staff.patch(path, json={"status": status_}, headers={"If-Match": "*"})
            assert answer.status_code == 200, answer.text
            wait_for(lambda code=code: edge.get(path + "/similar").status_code == code, 10, f"its neighbours are a {code}")
            assert edge.get(path).status_code == code
        assert ids(listed(edge, path + "/similar")) == before


def sold_out(shop, card, quantity):
    """As the back office would, through SQL: the stock, the reading side, the notice."""
    with shop.db() as db, db.transaction():
        db.execute("SELECT set_config('commerce.tenant_id', '1', true), set_config('commerce.roles', 'staff owner', true)")
        db.execute("UPDATE shop.stock SET on_hand = %s WHERE tenant_id = 1 AND variant_id = %s", [quantity, card["default_variant_id"]])
        db.execute("SELECT domain.stock_changed(ARRAY[%s]::bigint[])", [card["default_variant_id"]])
        db.execute("SELECT domain.invalidate(ARRAY['catalog', 'product:' || %s])", [card["id"]])


def test_a_new_product_has_neighbours_by_content(shop, tables, products):
    """In the catalogue and in the texts, but nobody bought it yet (L12)."""
    new = products[5]
    tables.publish(leave_out={new["id"]})
    with shop.edge() as edge:
        cards = listed(edge, f"/api/v1/products/{new['id']}/similar", explain=True)
        assert cards and {c["source"] for c in cards} == {"similar"}
        same = [c for c in cards if c["category"]["id"] == new["category_id"]]
        assert len(same) >= 3, "texts tell what is alike"
    tables.publish()


def test_other_tenants_have_other_tables(shop, trained):
    assert status(shop, "acme")["status"] == "not_trained"
    with shop.edge(tenant="acme") as acme:
        assert acme.get("/api/v1/recommendations").json()["model"] is None
    # a table under another one's name is refused
    shop.expect_log(r"another tenant's")
    trained.put(trained.folder / "1.sim", tenant=2)
    wait_for(lambda: status(shop, "acme")["refused"] == 1, 20)
    assert status(shop, "acme")["status"] == "not_trained"
    (trained.folder / "2.sim").unlink()


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 41}, {"limit": "x"}, {"explain": "yes"}, {"no": 1}])
def test_bad_parameters(anyone, params):
    assert anyone.get("/api/v1/recommendations", params=params).status_code in (400, 422)


# ---- the zone ----

def test_a_bad_file_changes_nothing(shop, trained):
    """Truncated, scrambled, hostile: the table before it stays, and the log says why, once."""
    good = (trained.folder / "1.sim").read_bytes()
    rng = random.Random(3)
    bad = [b"", good[:100], good[:-1], good[: len(good) // 2], b"\0" * len(good), good + b"x" * 100, b"<html>"]
    for _ in range(12):
        scrambled = bytearray(good)
        for _ in range(rng.choice((1, 20))):
            scrambled[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        bad.append(bytes(scrambled))
    refused = status(shop)["refused"]
    for data in bad:
        trained.put(data)
        refused += 1
        wait_for(lambda r=refused: status(shop)["refused"] == r, 20, "the file is refused")
        assert status(shop)["generation"] == trained.generation
    with shop.edge() as edge:
        assert edge.get("/health").json()["checks"]["ml_engine"] == "degraded"
        assert edge.get("/health").status_code == 200
    time_said = sum("is no table" in line for line in shop.log_lines())
    assert time_said >= len(bad)
    trained.publish()
    with shop.edge() as edge:
        wait_for(lambda: edge.get("/health").json()["checks"]["ml_engine"] == "healthy", 5)


def test_a_refusal_lasts_as_long_as_its_file(shop, trained):
    """Back by rename(), readable again, deleted: what is told of is what is there now; also of a shop without a table."""
    shop.expect_log(r"Permission denied")
    file, kept = trained.folder / "1.sim", trained.folder / "kept"
    edge = shop.edge()

    def engine(state):
        wait_for(lambda: edge.get("/health").json()["checks"]["ml_engine"] == state, 20, state)

    file.rename(kept)
    trained.put(b"no table")
    engine("degraded")
    kept.rename(file)
    engine("healthy")
    path = trained.train()
    file.unlink()
    trained.put(b"no table")
    engine("degraded")
    file.unlink()
    engine("healthy")
    trained.put(b"no table", tenant=3)
    engine("degraded")
    (trained.folder / "3.sim").unlink()
    engine("healthy")
    if os.getuid() == 0:
        shutil.copy(path, kept)
        kept.chmod(0)
        kept.rename(file)
        engine("degraded")
        file.chmod(0o644)
    else:
        trained.put(path)
    trained.shown(trained.generation)
    engine("healthy")


def test_a_file_that_is_written_over_in_place_harms_nobody(shop, trained):
    """Nothing points into the file: it may be cut off under the edge's feet."""
    path = trained.folder / "1.sim"
    with path.open("r+b") as f:
        f.truncate(64)
    with shop.edge() as edge:
        for _ in range(50):
            assert listed(edge, "/api/v1/products/4/similar", limit=random.randrange(1, 40))
    wait_for(lambda: status(shop)["refused"] > 0, 20)
    assert len(shop.workers()) == 2
    trained.publish()


def test_tables_change_under_load_without_a_torn_answer(shop, trained, products):
    """Each table makes another product everybody's favourite; an answer must agree with the table that it names."""
    favourites = {}
    stop = threading.Event()

    def look():
        seen = 0
        with shop.edge() as edge:
            while not stop.is_set():
                try:
                    answer = edge.get("/api/v1/products/trending", params={"limit": random.randrange(1, 40)})
                except httpx.TransportError:
                    continue                # a kept-alive connection that the reload closed
                body = answer.json()
                generation = body["model"]["generation"]
                if generation in favourites:
                    assert body["data"][0]["id"] == favourites[generation], body["model"]
                    seen += 1
        return seen

    files = []
    for n in range(6):
        favourite = products[5 * n]["id"]
        path = trained.train(favourite=favourite)
        favourites[trained.generation] = favourite
        files.append((trained.generation, path))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(look) for _ in range(4)]
        try:
            for generation, path in files:
                trained.put(path)
                trained.shown(generation)
            before = shop.reload()
            trained.put(files[0][1])
            trained.shown(files[0][0])
        finally:
            stop.set()
        assert sum(f.result() for f in futures) > 50
    assert not before & set(shop.workers())
    trained.publish()


def test_a_table_that_changes_while_cards_are_fetched(shop, trained, products):
    """They were chosen from the old one: those that the new one adds are fetched too."""
    trained.publish(favourite=products[0]["id"])
    with shop.edge() as edge:
        known = ids(listed(edge, "/api/v1/products/trending", limit=40))
    favourite = next(p["id"] for p in products if p["id"] not in known)
    path = trained.train(favourite=favourite)
    shop.stop("nginx")          # no card is kept
    shop.start("nginx")
    trained.shown(trained.generation - 1)

    def look():
        with shop.edge() as edge:
            return edge.get("/api/v1/products/trending", params={"limit": 3}).json()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with shop.db() as db, db.transaction():
            db.execute("LOCK TABLE shop.product_card IN ACCESS EXCLUSIVE MODE")
            answer = pool.submit(look)
            wait_for(lambda: shop.rows("SELECT FROM pg_stat_activity WHERE usename = 'commerce_edge' AND wait_event_type = 'Lock'"),
                     10, "the cards are asked for")
            trained.put(path)
            trained.shown(trained.generation)
        body = answer.result()
    assert body["model"]["generation"] == trained.generation
    assert len(body["data"]) == 3 and body["data"][0]["id"] == favourite
    trained.publish()


@pytest.mark.slow
def test_workers_killed_during_load_and_swap(shop, trained, products):
    """SIGKILL anywhere: the next worker goes on with the tables that are there."""
    files = [trained.train() for _ in range(2)]
    stop = threading.Event()
    good = []

    def look():
        while not stop.is_set():
            try:
                with shop.edge() as edge:
                    assert len(listed(edge, f"/api/v1/products/{random.choice(products)['id']}/similar")) == 5
                    good.append(1)
            except httpx.TransportError:
                pass

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(look) for _ in range(2)]
        try:
            for n in range(8):
                trained.put(files[n % 2])
                time.sleep(random.random() * 0.5)       # somewhere in the loader's second
                shop.kill_worker(n % 2)
                count = len(good)
                wait_for(lambda count=count: len(good) > count or any(f.done() for f in futures), 20, "answers")
        finally:
            stop.set()
        for future in futures:
            future.result()
    wait_for(lambda: status(shop).get("generation") in (trained.generation, trained.generation - 1), 20)
    trained.publish()


def test_a_zone_that_is_too_small_says_what_it_needs(shop, trained):
    big = bytearray((trained.folder / "1.sim").read_bytes()) + b"\0" * (6 << 20)
    with shop.configured(replace=[(r"commerce_similarity_zone\s+tables:64m", "commerce_similarity_zone tables:4m")]):
        trained.shown(trained.generation)
        trained.put(bytes(big))
        wait_for(lambda: any("is too small for" in line and "raise the size to" in line for line in shop.log_lines()), 20)
        assert status(shop)["generation"] == trained.generation
    trained.publish()


@pytest.mark.parametrize("line, cure", [
    ("commerce_similarity_zone a:64m;", "path="),
    ("commerce_similarity_zone a:1m path=/tmp;", "at least 4096k"),
    ("commerce_similarity_zone 64m path=/tmp;", "name:size"),
    ("commerce_similarity_zone a:64m path=/tmp interval=5ms;", "interval="),
    ("commerce_similarity_zone a:64m folder=/tmp;", "unknown parameter"),
    ("commerce_recent_zone r:1k;", "name:size"),
    ("commerce_recent_zone r:1m valid=soon;", "valid=TIME"),
])
def test_directives_name_the_cure(shop, line, cure):
    name = line.split()[0]
    shop.configure(replace=[(rf"{name} [^;]*;", line)])
    try:
        done = shop.check_conf()
    finally:
        shop.configure()
        shop.run("conf")
    assert done.returncode and cure in done.stdout + done.stderr


def test_without_zones_what_is_popular_is_shown(shop, trained):
    with shop.configured(replace=[(r"commerce_similarity_zone [^;]*;", ""), (r"commerce_recent_zone [^;]*;", "")]):
        assert status(shop)["status"] == "disabled"
        customer = shop.user()
        assert {c["source"] for c in listed(customer)} == {"popular"}
        assert customer.post("/api/v1/interactions", json={"product_id": 1, "action": "view"}).status_code == 202
    trained.shown(trained.generation)


@pytest.mark.slow
def test_everything_down_the_last_table_goes_on(shop, trained, products):
    customer = shop.user()
    customer.post("/api/v1/interactions", json={"product_id": products[2]["id"], "action": "view"})
    listed(customer, limit=3)
    similar = f"/api/v1/products/{products[2]['id']}/similar"
    listed(customer, similar)
    shop.expect_log(r"")
    shop.kill("postgres", "redis")
    try:
        assert listed(customer, limit=3) and listed(customer, similar)
        assert status(shop)["status"] == "ready"
    finally:
        shop.start()


# ---- training ----

def test_staff_ask_for_a_training_and_get_its_report(shop, trained, products):
    """L16, L17: queued, done by scripts/train from PostgreSQL, published to the running edge, its report to be read."""
    shoppers = [shop.user() for _ in range(3)]
    for n, shopper in enumerate(shoppers):
        for product in products[6 * n:6 * n + 6]:
            assert shopper.post("/api/v1/interactions", json={"product_id": product["id"], "action": "view"}).status_code == 202
    staff = shop.staff()
    asked = staff.post("/api/v1/admin/recommendations/train")
    assert (asked.status_code, asked.json()["status"]) == (202, "queued")
    again = staff.post("/api/v1/admin/recommendations/train").json()
    assert again["id"] == asked.json()["id"], "one at a time"
    assert shop.user().post("/api/v1/admin/recommendations/train").status_code == 403

    before = status(shop)["generation"]
    done = shop.run("--queued", "--force", script="scripts/train")
    assert f"demo: generation {before + 1}" in done.stdout, done.stdout + done.stderr
    trained.generation = before + 1
    trained.shown(before + 1)

    run = staff.get(asked.headers["location"]).json()
    assert (run["status"], run["generation"]) == ("done", before + 1)
    assert run["report"] and run["finished_at"]
    assert staff.get("/api/v1/admin/recommendations/runs").json()["data"][0]["id"] == run["id"]
    assert "no shop to train for" in shop.run("--queued", script="scripts/train").stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_the_timers_of_systemd(shop, tmp_path):
    """L17: systemd understands conf/examples/commerce-train*, and what they run trains."""
    units = sorted((ROOT / "conf" / "examples").glob("commerce-train*"))
    for unit in units:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/nginx-commerce", str(ROOT)))
    instances = [unit.stem.partition("@")[2] for unit in units if unit.suffix == ".timer"]
    assert instances == ["queued", "tune"]
    names = [f"./commerce-train@{instance}.{kind}" for instance in instances for kind in ("timer", "service")]
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", *names], cwd=tmp_path, capture_output=True, text=True)
    own = [line for line in (said.stdout + said.stderr).splitlines() if "commerce-train" in line]
    assert (said.returncode, own) == (0, []), said.stdout + said.stderr

    command = re.search(r"^ExecStart=(.*)$", (tmp_path / "commerce-train@.service").read_text(), re.M)[1]
    for instance, more, code, answer in (("queued", [], 0, "no shop to train for"), ("queued", ["--tenant", "nobody"], 0, "no shop"),
                                         ("tune", ["--tenant", "nobody"], 1, "nobody: there is no such shop")):
        words = command.replace("%i", instance).replace("/var/lib/commerce", str(shop.folder / "tables")).split()
        done = subprocess.run([*words, *more], capture_output=True, text=True,
                              env={**os.environ, "COMMERCE_RUN": str(shop.folder)})
        assert done.returncode == code and answer in done.stdout + done.stderr, done.stdout + done.stderr
