"""Styles of shopping (L4): agreed to, counted from what was done, erased."""

import uuid

import pytest

from world import made

ADDRESS = {"name": "Ann", "line1": "1 Road", "city": "Town", "country": "DE"}
FEATURES = ["variety", "price_sensitivity", "planning", "loyalty", "deliberation", "review_engagement", "tone"]
PATH = "/api/v1/user/personality"


@pytest.fixture(scope="module")
def products(shop):
    """Products with one variant in stock: id, category, brand."""
    return shop.rows(
        "SELECT p.id, p.category_id, p.brand_id FROM shop.product p JOIN shop.product_stock s ON s.tenant_id = 1 AND s.product_id = p.id "
        "AND s.stock > 10 WHERE p.tenant_id = 1 AND p.status = 'active' AND p.deleted_at IS NULL AND p.category_id IS NOT NULL "
        "AND (SELECT count(*) FROM shop.variant v WHERE v.tenant_id = 1 AND v.product_id = p.id) = 1 ORDER BY p.id")


@pytest.fixture(scope="module")
def crowd(shop):
    return shop.customers(20)


@pytest.fixture
def person(shop, crowd):
    user, token = crowd.pop()
    edge = shop.edge(token=token)
    edge.user_id = user
    return edge


def buy(edge, *products):
    return made(edge.post("/api/v1/orders", headers={"Idempotency-Key": uuid.uuid4().hex}, json={
        "items": [{"product_id": p, "quantity": 1} for p in products], "shipping_address": ADDRESS}))


def view(edge, product, times=1):
    for _ in range(times):
        made(edge.post("/api/v1/interactions", json={"product_id": product, "action": "view"}))


def features(edge):
    return {f["feature"]: f for f in made(edge.get(PATH))["features"]}


def test_nothing_without_consent(shop, person, products):
    view(person, products[0]["id"], 12)
    for answer in (person.get(PATH), person.get(PATH + "/traits"), person.post(PATH + "/interaction", json={"action": "compare"})):
        assert (answer.status_code, answer.json()["code"]) == (403, "consent-missing")
    assert shop.value("SELECT count(*) FROM shop.personality_event WHERE user_id = %s", person.user_id) == 0
    with shop.edge() as nobody:
        assert nobody.get(PATH).status_code == nobody.put(PATH + "/consent").status_code == 401


def test_consent_and_erasure(shop, person):
    first = made(person.put(PATH + "/consent"))
    assert first["consent"] and made(person.put(PATH + "/consent")) == first
    made(person.post(PATH + "/interaction", json={"action": "compare"}))
    assert shop.value("SELECT count(*) FROM shop.personality_event WHERE user_id = %s", person.user_id) == 1
    assert person.delete(PATH).status_code == 204 and person.delete(PATH).status_code == 204
    assert shop.value("SELECT count(*) FROM shop.personality_event WHERE user_id = %s", person.user_id) == 0
    assert person.get(PATH).status_code == 403


def test_what_was_done_is_counted(shop, person, products):
    made(person.put(PATH + "/consent"))
    assert [f["feature"] for f in made(person.get(PATH))["features"]] == FEATURES
    assert all(f["value"] is None and f["events"] == 0 and f["contributions"] == [] for f in features(person).values())

    one = products[0]
    other = next(p for p in products if p["category_id"] != one["category_id"])
    view(person, one["id"], 3)
    view(person, other["id"], 3)
    found = features(person)
    assert found["variety"]["value"] == 1 and found["variety"]["events"] == 6
    assert [c["share"] for c in found["variety"]["contributions"]] == [0.5, 0.5]
    assert found["deliberation"]["value"] == pytest.approx(6 / 11, abs=1e-3)
    view(person, one["id"], 6)
    assert 0 < features(person)["variety"]["value"] < 1

    # planned: one was looked at the day before yesterday
    with shop.db() as db:
        db.execute("UPDATE shop.interaction SET created_at = now() - interval '2 days' WHERE tenant_id = 1 AND user_id = %s "
                   "AND product_id = %s", [person.user_id, one["id"]])
    buy(person, one["id"], other["id"])
    found = features(person)
    assert found["planning"]["value"] == 0.5 and found["planning"]["events"] == 2
    assert len(found["planning"]["contributions"]) == 1 and found["planning"]["contributions"][0]["share"] == 1
    assert found["review_engagement"]["value"] == 0
    made(person.post(f"/api/v1/products/{one['id']}/reviews", json={"rating": 5, "comment": "Good"}))
    assert features(person)["review_engagement"]["value"] == 0.5
    assert 0 <= features(person)["price_sensitivity"]["value"] <= 1
    before = features(person)["deliberation"]
    made(person.post(PATH + "/interaction", json={"action": "compare", "product_id": one["id"]}))
    after = features(person)["deliberation"]
    assert after["events"] == before["events"] + 1 and after["value"] > before["value"]
    assert person.post(PATH + "/interaction", json={"action": "compare", "product_id": 999999999}).status_code == 404
    assert person.post(PATH + "/interaction", json={"action": "sleep"}).status_code == 422


def test_loyalty_and_tone(shop, person, products):
    made(person.put(PATH + "/consent"))
    brand = next(b for b in {p["brand_id"] for p in products if p["brand_id"]} if sum(p["brand_id"] == b for p in products) > 1)
    same = [p["id"] for p in products if p["brand_id"] == brand][:2]
    other = next(p["id"] for p in products if p["brand_id"] not in (brand, None))
    buy(person, *same, other)
    found = features(person)["loyalty"]
    assert found["value"] == pytest.approx(2 / 3, abs=1e-3) and found["events"] == 3 and len(found["contributions"]) == 1
    review = made(person.post(f"/api/v1/products/{other}/reviews", json={"rating": 5, "comment": "x"}))
    with shop.db() as db:
        db.execute("UPDATE shop.review SET sentiment_score = 0.5, sentiment_label = 'positive', sentiment_confidence = 0.9, "
                   "sentiment_analyzed_at = now() WHERE tenant_id = 1 AND id = %s", [review["id"]])
    assert features(person)["tone"]["value"] == 0.75


def test_traits_are_heuristic_and_need_ten_events(shop, person, products):
    made(person.put(PATH + "/consent"))
    view(person, products[0]["id"], 5)
    view(person, next(p["id"] for p in products if p["category_id"] != products[0]["category_id"]), 4)
    told = made(person.get(PATH + "/traits"))
    assert told["basis"] == "heuristic" and told["events"] == 9 and "0.15" in told["note"]
    assert [t["trait"] for t in told["traits"]] == ["openness", "conscientiousness", "extraversion", "agreeableness"]
    assert all(t["score"] is None and t["basis"] == "heuristic" for t in told["traits"])
    view(person, products[0]["id"])
    scores = {t["trait"]: t for t in made(person.get(PATH + "/traits"))["traits"]}
    assert scores["openness"]["score"] == features(person)["variety"]["value"] > 0
    assert scores["openness"]["from"] == [{"feature": "variety", "value": scores["openness"]["score"]}]
    assert scores["agreeableness"]["score"] is None


def test_percentiles_are_of_those_who_have_agreed(shop, crowd, products):
    """Six customers who look at one product more often each: the last is above the others, and strangers do not count."""
    edges = []
    for i in range(6):
        user, token = crowd.pop()
        edge = shop.edge(token=token)
        edges.append(edge)
        made(edge.put(PATH + "/consent"))
        view(edge, products[0]["id"], i * 2 + 1)
    with shop.db() as db:
        db.execute("SELECT set_config('commerce.tenant_id', '1', false)")
        db.execute("SELECT domain.personality_norms('0 seconds')")
    told = made(edges[-1].get(PATH))
    consents = shop.value("SELECT count(*) FROM shop.personality_consent WHERE tenant_id = 1")
    assert 6 <= told["compared_with"] <= consents
    ranks = [features(edge)["deliberation"]["percentile"] for edge in edges]
    assert ranks == sorted(ranks) and ranks[0] < 50 < ranks[-1] <= 100
    assert made(edges[0].get(PATH)).keys() == {"since", "events", "features", "compared_with"}
