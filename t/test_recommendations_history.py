"""What customers did, for the recommendations that follow: at once, on other nodes, after a restart, of guests, of what stays away."""

import concurrent.futures
import contextlib
import random
import threading
import uuid

import httpx
import pytest

from stack import CHEAP, wait_for
from tables import GROUPS, group, ids, listed, newcomer, sold_by_acme

GUEST = {"email": "guest@example.com",
         "shipping_address": {"name": "A Guest", "line1": "1 Road", "city": "Town", "postal_code": "12345", "country": "DE"}}


PATIENT = (r"(commerce_postgres\s+read\s[^;]*)statement_timeout=", r"\1lock_timeout=20s statement_timeout=")


def reasons(client, **params):
    """What a list is made of."""
    return {card.get("explanation", {}).get("because_of") for card in listed(client, explain=True, **params)}


def done_elsewhere(shop, user, product):
    with shop.db() as db, db.transaction():
        db.execute("INSERT INTO shop.interaction (tenant_id, user_id, product_id, action) VALUES (1, %s, %s, 'view')", [user, product])
        db.execute("SELECT pg_notify('commerce_recent', %s || (extract(epoch FROM now()) * 1000)::bigint)", [f"1:u:{user} {product} "])


def asking(shop):
    """Calls of the edge that wait for a lock."""
    return shop.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'commerce_edge' AND wait_event_type = 'Lock'")


def test_an_interaction_changes_the_next_answer(shop, trained, products):
    """New customers see what is popular; one view later what goes with it, whichever worker answers."""
    customer = shop.user()
    before = listed(customer)
    assert {card["source"] for card in before} == {"popular"}
    for product in (products[7], products[20], products[41]):
        assert customer.post("/api/v1/interactions", json={"product_id": product["id"], "action": "view"}).status_code == 202
        top = listed(customer, limit=3, explain=True)
        assert top[0]["id"] % GROUPS == group(product), "what was looked at last counts most"
        assert top[0]["explanation"]["because_of"] == product["id"]
        assert top[0]["explanation"]["event"] == "view"
        assert sum(top[0]["explanation"]["components"].values()) == pytest.approx(1, abs=0.01)
        assert product["id"] not in ids(listed(customer))
        for _ in range(6):
            with shop.edge(headers=dict(customer.headers)) as other:
                assert ids(listed(other, limit=3)) == ids(top)


def test_interactions_come_in_batches(shop, trained, products):
    """In the order in which they happened; what is not there is told, and costs the others nothing."""
    user, token = shop.customers(1)[0]
    customer = shop.edge(token=token)
    batch = [{"product_id": products[13]["id"], "action": "view"}, {"product_id": 10 ** 12, "action": "view"},
             {"product_id": products[22]["id"], "action": "click", "metadata": {"from": "search"}}]
    assert {card["source"] for card in listed(customer)} == {"popular"}
    answer = customer.post("/api/v1/interactions/batch", json={"interactions": batch})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2, "rejected": [1]})
    # the very next answer is made of both
    assert {card["explanation"]["because_of"] for card in listed(customer, explain=True)} == {products[13]["id"], products[22]["id"]}
    rows = shop.rows("SELECT product_id, action, metadata FROM shop.interaction WHERE tenant_id = 1 AND user_id = %s ORDER BY id DESC "
                     "LIMIT 2", user)
    assert [(r["product_id"], r["action"], r["metadata"]) for r in rows] == [
        (products[22]["id"], "click", {"from": "search"}), (products[13]["id"], "view", None)]
    assert customer.post("/api/v1/interactions/batch", json={"interactions": batch[1:2]}).status_code == 404
    for bad in ([], batch * 17, [{"product_id": 1, "action": "buy"}], [{"action": "view"}]):
        assert customer.post("/api/v1/interactions/batch", json={"interactions": bad}).status_code == 422


def test_what_is_done_on_another_node_counts(shop, trained, products):
    """L18: an event that this node's memory does not have makes it ask again."""
    user, token = shop.customers(2)[1]
    customer, other = shop.edge(token=token), products[16]["id"]
    customer.post("/api/v1/interactions", json={"product_id": products[15]["id"], "action": "view"})
    assert reasons(customer, limit=3) == {products[15]["id"]}
    done_elsewhere(shop, user, other)
    wait_for(lambda: other in reasons(customer), 20, "it counts here")


def test_what_is_done_on_another_node_while_it_is_read_counts(shop, trained, products):
    """What PostgreSQL says then is of before: the next list asks again."""
    customer, witness, other = newcomer(shop), newcomer(shop), products[16]["id"]

    def look(of):
        with shop.edge(headers=dict(of.headers)) as edge:
            return reasons(edge)

    def heard():
        if lists[-1].done():
            lists.append(pool.submit(look, witness))
        return asking(shop) == 2

    with shop.configured(replace=[PATIENT]), concurrent.futures.ThreadPoolExecutor(2) as pool:
        trained.shown(trained.generation)
        listed(witness)
        with shop.db() as db, db.transaction():
            db.execute("LOCK TABLE shop.recommendation_feedback IN ACCESS EXCLUSIVE MODE")
            lists = [pool.submit(look, customer)]
            wait_for(lambda: asking(shop) == 1, 10, "the first list asks what the customer did")
            # the witness is told of last, and asks when that is heard
            done_elsewhere(shop, customer.user_id, other)
            done_elsewhere(shop, witness.user_id, other)
            lists.append(pool.submit(look, witness))
            wait_for(heard, 20, "the edge has heard of both")
        assert other not in lists[0].result()
        assert other in reasons(customer)
    trained.shown(trained.generation)


def durable(shop, command):
    """The tests' PostgreSQL answers before it has written: a crash of it would lose what it had acknowledged."""
    with shop.db() as db:
        db.execute(f"ALTER SYSTEM {command}")
        db.execute("SELECT pg_reload_conf()")


@pytest.mark.slow
def test_what_was_acknowledged_is_not_lost(shop, products):
    """Workers and PostgreSQL end without a word while interactions arrive: whatever was answered with 202 is there."""
    shop.expect_log(r"")
    durable(shop, "SET synchronous_commit = on")
    people, stop = shop.customers(4), threading.Event()
    accepted = [0] * len(people)

    def tell(number, token):
        with shop.edge(token=token, timeout=5) as edge:
            while not stop.is_set():
                batch = [{"product_id": random.choice(products)["id"], "action": "view"} for _ in range(20)]
                try:
                    answer = edge.post("/api/v1/interactions/batch", json={"interactions": batch})
                    accepted[number] += answer.json()["accepted"] if answer.status_code == 202 else 0
                except httpx.TransportError:
                    pass

    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(tell, n, token) for n, (_, token) in enumerate(people)]
            try:
                for n in range(2):
                    mark = list(accepted)
                    wait_for(lambda m=mark: all(a > b for a, b in zip(accepted, m)), 20, "interactions of everybody arrive")
                    shop.kill_worker(n)
                    shop.kill("postgres")
                    shop.start()
                    shop.ready()
            finally:
                stop.set()
            for future in futures:
                future.result()
    finally:
        durable(shop, "RESET synchronous_commit")
    stored = [shop.value("SELECT count(*) FROM shop.interaction WHERE tenant_id = 1 AND user_id = %s", user) for user, _ in people]
    assert min(accepted) > 0 and all(a <= s for a, s in zip(accepted, stored)), (accepted, stored)


def test_guests_are_known_by_their_token(shop, trained, products):
    with shop.edge() as guest:
        token = guest.get("/api/v1/cart").headers["x-cart-token"]
        guest.headers["X-Cart-Token"] = token
        listed(guest)
        guest.post("/api/v1/interactions", json={"product_id": products[3]["id"], "action": "click"})
        assert {c["id"] % GROUPS for c in listed(guest, limit=3)} == {group(products[3])}
    with shop.edge() as stranger:
        assert {c["source"] for c in listed(stranger)} == {"popular"}


def test_a_guest_of_two_shops_is_two_guests(shop, trained, products):
    """With one token: what is done in the one counts in the other as little as anybody else's."""
    theirs = sold_by_acme(shop)
    with shop.edge() as guest, shop.edge(tenant="acme") as there:
        there.headers["X-Cart-Token"] = guest.headers["X-Cart-Token"] = guest.get("/api/v1/cart").headers["x-cart-token"]
        guest.post("/api/v1/interactions", json={"product_id": products[2]["id"], "action": "view"})
        before = ids(listed(guest))
        for product in theirs:
            assert there.post("/api/v1/interactions", json={"product_id": product, "action": "view"}).status_code == 202
            listed(there)
            assert ids(listed(guest)) == before
        guest.post("/api/v1/interactions", json={"product_id": products[3]["id"], "action": "click"})
        assert ids(listed(guest)) != before


def test_what_a_guest_did_is_the_customers_after_login(shop, trained, products):
    """As the cart is: by login, or by its merge; what is adopted once is nobody else's."""
    mine, other = ([p for p in products if group(p) == g] for g in (2, 4))
    unwanted = next(c["id"] for c in listed(shop.edge()) if c["id"] % GROUPS not in (2, 4))
    with shop.edge() as guest, shop.edge() as customer, shop.edge() as second:
        token = {"X-Cart-Token": guest.get("/api/v1/cart").headers["x-cart-token"]}
        guest.headers.update(token)
        for product in mine[:3]:
            guest.post("/api/v1/interactions", json={"product_id": product["id"], "action": "click"})
        guest.post("/api/v1/recommendations/feedback", json={"product_id": unwanted, "action": "dismiss"})

        emails = []
        for client, headers in (customer, token), (second, token):
            email = f"visitor-{random.getrandbits(48):x}@example.com"
            emails.append(email)
            shop.rows("SELECT domain.user_put(1, %s, %s, 'Visitor')", email, CHEAP)
            # the edge remembers that they did nothing
            assert {c["source"] for c in listed(shop.user(email))} == {"popular"}
            login = client.post("/api/v1/auth/login", json={"email": email, "password": "password"}, headers=headers)
            client.headers["Authorization"] = f"Bearer {login.json()['token']}"

        found = listed(customer, limit=2)
        assert {c["id"] % GROUPS for c in found} == {2} and unwanted not in ids(listed(customer, limit=40))
        assert {c["source"] for c in listed(second)} == {"popular"} and unwanted in ids(listed(second, limit=40))
        kept = "SELECT count(*) FROM shop.interaction i JOIN shop.app_user u ON u.id = i.user_id WHERE u.email = %s AND i.guest IS NULL"
        assert [shop.value(kept, email) for email in emails] == [3, 0]

        # a token that is none does no harm to a login
        for bad in "null", "":
            login = second.post("/api/v1/auth/login", json={"email": emails[1], "password": "password"}, headers={"X-Cart-Token": bad})
            assert login.status_code == 200, login.text

        # the browser goes on without logging in, and its cart is merged later
        for product in other[:3]:
            guest.post("/api/v1/interactions", json={"product_id": product["id"], "action": "click"})
        assert second.post("/api/v1/cart/merge", headers=token).status_code == 200
        assert {c["id"] % GROUPS for c in listed(second, limit=2)} == {4}
        assert [shop.value(kept, email) for email in emails] == [3, 3]


def test_a_login_does_not_wait_for_the_history(shop, trained, products):
    """Its table is locked as by CREATE INDEX: the login is good, and the merge takes the history later."""
    email = f"visitor-{random.getrandbits(48):x}@example.com"
    shop.rows("SELECT domain.user_put(1, %s, %s, 'Visitor')", email, CHEAP)
    owned = "SELECT count(*) FROM shop.interaction i JOIN shop.app_user u ON u.id = i.user_id WHERE u.email = %s"
    with shop.edge() as client:
        client.headers["X-Cart-Token"] = client.get("/api/v1/cart").headers["x-cart-token"]
        client.post("/api/v1/interactions", json={"product_id": products[2]["id"], "action": "view"})
        with shop.configured(jobs=False, replace=[("lock_timeout=20s", "lock_timeout=1s")]), shop.db() as db, db.transaction():
            db.execute("LOCK TABLE shop.interaction IN SHARE MODE")
            login = client.post("/api/v1/auth/login", json={"email": email, "password": "password"})
            assert login.status_code == 200, login.text
        assert shop.value(owned, email) == 0
        client.headers["Authorization"] = f"Bearer {login.json()['token']}"
        assert client.post("/api/v1/cart/merge").status_code == 200
        assert shop.value(owned, email) == 1


def test_other_nodes_hear_of_an_adoption(shop, trained, products):
    email = f"visitor-{random.getrandbits(48):x}@example.com"
    shop.rows("SELECT domain.user_put(1, %s, %s, 'Visitor')", email, CHEAP)
    mine = [p for p in products if group(p) == 1]
    with shop.user(email) as customer, shop.edge() as guest:
        guest.headers["X-Cart-Token"] = guest.get("/api/v1/cart").headers["x-cart-token"]
        for product in mine[:3]:
            guest.post("/api/v1/interactions", json={"product_id": product["id"], "action": "click"})
        assert {c["source"] for c in listed(customer)} == {"popular"}
        with shop.db() as db:
            db.execute("SET ROLE commerce_owner")
            db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
            # as another node does it, which cannot empty this one's memory
            assert db.execute("SELECT domain.history_adopt((SELECT id FROM shop.app_user WHERE tenant_id = 1 AND email = %s), (SELECT guest "
                              "FROM shop.interaction WHERE guest IS NOT NULL ORDER BY id DESC LIMIT 1)) AS done", (email,)).fetchone()["done"]
        wait_for(lambda: {c["id"] % GROUPS for c in listed(customer, limit=2)} == {1}, 10, "this node has asked again")


def test_history_is_read_from_the_database_after_a_restart(shop, trained, products):
    customer = shop.user()
    for product in (products[10], products[16]):
        customer.post("/api/v1/interactions", json={"product_id": product["id"], "action": "view"})
    before = ids(listed(customer))
    shop.stop("nginx")
    shop.start("nginx")
    trained.shown(trained.generation)
    assert ids(listed(customer)) == before
    assert {c["id"] % GROUPS for c in listed(customer, limit=3)} == {group(products[16])}


def test_without_a_zone_of_recent_events_nothing_old_is_shown(shop, trained, products):
    with shop.configured(replace=[(r"commerce_recent_zone [^;]*;", "")]):
        trained.shown(trained.generation)
        customer = shop.user()
        for product in products[2], products[3]:
            customer.post("/api/v1/interactions", json={"product_id": product["id"], "action": "click"})
            assert group(product) in {c["id"] % GROUPS for c in listed(customer, limit=3)}
    trained.shown(trained.generation)


def test_bought_and_dismissed_products_are_not_recommended(shop, trained, products):
    customer = shop.user()
    customer.post("/api/v1/interactions", json={"product_id": products[8]["id"], "action": "view"})
    first, second = ids(listed(customer))[:2]
    answer = customer.post("/api/v1/recommendations/feedback", json={"product_id": first, "action": "dismiss", "generation": 1})
    assert answer.status_code == 202
    assert first not in ids(listed(customer, limit=40))
    assert customer.post("/api/v1/cart/items", json={"product_id": second, "quantity": 1}).status_code == 201
    assert customer.post("/api/v1/checkout", json={}).status_code == 201
    assert not {first, second} & set(ids(listed(customer, limit=40)))
    # and it is remembered
    with shop.db() as db:
        row = db.execute("SELECT action, generation FROM shop.recommendation_feedback WHERE tenant_id = 1 AND user_id = %s",
                         [customer.user_id]).fetchone()
    assert (row["action"], row["generation"]) == ("dismiss", 1)
    shop.stop("nginx")
    shop.start("nginx")
    trained.shown(trained.generation)
    assert not {first, second} & set(ids(listed(customer, limit=40)))


@pytest.mark.parametrize("zone", [True, False], ids=["zone", "no-zone"])
@pytest.mark.parametrize("who", ["customer", "guest"])
def test_they_stay_away_however_much_is_looked_at(shop, trained, products, who, zone):
    """Views have 50 places; what is not to be shown has its own, in memory and in what PostgreSQL tells."""
    with contextlib.ExitStack() as stack:
        if not zone:
            stack.enter_context(shop.configured(replace=[(r"commerce_recent_zone [^;]*;", "")]))
            trained.shown(trained.generation)
        if who == "customer":
            client = newcomer(shop)
        else:
            client = stack.enter_context(shop.edge())
            client.headers["X-Cart-Token"] = client.get("/api/v1/cart").headers["x-cart-token"]
        client.post("/api/v1/interactions", json={"product_id": products[8]["id"], "action": "view"})
        dismissed, bought = ids(listed(client))[:2]
        told = client.post("/api/v1/recommendations/feedback", json={"product_id": dismissed, "action": "dismiss"})
        assert told.status_code == 202
        assert client.post("/api/v1/cart/items", json={"product_id": bought, "quantity": 1}).status_code == 201
        order = client.post("/api/v1/checkout", json=GUEST if who == "guest" else {})
        assert order.status_code == 201, order.text
        seen = [p["id"] for p in products if p["id"] not in (dismissed, bought)][:60]
        for part in (seen[:30], seen[30:]):
            views = [{"product_id": product, "action": "view"} for product in part]
            assert client.post("/api/v1/interactions/batch", json={"interactions": views}).status_code == 202
            assert not {dismissed, bought} & set(ids(listed(client, limit=40)))
        # nor when the list is filled in from PostgreSQL
        shop.stop("nginx")
        shop.start("nginx")
        trained.shown(trained.generation)
        assert not {dismissed, bought} & set(ids(listed(client, limit=40)))
    trained.shown(trained.generation)


@pytest.mark.parametrize("who", ["customer", "guest"])
def test_what_was_bought_comes_back_when_the_order_is_cancelled(shop, trained, products, staff, who):
    """Whoever cancels it: staff or the guest here; what was dismissed stays away."""
    with contextlib.ExitStack() as stack:
        if who == "customer":
            client = newcomer(shop)
        else:
            client = stack.enter_context(shop.edge())
            client.headers["X-Cart-Token"] = client.get("/api/v1/cart").headers["x-cart-token"]
        for visitor in newcomer(shop), client:
            visitor.post("/api/v1/interactions", json={"product_id": products[8]["id"], "action": "view"})
            if visitor is not client:
                dismissed, bought = ids(listed(visitor))[:2]
        client.post("/api/v1/recommendations/feedback", json={"product_id": dismissed, "action": "dismiss"})
        # without a cart: what was put into one is left out like what was looked at
        order = client.post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex},
                            json={"items": [{"product_id": bought, "quantity": 1}], **(GUEST if who == "guest" else {})})
        assert order.status_code == 201, order.text
        # what is heard of an order that was made changes nothing
        wait_for(lambda: not shop.value("SELECT EXISTS (SELECT FROM event.unsent)"), 20, "events are consumed")
        assert not {dismissed, bought} & set(ids(listed(client, limit=40)))

        path = f"/api/v1/orders/{order.json()['id']}"
        if who == "customer":
            answer = staff.put(f"{path}/status", json={"status": "cancelled"})
        else:
            answer = client.post(f"{path}/cancel")
        assert answer.status_code == 200, answer.text
        wait_for(lambda: bought in ids(listed(client, limit=40)), 20, "it is recommended again")
        assert dismissed not in ids(listed(client, limit=40))


def test_they_stay_away_while_they_are_read(shop, trained, products):
    """A page asks for two lists at once, of a customer whom this edge does not remember: the second does not go on without the first."""
    customer = newcomer(shop)
    customer.post("/api/v1/interactions", json={"product_id": products[8]["id"], "action": "view"})
    gone = ids(listed(customer))[0]
    customer.post("/api/v1/recommendations/feedback", json={"product_id": gone, "action": "dismiss"})

    def look(limit):
        with shop.edge(headers=dict(customer.headers)) as edge:
            return listed(edge, limit=limit)

    with shop.configured(replace=[PATIENT]), concurrent.futures.ThreadPoolExecutor(2) as pool:
        trained.shown(trained.generation)
        with shop.db() as db, db.transaction():
            db.execute("LOCK TABLE shop.recommendation_feedback IN ACCESS EXCLUSIVE MODE")
            lists = [pool.submit(look, 39)]
            wait_for(lambda: asking(shop) == 1, 10, "the first asks what the customer did")
            lists.append(pool.submit(look, 40))
            wait_for(lambda: asking(shop) == 2 or lists[1].done(), 10, "the second asks, too, or answers")
        for answer in lists:
            assert gone not in ids(answer.result())
    trained.shown(trained.generation)


def test_before_a_training_they_stay_away_too(shop):
    first, second = sold_by_acme(shop)
    customer = newcomer(shop, "acme")
    customer.post("/api/v1/recommendations/feedback", json={"product_id": first, "action": "dismiss"})
    assert first not in ids(listed(customer)) and second in ids(listed(customer))


def test_feedback_is_about_what_is_sold(shop, staff):
    made = staff.post("/api/v1/products", json={"name": "Not yet", "price": {"amount": 100, "currency": "USD"}, "status": "draft"})
    assert made.status_code == 201, made.text
    for product in made.json()["id"], 999999999:
        answer = newcomer(shop).post("/api/v1/recommendations/feedback", json={"product_id": product, "action": "click"})
        assert answer.status_code == 404, answer.text
