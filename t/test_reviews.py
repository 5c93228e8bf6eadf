"""Reviews of customers (K1, K4, K5): once each, verified, moderated, counted exactly."""

import concurrent.futures
import json
import uuid

import pytest

from world import made


@pytest.fixture(scope="module")
def products(shop):
    """Products with one variant in stock, and without reviews of customers."""
    return [row["id"] for row in shop.rows(
        "SELECT p.id FROM shop.product p JOIN shop.product_stock s ON s.tenant_id = 1 AND s.product_id = p.id AND s.stock > 5 "
        "WHERE p.tenant_id = 1 AND p.status = 'active' AND p.deleted_at IS NULL "
        "AND (SELECT count(*) FROM shop.variant v WHERE v.tenant_id = 1 AND v.product_id = p.id) = 1 ORDER BY p.id")]


@pytest.fixture
def product(products):
    return products.pop()


@pytest.fixture(scope="module")
def crowd(shop):
    return shop.customers(60)


@pytest.fixture
def people(shop, crowd):
    """Clients of customers who have not been in any test before."""
    def take(count):
        taken = [crowd.pop() for _ in range(count)]
        edges = []
        for user, token in taken:
            edge = shop.edge(token=token)
            edge.user_id = user
            edges.append(edge)
        return edges
    return take


@pytest.fixture
def at_once(shop):
    """The shop shows reviews without asking staff."""
    def setting(value):
        made(shop.staff().patch("/api/v1/admin/settings", json={"reviews_auto_approve": value}, headers={"If-Match": "*"}))
    setting(True)
    yield
    setting(None)


def write(edge, product, rating=5, comment="A good thing to have.", **more):
    return made(edge.post(f"/api/v1/products/{product}/reviews", json={"rating": rating, "comment": comment, **more}), 201)


def shown(shop, product, **params):
    with shop.edge() as edge:
        return made(edge.get(f"/api/v1/products/{product}/reviews", params=params))["data"]


def rating(shop, product):
    with shop.edge() as edge:
        return made(edge.get(f"/api/v1/products/{product}"))["rating"]


def truth(shop, product):
    row = shop.rows("SELECT count(*) AS n, coalesce(round(avg(rating), 2), 0)::float AS average FROM shop.review WHERE tenant_id = 1 "
                    "AND product_id = %s AND status = 'approved' AND deleted_at IS NULL", product)[0]
    return {"average": row["average"], "count": row["n"]}


def events(shop, review):
    return [(row["topic"], row["type"], json.loads(row["payload"])) for row in shop.rows(
        "SELECT topic, type, payload FROM event.outbox WHERE tenant_id = 1 AND aggregate = 'review' AND aggregate_id = %s ORDER BY id",
        str(review))]


# ---- writing ----

def test_a_review_waits_for_staff_and_then_counts(shop, product, people, staff):
    (customer,) = people(1)
    before = rating(shop, product)
    review = write(customer, product, 1, "It is blue.", title=" Colour ")
    assert (review["status"], review["title"], review["rating"], review["version"]) == ("pending", "Colour", 1, 1)
    assert review["author"].startswith("Crowd ")
    assert review["id"] not in [r["id"] for r in shown(shop, product)] and rating(shop, product) == before
    assert made(customer.get(f"/api/v1/reviews/{review['id']}")) == review
    assert [r["id"] for r in made(customer.get("/api/v1/reviews"))["data"]] == [review["id"]]
    waiting = made(staff.get("/api/v1/admin/reviews", params={"status": "pending", "product_id": product}))["data"]
    assert [(r["id"], r["user_id"]) for r in waiting] == [(review["id"], customer.user_id)]

    approved = made(staff.post(f"/api/v1/admin/reviews/{review['id']}/approve"))
    assert (approved["status"], approved["version"]) == ("approved", 2)
    assert made(staff.post(f"/api/v1/admin/reviews/{review['id']}/approve"))["version"] == 2
    one = next(r for r in shown(shop, product) if r["id"] == review["id"])
    assert (one["rating"], one["comment"], one["verified_purchase"]) == (1, "It is blue.", False)
    assert "user_id" not in one and "status" not in one
    assert rating(shop, product) == truth(shop, product) != before

    (topic, kind, payload), decided = events(shop, review["id"])
    assert (topic, kind) == ("review.created", "shop.review.created.v1")
    assert set(payload) == {"review_id", "user_id", "product_id", "rating", "comment", "timestamp"}
    assert (payload["review_id"], payload["user_id"], payload["comment"]) == (review["id"], customer.user_id, "It is blue.")
    assert decided[:2] == ("product-events", "ReviewApproved") and decided[2]["status"] == "approved"
    log = shop.rows("SELECT action FROM shop.audit_log WHERE tenant_id = 1 AND entity = 'review' AND entity_id = %s", str(review["id"]))
    assert [row["action"] for row in log] == ["ReviewApproved"]


def test_a_rejected_review_tells_its_author_why(shop, product, people, staff):
    (customer,) = people(1)
    review = write(customer, product)
    made(staff.post(f"/api/v1/admin/reviews/{review['id']}/approve"))
    assert rating(shop, product) == truth(shop, product)
    made(staff.post(f"/api/v1/admin/reviews/{review['id']}/reject", json={"note": "About delivery"}))
    mine = made(customer.get(f"/api/v1/reviews/{review['id']}"))
    assert (mine["status"], mine["moderation_note"]) == ("rejected", "About delivery")
    assert review["id"] not in [r["id"] for r in shown(shop, product)] and rating(shop, product) == truth(shop, product)
    assert [e[1] for e in events(shop, review["id"])] == ["shop.review.created.v1", "ReviewApproved", "ReviewRejected"]
    with shop.user("admin@example.com", "acme") as other:
        assert other.post(f"/api/v1/admin/reviews/{review['id']}/approve").status_code == 404


def test_one_review_for_a_product_and_customer(shop, product, people):
    (customer,) = people(1)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: customer.post(f"/api/v1/products/{product}/reviews", json={"rating": 3, "comment": "Fine"}),
                                range(8)))
    assert sorted(a.status_code for a in answers) == [201] + 7 * [409]
    review = next(a.json() for a in answers if a.status_code == 201)
    refused = next(a.json() for a in answers if a.status_code == 409)
    assert (refused["code"], refused["review_id"]) == ("review-exists", review["id"])
    assert customer.delete(f"/api/v1/reviews/{review['id']}").status_code == 204
    assert customer.get(f"/api/v1/reviews/{review['id']}").status_code == 404
    assert write(customer, product)["id"] != review["id"]
    assert customer.post("/api/v1/products/999999999/reviews", json={"rating": 3, "comment": "x"}).status_code == 404
    with shop.edge() as nobody:
        assert nobody.post(f"/api/v1/products/{product}/reviews", json={"rating": 3, "comment": "x"}).status_code == 401


def test_a_key_makes_one_review(shop, product, people):
    (customer,) = people(1)
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first, second = (customer.post(f"/api/v1/products/{product}/reviews", headers=headers, json={"rating": 2, "comment": "So"})
                     for _ in range(2))
    assert first.status_code == second.status_code == 201 and first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("body", [
    {"rating": 0, "comment": "x"}, {"rating": 6, "comment": "x"}, {"rating": 4.5, "comment": "x"}, {"rating": 5}, {"comment": "x"},
    {"rating": 5, "comment": ""}, {"rating": 5, "comment": "x" * 5001}, {"rating": 5, "comment": "x", "status": "approved"},
    {"rating": 5, "comment": "x", "verified_purchase": True}, {"rating": 5, "comment": "x", "sentiment_score": 1}])
def test_what_is_no_review(shop, customer, body):
    answer = customer.post("/api/v1/products/1/reviews", json=body)
    assert answer.status_code == 422, answer.text


def test_verified_are_those_who_have_bought_it(shop, product, people, staff):
    buyer, cancels, stranger = people(3)
    for edge in (buyer, cancels):
        order = made(edge.post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex}, json={
            "items": [{"product_id": product, "quantity": 1}],
            "shipping_address": {"name": "Ann", "line1": "1 Road", "city": "Town", "country": "DE"}}))
    made(cancels.post(f"/api/v1/orders/{order['id']}/cancel", headers={"Idempotency-Key": uuid.uuid4().hex}))
    reviews = [write(edge, product) for edge in (buyer, cancels, stranger)]
    assert [r["verified_purchase"] for r in reviews] == [True, False, False]
    for review in reviews:
        made(staff.post(f"/api/v1/admin/reviews/{review['id']}/approve"))
    assert [r["id"] for r in shown(shop, product, verified="true")] == [reviews[0]["id"]]
    assert reviews[0]["id"] not in [r["id"] for r in shown(shop, product, verified="false")]


def test_a_change_waits_for_staff_again(shop, product, people, staff):
    (customer,) = people(1)
    review = write(customer, product, 4)
    path = f"/api/v1/reviews/{review['id']}"
    made(staff.post(f"/api/v1/admin/reviews/{review['id']}/approve"))
    assert rating(shop, product) == truth(shop, product)
    same = made(customer.patch(path, json={"rating": 4}))
    assert same["status"] == "approved"
    changed = made(customer.patch(path, json={"rating": 2, "title": "Hm"}))
    assert (changed["status"], changed["rating"], changed["comment"], changed["title"]) == ("pending", 2, review["comment"], "Hm")
    assert rating(shop, product) == truth(shop, product)
    anew = made(customer.put(path, json={"rating": 5, "comment": "I was wrong."}))
    assert (anew["rating"], anew["title"], anew["comment"]) == (5, None, "I was wrong.")
    assert anew["verified_purchase"] is False and anew["version"] > changed["version"]
    assert customer.put(path, json={"rating": 5}).status_code == 422
    with shop.user() as other:
        for method, body in (("GET", None), ("PUT", {"rating": 1, "comment": "x"}), ("PATCH", {"rating": 1}), ("DELETE", None)):
            assert other.request(method, path, json=body).status_code == 404
    made(staff.post(f"/api/v1/admin/reviews/{review['id']}/approve"))
    assert customer.delete(path).status_code == 204
    assert rating(shop, product) == truth(shop, product)
    kinds = [e[1] for e in events(shop, review["id"])]
    assert kinds == ["shop.review.created.v1", "ReviewApproved", "ReviewUpdated", "ReviewUpdated", "ReviewUpdated", "ReviewApproved",
                     "ReviewDeleted"]


# ---- aggregates and lists ----

def test_fifty_at_once_and_the_rating_is_exact(shop, product, people, at_once):
    writers = people(50)
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        made_ = list(pool.map(lambda e: write(e[1], product, e[0] % 5 + 1, f"Number {e[0]}"), enumerate(writers)))
        assert {r["status"] for r in made_} == {"approved"}
        assert rating(shop, product) == truth(shop, product)
        # and again: half of them change their mind while the others leave
        done = list(pool.map(lambda e: e[1].patch(f"/api/v1/reviews/{e[2]['id']}", json={"rating": 5 - e[0] % 5}).status_code if e[0] % 2
                             else e[1].delete(f"/api/v1/reviews/{e[2]['id']}").status_code,
                             [(i, edge, review) for i, (edge, review) in enumerate(zip(writers, made_))]))
    assert set(done) == {200, 204}
    expected = truth(shop, product)
    assert rating(shop, product) == expected
    row = shop.rows("SELECT rating_sum, rating_count FROM shop.product WHERE tenant_id = 1 AND id = %s", product)[0]
    assert row["rating_count"] == expected["count"]
    assert row["rating_sum"] == shop.value("SELECT sum(rating) FROM shop.review WHERE tenant_id = 1 AND product_id = %s AND "
                                           "status = 'approved' AND deleted_at IS NULL", product)
    assert shop.value("SELECT card FROM shop.product_card WHERE tenant_id = 1 AND product_id = %s", product).find(
        f'"count":{expected["count"]}') > 0


def test_caches_follow(shop, product, people, at_once):
    """A cached page and a cached product are void with the review; an ETag from before is no more."""
    (customer,) = people(1)
    with shop.edge() as edge:
        old = edge.get(f"/api/v1/products/{product}")
        shown(shop, product), shown(shop, product)
        review = write(customer, product, 1)
        assert review["id"] in [r["id"] for r in shown(shop, product)]
        new = edge.get(f"/api/v1/products/{product}", headers={"If-None-Match": old.headers["ETag"]})
        assert new.status_code == 200 and new.json()["rating"]["count"] == old.json()["rating"]["count"] + 1
        card = next(c for c in made(edge.get("/api/v1/products", params={"limit": 100}))["data"] if c["id"] == product)
        assert card["rating"] == new.json()["rating"]


def test_pages_in_every_order(shop, product, people, at_once):
    with shop.db() as db:
        for i in range(13):
            db.execute("INSERT INTO shop.review (tenant_id, product_id, rating, comment, created_at) "
                       "VALUES (1, %s, %s, %s, now() - %s * interval '1 hour')", [product, i * 7 % 5 + 1, f"old {i}", i * 5 % 13])
    keys = {
        None: lambda r: [-r["id"]], "rating": lambda r: [r["rating"], -r["id"]], "-rating": lambda r: [-r["rating"], -r["id"]],
        "created_at": lambda r: [r["created_at"], -r["id"]], "-rating,created_at": lambda r: [-r["rating"], r["created_at"], -r["id"]]}
    with shop.edge() as edge:
        path = f"/api/v1/products/{product}/reviews"
        for sort, key in keys.items():
            params = {"limit": 4, **({"sort": sort} if sort else {})}
            found, cursor, pages = [], None, []
            while True:
                page = made(edge.get(path, params={**params, **({"cursor": cursor} if cursor else {})}))
                found += page["data"]
                pages.append(page)
                cursor = page["page"]["next"]
                if not cursor:
                    break
            assert len(found) >= 13 and found == sorted(found, key=key), sort
            back = made(edge.get(path, params={**params, "cursor": pages[2]["page"]["prev"]}))
            assert back["data"] == pages[1]["data"], sort
        only = made(edge.get(path, params={"rating": "1,5", "limit": 100}))["data"]
        assert only and {r["rating"] for r in only} == {1, 5}
        assert edge.get(path, params={"sort": "author"}).status_code == 400
        assert edge.get(path, params={"rating": 9}).status_code in (400, 422)


def test_reviews_go_with_the_erased_user(shop, product, people):
    """What the database promises: an author is a column that may become nobody's."""
    (customer,) = people(1)
    review = write(customer, product)
    with shop.db() as db:
        db.execute("UPDATE shop.review SET user_id = NULL, author_name = NULL WHERE tenant_id = 1 AND id = %s", [review["id"]])
    assert customer.get(f"/api/v1/reviews/{review['id']}").status_code == 404
    assert write(customer, product)["id"] > review["id"], "the product may be reviewed again"
